"""The identify message: bytes to a value and back, bounded.

Decides what of a peer's description of itself is kept. Knows nothing of streams; the message is
read without its length prefix. A partial message (identify push) leaves fields None or empty;
``protocols`` cannot be told from "none", so push replaces it only when not empty.

What is over a bound is left out, not an error: later protocols and addresses, and strings too
long. What is an error is said at :func:`decode_identify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.errors import ProtocolError
from codio_dht.formats.protobuf import bytes_field, read_fields
from codio_dht.net.identify.limits import (
    MAX_IDENTIFY_BYTES,
    MAX_IDENTIFY_PROTOCOLS,
    MAX_IDENTIFY_TEXT_BYTES,
)
from codio_dht.params import MAX_ADDRS_PER_PEER, MAX_MULTIADDR_BYTES

IDENTIFY: Final = "/ipfs/id/1.0.0"
IDENTIFY_PUSH: Final = "/ipfs/id/push/1.0.0"

_LAYER: Final = "identify"
_PUBLIC_KEY: Final = 1
_LISTEN_ADDR: Final = 2
_PROTOCOL: Final = 3
_OBSERVED_ADDR: Final = 4
_PROTOCOL_VERSION: Final = 5
_AGENT: Final = 6
_SIGNED_PEER_RECORD: Final = 8
_MAX_FIELDS: Final = 4_096


@dataclass(frozen=True, slots=True)
class IdentifyMessage:
    """What a peer says of itself. Addresses are binary multiaddrs, the record is unverified."""

    public_key: bytes | None = None
    listen_addrs: tuple[bytes, ...] = ()
    protocols: tuple[str, ...] = ()
    observed_addr: bytes | None = None
    protocol_version: str | None = None
    agent: str | None = None
    signed_peer_record: bytes | None = None


def encode_identify(message: IdentifyMessage) -> bytes:
    """The bytes of ``message``, without a length prefix."""
    singles = (
        (_PUBLIC_KEY, message.public_key),
        (_OBSERVED_ADDR, message.observed_addr),
        (_PROTOCOL_VERSION, _encode_text(message.protocol_version)),
        (_AGENT, _encode_text(message.agent)),
        (_SIGNED_PEER_RECORD, message.signed_peer_record),
    )
    return b"".join(
        [
            *(bytes_field(_LISTEN_ADDR, addr) for addr in message.listen_addrs),
            *(bytes_field(_PROTOCOL, protocol.encode()) for protocol in message.protocols),
            *(bytes_field(number, value) for number, value in singles if value is not None),
        ]
    )


def decode_identify(data: bytes) -> IdentifyMessage:
    """The message in ``data``.

    Raises:
        ProtocolError: it is larger than ``MAX_IDENTIFY_BYTES`` or not a protobuf message.
    """
    if len(data) > MAX_IDENTIFY_BYTES:
        raise ProtocolError(_LAYER, "message too large")
    singles: dict[int, bytes] = {}
    addrs: list[bytes] = []
    protocols: dict[str, None] = {}  # in order, each once
    for number, value in read_fields(data, max_fields=_MAX_FIELDS, layer=_LAYER):
        if isinstance(value, int):
            continue
        if number == _PROTOCOL:
            name = _decode_text(value)
            if name and len(protocols) < MAX_IDENTIFY_PROTOCOLS:
                protocols[name] = None
        elif number == _LISTEN_ADDR:
            if 0 < len(value) <= MAX_MULTIADDR_BYTES and len(addrs) < MAX_ADDRS_PER_PEER:
                addrs.append(value)
        else:
            singles[number] = value
    observed = singles.get(_OBSERVED_ADDR)
    if observed is not None and not 0 < len(observed) <= MAX_MULTIADDR_BYTES:
        observed = None
    return IdentifyMessage(
        public_key=singles.get(_PUBLIC_KEY),
        listen_addrs=tuple(addrs),
        protocols=tuple(protocols),
        observed_addr=observed,
        protocol_version=_decode_text(singles.get(_PROTOCOL_VERSION)),
        agent=_decode_text(singles.get(_AGENT)),
        signed_peer_record=singles.get(_SIGNED_PEER_RECORD),
    )


def _encode_text(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _decode_text(value: bytes | None) -> str | None:
    """Text of a peer; None if there is none or it is too long. Bytes that are not UTF-8 show as
    replacement characters: nothing depends on them."""
    if value is None or len(value) > MAX_IDENTIFY_TEXT_BYTES:
        return None
    return value.decode(errors="replace")
