"""Frames as go puts them on the wire, byte for byte.

Built from the field rules with peer id and CID of the IPFS kad-dht specification's examples.
"""

from __future__ import annotations

import pytest

from codio_dht.core.keyspace import key_of
from codio_dht.core.messages import (
    AddProvider,
    FindNode,
    GetProviders,
    GetValue,
    MessageType,
    PeerEntry,
    Ping,
    PutValue,
    Record,
    Reply,
    Request,
)
from codio_dht.core.peer import PeerId
from codio_dht.wire.codec import decode_reply, decode_request, encode_reply, encode_request
from codio_dht.wire.framing import FrameReader

PEER = bytes.fromhex("0024080112209e3b433cbd31c2b8a6ebbdca998bd0f4c2141c9c9af5422e976051b1e63af14d")
MULTIHASH = bytes.fromhex("1220e536c7f88d731f374dccb568aff6f56e838a19382e488039b1ca8ad2599e82fe")
IPNS = b"/ipns/" + PEER
LOOPBACK = bytes.fromhex("047f000001060fa1")  # /ip4/127.0.0.1/tcp/4001
ENTRY = PeerEntry(PeerId(PEER), (LOOPBACK,))

REQUESTS: list[tuple[str, Request, str]] = [
    ("FIND_NODE", FindNode(PEER), f"2c08041226{PEER.hex()}5001"),
    ("GET_PROVIDERS", GetProviders(MULTIHASH), f"2808031222{MULTIHASH.hex()}5001"),
    (
        "ADD_PROVIDER",
        AddProvider(MULTIHASH, (ENTRY,)),
        f"5c08021222{MULTIHASH.hex()}4a320a26{PEER.hex()}1208047f000001060fa15001",
    ),
    (
        "PUT_VALUE",
        PutValue(IPNS, Record(IPNS, b"V")),
        f"63122c{IPNS.hex()}1a310a2c{IPNS.hex()}1201565001",
    ),
    ("PING", Ping(), "0408055001"),
    ("GET_VALUE", GetValue(IPNS), f"320801122c{IPNS.hex()}5001"),
    ("FIND_NODE, level 7", FindNode(PEER, cluster_level=7), f"2c08041226{PEER.hex()}5008"),
]

REPLIES: list[tuple[str, Reply, str]] = [
    (
        "FIND_NODE, one peer",
        Reply(MessageType.FIND_NODE, closer_peers=(ENTRY,)),
        f"38080442320a26{PEER.hex()}1208047f000001060fa15001",
    ),
    ("FIND_NODE, nobody", Reply(MessageType.FIND_NODE), "0408045001"),
    ("PING", Reply(MessageType.PING), "0408055001"),
    (
        "GET_PROVIDERS to rust (raw level 10)",
        Reply(MessageType.GET_PROVIDERS, MULTIHASH, provider_peers=(ENTRY,), cluster_level=9),
        f"5c08031222{MULTIHASH.hex()}4a320a26{PEER.hex()}1208047f000001060fa1500a",
    ),
    (
        "GET_VALUE with a record",
        Reply(MessageType.GET_VALUE, b"/k", Record(b"/k", b"v", "2026-01-01T00:00:00Z")),
        "27080112022f6b1a1d0a022f6b1201762a14323032362d30312d30315430303a30303a30305a5001",
    ),
]


def payload_of(frame: bytes) -> bytes:
    reader = FrameReader()
    reader.feed(frame)
    payload = reader.next_frame()
    assert payload is not None
    assert reader.at_boundary
    return payload


@pytest.mark.conformance("c01")
@pytest.mark.parametrize(
    ("request_", "frame"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS]
)
def test_a_request_is_written_and_read_as_go_does(request_: Request, frame: str) -> None:
    assert encode_request(request_).hex() == frame
    assert decode_request(payload_of(bytes.fromhex(frame))) == request_


@pytest.mark.conformance("c01")
@pytest.mark.parametrize(
    ("reply", "frame"), [row[1:] for row in REPLIES], ids=[row[0] for row in REPLIES]
)
def test_a_reply_is_written_and_read_as_go_does(reply: Reply, frame: str) -> None:
    assert encode_reply(reply).hex() == frame
    assert decode_reply(payload_of(bytes.fromhex(frame))) == reply


@pytest.mark.conformance("c01")
@pytest.mark.parametrize(
    ("preimage", "key"),
    [
        (PEER, "e43d28f0996557c0d5571d75c62a57a59d7ac1d30a51ecedcdb9d5e4afa56100"),
        (MULTIHASH, "d623250f3f660ab4c3a53d3c97b3f6a0194c548053488d093520206248253bcb"),
        (IPNS, "94559ab791d1325f6577832302ca0fea289590c4c836bf1c28d009549dfbe528"),
    ],
)
def test_a_key_is_the_sha256_of_the_bytes_on_the_wire(preimage: bytes, key: str) -> None:
    assert key_of(preimage) == int(key, 16)
