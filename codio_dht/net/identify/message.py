"""The identify message (libp2p specs, identify): bytes to a value and back, bounded.

Decides what is an identify message, and what of it is read. A message arrives in one or more parts,
each with its length before it (:class:`MessageParts`); the parts are one message.

What is over a bound is left out, not an error: later protocols, and protocol ids too long. An agent
or protocol version too long is cut: a part of it is as good for people. A message that mentions no
protocols or addresses (an identify push may be partial) has none here. Addresses are as they came;
:mod:`codio_dht.net.identify.known` judges them.

Bounds, for peers of every kind: go-libp2p keeps at most 128 protocols of a peer (and none of a list
longer than that), js-libp2p reads messages of 8 KiB. ``MAX_IDENTIFY_PROTOCOLS`` is twice go's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.errors import FormatError, ProtocolError
from codio_dht.formats.protobuf import bytes_field, read_fields
from codio_dht.formats.varint import split_length_prefixed
from codio_dht.net.identify.limits import (
    MAX_IDENTIFY_BYTES,
    MAX_IDENTIFY_PROTOCOLS,
    MAX_IDENTIFY_TEXT_BYTES,
)

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
_MAX_LENGTH_BYTES: Final = 3
"""Longest length of a part, bytes of varint: ``MAX_IDENTIFY_BYTES`` takes three."""


@dataclass(frozen=True, slots=True)
class IdentifyMessage:
    """What a peer says of itself; None is what it does not mention. Addresses are binary
    multiaddrs, the record is unverified."""

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
            if (
                0 < len(value) <= MAX_IDENTIFY_TEXT_BYTES
                and len(protocols) < MAX_IDENTIFY_PROTOCOLS
            ):
                protocols[value.decode(errors="replace")] = None
        elif number == _LISTEN_ADDR:
            addrs.append(value)
        else:
            singles[number] = value
    return IdentifyMessage(
        public_key=singles.get(_PUBLIC_KEY),
        listen_addrs=tuple(addrs),
        protocols=tuple(protocols),
        observed_addr=singles.get(_OBSERVED_ADDR),
        protocol_version=_decode_text(singles.get(_PROTOCOL_VERSION)),
        agent=_decode_text(singles.get(_AGENT)),
        signed_peer_record=singles.get(_SIGNED_PEER_RECORD),
    )


def _encode_text(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _decode_text(value: bytes | None) -> str | None:
    """Text for people, cut at ``MAX_IDENTIFY_TEXT_BYTES``. Bytes that are not UTF-8 show as
    replacement characters: nothing depends on them."""
    return None if value is None else value[:MAX_IDENTIFY_TEXT_BYTES].decode(errors="replace")


class MessageParts:
    """Collects the parts of one message as they arrive (go sends several of a long one)."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            ProtocolError: the parts are longer than ``MAX_IDENTIFY_BYTES`` together.
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
