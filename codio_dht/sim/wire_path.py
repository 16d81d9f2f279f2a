"""Messages between members pass the real encoder, framing and decoder of ``wire``.

Where a scenario asks for it (very large networks), only one message in ``one_in`` does; the others
are handed over as values. Bytes are counted for those that were encoded.
"""

from __future__ import annotations

from codio_dht.core.messages import Reply, Request
from codio_dht.wire.codec import decode_reply, decode_request, encode_reply, encode_request
from codio_dht.wire.framing import FrameReader


class WirePath:
    """See the module."""

    def __init__(self, one_in: int) -> None:
        self._one_in = one_in
        self.messages = 0
        """Messages sent so far."""
        self.encoded = 0
        """Those that were encoded."""
        self.encoded_bytes = 0
        """What they took, length prefixes included."""

    @property
    def estimated_bytes(self) -> int:
        """What all messages took, if those not encoded were like the others."""
        return self.encoded_bytes * self.messages // self.encoded if self.encoded else 0

    def request(self, request: Request) -> Request:
        """``request`` as the other end reads it."""
        if not self._is_due():
            return request
        return decode_request(self._carry(encode_request(request)))

    def reply(self, reply: Reply) -> Reply:
        """``reply`` as the asker reads it.

        Raises:
            RemoteError: it is too large to be sent.
        """
        if not self._is_due():
            return reply
        return decode_reply(self._carry(encode_reply(reply)))

    def _is_due(self) -> bool:
        self.messages += 1
        return self.messages % self._one_in == 0

    def _carry(self, frame: bytes) -> bytes:
        self.encoded += 1
        self.encoded_bytes += len(frame)
        reader = FrameReader()
        reader.feed(frame)
        payload = reader.next_frame()
        assert payload is not None, "a frame that was written whole is read whole"
        return payload
