"""The results of a simulation.

Decides which figures describe a set of searches. A report is plain values by name, so that it can
be written as JSON and compared; ``scripts/simulate`` shows it. Times are virtual seconds, shares
from 0 to 1. A mean or quantile of nothing is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from codio_dht.core.keyspace import Key
from codio_dht.core.lookup_states import Done, Standing
from codio_dht.core.peer import PeerId

Figures = dict[str, Any]

STRETCHES: Final = 12
"""Parts into which a run of a given duration is cut."""


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return ratio(sum(values), len(values))


def ratio(part: float, whole: float) -> float:
    """``part`` of ``whole``; 0 of nothing."""
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class SearchReport:
    """The outcome of one search."""

    target: Key
    done: Done
    began_s: float
    took_s: float
    requests: int
    failures: int
    hops: int
    """Length of the chain of referrals to the nearest peer that answered; a seed is 1."""
    found: list[tuple[float, Any]] = field(default_factory=list)
    """The providers or values that were found, in order, each with the seconds that it took."""


@dataclass(frozen=True, slots=True)
class LookupResult:
    """One lookup that was measured."""

    search: SearchReport
    true: Sequence[PeerId]
    """The true closest living servers."""
    lying: int
    """How many of the result's peers are liars."""
    oracle_s: Sequence[float] = ()
    """When each of the true closest would have answered the oracle
    (:mod:`codio_dht.sim.workloads`), sorted."""

    @property
    def true_found(self) -> int:
        """How many of the true closest the result names."""
        named = [each.peer for each in self.search.done.closest]
        return sum(peer in named for peer in self.true)

    @property
    def answered(self) -> list[PeerId]:
        """The result's peers that answered in this lookup."""
        closest = self.search.done.closest
        return [each.peer for each in closest if each.standing is Standing.ANSWERED]

    @property
    def oracle_as_many_s(self) -> float:
        """When as many of the true closest would have answered the oracle as answered this lookup;
        0 if none did."""
        as_many = min(sum(peer in self.answered for peer in self.true), len(self.oracle_s))
        return self.oracle_s[as_many - 1] if as_many else 0.0


@dataclass(frozen=True, slots=True)
class FindResult:
    """One search for a provider or a value."""

    search: SearchReport
    found: bool
    """Whether it found a provider that had provided the key, or in the end the right value."""
    wrong: bool = False
    """Whether it returned a value that is not valid, in the end or on the way."""


def lookup_figures(results: Sequence[LookupResult]) -> Figures:
    """A set of lookups, summed up.

    ``recall`` is the share of the true closest that were found, over all lookups; ``exact`` that of
    the lookups that found all. ``answered`` and ``lying`` are shares of the returned peers.
    """
    searches = [each.search for each in results]
    times = [each.took_s for each in searches]
    requests = [each.requests for each in searches]
    hops = [each.hops for each in searches]
    returned = sum(len(each.done.closest) for each in searches)
    true_found = [each.true_found for each in results]
    true_all = [len(each.true) for each in results]
    return {
        "count": len(results),
        "p50_s": quantile(times, 0.5),
        "p90_s": quantile(times, 0.9),
        "max_s": max(times, default=0.0),
        "requests": mean(requests),
        "requests_max": max(requests, default=0),
        "failures": mean([each.failures for each in searches]),
        "hops": mean(hops),
        "hops_max": max(hops, default=0),
        "recall": ratio(sum(true_found), sum(true_all)),
        "exact": mean([found == all_ for found, all_ in zip(true_found, true_all, strict=True)]),
        "answered": ratio(sum(len(each.answered) for each in results), returned),
        "lying": ratio(sum(each.lying for each in results), returned),
        "reasons": dict(sorted(Counter(each.done.reason.value for each in searches).items())),
        "oracle": oracle_figures(results),
    }


def oracle_figures(results: Sequence[LookupResult]) -> Figures:
    """How lookups compare with the oracle's of the same targets.

    A ``ratio`` is the lookup's time over the oracle's until all had answered; ``as_many`` over its
    time until it had as many answers of the true closest. Lookups with nothing to compare with do
    not count.
    """
    whole = [(each.search.took_s, each.oracle_s[-1]) for each in results if each.oracle_s]
    as_many = [(each.search.took_s, each.oracle_as_many_s) for each in results]
    sets = {
        "": [oracle_s for _, oracle_s in whole],
        "ratio_": [ratio(took_s, oracle_s) for took_s, oracle_s in whole if oracle_s],
        "as_many_": [ratio(took_s, oracle_s) for took_s, oracle_s in as_many if oracle_s],
    }
    return {
        f"{name}p{percent}": quantile(values, percent / 100)
        for name, values in sets.items()
        for percent in (50, 90)
    }


def find_figures(holders: Sequence[int], results: Sequence[FindResult]) -> Figures:
    """Searches for keys, and the deliveries of these that ended with so many ``holders``.

    ``first`` is when a search that found what it was for had found anything, ``last`` when it had
    found all of it: of values the right one.
    """
    found = [[at_s for at_s, _ in each.search.found] for each in results if each.found]
    times = [each.search.took_s for each in results]
    return {
        "provided": sum(each > 0 for each in holders),
        "failed": sum(each == 0 for each in holders),
        "holders": mean([each for each in holders if each]),
        "searches": len(results),
        "found": len(found),
        "found_share": mean([each.found for each in results]),
        "wrong": sum(each.wrong for each in results),
        "requests": mean([each.search.requests for each in results]),
        "first_p50_s": quantile([each[0] for each in found], 0.5),
        "first_p90_s": quantile([each[0] for each in found], 0.9),
        "last_p50_s": quantile([each[-1] for each in found], 0.5),
        "last_p90_s": quantile([each[-1] for each in found], 0.9),
        "p50_s": quantile(times, 0.5),
        "p90_s": quantile(times, 0.9),
    }


def timeline(
    results: Sequence[LookupResult], finds: Sequence[FindResult], duration_s: float
) -> list[Figures]:
    """The figures of a run of ``duration_s``, part by part; nothing without a duration."""
    size_s = duration_s / STRETCHES
    stretches = []
    for number in range(STRETCHES if duration_s else 0):
        low_s, high_s = number * size_s, (number + 1) * size_s
        looked = [each for each in results if low_s <= each.search.began_s < high_s]
        found = [each for each in finds if low_s <= each.search.began_s < high_s]
        stretches.append(
            {
                "from_s": low_s,
                "lookups": lookup_figures(looked),
                "finds": find_figures([], found),
            }
        )
    return stretches
