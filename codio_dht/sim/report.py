"""The results of a simulation.

Decides which figures describe a set of lookups. A report is values only, so that it can be written
as JSON and compared; ``scripts/simulate`` shows it. Times are virtual seconds, shares from 0 to 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed. 0 if there is
    none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; 0 of none."""
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True, slots=True)
class LookupResult:
    """One lookup that was measured."""

    began_s: float
    took_s: float
    requests: int
    failures: int
    hops: int
    true_found: int
    """How many of the true closest living servers the result names."""
    true_all: int
    answered: int
    """How many of the result's peers answered in this lookup."""
    lying: int
    """How many of them are liars."""
    returned: int
    reason: str
    oracle_s: float = 0.0
    """When all of the true closest would have answered the oracle (:mod:`codio_dht.sim.workload`);
    0 if there were none."""
    oracle_as_many_s: float = 0.0
    """When as many of them would have answered it as answered this lookup; 0 if none did."""


@dataclass(frozen=True, slots=True)
class OracleFigures:
    """How a set of lookups compares with the oracle's of the same targets. Times are virtual
    seconds, ratios multiples of the oracle's time, 0 where there was none to compare with."""

    p50_s: float
    p90_s: float
    ratio_p50: float
    """Median of the lookups' times, each over the oracle's time until all had answered."""
    ratio_p90: float
    as_many_p50: float
    """The same, over the oracle's time until it had as many answers of the true closest."""
    as_many_p90: float

    @classmethod
    def of(cls, results: Sequence[LookupResult]) -> OracleFigures:
        """The figures of ``results``."""
        times = [each.oracle_s for each in results]
        ratios = [each.took_s / each.oracle_s for each in results if each.oracle_s]
        as_many = [each.took_s / each.oracle_as_many_s for each in results if each.oracle_as_many_s]
        return cls(
            *(quantile(each, share) for each in (times, ratios, as_many) for share in (0.5, 0.9))
        )


@dataclass(frozen=True, slots=True)
class LookupFigures:
    """A set of lookups, summed up. Times are virtual seconds."""

    count: int
    p50_s: float
    p90_s: float
    max_s: float
    requests: float
    requests_max: int
    failures: float
    hops: float
    hops_max: int
    recall: float
    """Share of the true closest living servers that were found, over all lookups."""
    exact: float
    """Share of the lookups that found all of them."""
    answered: float
    """Share of the returned peers that had answered."""
    lying: float
    """Share of the returned peers that lie."""
    reasons: dict[str, int]
    oracle: OracleFigures

    @classmethod
    def of(cls, results: Sequence[LookupResult]) -> LookupFigures:
        """The figures of ``results``."""
        times = [each.took_s for each in results]
        true_all = sum(each.true_all for each in results)
        returned = sum(each.returned for each in results)
        return cls(
            count=len(results),
            p50_s=quantile(times, 0.5),
            p90_s=quantile(times, 0.9),
            max_s=max(times, default=0.0),
            requests=mean([each.requests for each in results]),
            requests_max=max([each.requests for each in results], default=0),
            failures=mean([each.failures for each in results]),
            hops=mean([each.hops for each in results]),
            hops_max=max([each.hops for each in results], default=0),
            recall=sum(each.true_found for each in results) / true_all if true_all else 0.0,
            exact=mean([each.true_found == each.true_all for each in results]),
            answered=sum(each.answered for each in results) / returned if returned else 0.0,
            lying=sum(each.lying for each in results) / returned if returned else 0.0,
            reasons=dict(sorted(Counter(each.reason for each in results).items())),
            oracle=OracleFigures.of(results),
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """The lookups and searches that began within a part of the run."""

    from_s: float
    lookups: int
    recall: float
    p50_s: float
    requests: float
    searches: int
    found: int


STRETCHES: Final = 12
"""Parts into which a run of a given duration is cut."""


def timeline(
    results: Sequence[LookupResult], searches: Sequence[tuple[float, bool]], duration_s: float
) -> list[Stretch]:
    """The figures of a run of ``duration_s``, part by part; nothing without a duration."""
    size_s = duration_s / STRETCHES
    stretches = []
    for number in range(STRETCHES if duration_s else 0):
        low_s, high_s = number * size_s, (number + 1) * size_s
        looked = LookupFigures.of([each for each in results if low_s <= each.began_s < high_s])
        found = [found for began_s, found in searches if low_s <= began_s < high_s]
        figures = looked.count, looked.recall, looked.p50_s, looked.requests
        stretches.append(Stretch(low_s, *figures, len(found), sum(found)))
    return stretches


@dataclass(slots=True)
class RecordFigures:
    """Keys provided and searched for."""

    provided: int = 0
    failed: int = 0
    holders: float = 0.0
    """Holders of a record when its delivery was over, on average."""
    searches: int = 0
    found: int = 0
    first_p50_s: float = 0.0
    first_p90_s: float = 0.0

    @property
    def found_share(self) -> float:
        """Share of the searches that found a provider."""
        return self.found / self.searches if self.searches else 0.0


@dataclass(slots=True)
class Report:
    """One run."""

    scenario: str
    seed: int
    nodes: int
    living: int
    virtual_s: float
    events: int
    digest: str
    trace_lines: int
    lookups: LookupFigures
    join_s: float
    """When the clients (or all nodes) had joined; 0 if nobody had to."""
    join_requests: int
    records: RecordFigures
    timeline: list[Stretch]
    """Part by part, for a run of a given duration."""
    tables: dict[str, float]
    """Of the active nodes: entries on average, and the share of them that are living servers."""
    counters: dict[str, int]
    messages: int
    encoded: int
    bytes: int
    checks: int
    """Times that invariants of a node or of the network were checked."""

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
