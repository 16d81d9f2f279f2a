//! IPNS records, which rust-libp2p leaves to the program: signed and read here as the IPNS
//! specification says ("IPNS Record", V2 only), put and got by the library's Kademlia.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::{
    PeerId,
    identity::{Keypair, PublicKey},
};

const SIGNED_PREFIX: &[u8] = b"ipns-signature:";
const LIFETIME: Duration = Duration::from_secs(48 * 3600);
const TTL_NS: u64 = 3_600_000_000_000;

/// Field numbers of the envelope.
const PUBLIC_KEY: u64 = 7;
const SIGNATURE_V2: u64 = 8;
const DATA: u64 = 9;

/// Major types of CBOR.
const UINT: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const MAP: u8 = 5;

/// The identity function's code in a multihash: the peer id holds its public key.
const IDENTITY: u64 = 0;

pub fn record_key(name: &PeerId) -> Vec<u8> {
    [b"/ipns/", name.to_bytes().as_slice()].concat()
}

/// A record by which the name of `key` stands for `path` for the next 48 hours.
pub fn sign(key: &Keypair, path: &str, sequence: u64) -> Result<Vec<u8>, String> {
    let document = document(path, sequence, &rfc3339(SystemTime::now() + LIFETIME)?);
    let signature = key.sign(&[SIGNED_PREFIX, &document].concat()).map_err(|e| e.to_string())?;
    let mut record = vec![];
    put_field(&mut record, SIGNATURE_V2, &signature);
    put_field(&mut record, DATA, &document);
    Ok(record)
}

/// The path that `name` stands for, if `record` is signed by its key.
pub fn path_of(name: &PeerId, record: &[u8]) -> Result<String, String> {
    let (mut signature, mut document, mut public) = (&[][..], &[][..], &[][..]);
    let mut rest = record;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (_, 0) => drop(take_varint(&mut rest)?),
            (number, 2) => {
                let length = take_varint(&mut rest)? as usize;
                let value = take(&mut rest, length)?;
                match number {
                    SIGNATURE_V2 => signature = value,
                    DATA => document = value,
                    PUBLIC_KEY => public = value,
                    _ => {}
                }
            }
            (_, kind) => return Err(format!("wire type {kind}")),
        }
    }
    let multihash = name.as_ref();
    let inlined = if multihash.code() == IDENTITY { multihash.digest() } else { public };
    let key = PublicKey::try_decode_protobuf(inlined).map_err(|e| e.to_string())?;
    if key.to_peer_id() != *name || !key.verify(&[SIGNED_PREFIX, document].concat(), signature) {
        return Err("the record is not signed by its name's key".into());
    }
    value_entry(document)
}

/// The signed document, in DAG-CBOR: shorter names first.
fn document(path: &str, sequence: u64, validity: &str) -> Vec<u8> {
    let mut out = vec![];
    put_head(&mut out, MAP, 5);
    put_name(&mut out, "TTL");
    put_head(&mut out, UINT, TTL_NS);
    put_name(&mut out, "Value");
    put_bytes(&mut out, path.as_bytes());
    put_name(&mut out, "Sequence");
    put_head(&mut out, UINT, sequence);
    put_name(&mut out, "Validity");
    put_bytes(&mut out, validity.as_bytes());
    put_name(&mut out, "ValidityType");
    put_head(&mut out, UINT, 0);
    out
}

fn value_entry(document: &[u8]) -> Result<String, String> {
    let mut rest = document;
    let (kind, entries) = take_head(&mut rest)?;
    if kind != MAP {
        return Err("the document is not a map".into());
    }
    for _ in 0..entries {
        let (_, length) = take_head(&mut rest)?;
        let name = take(&mut rest, length as usize)?;
        match take_head(&mut rest)? {
            (UINT, _) => {}
            (BYTES | TEXT, length) => {
                let value = take(&mut rest, length as usize)?;
                if name == b"Value" {
                    return String::from_utf8(value.to_vec()).map_err(|e| e.to_string());
                }
            }
            (kind, _) => return Err(format!("an entry of CBOR type {kind}")),
        }
    }
    Err("the document has no value".into())
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    put_head(out, TEXT, name.len() as u64);
    out.extend(name.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_head(out, BYTES, value.len() as u64);
    out.extend(value);
}

/// The shortest form, as DAG-CBOR demands it.
fn put_head(out: &mut Vec<u8>, kind: u8, argument: u64) {
    let kind = kind << 5;
    match argument {
        0..24 => out.push(kind | argument as u8),
        24..0x100 => out.extend([kind | 24, argument as u8]),
        0x100..0x1_0000 => {
            out.push(kind | 25);
            out.extend((argument as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(kind | 26);
            out.extend((argument as u32).to_be_bytes());
        }
        _ => {
            out.push(kind | 27);
            out.extend(argument.to_be_bytes());
        }
    }
}

fn take_head(rest: &mut &[u8]) -> Result<(u8, u64), String> {
    let first = take(rest, 1)?[0];
    let argument = match first & 0x1f {
        small @ 0..24 => small.into(),
        wide @ 24..28 => {
            let bytes = take(rest, 1 << (wide - 24))?;
            bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        }
        other => return Err(format!("CBOR argument {other}")),
    };
    Ok((first >> 5, argument))
}

fn put_field(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a varint without an end".into())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(length).ok_or("the record is cut short")?;
    *rest = left;
    Ok(taken)
}

/// UTC with nine decimals, as the specification writes an end of life.
fn rfc3339(at: SystemTime) -> Result<String, String> {
    let since = at.duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
    let (mut days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let mut year = 1970;
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (month, day, nanos) = (month + 1, days + 1, since.subsec_nanos());
    Ok(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z"))
}

fn leap(year: u64) -> u64 {
    (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)).into()
}
