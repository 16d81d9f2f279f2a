"""What we say of ourselves in identify, in parts that every implementation reads.

A message is one or more parts, each with its length before it. go-libp2p merges up to nine of them
of 8 KiB each; js-libp2p reads the first one up to 8 KiB, rust-libp2p the first one up to 4 KiB. So
no part is longer than ``MAX_TOLD_PART_BYTES``, and the first says what everybody needs: the public
key, the protocols, and the addresses, public ones first; what does not fit is not told. The signed
record carries the same addresses (some implementations read only the record, others only the list);
it stands in the first part if there is room, else in one of its own, as go sends it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from multiaddr import Multiaddr

from codio_dht.crypto.keys import SigningKey
from codio_dht.crypto.peer_record import seal_peer_record
from codio_dht.formats.multiaddr import most_useful_first
from codio_dht.formats.protobuf import bytes_field
from codio_dht.formats.varint import length_prefixed
from codio_dht.net.identify.limits import (
    MAX_IDENTIFY_TEXT_BYTES,
    MAX_OBSERVED_ADDR_BYTES,
    MAX_TOLD_PART_BYTES,
    MAX_TOLD_PROTOCOL_BYTES,
)
from codio_dht.net.identify.message import IdentifyMessage, encode_identify

PROTOCOL_VERSION: Final = "ipfs/0.1.0"

_OBSERVED_ADDR: Final = 4
_NANOSECONDS: Final = 1_000_000_000
_FIRST_PART_BYTES: Final = MAX_TOLD_PART_BYTES - MAX_OBSERVED_ADDR_BYTES
_PER_ADDR_BYTES: Final = 8
"""Tags and lengths around one address in a signed record, and one tag and length of the record and
of its payload that may take a byte more: at most so many bytes."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What we say of ourselves; made once for each change, completed for each peer."""

    _first: bytes
    _second: bytes

    @classmethod
    def of(
        cls,
        key: SigningKey,
        *,
        addrs: Sequence[Multiaddr],
        protocols: Iterable[str],
        agent: str,
        sequence: int | None = None,
    ) -> Self:
        """The message of this host. ``sequence`` orders its signed records; the time is taken
        unless it is given."""
        if sequence is None:
            sequence = int(time.time() * _NANOSECONDS)
        bare = IdentifyMessage(
            public_key=key.public_key().to_protobuf(),
            protocols=_told_protocols(protocols),
            protocol_version=PROTOCOL_VERSION,
            agent=agent.encode()[:MAX_IDENTIFY_TEXT_BYTES].decode(errors="ignore"),
        )
        told = _told_addrs(
            [addr.to_bytes() for addr in addrs],
            _FIRST_PART_BYTES - len(encode_identify(bare)),
            MAX_TOLD_PART_BYTES - len(_record_part(key, sequence, ())),
        )
        first = encode_identify(replace(bare, listen_addrs=told))
        record = _record_part(key, sequence, told)
        if len(first) + len(record) <= _FIRST_PART_BYTES:
            return cls(first + record, b"")
        return cls(first, length_prefixed(record))

    def to(self, observed_addr: bytes | None) -> bytes:
        """The message for a peer that is seen at ``observed_addr`` (a binary multiaddr), each part
        with its length before it."""
        first = self._first
        if observed_addr is not None and len(observed_addr) < MAX_OBSERVED_ADDR_BYTES:
            first += bytes_field(_OBSERVED_ADDR, observed_addr)
        return length_prefixed(first) + self._second


def _record_part(key: SigningKey, sequence: int, addrs: Sequence[bytes]) -> bytes:
    record = seal_peer_record(key, sequence=sequence, addrs=addrs)
    return encode_identify(IdentifyMessage(signed_peer_record=record))


def _told_protocols(protocols: Iterable[str]) -> tuple[str, ...]:
    told, left = [], MAX_TOLD_PROTOCOL_BYTES
    for name in sorted(protocols):
        left -= len(encode_identify(IdentifyMessage(protocols=(name,))))
        if left < 0:
            break
        told.append(name)
    return tuple(told)


def _told_addrs(addrs: Sequence[bytes], in_list: int, in_record: int) -> tuple[bytes, ...]:
    """Those of ``addrs`` that fit into so many bytes of the list and of the record: all in their
    order, or else the most useful ones."""

    def fitting(candidates: Sequence[bytes]) -> tuple[bytes, ...]:
        list_left, record_left, told = in_list, in_record, list[bytes]()
        for addr in candidates:
            list_left -= len(addr) + _PER_ADDR_BYTES // 2
            record_left -= len(addr) + _PER_ADDR_BYTES
            if list_left < 0 or record_left < 0:
                break
            told.append(addr)
        return tuple(told)

    everything = fitting(addrs)
    return everything if len(everything) == len(addrs) else fitting(most_useful_first(addrs))
