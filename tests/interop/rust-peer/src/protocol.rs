//! The lines, as described in go-peer/protocol.go: what comes in, what goes out.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// How a command ends: its result, or why it failed.
pub type Outcome = Result<Value, String>;

/// Where a command's outcome goes; dropped unanswered means that the node is gone.
pub type Reply = oneshot::Sender<Outcome>;

#[derive(Deserialize)]
pub struct Request {
    pub id: u64,
    #[serde(default)]
    pub peer: usize,
    pub command: String,
    #[serde(default)]
    pub timeout_s: f64,
    #[serde(default)]
    pub args: Arguments,
}

/// The arguments of all commands; each reads its own.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Arguments {
    pub addr: String,
    pub peer_id: String,
    pub cid: String,
    pub count: usize,
    pub key: String,
    pub key_hex: String,
    pub value_hex: String,
    pub request_hex: String,
    pub stream: String,
    pub framed: bool,
    pub half_close: bool,
    pub no_reply: bool,
    pub path: String,
    pub sequence: u64,
    /// The command's, from beside the arguments.
    #[serde(skip)]
    pub timeout: Duration,
}

/// Puts one whole line on stdout. A test that is gone is no failure: stdin ends too.
pub fn say(line: Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub fn say_outcome(id: u64, started: Instant, outcome: Outcome) {
    let elapsed_ms = started.elapsed().as_micros() as f64 / 1000.0;
    say(match outcome {
        Ok(result) => json!({"id": id, "ok": true, "elapsed_ms": elapsed_ms, "result": result}),
        Err(why) => json!({"id": id, "ok": false, "elapsed_ms": elapsed_ms, "error": why}),
    });
}
