"""Peer entries: one peer of a message, bytes to ``PeerEntry`` and back.

Decides what of an entry is usable, and how large one may be; never how many a message carries
(:mod:`codio_dht.wire.shaping`) nor what they mean.

Every entry keeps its encoded bytes once they are made: whole in ``PeerEntry.encoded``, and with its
shortest address only in ``PeerEntry.shortest``. Both stand behind their length, without the tag of
the message's field. Only this module touches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from codio_dht.core.messages import ConnectionType, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.errors import PeerIdError
from codio_dht.formats.multiaddr import usable_addresses
from codio_dht.formats.protobuf import bytes_field, bytes_tag, uint_field
from codio_dht.formats.varint import ONE_BYTE_END, encode_varint, length_prefixed
from codio_dht.params import MAX_ADDRS_PER_PEER, MAX_PEER_ENTRY_BYTES
from codio_dht.wire import dht_pb2

MAX_MESSAGE_ADDRS_EXAMINED: Final = 4_096
"""Addresses of one message's provider (or closer) entries that are looked at, all entries together;
the entries after it are kept without addresses. Judging an unknown address takes about 5 us."""

_ID: Final = 1
_ADDRS: Final = 2

_CONNECTION: Final = 3
_CONNECTED_FIELD: Final = uint_field(_CONNECTION, ConnectionType.CONNECTED.value)
"""``Peer.connection`` of a connected peer; GO sends 0 or 1, and 0 is left out."""

_CONNECTIONS: Final = tuple(ConnectionType)

LONG_FIELD_BYTES: Final = ONE_BYTE_END
"""A field or an entry from this size on takes a second length byte."""

_ID_HEADS: Final = [bytes_tag(_ID) + encode_varint(size) for size in range(LONG_FIELD_BYTES)]
_ADDR_HEADS: Final = [bytes_tag(_ADDRS) + encode_varint(size) for size in range(LONG_FIELD_BYTES)]
"""Tag and length of a short field of each size."""


# --- reading --------------------------------------------------------------------------------------


def decode_entries(raw: Sequence[bytes], limit: int) -> tuple[PeerEntry, ...]:
    """The usable ones of the first ``limit`` entries, in order."""
    entries = []
    examined = 0
    for data in raw[:limit]:
        try:
            peer = dht_pb2.Peer.FromString(data)
            peer_id = PeerId(peer.id)
        except (DecodeError, PeerIdError):
            continue
        addrs: Sequence[bytes] = peer.addrs
        if len(data) > MAX_PEER_ENTRY_BYTES:
            addrs = _within_entry_limit(len(peer.id), addrs)
        examined += len(addrs)
        if examined > MAX_MESSAGE_ADDRS_EXAMINED:
            addrs = []
        usable = usable_addresses(addrs, peer_id.to_bytes(), MAX_ADDRS_PER_PEER)
        entries.append(PeerEntry(peer_id, usable, _connection(peer.connection)))
    return tuple(entries)


def _connection(value: int) -> ConnectionType:
    """An unknown value counts as not connected (RS drops such a peer, GO keeps it)."""
    return _CONNECTIONS[value] if 0 <= value < len(_CONNECTIONS) else _CONNECTIONS[0]


def _within_entry_limit(id_bytes: int, addrs: Iterable[bytes]) -> list[bytes]:
    """The leading addresses that fit one entry beside an id of ``id_bytes`` (GO: the first one that
    does not fit ends the list)."""
    kept = []
    size = 2 + id_bytes + len(_CONNECTED_FIELD)
    for addr in addrs:
        size += address_bytes(addr)
        if size > MAX_PEER_ENTRY_BYTES:
            break
        kept.append(addr)
    return kept


# --- writing --------------------------------------------------------------------------------------


def encode_entry(entry: PeerEntry) -> bytes:
    """The entry behind its length; the last addresses are left out past 8 KiB."""
    return entry.encoded or _keep(entry, _encode(entry, entry.addrs))


def encode_shortest(entry: PeerEntry) -> tuple[bytes, int]:
    """The entry with its shortest address only (of equals, the first), behind its length; and the
    place of that address, 0 if it has none."""
    return entry.shortest or _keep_shortest(entry)


def encode_first(entry: PeerEntry, count: int, place: int) -> bytes:
    """The entry with its first ``count`` addresses and the one at ``place``, behind its length."""
    addrs = entry.addrs
    if len(addrs) <= max(count, 1):
        return encode_entry(entry)
    return _encode(entry, addrs[:count] if place < count else (*addrs[:count], addrs[place]))


def address_bytes(addr: bytes) -> int:
    """What ``addr`` takes in an entry: tag, length, bytes."""
    size = len(addr)
    return size + 2 if size < LONG_FIELD_BYTES else size + 3


def _encode(entry: PeerEntry, addrs: Sequence[bytes]) -> bytes:
    peer_id = entry.peer_id.to_bytes()
    connection = _CONNECTED_FIELD if entry.connection is ConnectionType.CONNECTED else b""
    fields = [_ID_HEADS[len(peer_id)] + peer_id]
    fields += [
        _ADDR_HEADS[len(addr)] + addr if len(addr) < LONG_FIELD_BYTES else bytes_field(_ADDRS, addr)
        for addr in addrs
    ]
    body = b"".join(fields) + connection
    if len(body) > MAX_PEER_ENTRY_BYTES:
        kept = _within_entry_limit(len(peer_id), addrs)
        body = b"".join(fields[: len(kept) + 1]) + connection
    return length_prefixed(body)


def _keep(entry: PeerEntry, data: bytes) -> bytes:
    object.__setattr__(entry, "encoded", data)
    return data


def _keep_shortest(entry: PeerEntry) -> tuple[bytes, int]:
    sizes = list(map(len, entry.addrs))
    place = sizes.index(min(sizes)) if sizes else 0
    kept = encode_first(entry, 0, place), place
    object.__setattr__(entry, "shortest", kept)
    return kept
