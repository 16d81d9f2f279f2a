//! Requests by hand, byte for byte: raw_rpc, hold_stream and close_stream of go-peer/streams.go.
//!
//! On Yamux the library reads a reset as a clean end. Whether the stream can still be written to
//! tells them apart, unless half_close was asked for: then both are reported as eof.

use std::{collections::HashMap, io::ErrorKind, sync::Arc};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use libp2p_stream::Control;
use serde_json::json;
use tokio::{sync::Mutex, time::timeout};
use unsigned_varint::{aio, encode};

use crate::{
    commands::{peer_id, text},
    node::KAD,
    protocol::{Arguments, Outcome},
};

const MAX_REPLY_BYTES: usize = 4 << 20;

/// One request at a time: replies are matched by order.
type KadStream = Arc<Mutex<Stream>>;

/// The streams that a test keeps, by name.
pub type HeldStreams = Arc<Mutex<HashMap<String, KadStream>>>;

pub async fn raw_rpc(held: HeldStreams, mut control: Control, args: Arguments) -> Outcome {
    if !args.stream.is_empty() {
        let stream = held.lock().await.get(&args.stream).cloned();
        let stream = stream.ok_or(format!("no stream is held as {:?}", args.stream))?;
        return exchange(&mut *stream.lock().await, &args).await;
    }
    let mut stream = open(&mut control, &args).await?;
    let outcome = exchange(&mut stream, &args).await;
    let _ = stream.close().await;
    outcome
}

pub async fn hold(held: HeldStreams, mut control: Control, args: Arguments) -> Outcome {
    if args.stream.is_empty() || held.lock().await.contains_key(&args.stream) {
        return Err(format!("a new name is needed in stream, not {:?}", args.stream));
    }
    let stream = Arc::new(Mutex::new(open(&mut control, &args).await?));
    held.lock().await.insert(args.stream.clone(), stream.clone());
    exchange(&mut *stream.lock().await, &args).await
}

pub async fn close(held: HeldStreams, args: Arguments) -> Outcome {
    let stream = held.lock().await.remove(&args.stream);
    let stream = stream.ok_or(format!("no stream is held as {:?}", args.stream))?;
    stream.lock().await.close().await.map_err(text)?;
    Ok(json!({}))
}

async fn open(control: &mut Control, args: &Arguments) -> Result<Stream, String> {
    control.open_stream(peer_id(args)?, KAD).await.map_err(text)
}

async fn exchange(stream: &mut Stream, args: &Arguments) -> Outcome {
    let mut message = hex::decode(&args.request_hex).map_err(text)?;
    if !args.framed {
        let mut length = encode::usize_buffer();
        message.splice(0..0, encode::usize(message.len(), &mut length).iter().copied());
    }
    let exchanged = timeout(args.timeout, send_and_read(stream, &message, args)).await;
    let Ok(exchanged) = exchanged else {
        return Ok(json!({"outcome": "timeout"}));
    };
    match exchanged {
        Ok(Some(reply)) => Ok(json!({"outcome": "reply", "reply_hex": hex::encode(reply)})),
        Ok(None) => Ok(json!({"outcome": "sent"})),
        Err(why) => match why.kind() {
            ErrorKind::UnexpectedEof if args.half_close || stream.write(&[]).await.is_ok() => {
                Ok(json!({"outcome": "eof"}))
            }
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::WriteZero
            | ErrorKind::BrokenPipe => Ok(json!({"outcome": "reset"})),
            _ => Err(why.to_string()),
        },
    }
}

async fn send_and_read(
    stream: &mut Stream,
    message: &[u8],
    args: &Arguments,
) -> std::io::Result<Option<Vec<u8>>> {
    stream.write_all(message).await?;
    stream.flush().await?;
    if args.half_close {
        stream.close().await?;
    }
    if args.no_reply {
        return Ok(None);
    }
    let length = aio::read_usize(&mut *stream).await.map_err(|why| match why {
        unsigned_varint::io::ReadError::Io(why) => why,
        other => std::io::Error::new(ErrorKind::InvalidData, other),
    })?;
    if length > MAX_REPLY_BYTES {
        return Err(std::io::Error::new(
            ErrorKind::InvalidData,
            format!("a reply of {length} bytes"),
        ));
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok(Some(reply))
}
