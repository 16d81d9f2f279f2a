"""Identify messages as the host uses them: what we say of ourselves, what we keep of a peer's word.

Decides which parts are kept: everything has a bound, and what cannot be read is left out. The
connection has proved who speaks, so what it says unsigned is its own word already; the signed
record is opened only for a peer that says its addresses nowhere else (a signature costs more than
all the rest). What we send carries the same addresses in both places (rust reads the record only).
No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import open_peer_record, seal_peer_record
from codio_dht.errors import FormatError, ProtocolError
from codio_dht.formats.multiaddr import is_readable, strip_peer_id
from codio_dht.formats.protobuf import bytes_field
from codio_dht.formats.varint import length_prefixed, split_length_prefixed
from codio_dht.net.host import PeerIdentified
from codio_dht.net.identify.limits import MAX_IDENTIFY_BYTES, MAX_KNOWN_PROTOCOL_BYTES
from codio_dht.net.identify.message import (
    IdentifyMessage,
    decode_identify,
    encode_identify,
)

PROTOCOL_VERSION: Final = "ipfs/0.1.0"

_OBSERVED_ADDR: Final = 4
_LAYER: Final = "identify"
_MAX_LENGTH_BYTES: Final = 3
"""Longest length of a part, bytes of varint: ``MAX_IDENTIFY_BYTES`` takes three."""
_KNOWN_SETS: Final = 256
"""Sets of protocols remembered, so that peers of the same program share one."""


# --- reading --------------------------------------------------------------------------------------


class Parts:
    """Collects a message's length-prefixed parts, which go sends when it is large."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            ProtocolError: the message is longer than ``MAX_IDENTIFY_BYTES``.
        """
        if len(self._buffer) + len(data) > MAX_IDENTIFY_BYTES:
            raise ProtocolError(_LAYER, "message too large")
        self._buffer += data

    def message(self) -> IdentifyMessage:
        """The parts merged: protobuf messages merge by being joined.

        Raises:
            ProtocolError: empty, cut short, or not an identify message.
        """
        if not self._buffer:
            raise ProtocolError(_LAYER, "empty message")
        try:
            parts = split_length_prefixed(self._buffer, 0, _MAX_LENGTH_BYTES, shortest=False)
        except FormatError as error:
            raise ProtocolError(_LAYER, "message cut short, or a bad length in it") from error
        return decode_identify(b"".join(parts))


def merge(
    message: IdentifyMessage, sender: PeerId, before: PeerIdentified | None
) -> PeerIdentified:
    """The peer as it is known after ``message``; what that does not mention stays (a push may be
    partial)."""
    known = before or PeerIdentified(sender, frozenset(), (), "")
    addrs = _multiaddrs(message.listen_addrs, sender) or _signed_addrs(message, sender)
    observed = () if message.observed_addr is None else _multiaddrs([message.observed_addr], sender)
    return replace(
        known,
        protocols=_protocols(message.protocols) if message.protocols else known.protocols,
        addrs=addrs or known.addrs,
        agent=known.agent if message.agent is None else _printable(message.agent),
        observed_addr=observed[0] if observed else known.observed_addr,
    )


@lru_cache(maxsize=_KNOWN_SETS)
def _protocols(names: tuple[str, ...]) -> frozenset[str]:
    kept: set[str] = set()
    left = MAX_KNOWN_PROTOCOL_BYTES
    for name in names:
        left -= len(name)
        if left < 0:
            break
        kept.add(name)
    return frozenset(kept)


@lru_cache(maxsize=_KNOWN_SETS)
def _printable(agent: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in agent)


def _multiaddrs(addrs: Iterable[bytes], sender: PeerId) -> tuple[Multiaddr, ...]:
    kept: dict[bytes, None] = {}
    for data in addrs:
        addr = strip_peer_id(data, sender.to_bytes()) if is_readable(data) else None
        if addr:
            kept[addr] = None
    return tuple(map(Multiaddr, kept))


def _signed_addrs(message: IdentifyMessage, sender: PeerId) -> tuple[Multiaddr, ...]:
    if message.signed_peer_record is None:
        return ()
    try:
        record = open_peer_record(message.signed_peer_record)
    except ProtocolError:
        return ()
    return _multiaddrs(record.addrs, sender) if record.peer_id == sender else ()


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Introduction:
    """What we say of ourselves; made once for each change, completed for each peer."""

    _body: bytes

    @classmethod
    def of(
        cls,
        key: PrivateKey,
        *,
        addrs: Sequence[Multiaddr],
        protocols: Iterable[str],
        agent: str,
        sequence: int,
    ) -> Introduction:
        """The message of this host; ``sequence`` orders its signed records."""
        listen_addrs = tuple(addr.to_bytes() for addr in addrs)
        return cls(
            encode_identify(
                IdentifyMessage(
                    public_key=key.public_key().to_protobuf(),
                    listen_addrs=listen_addrs,
                    protocols=tuple(sorted(protocols)),
                    protocol_version=PROTOCOL_VERSION,
                    agent=agent,
                    signed_peer_record=seal_peer_record(key, sequence=sequence, addrs=listen_addrs),
                )
            )
        )

    def to(self, observed_addr: bytes) -> bytes:
        """The message for a peer that is seen at ``observed_addr``, with its length before it."""
        body = self._body + bytes_field(_OBSERVED_ADDR, observed_addr)
        return length_prefixed(body)
