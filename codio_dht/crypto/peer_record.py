"""Peer records (libp2p RFC 0003): a peer's addresses with a sequence number, in an envelope.

Decides which bytes are a peer's own word about where it is. A record is of the peer whose key
signed its envelope, or it is nothing. Whether a sequence number is newer, the peer book decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from codio_dht.core.peer import PeerId
from codio_dht.crypto.envelope import open_envelope, seal_envelope
from codio_dht.crypto.keys import SigningKey
from codio_dht.errors import PeerIdError, ProtocolError
from codio_dht.formats.multiaddr import usable_addresses
from codio_dht.formats.protobuf import bytes_field, read_fields, uint_field
from codio_dht.params import MAX_ADDRS_PER_PEER

_LAYER: Final = "peer record"
_DOMAIN: Final = "libp2p-peer-record"
"""As all implementations have it; RFC 0003 still says ``libp2p-routing-state``."""
_PAYLOAD_TYPE: Final = b"\x03\x01"
"""Multicodec ``libp2p-peer-record``, 0x0301, big-endian as implementations write it."""
_PEER_ID: Final = 1
_SEQUENCE: Final = 2
_ADDRESS_INFO: Final = 3
_MULTIADDR: Final = 1
_MAX_FIELDS: Final = 1_024


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What a peer says of itself. ``sequence`` orders its records and is no time to rely on."""

    peer_id: PeerId
    sequence: int
    addrs: tuple[bytes, ...]


def seal_peer_record(key: SigningKey, *, sequence: int, addrs: Sequence[bytes]) -> bytes:
    """This node's signed record: ``addrs`` as binary multiaddrs without ``/p2p``."""
    payload = bytes_field(_PEER_ID, key.public_key().peer_id().to_bytes())
    payload += uint_field(_SEQUENCE, sequence)
    payload += b"".join(bytes_field(_ADDRESS_INFO, bytes_field(_MULTIADDR, addr)) for addr in addrs)
    return seal_envelope(key, domain=_DOMAIN, payload_type=_PAYLOAD_TYPE, payload=payload)


def open_peer_record(data: bytes) -> PeerRecord:
    """The record in a signed envelope, found to be of the peer that signed it.

    The addresses are the peer's usable ones, ``MAX_ADDRS_PER_PEER`` of each reach
    (:func:`~codio_dht.formats.multiaddr.usable_addresses`).

    Raises:
        ProtocolError: as :func:`open_envelope`; also a record of another peer than the signer.
    """
    envelope = open_envelope(data, domain=_DOMAIN, payload_type=_PAYLOAD_TYPE)
    peer_id, sequence, addrs = b"", 0, list[bytes]()
    for number, value in read_fields(envelope.payload, max_fields=_MAX_FIELDS, layer=_LAYER):
        if isinstance(value, int):
            sequence = value if number == _SEQUENCE else sequence
        elif number == _PEER_ID:
            peer_id = value
        elif number == _ADDRESS_INFO:
            addrs.append(_address(value))
    signer = envelope.public_key.peer_id()
    try:
        if PeerId(peer_id) != signer:
            raise ProtocolError(_LAYER, "of another peer than its signer")
    except PeerIdError as error:
        raise ProtocolError(_LAYER, "no peer id") from error
    return PeerRecord(
        signer, sequence, usable_addresses(addrs, signer.to_bytes(), MAX_ADDRS_PER_PEER)
    )


def _address(info: bytes) -> bytes:
    for number, value in read_fields(info, max_fields=8, layer=_LAYER):
        if number == _MULTIADDR and isinstance(value, bytes):
            return value
    return b""
