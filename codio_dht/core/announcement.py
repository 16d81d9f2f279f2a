r"""One announcement: to whom a provider record goes, and when its caller may go on.

Decides, while the walk towards the key still runs, which peers get the record at once: those so
near that they probably are among the k closest, given the size of the network (GO's optimistic
provide). When the walk is over, the rest of the k closest get it, and the next closest in place of
each that fails, so that in the end the k closest living peers hold it, whatever was guessed before.

States::

    walking --early--> walking --settle--> delivering --on_delivered / on_failed--> over
       \--settle(nobody)--> over

Must never: hand the record to one peer twice; count a failed peer as a holder.
Bound: ``k`` early peers, and the walk's closest and spares.
"""

from __future__ import annotations

from collections.abc import Sequence

from codio_dht.core.keyspace import Key
from codio_dht.core.peer import PeerId


class Announcement:
    """See the module. ``quorum`` holders let the caller go on; ``early_within`` is the distance up
    to which a peer gets the record early, None if the network's size is unknown."""

    def __init__(self, target: Key, *, k: int, quorum: int, early_within: int | None) -> None:
        self._target = target
        self._k = k
        self._quorum = quorum
        self._early_within = early_within
        self._tried: dict[PeerId, None] = {}
        self._in_flight: dict[PeerId, None] = {}
        self._failed: dict[PeerId, None] = {}
        self._wanted: list[PeerId] | None = None
        self._spares: list[PeerId] = []
        self._holders: dict[PeerId, None] = {}

    def early(self, nearest: Sequence[PeerId]) -> list[PeerId]:
        """Who gets the record now, of those ``nearest`` so far; each is to be reported."""
        if self._early_within is None or self._wanted is not None:
            return []
        begun: list[PeerId] = []
        for peer in nearest:
            enough = len(self._tried) - len(self._failed) >= self._k
            if enough or peer.key ^ self._target > self._early_within:
                break
            if self._begin(peer):
                begun.append(peer)
        return begun

    def settle(self, closest: Sequence[PeerId], spares: Sequence[PeerId]) -> list[PeerId]:
        """The walk is over, with the ``closest`` (k of each of its disjoint paths), and ``spares``
        to take the place of those that fail; who gets it now."""
        self._wanted = list(closest)
        self._spares = list(spares)
        begun = [peer for peer in self._wanted if self._begin(peer)]
        for peer in list(self._wanted):
            if peer in self._failed:
                begun += self._replace()
        return begun

    def on_delivered(self, peer: PeerId) -> None:
        """``peer`` holds the record. Without effect if that was not expected."""
        if peer in self._in_flight:
            del self._in_flight[peer]
            self._holders[peer] = None

    def on_failed(self, peer: PeerId) -> list[PeerId]:
        """``peer`` does not hold the record; who gets it instead."""
        if peer not in self._in_flight:
            return []
        del self._in_flight[peer]
        self._failed[peer] = None
        if self._wanted is None or peer not in self._wanted:
            return []
        return self._replace()

    # --- questions --------------------------------------------------------------------------------

    @property
    def holders(self) -> int:
        """Peers that hold the record."""
        return len(self._holders)

    @property
    def attempted(self) -> int:
        """Peers tried."""
        return len(self._tried)

    @property
    def pending(self) -> int:
        """Peers being tried."""
        return len(self._in_flight)

    @property
    def has_quorum(self) -> bool:
        """Whether enough hold it for the caller to go on."""
        return len(self._holders) >= self._quorum

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, peer: PeerId) -> bool:
        if peer in self._tried:
            return False
        self._tried[peer] = self._in_flight[peer] = None
        return True

    def _replace(self) -> list[PeerId]:
        """The next closest peer takes a failed one's place, and is wanted from now on."""
        assert self._wanted is not None
        while self._spares:
            peer = self._spares.pop(0)
            self._wanted.append(peer)
            if self._begin(peer):
                return [peer]
            if peer not in self._failed:
                return []  # it has it already, or will
        return []
