"""What `benchmarks/wan` measures: the networks (cells), the clients, and what is still missing.

Pure but for looking which result files exist. A result is one file per cell and client, so that an
interrupted run goes on where it was, and one client can be measured again by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"

BASE_SERVERS = 300
BASE_DEAD = 0.2
BASE_SEEDS = (1, 2, 3)
DEAD_SHARES = (0.0, BASE_DEAD, 0.4)
SIZES = (100, BASE_SERVERS, 1000)

CLIENTS = ("ours", "oracle", "simulated", "go", "go-optimistic", "rust", "js")
"""In the order of the tables. go-optimistic is go with its optimistic provide; it only provides.
oracle is told the true closest peers of each target; it only looks up. simulated is ours in the
simulator's network of the same kind."""

LONGEST_FIRST = ("rust", "js", "go", "go-optimistic", "ours", "oracle", "simulated")
"""In the order of running, which lets two at once end together."""

PHASES = ("closest", "search", "provide", "value_search", "value_put")
"""What a client is put through, in this order."""

MARKS = ("answered", "alive", "heard")
"""What a client can know of a peer it returns, the most first: it answered in this lookup; it gave
some sign of life at a known time; others named it."""

USABLE_PEERS = 20
"""A client with so many peers in its routing table can look up."""

SHA2_256 = bytes([0x12, 0x20])
"""Head of a multihash: its function, its length."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One network: its size, its share of dead servers, the seed of all else."""

    servers: int = BASE_SERVERS
    dead: float = BASE_DEAD
    seed: int = BASE_SEEDS[0]

    @property
    def name(self) -> str:
        return f"n{self.servers}-dead{round(self.dead * 100)}-seed{self.seed}"

    @property
    def is_base(self) -> bool:
        return (self.servers, self.dead) == (BASE_SERVERS, BASE_DEAD)


def base_cells() -> list[Cell]:
    return [Cell(seed=seed) for seed in BASE_SEEDS]


def dead_cells() -> list[Cell]:
    return [Cell(dead=share) for share in DEAD_SHARES]


def size_cells() -> list[Cell]:
    return [Cell(servers=size) for size in SIZES]


def matrix(names: Iterable[str]) -> list[Cell]:
    """The cells of the named groups, each once, in the order given.

    Raises:
        KeyError: there is no such group.
    """
    groups = {"base": base_cells, "dead": dead_cells, "size": size_cells}
    return list(dict.fromkeys(cell for name in names for cell in groups[name]()))


def result_file(directory: Path, cell: Cell, client: str) -> Path:
    return directory / f"{cell.name}.{client}.json"


def missing(directory: Path, cell: Cell, clients: Sequence[str]) -> list[str]:
    """Those of the clients that have no result in this cell, the slowest first."""
    ordered = sorted(clients, key=LONGEST_FIRST.index)
    return [name for name in ordered if not result_file(directory, cell, name).exists()]


def preimage(cell: Cell, purpose: str, index: int) -> bytes:
    """The key of an operation, a multihash: the same for every client."""
    text = f"codio-dht wan {cell.seed} {purpose} {index}"
    return SHA2_256 + hashlib.sha256(text.encode()).digest()


def overstated(said: Sequence[str], known: Sequence[str]) -> int | None:
    """Of how many peers a client says more than it could know; None if it says nothing (``-``)."""
    if not set(said) <= set(MARKS):
        return None
    pairs = zip(said, known, strict=True)
    return sum(MARKS.index(word) < MARKS.index(mark) for word, mark in pairs)
