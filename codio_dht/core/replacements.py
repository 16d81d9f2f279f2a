"""Replacements: who gets a place in a full bucket when one comes free.

Remembers, for each CPL whose peers are at their limit, the candidates that found no room there,
the most recently seen last (Maymounkov and Mazieres 2002, 4.1). Decides who is worth remembering
and who is tried first; that a place is free, and that a candidate is still there, the door finds
out (:mod:`codio_dht.core.admission`).

One that answered a request of ours is worth more than one that was only seen, however lately: else
anybody could wash the list out with identities. Of equals, the one seen last is tried first and the
one seen longest ago forgotten first.

Bounds: ``max_per_cpl`` candidates of a CPL, and ``max_age_s`` since they were seen.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.peer import PeerId
from codio_dht.params import K

MAX_REPLACEMENTS_PER_CPL: Final = K
"""Candidates of one full bucket remembered for when a place comes free (Maymounkov and Mazieres
2002, 4.1); one that was only seen makes way for one that answered, else the one not seen for
longest."""

REPLACEMENT_MAX_AGE_S: Final = 15 * 60.0
"""A candidate not seen for longer is not tried, seconds: its addresses are forgotten by then."""


class Replacement(NamedTuple):
    """A candidate: when it was seen last, and when it last answered us, if it did."""

    peer: PeerId
    seen: Monotonic
    answered: Monotonic | None


class Replacements:
    """The candidates that found their bucket full, for each CPL."""

    def __init__(
        self,
        *,
        max_per_cpl: int = MAX_REPLACEMENTS_PER_CPL,
        max_age_s: float = REPLACEMENT_MAX_AGE_S,
    ) -> None:
        self._max_per_cpl = max_per_cpl
        self._max_age_s = max_age_s
        self._seen: dict[int, dict[Key, Replacement]] = {}
        """Per CPL, only seen."""
        self._answered: dict[int, dict[Key, Replacement]] = {}
        """Per CPL, answered."""

    def __len__(self) -> int:
        return sum(len(kept) for each in (self._seen, self._answered) for kept in each.values())

    def of(self, cpl: int) -> list[PeerId]:
        """The candidates of ``cpl``, the one to be tried first first."""
        kept = [*self._seen.get(cpl, {}).values(), *self._answered.get(cpl, {}).values()]
        return [each.peer for each in reversed(kept)]

    def add(self, peer: PeerId, cpl: int, now: Monotonic, *, answered: bool) -> bool:
        """``peer`` was seen, and answered us if so said, and its bucket is full; whether it is
        remembered."""
        key = peer.key
        if cpl not in self._seen:
            self._seen[cpl], self._answered[cpl] = {}, {}
        seen, verified = self._seen[cpl], self._answered[cpl]
        before = verified.pop(key, None)
        if answered or before is not None:
            last = now if before is None or answered else before.answered
            seen.pop(key, None)
            verified[key] = Replacement(peer, now, last)
        else:
            seen.pop(key, None)
            seen[key] = Replacement(peer, now, None)
        if len(seen) + len(verified) > self._max_per_cpl:
            weakest = seen or verified
            del weakest[next(iter(weakest))]
        return key in seen or key in verified

    def take(self, cpl: int, now: Monotonic) -> Replacement | None:
        """The best candidate of ``cpl``, which is forgotten by that; None if there is none."""
        for each in (self._answered, self._seen):
            kept = each.get(cpl)
            while kept:
                _, found = kept.popitem()
                if found.seen + self._max_age_s > now:
                    return found
                kept.clear()  # the rest is older still
        return None

    def forget(self, peer: PeerId, cpl: int) -> None:
        """``peer`` is gone, no server, or in the table. A no-op if it is not remembered."""
        for each in (self._seen, self._answered):
            each.get(cpl, {}).pop(peer.key, None)
