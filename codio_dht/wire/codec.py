"""Messages of ``/ipfs/kad/1.0.0``: bytes to the values of :mod:`codio_dht.core.messages` and back.

Decides how a message looks on the wire; never what it means. What is read is a frame's payload;
what is written is a whole frame, length included.

Lenient in: fields in any order, unknown ones skipped; a peer entry that is broken costs that entry,
an address that is broken or belongs to another peer costs that address. Only bytes that are not a
message at all, or a type nobody knows, are a ``MessageError``.

Strict out, as GO writes: fields in ascending order, zero values left out, ``clusterLevelRaw`` one
more than the level. Of a received message nothing is ever sent on but the values of the
dataclasses, so private extensions of other implementations (proto/dht.proto lists them) are not
echoed.

A reply is joined from the bytes of its peer entries, which each ``PeerEntry`` keeps once made: many
times as fast as the protobuf runtime, and the same bytes (a test holds it to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from codio_dht.core.messages import (
    AddProvider,
    FindNode,
    GetProviders,
    GetValue,
    MessageType,
    Ping,
    PutValue,
    Record,
    Reply,
    Request,
)
from codio_dht.errors import MessageError
from codio_dht.formats.protobuf import bytes_field, bytes_tag, uint_field
from codio_dht.formats.varint import length_prefixed
from codio_dht.params import MAX_FRAME_BYTES, REPLY_BUDGET_BYTES, K
from codio_dht.wire import dht_pb2
from codio_dht.wire.entries import decode_entries, encode_entry
from codio_dht.wire.shaping import shape

MAX_REPLY_CLOSER_ENTRIES: Final = 4 * K
"""Closer-peer entries of one reply that are looked at, broken ones included; later ones are ignored
(twice what a lookup accepts)."""

MAX_REPLY_PROVIDER_ENTRIES: Final = 1_000
"""Provider entries of one reply that are looked at; later ones are ignored (GO has sent 30,000 in
one reply: decoding them all would stop everything else for 0.1 s)."""

MAX_REQUEST_PROVIDER_ENTRIES: Final = 32
"""Provider entries of one ADD_PROVIDER that are looked at; later ones are ignored (all that count
are the sender's own, and every implementation sends exactly one)."""

_TYPES: Final = tuple(MessageType)

_TYPE: Final = 1
_TYPE_FIELDS: Final = tuple(b"" if kind == 0 else uint_field(_TYPE, kind) for kind in MessageType)
"""The field of each message type; PUT_VALUE is 0 and left out."""

_KEY: Final = 2
_RECORD: Final = 3
_CLOSER_TAG: Final = bytes_tag(8)
_PROVIDER_TAG: Final = bytes_tag(9)
_LEVEL: Final = 10
_LEVEL_ZERO: Final = uint_field(_LEVEL, 1)

_SHORT_FRAME: Final = (1 << 14) + 1
"""A frame up to this size has a length of at most two bytes."""

_SHORT_PREFIX: Final = 2
_LONG_PREFIX: Final = 4


# --- reading --------------------------------------------------------------------------------------


def decode_request(payload: bytes) -> Request:
    """The request in a frame's payload.

    Raises:
        MessageError: not a message, or of a type nobody knows. GO resets the stream.
    """
    message = _parse(payload)
    level = max(message.clusterLevelRaw - 1, 0)
    match message.type:
        case dht_pb2.FIND_NODE:
            return FindNode(message.key, level)
        case dht_pb2.GET_PROVIDERS:
            return GetProviders(message.key, level)
        case dht_pb2.ADD_PROVIDER:
            providers = decode_entries(message.providerPeers, MAX_REQUEST_PROVIDER_ENTRIES)
            return AddProvider(message.key, providers, level)
        case dht_pb2.GET_VALUE:
            return GetValue(message.key, level)
        case dht_pb2.PUT_VALUE:
            return PutValue(message.key, _record(message), level)
        case dht_pb2.PING:
            return Ping(message.key, _record(message), level)
        case unknown:
            raise MessageError(f"unknown message type {unknown}")


def decode_reply(payload: bytes) -> Reply:
    """The reply in a frame's payload.

    At most ``MAX_REPLY_CLOSER_ENTRIES`` and ``MAX_REPLY_PROVIDER_ENTRIES`` entries are looked at.

    Raises:
        MessageError: not a message, or of a type nobody knows.
    """
    message = _parse(payload)
    kind = message.type
    if not 0 <= kind < len(_TYPES):
        raise MessageError(f"unknown message type {kind}")
    return Reply(
        _TYPES[kind],
        message.key,
        _record(message),
        decode_entries(message.closerPeers, MAX_REPLY_CLOSER_ENTRIES),
        decode_entries(message.providerPeers, MAX_REPLY_PROVIDER_ENTRIES),
        max(message.clusterLevelRaw - 1, 0),
    )


def expected_reply(request: Request) -> MessageType:
    """The type of an answer to ``request`` (ADD_PROVIDER has none; an echo would be of this)."""
    match request:
        case FindNode():
            return MessageType.FIND_NODE
        case GetProviders():
            return MessageType.GET_PROVIDERS
        case AddProvider():
            return MessageType.ADD_PROVIDER
        case GetValue():
            return MessageType.GET_VALUE
        case PutValue():
            return MessageType.PUT_VALUE
        case Ping():
            return MessageType.PING


def _parse(payload: bytes) -> dht_pb2.ShallowMessage:
    try:
        return dht_pb2.ShallowMessage.FromString(payload)
    except DecodeError as error:
        raise MessageError("not a DHT message") from error


def _record(message: dht_pb2.ShallowMessage) -> Record | None:
    if not message.HasField("record"):
        return None
    record = message.record
    return Record(record.key, record.value, record.timeReceived)


# --- writing --------------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """``request`` as a whole frame. Never shaped: only the asker's own data is in it.

    Raises:
        MessageError: larger than ``MAX_FRAME_BYTES``.
    """
    middle = b""
    match request:
        case AddProvider():
            middle = _tagged(_PROVIDER_TAG, [encode_entry(entry) for entry in request.providers])
        case PutValue() | Ping():
            middle = _record_field(request.record)
        case FindNode() | GetProviders() | GetValue():
            pass
    head = _TYPE_FIELDS[expected_reply(request)] + _key_field(request.key)
    payload = head + middle + _level_field(request.cluster_level)
    if len(payload) > MAX_FRAME_BYTES:
        raise MessageError(f"a request of {len(payload)} bytes")
    return length_prefixed(payload)


def encode_reply(reply: Reply, budget: int = REPLY_BUDGET_BYTES) -> bytes:
    """``reply`` as a whole frame of at most ``budget`` bytes, length included.

    Peers and addresses are left out to make it fit, by the rule of :mod:`codio_dht.wire.shaping`.
    A key and record that alone pass the budget are sent all the same, within ``MAX_FRAME_BYTES``:
    they are what was asked for, and no reader of smaller frames could be served whatever is left
    out.

    Raises:
        MessageError: key and record do not fit ``MAX_FRAME_BYTES`` (an echo of a request that was
            nearly as large); there is no such reply.
    """
    head = _TYPE_FIELDS[reply.type]
    if reply.key:
        head += bytes_field(_KEY, reply.key)
    if reply.record is not None:
        head += _record_field(reply.record)
    level = reply.cluster_level
    tail = _LEVEL_ZERO if level <= 0 else _level_field(level)
    fixed = len(head) + len(tail)
    limit = budget - (_SHORT_PREFIX if budget <= _SHORT_FRAME else _LONG_PREFIX)
    if fixed > limit:
        limit = MAX_FRAME_BYTES
        if fixed > limit:
            raise MessageError(f"a reply of {fixed} bytes")
    closer = [entry.encoded or encode_entry(entry) for entry in reply.closer_peers]
    near = _tagged(_CLOSER_TAG, closer)
    room = limit - fixed - len(near)
    providers = []
    for entry in reply.provider_peers:
        data = encode_entry(entry)
        room -= len(data) + 1
        if room < 0:
            break
        providers.append(data)
    if room < 0:
        closer, providers = shape(reply.closer_peers, reply.provider_peers, limit - fixed)
        near = _tagged(_CLOSER_TAG, closer)
    far = _tagged(_PROVIDER_TAG, providers) if providers else b""
    return length_prefixed(b"".join((head, near, far, tail)))


def _key_field(key: bytes) -> bytes:
    return bytes_field(_KEY, key) if key else b""


def _record_field(record: Record | None) -> bytes:
    if record is None:
        return b""
    message = dht_pb2.Record(key=record.key, value=record.value, timeReceived=record.time_received)
    return bytes_field(_RECORD, message.SerializeToString())


def _level_field(level: int) -> bytes:
    return _LEVEL_ZERO if level <= 0 else uint_field(_LEVEL, level + 1)


def _tagged(tag: bytes, entries: Sequence[bytes]) -> bytes:
    """Each entry behind ``tag``."""
    return tag + tag.join(entries) if entries else b""
