"""The horizon of a lookup: up to which distance of the target everybody living was named.

Decides where a lookup has to look once more. Replies name the dead, too: where some are among the
nearest, the last of the k closest find no place in any reply. A reply *reaches* as far as the
farthest peer in it; the horizon is the distance that ``beta`` of the replies of the k nearest
reached. Between it and the k-th peer, peers that have answered are asked for other keys: just
behind the horizon, and at the beginning of each CPL from there on.

Bounds: ``LOOKS_BEYOND`` at each distance, ``MAX_LOOKS_BEYOND`` in all: a horizon can be made up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.lookup_states import Candidate, LookBeyond, LookupRules
from codio_dht.core.peer import PeerId
from codio_dht.core.refresh import MAX_REFRESH_CPL

LOOKS_BEYOND: Final = 2
"""Peers that one lookup asks for keys beyond the horizon of its replies, for each CPL."""

MAX_LOOKS_BEYOND: Final = 20
"""Peers that one lookup asks for keys beyond the horizon of its replies, over all CPLs. An honest
network needs one to three CPLs; a horizon that liars made up may lie 200 CPLs away."""

BEYOND_PRECISION_BITS: Final = 1
"""Bits after the CPL in which a key beyond the horizon agrees with the point that is looked for.
Each bit more doubles the work of finding such a key, and halves the part of the keyspace that the
answers are about."""

EVERYWHERE: Final = 1 << params.KEY_BITS
"""A distance past every other: the reach of a reply that named all that its peer knows."""


class Horizon:
    """Where the replies of one lookup end, and which looks beyond are under way."""

    def __init__(self, target: Key, rules: LookupRules) -> None:
        self._target = target
        self._rules = rules
        self._beta = min(rules.beta, rules.k)
        self._looks: dict[tuple[PeerId, Key], Monotonic] = {}
        """Looks under way: until when each is waited for."""
        self._looked_at: Counter[int] = Counter()
        """How many peers were asked for a key at a distance of this many bits."""

    @property
    def waits(self) -> Collection[Monotonic]:
        """Until when each look that is under way is waited for."""
        return self._looks.values()

    def reach(self, closer: Sequence[PeerId]) -> int:
        """The distance up to which a reply with ``closer`` peers named everybody its peer knows."""
        if 4 * len(closer) < 3 * self._rules.k:  # all that it knows, less what was not taken
            return EVERYWHERE
        return max(distance(peer.key, self._target) for peer in closer)

    def of(self, nearest: Sequence[Candidate]) -> int:
        """The distance up to which ``beta`` of the k ``nearest`` named everybody they know."""
        reached = sorted(each.reach for each in nearest if each.reach is not None)
        return reached[-min(self._beta, len(reached))] if reached else EVERYWHERE

    def next_look(self, nearest: Sequence[Candidate], now: Monotonic) -> LookBeyond | None:
        """A look at what lies between the horizon and the last of the k ``nearest`` live peers, at
        a distance where not enough peers were asked; None if there is none."""
        horizon, last = self.of(nearest), EVERYWHERE - 1
        if len(nearest) == self._rules.k:
            last = nearest[-1].distance
        if last <= horizon or self._looked_at.total() >= MAX_LOOKS_BEYOND:
            return None
        answered = [each.peer for each in nearest if each.reach is not None]
        further = (1 << bit for bit in range(horizon.bit_length(), last.bit_length()))
        for place in (horizon, *further):
            times = self._looked_at[place.bit_length()]
            if times < min(LOOKS_BEYOND, len(answered)):
                return self._look(place, times, answered, now)
        return None

    def _look(
        self, place: int, times: int, answered: Sequence[PeerId], now: Monotonic
    ) -> LookBeyond:
        point = Key(self._target ^ place)
        peer = sorted(answered, key=lambda each: distance(each.key, point))[times]
        self._looked_at[place.bit_length()] += 1
        self._looks[peer, point] = Monotonic(now + self._rules.outlook(peer, now).soft_s)
        cpl = params.KEY_BITS - place.bit_length() + 1 + BEYOND_PRECISION_BITS
        return LookBeyond(peer, point, min(cpl, MAX_REFRESH_CPL))

    def ended(self, peer: PeerId, point: Key) -> bool:
        """A look was reported; whether it was still waited for."""
        return self._looks.pop((peer, point), None) is not None

    def expire(self, now: Monotonic) -> None:
        """Wait no longer for looks that are late."""
        for look in [each for each, until in self._looks.items() if until <= now]:
            del self._looks[look]
