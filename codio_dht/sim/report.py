"""What a simulation found out: figures, and how they are shown.

Decides which figures describe a set of lookups. A report is values only, so that it can be written
as JSON and compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


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
            p50_s=quantile(times, 0.5),
            p90_s=quantile(times, 0.9),
            ratio_p50=quantile(ratios, 0.5),
            ratio_p90=quantile(ratios, 0.9),
            as_many_p50=quantile(as_many, 0.5),
            as_many_p90=quantile(as_many, 0.9),
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
            reasons=_counts(each.reason for each in results),
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
    """The figures of a run of ``duration_s``, part by part."""
    size_s = duration_s / STRETCHES
    stretches = []
    for number in range(STRETCHES):
        low_s, high_s = number * size_s, (number + 1) * size_s
        looked = LookupFigures.of([each for each in results if low_s <= each.began_s < high_s])
        found = [found for began_s, found in searches if low_s <= began_s < high_s]
        stretches.append(
            Stretch(
                low_s,
                looked.count,
                looked.recall,
                looked.p50_s,
                looked.requests,
                len(found),
                sum(found),
            )
        )
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

    def as_text(self) -> str:
        """As a table for people."""
        lines = [f"{name:<22} {value}" for name, value in self._rows()]
        if self.timeline:
            lines.append("   from  lookups  true found    p50  requests  records found")
        lines += [
            f"{part.from_s / 3600:6.2f}h {part.lookups:8} {100 * part.recall:9.2f} % "
            f"{part.p50_s:5.2f} s {part.requests:8.1f}   {part.found} of {part.searches}"
            for part in self.timeline
        ]
        return "\n".join(lines)

    def _rows(self) -> Iterable[tuple[str, str]]:
        looked = self.lookups
        yield "scenario", f"{self.scenario}, seed {self.seed}"
        yield "nodes", f"{self.nodes}, of which {self.living} living servers at the end"
        yield "virtual time", f"{self.virtual_s:.1f} s, {self.events} events"
        if self.join_s:
            yield "joined", f"after {self.join_s:.2f} s and {self.join_requests} requests"
        if looked.count:
            yield "lookups", f"{looked.count} ({_shown(looked.reasons)})"
            yield (
                "latency",
                f"p50 {looked.p50_s:.3f} s, p90 {looked.p90_s:.3f} s, max {looked.max_s:.3f} s",
            )
            told = looked.oracle
            yield "oracle's latency", f"p50 {told.p50_s:.3f} s, p90 {told.p90_s:.3f} s"
            yield (
                "times the oracle's",
                (
                    f"p50 {told.ratio_p50:.2f}, p90 {told.ratio_p90:.2f}; for as many answers "
                    f"p50 {told.as_many_p50:.2f}, p90 {told.as_many_p90:.2f}"
                ),
            )
            yield (
                "requests per lookup",
                f"{looked.requests:.1f} (most {looked.requests_max}), failed {looked.failures:.1f}",
            )
            yield "hops", f"{looked.hops:.2f} (most {looked.hops_max})"
            yield (
                "true closest found",
                f"{100 * looked.recall:.2f} %, all in {100 * looked.exact:.1f} % of lookups",
            )
            yield "returned had answered", f"{100 * looked.answered:.1f} %"
            if looked.lying:
                yield "returned that lie", f"{100 * looked.lying:.1f} %"
        kept = self.records
        if kept.provided:
            yield "provides", f"{kept.provided} ({kept.failed} failed), {kept.holders:.1f} holders"
        if kept.searches:
            yield (
                "records found",
                (
                    f"{kept.found} of {kept.searches} ({100 * kept.found_share:.2f} %), "
                    f"first after p50 {kept.first_p50_s:.3f} s, p90 {kept.first_p90_s:.3f} s"
                ),
            )
        if self.tables:
            yield (
                "tables",
                f"{self.tables['entries']:.0f} entries, {100 * self.tables['living']:.1f} % living",
            )
        part = "" if self.encoded == self.messages else f", of which {self.encoded} encoded"
        yield "messages", f"{self.messages}{part}; {self.bytes / 1e6:.1f} MB"
        yield "invariants", f"checked {self.checks} times"
        yield "trace", f"{self.digest[:16]} ({self.trace_lines} lines)"


def _counts(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))


def _shown(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
