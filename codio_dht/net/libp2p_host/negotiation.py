"""multistream-select for one outgoing stream, sans I/O.

The question is both messages at once, so that the first request can ride in the same packet; the
answer is read before the first byte of the reply. States::

    HEADER --"/multistream/1.0.0"--> PROTOCOL --the protocol--> DONE
                                     PROTOCOL --"na"--> UnsupportedProtocolError

Never keeps more than one message.
"""

from __future__ import annotations

from typing import Final

from codio_dht.errors import FormatError, StreamError, UnsupportedProtocolError
from codio_dht.formats.varint import length_prefixed, read_varint
from codio_dht.net.libp2p_host.limits import MAX_MULTISTREAM_MESSAGE_BYTES

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"

_MAX_LENGTH_BYTES: Final = 2
"""Longest length of a message, bytes of varint: two cover the bound."""


def question(protocol: str) -> bytes:
    """What the opener of a stream sends: the header and the protocol it wants."""
    return _message(HEADER) + _message(protocol)


def _message(text: str) -> bytes:
    return length_prefixed(text.encode() + b"\n")


class Answer:
    """Reads the listener's side of the negotiation."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._expected = [HEADER, protocol]
        self._buffer = bytearray()

    @property
    def is_done(self) -> bool:
        """Whether the peer has agreed."""
        return not self._expected

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return what follows the negotiation, if anything.

        Raises:
            UnsupportedProtocolError: the peer does not speak the protocol.
            StreamError: these are not multistream messages.
        """
        self._buffer += data
        while self._expected:
            message = self._next_message()
            if message is None:
                return b""
            if message == NOT_AVAILABLE:
                raise UnsupportedProtocolError(f"the peer does not speak {self._protocol}")
            if message != self._expected[0]:
                raise StreamError(f"the peer answered {message[:80]!r} to {self._expected[0]!r}")
            del self._expected[0]
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _next_message(self) -> str | None:
        try:
            found = read_varint(self._buffer, 0, _MAX_LENGTH_BYTES, shortest=False)
        except FormatError as error:
            raise StreamError("the peer's multistream message is too long") from error
        if found is None:
            return None
        length, used = found
        if not 0 < length <= MAX_MULTISTREAM_MESSAGE_BYTES:
            raise StreamError(f"the peer's multistream message has a length of {length}")
        if len(self._buffer) < used + length:
            return None
        body = bytes(self._buffer[used : used + length])
        del self._buffer[: used + length]
        if body[-1:] != b"\n":
            raise StreamError("the peer's multistream message has no end")
        return body[:-1].decode("utf-8", "replace")
