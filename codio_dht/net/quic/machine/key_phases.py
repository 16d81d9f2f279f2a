"""The keys of an established connection, and their changes (RFC 9001, section 6).

Decides with which keys a short packet is opened, and when a peer's change of keys is followed::

    keys of phase p --update(), or a genuine packet of phase 1-p--> keys of phase 1-p

Keys before the present ones are kept until the next change: packets overtake each other, and a peer
uses old keys until it has heard of new ones. A change is followed for both directions at once.
"""

from __future__ import annotations

from typing import Final

from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.protection import Keys, Opened, whole_number

_KEY_PHASE: Final = 0x04


class KeyPhases:
    """Both directions' keys."""

    __slots__ = ("_before", "_first_number", "_next", "phase", "receive", "send")

    def __init__(self) -> None:
        self.send: Keys | None = None
        self.receive: Keys | None = None
        self.phase = 0
        """The phase bit of what is sent: 0 or 1."""
        self._before: Keys | None = None
        self._next: Keys | None = None
        self._first_number: int | None = None
        """The lowest number that was opened with the present keys."""

    def update(self) -> None:
        """Change the keys. The peer follows when it reads a packet sealed with them."""
        assert self.send is not None
        assert self.receive is not None
        self._before, self.receive = self.receive, self._next or self.receive.next()
        self._next = None
        self.send = self.send.next()
        self.phase ^= 1
        self._first_number = None

    def open(self, packet: bytes, number_at: int, expected: int) -> Opened | None:
        """The packet; None if it is not genuine.

        Raises:
            QuicError: a packet sealed with keys that the peer had given up.
        """
        keys = self.receive
        if keys is None:
            return None
        bare = keys.unmask(packet, number_at)
        if bare is None:
            return None
        first = bare.first
        number = whole_number(bare.truncated, bare.bits, expected)
        if bool(first & _KEY_PHASE) == bool(self.phase):
            payload = keys.decrypt(packet, number_at, bare, number)
            if payload is None:
                return None
            if self._first_number is None or number < self._first_number:
                self._first_number = number
            return Opened(first, number, payload)
        if self._first_number is None or number < self._first_number:
            if self._before is None:
                return None
            payload = self._before.decrypt(packet, number_at, bare, number)
            return None if payload is None else Opened(first, number, payload)
        return self._follow(packet, number_at, first, number)

    def _follow(self, packet: bytes, number_at: int, first: int, number: int) -> Opened | None:
        """A packet of the other phase, behind those of this one: the peer's next keys, if it is
        genuine."""
        assert self.receive is not None
        bare = self.receive.unmask(packet, number_at)
        assert bare is not None
        following = self._next = self._next or self.receive.next()
        payload = following.decrypt(packet, number_at, bare, number)
        if payload is None:
            if self._before and self._before.decrypt(packet, number_at, bare, number) is not None:
                raise QuicError(Code.KEY_UPDATE_ERROR, "old keys after new ones")
            return None
        self.update()
        self._first_number = number
        return Opened(first, number, payload)
