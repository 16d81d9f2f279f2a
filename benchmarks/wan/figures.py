"""What was measured, and the figures made of it: which quantile, over which operations. Pure but
for reading the result files."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.wan.cells import CLIENTS, Cell

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """One client in one cell."""

    cell: Cell
    client: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Network:
    """The cells that differ in their seed only."""

    servers: int
    dead: float

    def __str__(self) -> str:
        return f"{self.servers:,}, {round(100 * self.dead)} % dead"


Groups = dict[Network, dict[str, list[Result]]]


def parsed(facts: Facts) -> Result:
    return Result(Cell(**facts["cell"]), facts["client"], facts)


def load(directory: Path) -> list[Result]:
    """All results: by size, share of dead, the order of ``CLIENTS``, seed."""
    found = [parsed(json.loads(file.read_text())) for file in directory.glob("*.json")]
    return sorted(
        found,
        key=lambda one: (
            one.cell.servers,
            one.cell.dead,
            CLIENTS.index(one.client),
            one.cell.seed,
        ),
    )


def grouped(results: Iterable[Result]) -> Groups:
    """By network, then by client; the order of the results stays."""
    groups: Groups = {}
    for one in results:
        network = Network(one.cell.servers, one.cell.dead)
        groups.setdefault(network, {}).setdefault(one.client, []).append(one)
    return groups


# --- figures --------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of the values does not pass (nearest rank)."""
    rank = math.ceil(round(share * len(values), 9))
    return sorted(values)[max(rank, 1) - 1]


def operations(results: Iterable[Result], kind: str) -> list[Facts]:
    return [one for result in results for one in result.facts.get(kind, [])]


def took(done: Sequence[Facts]) -> list[float]:
    """How long each took; one that failed took until it failed."""
    return [one["s"] for one in done]


def true_share(done: Sequence[Facts], which: str = "true_found") -> float:
    """Of all closest living servers, those that were returned, or known to live as well."""
    return float(sum(one[which] for one in done) / sum(one["true_in_all"] for one in done))


def requests(results: Sequence[Result], kind: str) -> float:
    """Mean of an operation: all that reached a server meanwhile or soon after, for any key."""
    total = sum(one.facts["cost"][kind]["requests"] for one in results)
    return float(total / len(operations(results, kind)))


def requests_for_key(done: Sequence[Facts]) -> float:
    """Mean of an operation: those for its own key."""
    return statistics.fmean(sum(one["requests"].values()) for one in done)


def holders(done: Sequence[Facts], when: str, what: str = "holders") -> float:
    return statistics.fmean(one[when][what] for one in done)


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
