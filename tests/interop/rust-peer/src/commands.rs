//! Everything that can be asked. The arguments and answers are those of go-peer/commands.go, save
//! that providers come with addresses only where the peer is connected, and that a connection tells
//! its security only where one alone was offered.

use std::{future::Future, num::NonZeroUsize, time::Instant};

use cid::Cid;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, core::ConnectedPoint, kad, swarm::dial_opts::DialOpts,
};
use libp2p_stream::Control;
use serde_json::{Value, json};

use crate::{
    names,
    node::{Node, Order, Wanted, describe, id_texts},
    protocol::{Arguments, Outcome, Reply},
    streams,
};

const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
const PING_BYTES: usize = 32;

type Query = (kad::QueryId, Wanted);

impl Node {
    pub fn execute(&mut self, order: Order) {
        let Order { command, args, reply } = order;
        match command.as_str() {
            "connect" => self.connect(&args, reply),
            "disconnect" => self.disconnect(&args, reply),
            "routing_table" => self.at_once(reply, |node| Ok(node.routing_table())),
            "peers" => self.at_once(reply, |node| Ok(id_texts(node.swarm.connected_peers()))),
            "protocols" => self.at_once(reply, |node| node.protocols(&args)),
            "find_peer" => self.query(reply, |node| node.find_peer(&args)),
            "get_closest" => self.query(reply, |node| node.get_closest(&args)),
            "provide" => self.query(reply, |node| node.provide(&args)),
            "find_providers" => self.query(reply, |node| node.find_providers(&args)),
            "put_value" => self.query(reply, |node| node.put_value(&args)),
            "get_value" => self.query(reply, |node| node.get_value(&args)),
            "publish_name" => self.query(reply, |node| node.publish_name(&args)),
            "resolve_name" => self.query(reply, |node| node.resolve_name(&args)),
            "search_value" => self.query(reply, |node| node.search_value(&args)),
            "refresh" => self.query(reply, |node| {
                let id = node.swarm.behaviour_mut().kad.bootstrap().map_err(text)?;
                Ok((id, Wanted::Done))
            }),
            "ping" => self.ping(args, reply),
            "raw_rpc" => {
                self.on_stream(reply, |held, control| streams::raw_rpc(held, control, args))
            }
            "hold_stream" => {
                self.on_stream(reply, |held, control| streams::hold(held, control, args))
            }
            "close_stream" => self.on_stream(reply, |held, _| streams::close(held, args)),
            other => drop(reply.send(Err(format!("unknown command {other:?}")))),
        }
    }

    fn at_once(&mut self, reply: Reply, answer: impl FnOnce(&mut Node) -> Outcome) {
        let _ = reply.send(answer(self));
    }

    /// Starts a query; its end is the answer.
    fn query(&mut self, reply: Reply, start: impl FnOnce(&mut Node) -> Result<Query, String>) {
        match start(self) {
            Ok((id, wanted)) => drop(self.queries.insert(id, (wanted, reply))),
            Err(why) => drop(reply.send(Err(why))),
        }
    }

    /// Works on a stream beside the node's loop.
    fn on_stream<F>(&mut self, reply: Reply, work: impl FnOnce(streams::HeldStreams, Control) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let working = work(self.held.clone(), self.swarm.behaviour().streams.new_control());
        tokio::spawn(async move { reply.send(working.await) });
    }

    fn connect(&mut self, args: &Arguments, reply: Reply) {
        let addr = match args.addr.parse::<Multiaddr>() {
            Ok(addr) => addr,
            Err(why) => return drop(reply.send(Err(why.to_string()))),
        };
        let how = DialOpts::from(addr);
        if how.get_peer_id().is_some_and(|peer| self.swarm.is_connected(&peer)) {
            return drop(reply.send(Ok(json!({}))));
        }
        let id = how.connection_id();
        match self.swarm.dial(how) {
            Ok(()) => drop(self.dials.insert(id, reply)),
            Err(why) => drop(reply.send(Err(why.to_string()))),
        }
    }

    fn disconnect(&mut self, args: &Arguments, reply: Reply) {
        match peer_id(args) {
            Ok(peer) if self.swarm.disconnect_peer_id(peer).is_ok() => {
                self.partings.insert(peer, reply);
            }
            Ok(_) => drop(reply.send(Ok(json!({})))), // there was no connection
            Err(why) => drop(reply.send(Err(why))),
        }
    }

