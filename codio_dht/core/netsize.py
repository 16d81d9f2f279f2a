"""How many living servers the network has, from how near the k closest of random keys are.

The i-th nearest of N peers at random places is, on average, at the share ``i / (N + 1)`` of the
keyspace (GO ``netsize``; Kermarrec et al. 2009). Each completed lookup gives one such distance per
rank. The estimate is the slope of rank against mean distance, the ranks weighted by the inverse of
their variance (that of the i-th order statistic grows with i; GO weights by the observed spread).

A lookup that ended in a part of the keyspace where the table knows fewer than a bucket's worth may
have missed peers; it weighs less, by half for each one missing (GO).

Bounds: the last ``MAX_SIZE_MEASUREMENTS`` lookups, none older than ``SIZE_MEASUREMENT_AGE_S``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError

MAX_SIZE_MEASUREMENTS: Final = 150
"""Lookups that the estimate of the network's size is made from (GO)."""

MIN_SIZE_MEASUREMENTS: Final = 5
"""With fewer lookups there is no estimate (GO)."""

SIZE_MEASUREMENT_AGE_S: Final = 2 * 3600.0
"""Older lookups do not count for it, seconds (GO)."""

_KEYSPACE = 1 << params.KEY_BITS


class UnknownNetworkSizeError(CodioError):
    """Fewer lookups than ``MIN_SIZE_MEASUREMENTS`` have told of the network's size."""


@dataclass(frozen=True, slots=True)
class _Measurement:
    at: Monotonic
    shares: tuple[float, ...]
    """Distance of each rank, as a share of the keyspace."""
    weight: float


class NetworkSize:
    """Estimates how many living servers the network has, from the lookups of the last hours."""

    def __init__(self, k: int = params.K) -> None:
        self._k = k
        self._measurements: deque[_Measurement] = deque(maxlen=MAX_SIZE_MEASUREMENTS)

    def track(self, target: Key, closest: Sequence[PeerId], in_bucket: int, now: Monotonic) -> bool:
        """A lookup of ``target`` was completed with ``closest``, nearest first; ``in_bucket`` peers
        of the target's CPL are known to the table or were found. Whether it counts: one with fewer
        than k peers says nothing, for that may be the whole network."""
        if len(closest) < self._k:
            return False
        shares = tuple(distance(peer.key, target) / _KEYSPACE for peer in closest[: self._k])
        weight = 2.0 ** (min(in_bucket, self._k) - self._k)
        self._measurements.append(_Measurement(now, shares, weight))
        return True

    def estimate(self, now: Monotonic) -> float:
        """The number of living servers.

        Raises:
            UnknownNetworkSizeError: too little is known.
        """
        while self._measurements and self._is_old(self._measurements[0], now):
            self._measurements.popleft()
        if len(self._measurements) < MIN_SIZE_MEASUREMENTS:
            raise UnknownNetworkSizeError(
                f"{len(self._measurements)} lookups are too few to tell the size of the network; "
                f"{MIN_SIZE_MEASUREMENTS} are needed"
            )
        total = sum(each.weight for each in self._measurements)
        means = [
            sum(each.weight * each.shares[rank] for each in self._measurements) / total
            for rank in range(self._k)
        ]
        slope = sum(means) / (self._k * (self._k + 1) / 2)
        return max(1.0, 1 / slope - 1) if slope else float(_KEYSPACE)

    def distance_of(self, expected: float, now: Monotonic) -> int:
        """The distance within which ``expected`` servers are expected around any key.

        Raises:
            UnknownNetworkSizeError: as :meth:`estimate`.
        """
        share = min(1.0, expected / self.estimate(now))
        return min(_KEYSPACE - 1, int(share * _KEYSPACE))

    def _is_old(self, measurement: _Measurement, now: Monotonic) -> bool:
        return now - measurement.at > SIZE_MEASUREMENT_AGE_S


def expected_within(count: int, probability: float) -> float:
    """How many peers have to be expected within a distance so that, with ``probability``, at least
    ``count`` are: the inverse of the regularised gamma function P(count, x) = ``probability``."""
    low, high = 0.0, count + 20.0 * math.sqrt(count) + 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(count, middle) < probability:
            low = middle
        else:
            high = middle
    return high


def _at_least(count: int, expected: float) -> float:
    """The probability of ``count`` or more where ``expected`` are expected (Poisson)."""
    term = total = math.exp(-expected)
    for each in range(1, count):
        term *= expected / each
        total += term
    return 1.0 - total
