"""Kills a node at random moments while it takes values and publishes names, and looks what is left.

    scripts/crash                              1,000 values of others, 100 publications of its own
    scripts/crash --puts 0 --publishes 1000 --seed 3

The node and its promises are in ``tests/chaos/killing_values.py``; ``pytest`` runs a short form. A
broken promise ends the run with a traceback and exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import trio

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--puts", type=int, default=1_000, help="values of others")
    parser.add_argument("--publishes", type=int, default=100, help="publications of one name")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "chaos")]
    killing_values = import_module("killing_values")  # found through the line above
    runs: list[tuple[str, Any, int, int]] = [
        ("values of others", killing_values.puts_of_others, options.puts, 60),
        ("publications", killing_values.own_publishes, options.publishes, 12),
    ]
    for name, run, count, at_most in runs:
        if not count:
            continue
        began = time.monotonic()
        with TemporaryDirectory() as directory:
            tally = trio.run(run, Path(directory), count, at_most, Random(options.seed))
        print(
            f"{name}: {tally.done}, killed {tally.rounds} times in"
            f" {time.monotonic() - began:.0f} s; {tally.lost} had not been written yet"
        )


if __name__ == "__main__":
    main()
