"""The connection ids of both sides (RFC 9000, section 5.1).

Decides which ids the peer is told, under which one it is called, and which are given up. Each own
id has a stateless reset token that follows from the node's identity.

    own id:    made --told--> in use --RETIRE_CONNECTION_ID--> given up (another is made)
    peer's id: told --chosen--> in use --"retire before", or another chosen--> given up

A listener moves to an id of the dialler that has a reset token as soon as there is one: a dialler's
first id has none (section 18.2), so its restart would go unnoticed.

Bounds: ``_OWN_IDS``; ``_PEER_IDS`` of the peer's at a time, and ``MAX_QUIC_CONNECTION_IDS`` in the
life of a connection; ids given up that the peer does not hear of, ``_MAX_UNTOLD``.
"""

from __future__ import annotations

import os
from typing import Final

from codio_dht.net.quic.limits import CONNECTION_ID_BYTES, MAX_QUIC_CONNECTION_IDS
from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.machine.frames import NEW_CONNECTION_ID, RETIRE_CONNECTION_ID, NewId
from codio_dht.net.quic.tokens import ResetTokens

_OWN_IDS: Final = 4
"""Own ids that a peer has at a time, if it takes so many: one in use, and some for addresses that
it may move to."""
PEER_IDS: Final = 4
"""The peer's ids that are held at a time (``active_connection_id_limit``)."""
_MAX_UNTOLD: Final = 16
"""The peer's ids that were given up and of which it was not told yet; more end the connection (RFC
9000, section 5.1.2)."""


class OwnCid:
    """An id of this side."""

    __slots__ = ("id", "is_told", "number", "was_told")

    def __init__(self, number: int, connection_id: bytes, *, is_told: bool) -> None:
        self.number = number
        self.id = connection_id
        self.is_told = is_told
        """The peer needs not to be told (again)."""
        self.was_told = is_told
        """The peer may know it."""

    def on_fate(self, acknowledged: bool) -> None:
        """The peer knows the id, or has to be told again."""
        if not acknowledged:
            self.is_told = False


class PeerCid:
    """An id of the peer."""

    __slots__ = ("id", "number", "stateless_reset_token")

    def __init__(self, number: int, connection_id: bytes, reset_token: bytes | None) -> None:
        self.number = number
        self.id = connection_id
        self.stateless_reset_token = reset_token


class Ids:
    """Both sides' ids."""

    __slots__ = (
        "_issued",
        "_limit",
        "_next_number",
        "_resets",
        "_retired_before",
        "own",
        "peer",
        "spare",
        "to_retire",
    )

    def __init__(self, resets: ResetTokens) -> None:
        self._resets = resets
        self._limit = 1
        self._next_number = 1
        self._retired_before = 0
        self._issued: set[int] = {0}
        self.own = [OwnCid(0, os.urandom(CONNECTION_ID_BYTES), is_told=True)]
        self.peer = PeerCid(0, b"", None)
        """The one in use."""
        self.spare: list[PeerCid] = []
        """Those that may be used."""
        self.to_retire: list[int] = []
        """Numbers of the peer's ids that it has to be told are given up."""

    # --- own --------------------------------------------------------------------------------------

    def allow(self, limit: int) -> list[bytes]:
        """The peer holds up to ``limit`` ids: make as many; the new ones."""
        self._limit = min(limit, _OWN_IDS)
        return self._replenish()

    def _replenish(self) -> list[bytes]:
        made = []
        while len(self.own) < self._limit:
            fresh = OwnCid(self._next_number, os.urandom(CONNECTION_ID_BYTES), is_told=False)
            self._next_number += 1
            self.own.append(fresh)
            made.append(fresh.id)
        return made

    def reset_token(self, own: OwnCid) -> bytes:
        """The stateless reset token of an own id."""
        return self._resets.of(own.id)

    def has_untold(self) -> bool:
        """Whether the peer has to be told of own ids."""
        return any(not each.is_told for each in self.own)

    def on_retired(self, number: int, used: bytes) -> tuple[bytes | None, list[bytes]]:
        """The peer gave up an own id: the id, if it was in use, and the new ones made for it.

        Raises:
            QuicError: it was never told, or is the one by which the peer says so (RFC 9000, section
                19.16).
        """
        if number >= self._next_number:
            raise QuicError(Code.PROTOCOL_VIOLATION, "an id that was never told",
                            RETIRE_CONNECTION_ID)  # fmt: skip
        for at, each in enumerate(self.own):
            if each.number == number:
                if not each.was_told:
                    raise QuicError(Code.PROTOCOL_VIOLATION, "an id that was never told",
                                    RETIRE_CONNECTION_ID)  # fmt: skip
                if each.id == used:
                    raise QuicError(Code.PROTOCOL_VIOLATION, "the id in use was given up",
                                    RETIRE_CONNECTION_ID)  # fmt: skip
                del self.own[at]
                return each.id, self._replenish()
        return None, []

    # --- the peer's -------------------------------------------------------------------------------

    def on_new(self, new: NewId, *, moves: bool) -> None:
        """The peer may be called by another id. ``moves``: use it, if the one in use has no token.

        Raises:
            QuicError: too many, or one that contradicts another.
        """
        self._check_same(new)
        if new.number not in self._issued:
            self._issued.add(new.number)
            if len(self._issued) > MAX_QUIC_CONNECTION_IDS:
                raise QuicError(Code.CONNECTION_ID_LIMIT_ERROR, "too many ids", NEW_CONNECTION_ID)
            if new.number < self._retired_before:
                self.to_retire.append(new.number)
            else:
                self.spare.append(PeerCid(new.number, new.id, new.reset_token))
        if new.retire_before > self._retired_before:
            self._retired_before = new.retire_before
            self._retire_old()
        if len(self.spare) + 1 > PEER_IDS:
            raise QuicError(Code.CONNECTION_ID_LIMIT_ERROR, "too many ids", NEW_CONNECTION_ID)
        if moves and self.peer.stateless_reset_token is None:
            self.use_another()
        if len(self.to_retire) > _MAX_UNTOLD:
            raise QuicError(Code.CONNECTION_ID_LIMIT_ERROR, "too many ids", NEW_CONNECTION_ID)

    def _check_same(self, new: NewId) -> None:
        """RFC 9000, section 19.15: the same number is the same id, and the other way round."""
        for known in (self.peer, *self.spare):
            if (known.number == new.number) != (known.id == new.id):
                raise QuicError(Code.PROTOCOL_VIOLATION, "an id twice", NEW_CONNECTION_ID)

    def _retire_old(self) -> None:
        old = [each for each in self.spare if each.number < self._retired_before]
        self.spare = [each for each in self.spare if each.number >= self._retired_before]
        self.to_retire += [each.number for each in old]
        if self.peer.number < self._retired_before and not self.use_another():
            raise QuicError(Code.PROTOCOL_VIOLATION, "no id is left", NEW_CONNECTION_ID)

    def use_another(self) -> bool:
        """Call the peer by another id from now on; False if there is none."""
        if not self.spare:
            return False
        self.to_retire.append(self.peer.number)
        self.peer = self.spare.pop(0)
        return True

    def on_retire_fate(self, acknowledged: bool, number: int) -> None:
        """The peer knows that its id was given up, or has to be told again."""
        if not acknowledged:
            self.to_retire.append(number)
