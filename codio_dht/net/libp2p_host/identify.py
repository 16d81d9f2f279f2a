"""Identify messages: what a peer says of itself, and what we say of ourselves.

Decides which parts of a peer's message are kept: everything has a bound, what cannot be read is
left out, and the addresses of a valid signed record of that very peer come before the unsigned
ones. What we send carries the same addresses in ``listenAddrs`` and in the signed record, without
wildcards and without ``/p2p`` (py-libp2p's own message has both faults; rust reads the record
only). No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.crypto.keys import PrivateKey
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.errors import FormatError, MessageError
from codio_dht.formats.varint import length_prefixed, split_length_prefixed
from codio_dht.net.host import PeerIdentified
from codio_dht.net.libp2p_host.limits import (
    MAX_AGENT_BYTES,
    MAX_IDENTIFY_BYTES,
    MAX_IDENTIFY_PROTOCOLS,
    MAX_PROTOCOL_ID_BYTES,
)
from codio_dht.net.own_addresses import without_p2p
from codio_dht.params import MAX_ADDRS_PER_PEER

IDENTIFY_PROTOCOL: Final = "/ipfs/id/1.0.0"
IDENTIFY_PUSH_PROTOCOL: Final = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION: Final = "ipfs/0.1.0"

_RECORD_DOMAIN: Final = "libp2p-peer-record"
_MAX_ADDR_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Said:
    """What one message said; None is what it did not mention (a push may be partial)."""

    protocols: frozenset[str] | None
    addrs: tuple[Multiaddr, ...] | None
    agent: str | None
    observed_addr: Multiaddr | None
    message: Identify
    """The whole message, for py-libp2p's peer store."""

    def as_event(self, peer_id: PeerId, before: PeerIdentified | None = None) -> PeerIdentified:
        """The peer as it is known after this message."""
        known = before or PeerIdentified(peer_id, frozenset(), (), "")
        return replace(
            known,
            protocols=known.protocols if self.protocols is None else self.protocols,
            addrs=known.addrs if self.addrs is None else self.addrs,
            agent=known.agent if self.agent is None else self.agent,
            observed_addr=self.observed_addr or known.observed_addr,
        )


_MAX_LENGTH_BYTES: Final = 4
"""Longest length of a part of a message, bytes of varint."""


# --- reading --------------------------------------------------------------------------------------


class MessageReader:
    """Collects length-prefixed parts, which go sends when a message is large, and merges them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            MessageError: the message is longer than ``MAX_IDENTIFY_BYTES``.
        """
        if len(self._buffer) + len(data) > MAX_IDENTIFY_BYTES:
            raise MessageError(f"identify message of more than {MAX_IDENTIFY_BYTES} bytes")
        self._buffer += data

    def finish(self) -> Identify:
        """The message, at the end of the stream.

        Raises:
            MessageError: it is cut short, or not an identify message.
        """
        if not self._buffer:
            raise MessageError("empty identify message")
        try:
            parts = split_length_prefixed(self._buffer, 0, _MAX_LENGTH_BYTES, shortest=False)
        except FormatError as error:
            raise MessageError(f"identify message {error}") from error
        merged = Identify()
        try:
            for part in parts:
                merged.MergeFromString(part)
        except DecodeError as error:
            raise MessageError("not an identify message") from error
        return merged


def read_message(message: Identify, sender: PeerId) -> Said:
    """What the message says, within the bounds. Never raises on a peer's bytes."""
    addrs = _signed_addrs(message, sender) or _addrs(message.listen_addrs)
    return Said(
        protocols=_protocols(message.protocols) if message.protocols else None,
        addrs=addrs or None,
        agent=_agent(message) if message.HasField("agent_version") else None,
        observed_addr=next(iter(_addrs([message.observed_addr])), None),
        message=message,
    )


def _protocols(names: Iterable[str]) -> frozenset[str]:
    kept: set[str] = set()
    for name in names:
        if len(kept) >= MAX_IDENTIFY_PROTOCOLS:
            break
        if len(name) <= MAX_PROTOCOL_ID_BYTES:
            kept.add(name)
    return frozenset(kept)


def _agent(message: Identify) -> str:
    agent: str = message.agent_version[:MAX_AGENT_BYTES]
    return "".join(char if char.isprintable() else "?" for char in agent)


def _addrs(raw: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    kept: dict[Multiaddr, None] = {}
    for data in raw:
        if len(kept) >= MAX_ADDRS_PER_PEER:
            break
        addr = _addr(data)
        if addr is not None:
            kept[addr] = None
    return tuple(kept)


def _addr(data: bytes) -> Multiaddr | None:
    if not data or len(data) > _MAX_ADDR_BYTES:
        return None
    try:
        addr = without_p2p(Multiaddr(bytes(data)))
        str(addr)  # the parts are decoded only now
    except Exception:  # noqa: BLE001 - multiaddr lets its codecs' errors through
        return None
    return addr if addr.to_bytes() else None


def _signed_addrs(message: Identify, sender: PeerId) -> tuple[Multiaddr, ...]:
    if not message.signedPeerRecord:
        return ()
    try:
        envelope, record = consume_envelope(message.signedPeerRecord, _RECORD_DOMAIN)
        signer = ID.from_pubkey(envelope.public_key)
        if sender != signer or sender != record.peer_id:
            return ()
        return _addrs(addr.to_bytes() for addr in record.addrs)
    except Exception:  # noqa: BLE001 - protobuf, keys and signatures fail in many ways
        return ()


# --- writing --------------------------------------------------------------------------------------


def build_message(
    private_key: PrivateKey,
    addrs: Sequence[Multiaddr],
    protocols: Iterable[str],
    agent: str,
    observed_addr: Multiaddr | None = None,
) -> bytes:
    """Our message to one peer, length-prefixed."""
    public_key = private_key.get_public_key()
    record = create_signed_peer_record(ID.from_pubkey(public_key), list(addrs), private_key)
    body = Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=public_key.serialize(),
        listen_addrs=[addr.to_bytes() for addr in addrs],
        observed_addr=observed_addr.to_bytes() if observed_addr else b"",
        protocols=sorted(protocols),
        signedPeerRecord=record.marshal_envelope(),
    ).SerializeToString()
    return length_prefixed(body)
