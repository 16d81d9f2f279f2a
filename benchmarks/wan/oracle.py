"""Each lookup beside the oracle's lookup of the same target in the same network. Pure.

The oracle is told the true closest peers and only asks them (``oracle_client.py``). It ends with
all of them, however slow one is; a client that ends with fewer may be faster. So there are two
ratios: to the oracle's whole time, and to the time until it had as many answers as the client had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.wan.figures import Facts, Groups, Result, operations, quantile, took

ORACLE, SIMULATED = "oracle", "simulated"

KINDS = ("cold", "closest")
"""First and later lookups."""

NOT_COMPARED = (ORACLE, SIMULATED)
"""The simulator's servers are others: no target is the same."""

NEAR_RATIO = 1.3
"""A lookup that takes at most so many times the oracle's time is as good as it."""


@dataclass(frozen=True, slots=True)
class Beside:
    """One lookup's time as a multiple of the oracle's."""

    to_all: float
    """Of the time until all of the true closest had answered it."""
    to_as_many: float | None
    """Of the time until as many of them had answered it as answered the client; None if none did,
    or the oracle failed."""


def beside(one: Facts, told: Facts) -> Beside:
    """A client's lookup and the oracle's of the same target."""
    answered, times = one.get("true_answered", 0), sorted(told["answers_s"])
    to_as_many = one["s"] / times[answered - 1] if 0 < answered <= len(times) else None
    return Beside(one["s"] / told["s"], to_as_many)


def pairs(results: Iterable[Result], oracle: Sequence[Result], kind: str) -> list[Beside]:
    """Every lookup that the oracle made as well: same cell, same number."""
    by_cell = {one.cell: one.facts.get(kind, []) for one in oracle}
    return [
        beside(one, told)
        for result in results
        for one, told in zip(result.facts.get(kind, []), by_cell.get(result.cell, []), strict=False)
    ]


HEADS = (
    *("first lookup", "later lookups", "each first", "each later"),
    *("each later, as many answers", f"at most {NEAR_RATIO:g}"),
)


def oracle_table(groups: Groups) -> str:
    """Markdown: a row for each network and client that looked up where the oracle did; empty if
    there is none."""
    lines = [f"| network | client | {' | '.join(HEADS)} |", "|---" * (len(HEADS) + 2) + "|"]
    for network, clients in groups.items():
        oracle = clients.get(ORACLE, [])
        for client, results in clients.items():
            if client not in NOT_COMPARED and pairs(results, oracle, "closest"):
                cells = " | ".join(_row(results, oracle))
                lines.append(f"| {network} | {client} | {cells} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _row(results: Sequence[Result], oracle: Sequence[Result]) -> list[str]:
    first, later = (pairs(results, oracle, kind) for kind in KINDS)
    as_many = [one.to_as_many for one in later if one.to_as_many is not None]
    near = sum(ratio <= NEAR_RATIO for ratio in as_many)
    return [
        *(_of_quantiles(results, oracle, kind) for kind in KINDS),
        *(spread([one.to_all for one in some]) for some in (first, later)),
        spread(as_many),
        f"{near} of {len(as_many)}",
    ]


def _of_quantiles(results: Sequence[Result], oracle: Sequence[Result], kind: str) -> str:
    """The client's median and 90th percentile, each over the oracle's."""
    mine, told = (took(operations(some, kind)) for some in (results, oracle))
    if not mine or not told:
        return "-"
    return " / ".join(
        f"{quantile(mine, share) / quantile(told, share):.2f}" for share in (0.5, 0.9)
    )


def spread(ratios: Sequence[float]) -> str:
    """Median and 90th percentile."""
    if not ratios:
        return "-"
    return " / ".join(f"{quantile(ratios, share):.2f}" for share in (0.5, 0.9))
