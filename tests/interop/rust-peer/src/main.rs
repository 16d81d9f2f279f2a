//! rust-peer runs one or many rust-libp2p nodes with its Kademlia in one process, for the
//! interoperability tests. A test drives it with the JSON lines of go-peer/protocol.go; commands.rs
//! has what can be asked. Its log is stderr. It ends when its stdin ends.

mod commands;
mod names;
mod node;
mod protocol;
mod streams;

use std::{error::Error, time::Duration, time::Instant};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::{mpsc, oneshot},
    time::timeout,
};

use node::{Node, NodeOptions, Order};
use protocol::{Outcome, Request, say, say_outcome};

const DEFAULT_COMMAND_TIMEOUT_S: f64 = 30.0;

/// For a command that answers by itself that its time is over.
const GRACE: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (options, count) = flags(std::env::args().skip(1))?;
    let nodes = start_nodes(&options, count).await?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str::<Request>(&line) {
            Ok(request) if request.command == "quit" => {
                say_outcome(request.id, Instant::now(), Ok(json!({})));
                break;
            }
            Ok(request) => {
                let node = nodes.get(request.peer).cloned();
                tokio::spawn(async move {
                    let (id, started) = (request.id, Instant::now());
                    say_outcome(id, started, answer(node, request).await);
                });
            }
            Err(why) => say(json!({"ok": false, "error": format!("not a command: {why}")})),
        }
    }
    Ok(())
}

type Orders = mpsc::UnboundedSender<Order>;

/// Starts the nodes and has each join through the bootstrap addresses, or, where none were given,
/// through the first node, unless they are to be apart. Says that it is ready.
async fn start_nodes(options: &NodeOptions, count: usize) -> Result<Vec<Orders>, Box<dyn Error>> {
    let mut nodes = vec![];
    let mut described: Vec<Value> = vec![];
    let mut first_addrs = vec![];
    for index in 0..count {
        let mut node = Node::start(options, index)?;
        let addrs = node.listen(&options.listen).await?;
        let through = match (options.bootstrap.is_empty(), index) {
            (false, _) => &options.bootstrap,
            (true, _) => &first_addrs,
        };
        node.join(through);
        described.push(json!({"peer_id": node.peer_id().to_string(), "addrs": addrs}));
        if index == 0 && !options.apart {
            first_addrs = addrs;
        }
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(node.run(inbox));
        nodes.push(orders);
    }
    say(json!({"ready": true, "implementation": "rust", "peers": described}));
    Ok(nodes)
}

async fn answer(node: Option<Orders>, mut request: Request) -> Outcome {
    let node = node.ok_or(format!("no node {}", request.peer))?;
    let seconds =
        if request.timeout_s > 0.0 { request.timeout_s } else { DEFAULT_COMMAND_TIMEOUT_S };
    request.args.timeout = Duration::from_secs_f64(seconds);
    let until = request.args.timeout + GRACE;
    let (reply, outcome) = oneshot::channel();
    let order = Order { command: request.command, args: request.args, reply };
    node.send(order).map_err(|_| "the node has ended")?;
    match timeout(until, outcome).await {
        Ok(answered) => answered.unwrap_or(Err("the node dropped the command".into())),
        Err(_) => Err(format!("not done after {seconds} s")),
    }
}

fn flags(mut given: impl Iterator<Item = String>) -> Result<(NodeOptions, usize), Box<dyn Error>> {
    let mut options = NodeOptions::default();
    let mut count = 1;
    while let Some(flag) = given.next() {
        if flag == "--no-refresh" {
            options.refresh = false;
            continue;
        }
        if flag == "--apart" {
            options.apart = true;
            continue;
        }
        let value = given.next().ok_or(format!("{flag} wants a value"))?;
        match (flag.as_str(), value.as_str()) {
            ("--count", _) => count = value.parse()?,
            ("--listen", _) => options.listen.push(value.parse()?),
            ("--bootstrap", _) => options.bootstrap.push(value),
            ("--mode", "server" | "client" | "auto") => options.mode = value,
            ("--seed", _) => options.seed = Some(value),
            ("--security", _) => options.security = value,
            // rust-libp2p's Kademlia has no validators, and no limits unless they are asked for.
            ("--values", "any") | ("--limits", "none" | "default") => {}
            _ => return Err(format!("{flag} {value} is not known").into()),
        }
    }
    if count == 0 {
        return Err("--count must be at least 1".into());
    }
    if options.listen.is_empty() {
        options.listen.push("/ip4/127.0.0.1/tcp/0".parse()?);
    }
    Ok((options, count))
}
