"""What the value phases put into the network, and the figures made of them. Pure.

A searched name has two IPNS records. Of the 20 living servers closest to it, 12 hold the newer one,
5 the older one and 3 none, always at the same ranks. A search should end with the newer one, and
then correct the 8 others. Each client has names of its own, because a search changes who holds
what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.wan.cells import Cell
from benchmarks.wan.figures import Facts, percent, quantile
from codio_dht.core.clock import UnixTime
from codio_dht.crypto.ipns import create_ipns_record, ipns_key
from codio_dht.crypto.keys import PrivateKey

OUTDATED_RANKS = (1, 5, 9, 13, 17)
MISSING_RANKS = (3, 11, 19)
"""Of the closest servers, nearest first: those with the older record, and those with none."""

ENOUGH_HOLDERS = 20

PATHS = ("/ipfs/bafkqaddwgevxmmraojswg33smq", "/ipfs/bafkqaaa")
"""What the older and the newer record stand for."""


@dataclass(frozen=True, slots=True)
class Name:
    """An IPNS name with two records of it."""

    key: bytes
    older: bytes
    newer: bytes


def name_of(cell: Cell, purpose: str, index: int, now: float) -> Name:
    """The name of an operation, always the same; its records hold from ``now`` on."""
    text = f"codio-dht wan {cell.seed} {purpose} {index}"
    signer = PrivateKey.from_ed25519_seed(hashlib.sha256(text.encode()).digest())
    older, newer = (
        create_ipns_record(signer, path, sequence=number, now=UnixTime(now)).encoded
        for number, path in enumerate(PATHS)
    )
    return Name(ipns_key(signer.peer_id()), older, newer)


def placed(closest: Sequence[str]) -> dict[str, list[str]]:
    """Which of the closest servers hold what at first: ``newer``, ``older`` or ``nothing``."""
    return {
        "newer": [
            peer
            for rank, peer in enumerate(closest)
            if rank not in (*OUTDATED_RANKS, *MISSING_RANKS)
        ],
        "older": [peer for rank, peer in enumerate(closest) if rank in OUTDATED_RANKS],
        "nothing": [peer for rank, peer in enumerate(closest) if rank in MISSING_RANKS],
    }


def search_facts(values: Sequence[dict[str, Any]], name: Name) -> Facts:
    """When the first value came and when the best, seconds; None for what never came."""
    newer = name.newer.hex()
    best = [one["s"] for one in values if one["value_hex"] == newer]
    return {
        "first_s": values[0]["s"] if values else None,
        "best_s": best[0] if best else None,
        "wrong": sum(one["value_hex"] not in (newer, name.older.hex()) for one in values),
    }


def put_facts(arrived: Sequence[float], among_closest: int, began: float) -> Facts:
    """How many servers were given the value, and when the twentieth was, seconds; None if never."""
    times = sorted(arrived)
    enough = len(times) >= ENOUGH_HOLDERS
    return {
        "holders": len(times),
        "among_closest": among_closest,
        "all_s": times[ENOUGH_HOLDERS - 1] - began if enough else None,
    }


def until(done: Sequence[Facts], what: str) -> list[float]:
    """How long until ``what`` came; where it never did, until the operation was over."""
    return [one["s"] if one[what] is None else one[what] for one in done]


def never(done: Sequence[Facts], what: str) -> int:
    return sum(one[what] is None for one in done)


def times_until(done: Sequence[Facts], what: str) -> str:
    """Median and 90th percentile, and how often it never came."""
    times = " / ".join(f"{quantile(until(done, what), share):.2f}" for share in (0.5, 0.9)) + " s"
    missed = never(done, what)
    return f"{times}, {missed} never" if missed else times


def corrected(done: Sequence[Facts], which: str) -> str:
    """Of the closest servers with an older record, or with none: the share that got the newer."""
    return percent(sum(one[which][0] for one in done) / sum(one[which][1] for one in done))


def first_value_times(done: Sequence[Facts]) -> list[float]:
    """How long each search took until the first value."""
    return until(done, "first_s")