    fn routing_table(&mut self) -> Value {
        let mut peers = vec![];
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            peers.extend(bucket.iter().map(|entry| *entry.node.key.preimage()));
        }
        id_texts(peers.iter())
    }

    fn protocols(&mut self, args: &Arguments) -> Outcome {
        let peer = peer_id(args)?;
        let connections = self.connections.values().filter(|(to, _)| *to == peer);
        let connections = connections.map(|(_, endpoint)| self.describe_connection(endpoint));
        let connections = connections.collect::<Vec<_>>();
        let Some(info) = self.identified.get(&peer) else {
            return Ok(json!(
                {"protocols": [], "agent": "", "addrs": [], "connections": connections}
            ));
        };
        let spoken = info.protocols.iter().map(StreamProtocol::to_string).collect::<Vec<_>>();
        Ok(json!({
            "protocols": spoken,
            "agent": info.agent_version,
            "addrs": describe(&peer, &info.listen_addrs)["addrs"],
            "connections": connections,
        }))
    }

    fn describe_connection(&self, endpoint: &ConnectedPoint) -> Value {
        let addr = endpoint.get_remote_address().to_string();
        let (security, muxer) = match (addr.contains("/quic"), self.security.as_str()) {
            (true, _) => ("", ""),
            (false, "noise") => ("/noise", "/yamux/1.0.0"),
            (false, "tls") => ("/tls/1.0.0", "/yamux/1.0.0"),
            (false, _) => ("", "/yamux/1.0.0"),
        };
        json!({
            "addr": addr,
            "inbound": endpoint.is_listener(),
            "muxer": muxer,
            "security": security,
            "streams": 0, // the library does not tell
        })
    }

    fn find_peer(&mut self, args: &Arguments) -> Result<Query, String> {
        let peer = peer_id(args)?;
        let id = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
        Ok((id, Wanted::Peer(peer)))
    }

    fn get_closest(&mut self, args: &Arguments) -> Result<Query, String> {
        let key = match args.peer_id.is_empty() {
            true => record_key(args)?,
            false => peer_id(args)?.to_bytes(),
        };
        let id = self.swarm.behaviour_mut().kad.get_closest_peers(key);
        Ok((id, Wanted::ClosestPeers))
    }

    fn provide(&mut self, args: &Arguments) -> Result<Query, String> {
        let key = provider_key(args)?;
        let id = self.swarm.behaviour_mut().kad.start_providing(key).map_err(text)?;
        Ok((id, Wanted::Done))
    }

    fn find_providers(&mut self, args: &Arguments) -> Result<Query, String> {
        let key = provider_key(args)?;
        let id = self.swarm.behaviour_mut().kad.get_providers(key);
        Ok((id, Wanted::Providers { count: args.count, found: Default::default() }))
    }

    fn put_value(&mut self, args: &Arguments) -> Result<Query, String> {
        let value = hex::decode(&args.value_hex).map_err(text)?;
        // With the quorum the library tells nobody else.
        let quorum = NonZeroUsize::new(args.count).map_or(kad::Quorum::One, kad::Quorum::N);
        self.put(record_key(args)?, value, quorum)
    }

    fn put(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        quorum: kad::Quorum,
    ) -> Result<Query, String> {
        let record = kad::Record::new(key, value);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let id = kad.put_record(record, quorum).map_err(text)?;
        Ok((id, Wanted::Done))
    }

    fn publish_name(&mut self, args: &Arguments) -> Result<Query, String> {
        let record = names::sign(&self.key, &args.path, args.sequence)?;
        self.put(names::record_key(&self.peer_id()), record, kad::Quorum::One)
    }

    fn resolve_name(&mut self, args: &Arguments) -> Result<Query, String> {
        let name = peer_id(args)?;
        let key = kad::RecordKey::new(&names::record_key(&name));
        Ok((self.swarm.behaviour_mut().kad.get_record(key), Wanted::Path(name)))
    }

    fn get_value(&mut self, args: &Arguments) -> Result<Query, String> {
        let key = kad::RecordKey::new(&record_key(args)?);
        Ok((self.swarm.behaviour_mut().kad.get_record(key), Wanted::Value))
    }

    fn search_value(&mut self, args: &Arguments) -> Result<Query, String> {
        let key = kad::RecordKey::new(&record_key(args)?);
        let wanted = Wanted::Values { began: Instant::now(), found: Vec::new() };
        Ok((self.swarm.behaviour_mut().kad.get_record(key), wanted))
    }

    /// The library pings by itself, when a connection opens and then every 15 s, and its failure
    /// fails the command; the round trip answered is one more, made now.
    fn ping(&mut self, args: Arguments, reply: Reply) {
        let peer = match peer_id(&args) {
            Ok(peer) => peer,
            Err(why) => return drop(reply.send(Err(why))),
        };
        if let Some(why) = self.failed_pings.get(&peer) {
            return drop(reply.send(Err(format!("the library's own ping: {why}"))));
        }
        self.on_stream(reply, move |_, mut control| async move {
            let mut stream = control.open_stream(peer, PING).await.map_err(text)?;
            let sent: [u8; PING_BYTES] = rand::random();
            let started = Instant::now();
            stream.write_all(&sent).await.map_err(text)?;
            stream.flush().await.map_err(text)?;
            let mut echoed = [0; PING_BYTES];
            stream.read_exact(&mut echoed).await.map_err(text)?;
            let rtt_ms = started.elapsed().as_micros() as f64 / 1000.0;
            let _ = stream.close().await;
            match echoed == sent {
                true => Ok(json!({"rtt_ms": rtt_ms})),
                false => Err("other bytes came back".into()),
            }
        });
    }
}

pub fn peer_id(args: &Arguments) -> Result<PeerId, String> {
    args.peer_id.parse().map_err(|why| format!("peer_id {:?}: {why}", args.peer_id))
}

pub fn text(why: impl std::fmt::Display) -> String {
    why.to_string()
}

fn provider_key(args: &Arguments) -> Result<kad::RecordKey, String> {
    let cid = Cid::try_from(args.cid.as_str()).map_err(text)?;
    Ok(kad::RecordKey::new(&cid.hash().to_bytes()))
}

fn record_key(args: &Arguments) -> Result<Vec<u8>, String> {
    if !args.key.is_empty() {
        return Ok(args.key.clone().into_bytes());
    }
    let key = hex::decode(&args.key_hex).map_err(text)?;
    if key.is_empty() {
        return Err("no key given".into());
    }
    Ok(key)
}
