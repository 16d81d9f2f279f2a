"""Outage: is the peer dead, or are we offline?

A peer that fails loses its place in the routing table; when our own network is down, every peer
fails, and the table would be gone with it. Decides, for each failed entry, whether the failure is
held against it::

    online --OUTAGE_FAILURES entries fail in a row--> suspected --anybody answers--> online

*Online*, an entry that fails is evicted, dead peers being nothing unusual. Any answer, of whomever,
ends the row. *Suspected*, a failed entry keeps its place and becomes a suspect. Every
``OUTAGE_PROBE_INTERVAL_S`` one suspect is probed, to learn when the network is back, and a few
entries that have not failed, to learn whether it was ever gone. As soon as anybody answers, every
suspect is probed and judged as usual; those that were evicted at the beginning of the row are
offered again, for they failed as the others did.

Only entries of the table count: candidates and hearsay are often dead. A table of fewer than
``OUTAGE_FAILURES`` peers is thus lost as ever, and found again by joining.

Bounds: suspects are entries of the table, those to be offered again fewer than ``OUTAGE_FAILURES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.peer import PeerId

OUTAGE_FAILURES: Final = 8
"""If so many table entries fail in a row, and nobody answers in between, our own network is
suspected and nobody is evicted. With 40 % dead peers, independent of each other, this happens by
chance once in 1,500 requests, and costs no more than a second probe."""

OUTAGE_PROBE_INTERVAL_S: Final = 5.0
"""How often one suspect is probed while our own network is suspected, in seconds."""

OUTAGE_WITNESSES: Final = 3
"""So many entries that have not failed yet are probed with each suspect, those that answered
last first. In an outage they soon become suspects too. If they answer there is no outage: peers
that fall silent together, by accident or on purpose, would otherwise keep their places for ever."""


class Outage:
    """Judges whether a peer that failed is dead, or this node is offline."""

    def __init__(
        self,
        *,
        failures: int = OUTAGE_FAILURES,
        probe_interval_s: float = OUTAGE_PROBE_INTERVAL_S,
    ) -> None:
        self._failures = failures
        self._probe_interval_s = probe_interval_s
        self._evicted: dict[Key, PeerId] = {}
        """The row, while online."""
        self._suspects: dict[Key, PeerId] = {}
        self._due: dict[Key, PeerId] = {}
        """Suspects to be judged, now that somebody has answered."""
        self._suspected = False
        self._next_probe: Monotonic | None = None
        self.count = 0
        """Outages so far."""

    @property
    def suspected(self) -> bool:
        """Whether it is our own network that seems to be down."""
        return self._suspected

    @property
    def suspects(self) -> list[PeerId]:
        """The entries that failed meanwhile."""
        return list(self._suspects.values())

    def failed(self, peer: PeerId, now: Monotonic) -> bool:
        """``peer``, which is in the table, failed; whether it loses its place."""
        if not self._suspected:
            self._evicted[peer.key] = peer
            if len(self._evicted) < self._failures:
                return True
            del self._evicted[peer.key]
            self._suspected = True
            self._next_probe = Monotonic(now + self._probe_interval_s)
            self.count += 1
        self._suspects[peer.key] = peer
        return False

    def answered(self) -> list[PeerId]:
        """Somebody answered: we are online. The peers to offer to the table again: none, but after
        an outage."""
        if not self._evicted and not self._suspected:
            return []
        wronged = [*self._evicted.values()] if self._suspected else []
        self._due |= self._suspects
        self._suspects.clear()
        self._evicted.clear()
        self._suspected = False
        self._next_probe = None
        return wronged

    def left(self, peer: PeerId) -> None:
        """``peer`` is no candidate for the table any more, for another reason."""
        for each in (self._evicted, self._suspects, self._due):
            each.pop(peer.key, None)

    @property
    def next_probe(self) -> Monotonic | None:
        """When :meth:`take_due` has somebody; None while online."""
        return self._next_probe if self._suspects else None

    def take_due(self, now: Monotonic, entries: Callable[[], Iterable[PeerId]]) -> list[PeerId]:
        """The peers to probe now. After an outage: every suspect. During one, if it is time for it:
        the suspect that was not probed for longest, and the first of ``entries``, the table's, that
        are none."""
        due = [*self._due.values()]
        self._due.clear()
        if self._next_probe is not None and self._next_probe <= now and self._suspects:
            self._next_probe = Monotonic(now + self._probe_interval_s)
            key = next(iter(self._suspects))
            peer = self._suspects[key] = self._suspects.pop(key)
            unfailed = (each for each in entries() if each.key not in self._suspects)
            due += [peer, *islice(unfailed, OUTAGE_WITNESSES)]
        return due
