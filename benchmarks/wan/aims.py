"""The aims for our client, and whether they are met. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.wan.figures import (
    Network,
    Result,
    grouped,
    holders,
    operations,
    percent,
    quantile,
    requests,
    seconds,
    took,
    true_share,
)
from benchmarks.wan.oracle import NEAR_RATIO, ORACLE, pairs
from benchmarks.wan.values import first_value_times

ENOUGH_HOLDERS = 20
CLOSEST_P50_S, CLOSEST_P90_S, CLOSEST_LONGEST_S = 1.0, 2.0, 5.0
TRUE_SHARE = 0.995
SEARCH_SHARE_OF_GO = 0.5
FIRST_VALUE_SHARE_OF_GO, BEST_VALUE_SHARE_OF_GO = 0.5, 0.25
"""The aims."""

PROVIDE_NOISE_S = 0.05
"""A provide that takes so much longer than go's optimistic one is as fast, seconds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim in one network, and what came of it."""

    network: Network
    aim: str
    ours: str
    met: bool


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    """The aims in every network where we were measured; those that compare, where the other was."""
    found: list[Verdict] = []
    for network, clients in grouped(results).items():
        ours = clients.get("ours")
        if ours:
            found += _closest_verdicts(network, ours, clients.get("go", []))
            found += _oracle_verdicts(network, ours, clients.get(ORACLE, []))
            found += _search_verdicts(network, ours, clients.get("go", []))
            found += _provide_verdicts(network, ours, clients.get("go-optimistic", []))
            found += _value_verdicts(network, ours, clients.get("go", []))
    return found


def _closest_verdicts(
    network: Network, ours: Sequence[Result], go: Sequence[Result]
) -> list[Verdict]:
    done = operations(ours, "closest")
    if not done:
        return []
    found = [
        Verdict(network, f"closest peers: {what} {limit:g} s", seconds(value), value <= limit)
        for what, share, limit in (
            ("median at most", 0.5, CLOSEST_P50_S),
            ("90th percentile at most", 0.9, CLOSEST_P90_S),
            ("none above", 1.0, CLOSEST_LONGEST_S),
        )
        for value in [quantile(took(done), share)]
    ]
    if cold := took(operations(ours, "cold")):
        aim = f"closest peers, first lookup: none above {CLOSEST_LONGEST_S:g} s"
        found.append(Verdict(network, aim, seconds(max(cold)), max(cold) <= CLOSEST_LONGEST_S))
    share = true_share(done)
    aim = f"closest peers: at least {percent(TRUE_SHARE)} of the true 20"
    found.append(Verdict(network, aim, percent(share), share >= TRUE_SHARE))
    said = [one["overstated"] for one in done if one.get("overstated") is not None]
    if said:
        aim = "closest peers: none called more certain than it was"
        found.append(Verdict(network, aim, f"{sum(said)} were", sum(said) == 0))
    if operations(go, "closest"):
        mine, theirs = requests(ours, "closest"), requests(go, "closest")
        aim = f"closest peers: fewer requests than go ({theirs:.1f})"
        found.append(Verdict(network, aim, f"{mine:.1f}", mine < theirs))
    return found


def _oracle_verdicts(
    network: Network, ours: Sequence[Result], oracle: Sequence[Result]
) -> list[Verdict]:
    beside = pairs(ours, oracle, "closest")
    ratios = {
        "the oracle's": [one.to_all for one in beside],
        "the oracle's for as many answers": [
            one.to_as_many for one in beside if one.to_as_many is not None
        ],
    }
    return [
        Verdict(
            network,
            f"closest peers: median at most {NEAR_RATIO:g} times {what}",
            f"{median:.2f}",
            median <= NEAR_RATIO,
        )
        for what, values in ratios.items()
        if values
        for median in [quantile(values, 0.5)]
    ]


def _search_verdicts(
    network: Network, ours: Sequence[Result], go: Sequence[Result]
) -> list[Verdict]:
    done, others = operations(ours, "search"), operations(go, "search")
    if not done or not others:
        return []
    mine = quantile(took(done), 0.5)
    limit = SEARCH_SHARE_OF_GO * quantile(took(others), 0.5)
    aim = f"first provider: median at most half of go's ({limit:.2f} s)"
    return [Verdict(network, aim, seconds(mine), mine <= limit)]


def _provide_verdicts(
    network: Network, ours: Sequence[Result], optimistic: Sequence[Result]
) -> list[Verdict]:
    done, found = operations(ours, "provide"), []
    if not done:
        return []
    if others := operations(optimistic, "provide"):
        mine, theirs = quantile(took(done), 0.5), quantile(took(others), 0.5)
        aim = f"provide: returns as fast as go's optimistic one ({theirs:.2f} s)"
        found.append(Verdict(network, aim, seconds(mine), mine <= theirs + PROVIDE_NOISE_S))
    count = holders(done, "later")
    aim = f"provide: {ENOUGH_HOLDERS} holders in the end"
    found.append(Verdict(network, aim, f"{count:.1f}", count >= ENOUGH_HOLDERS))
    return found


def _value_verdicts(
    network: Network, ours: Sequence[Result], go: Sequence[Result]
) -> list[Verdict]:
    found = []
    mine, others = operations(ours, "value_search"), operations(go, "value_search")
    if mine and others:
        for aim, share, times in (
            (
                "first value: median at most half of go's",
                FIRST_VALUE_SHARE_OF_GO,
                first_value_times,
            ),
            ("best value: median at most a quarter of go's", BEST_VALUE_SHARE_OF_GO, took),
        ):
            median, limit = quantile(times(mine), 0.5), share * quantile(times(others), 0.5)
            beside = f"values: {aim} ({limit:.2f} s)"
            found.append(Verdict(network, beside, seconds(median), median <= limit))
    provides, puts = operations(ours, "provide"), operations(ours, "value_put")
    if provides and puts:
        median, limit = quantile(took(puts), 0.5), quantile(took(provides), 0.5)
        aim = f"values: a put returns as fast as a provide ({limit:.2f} s)"
        found.append(Verdict(network, aim, seconds(median), median <= limit + PROVIDE_NOISE_S))
    return found


def verdict_table(found: Sequence[Verdict]) -> str:
    """Markdown: a row for each aim, a column for each network; bold is missed."""
    networks = list(dict.fromkeys(one.network for one in found))
    lines = [f"| aim | {' | '.join(map(str, networks))} |", "|---" * (len(networks) + 1) + "|"]
    for aim in dict.fromkeys(_without_figure(one.aim) for one in found):
        cells = []
        for network in networks:
            here = [v for v in found if (v.network, _without_figure(v.aim)) == (network, aim)]
            cells.append(" ".join(_cell(v) for v in here) or "-")
        lines.append(f"| {aim} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _without_figure(aim: str) -> str:
    return aim.partition(" (")[0]


def _cell(verdict: Verdict) -> str:
    _, bracket, figure = verdict.aim.partition(" (")
    beside = f" ({figure}" if bracket else ""
    return (verdict.ours if verdict.met else f"**{verdict.ours}**") + beside
