"""What random tests feed to the layers: well-formed messages, nearly well-formed ones, and bytes.

The bounded tests of each layer and the long runs (``scripts/fuzz``) draw from the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from struct import Struct

from hypothesis import strategies as st

from codio_dht.core.messages import (
    AddProvider,
    ConnectionType,
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
from codio_dht.formats.varint import encode_varint
from codio_dht.net.stack.limits import MAX_NEGOTIATION_MESSAGE_BYTES
from codio_dht.net.stack.multistream import HEADER, encode_message

Pieces = list[bytes]
"""Bytes as they arrive, one piece after the other."""

KAD = "/ipfs/kad/1.0.0"
PING = "/ipfs/ping/1.0.0"
ECHO = "/echo/1"

# --- damage ---------------------------------------------------------------------------------------

_TELLING: Sequence[bytes] = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01",
    b"\x80" * 10 + b"\x01",
    b"\x00\x00\x00\x00",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
)
"""Where numbers begin and end, in the encodings that are about."""

edits = st.one_of(
    st.tuples(
        st.just("flip"), st.integers(0, 2**16), st.integers(1, 255).map(lambda n: bytes([n]))
    ),
    st.tuples(st.just("write"), st.integers(0, 2**16), st.sampled_from(_TELLING) | st.binary()),
    st.tuples(st.just("insert"), st.integers(0, 2**16), st.sampled_from(_TELLING) | st.binary()),
    st.tuples(st.just("cut"), st.integers(0, 2**16), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("end"), st.integers(0, 2**16), st.just(b"")),
    st.tuples(st.just("repeat"), st.integers(0, 2**16), st.binary(min_size=1, max_size=40)),
).map(lambda edit: edit[0].encode() + edit[1].to_bytes(3, "big") + edit[2])
"""Ways to damage bytes, themselves as bytes; see :func:`damaged`."""


def damaged(data: bytes, ways: Sequence[bytes]) -> bytes:
    """``data`` after each of ``ways``; what is no edit changes nothing."""
    for way in ways:
        for name in (b"flip", b"write", b"insert", b"cut", b"end", b"repeat"):
            if way.startswith(name) and len(way) >= len(name) + 3:
                at = int.from_bytes(way[len(name) : len(name) + 3], "big") % (len(data) + 1)
                data = _edited(data, name, at, way[len(name) + 3 :])
                break
    return data


def _edited(data: bytes, name: bytes, at: int, value: bytes) -> bytes:
    head, tail = data[:at], data[at:]
    if name == b"flip":
        return head + bytes(byte ^ value[0] for byte in tail[:1]) + tail[1:] if value else data
    if name == b"write":
        return head + value + tail[len(value) :]
    if name == b"insert":
        return head + value + tail
    if name == b"cut":
        return head + tail[len(value) :]
    if name == b"end":
        return head
    return head + tail[: len(value)] + tail


def damaged_messages(
    messages: st.SearchStrategy[bytes], *, most: int = 4
) -> st.SearchStrategy[bytes]:
    """Messages, most of them damaged a little."""
    return st.builds(damaged, messages, st.lists(edits, max_size=most))


def in_pieces(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[Pieces]:
    """The same, cut anywhere."""
    return st.builds(cut, data, st.lists(st.integers(0, 2**16), max_size=6))


def cut(data: bytes, cuts: Sequence[int]) -> Pieces:
    """``data`` cut at each of ``cuts`` (modulo its length)."""
    edges = [0, *sorted(each % (len(data) + 1) for each in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


# --- multistream ----------------------------------------------------------------------------------

negotiation_message = st.one_of(
    st.sampled_from(
        [HEADER, *(encode_message(text) for text in (KAD.encode(), PING.encode(), b"na", b"ls"))]
    ),
    st.binary(max_size=40).map(encode_message),
    st.binary(max_size=40),
    st.binary(min_size=100, max_size=MAX_NEGOTIATION_MESSAGE_BYTES + 50).map(encode_message),
)
negotiation = st.lists(negotiation_message, max_size=8).map(b"".join)

# --- Yamux ----------------------------------------------------------------------------------------

FRAME = Struct(">BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_WINDOW_BYTES = 256 * 1024

yamux_frames = st.builds(
    lambda version, kind, flags, stream, body, lie: (
        FRAME.pack(version, kind, flags, stream, len(body) + lie) + body
    ),
    st.sampled_from([0] * 30 + [1]),
    st.sampled_from([_DATA] * 6 + [_WINDOW] * 6 + [_PING, _GO_AWAY, 9]),
    st.sampled_from(
        [0, _SYN, _SYN, _ACK, _FIN, _RST, _ACK | _FIN, _SYN | _FIN, _SYN | _RST, 0xFFFF]
    ),
    st.sampled_from([0, 1, 1, 2, 3, 3, 5, 2**32 - 1]),
    st.binary(max_size=20),
    st.sampled_from([0] * 20 + [1, _WINDOW_BYTES, 2**32 - 40]),
)
yamux_traffic = st.lists(yamux_frames | st.binary(max_size=30), max_size=12).map(b"".join)

# --- streams in Yamux -----------------------------------------------------------------------------

PROPOSAL = HEADER + encode_message(ECHO.encode())
stream_frames = st.builds(
    lambda kind, flags, stream, body: FRAME.pack(0, kind, flags, stream, len(body)) + body,
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([0, 0, 1, 1, 2, 4, 8, 5, 6]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([PROPOSAL, PROPOSAL + b"x", HEADER, b"", b"\xff\xff", b"na", bytes(50)]),
)
stream_traffic = st.lists(stream_frames | st.binary(max_size=30), max_size=12).map(b"".join)

# --- kad ------------------------------------------------------------------------------------------

peer_ids = st.binary(min_size=32, max_size=32).map(lambda digest: PeerId(b"\x12\x20" + digest))
addrs = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65535)).map(
        lambda pair: b"\x04" + pair[0].to_bytes(4, "big") + b"\x06" + pair[1].to_bytes(2, "big")
    ),
    st.text("abcdefghij-", min_size=1, max_size=200).map(
        lambda name: b"\x36" + encode_varint(len(name)) + name.encode() + b"\x06\x01\xbb"
    ),
)
entries = st.builds(
    PeerEntry,
    peer_ids,
    st.lists(addrs, max_size=6, unique=True).map(tuple),
    st.sampled_from([ConnectionType.NOT_CONNECTED, ConnectionType.CONNECTED]),
)
entry_lists = st.lists(entries, max_size=5).map(tuple)
keys = st.binary(max_size=200)
records = st.builds(Record, keys, st.binary(max_size=300), st.text(max_size=40))
levels = st.integers(0, 2**31 - 2)
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(FindNode, keys, levels),
    st.builds(GetProviders, keys, levels),
    st.builds(AddProvider, keys, entry_lists, levels),
    st.builds(GetValue, keys, levels),
    st.builds(PutValue, keys, st.none() | records, levels),
    st.builds(Ping, keys, st.none() | records, levels),
)
replies = st.builds(
    Reply,
    st.sampled_from(MessageType),
    keys,
    st.none() | records,
    entry_lists,
    entry_lists,
    levels,
)
