"""Runs a simulated network of the real core and wire on a virtual clock, and prints what it found.

    scripts/simulate wan                       a preset of scenarios/
    scripts/simulate my.toml --seed 7 --json   a scenario of one's own
    scripts/simulate --list                    the presets
    scripts/simulate static --set network.nodes=1000 --set lookups.count=50
    scripts/simulate wan --trace trace.txt     every line of the trace, to compare two runs
    scripts/simulate static --sizes 100 1000   the same for any scenario

docs/simulation.md says what is simulated and what is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from codio_dht.errors import UsageError
from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.scenario import Scenario, make_scenario
from codio_dht.sim.simulation import run_scenario

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", help="a TOML file, or a preset's name")
    parser.add_argument("--list", action="store_true", help="list the presets")
    parser.add_argument("--seed", type=int, help="instead of the scenario's")
    parser.add_argument("--set", action="append", default=[], metavar="PART.FIELD=VALUE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sizes", type=int, nargs="+", help="run once with each number of nodes")
    parser.add_argument("--trace", type=Path, help="write the trace to this file")
    options = parser.parse_args()
    if options.list or not options.scenario:
        for path in sorted(SCENARIOS.glob("*.toml")):
            print(f"{path.stem:<16} {path.read_text().splitlines()[0].lstrip('# ')}")
        return 0
    try:
        if options.sizes:
            return grow(options)
        scenario = load(options.scenario, options.seed, options.set)
        report, seconds = run(scenario, options.trace)
    except UsageError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    except InvariantError as error:
        print(f"simulate: broken invariant: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report.as_json() | {"cpu_s": round(seconds, 2)}, indent=2))
    else:
        print(report.as_text())
        print(f"{'cpu':<22} {seconds:.1f} s")
    return 0


def load(name: str, seed: int | None, changes: list[str]) -> Scenario:
    path = Path(name) if name.endswith(".toml") else SCENARIOS / f"{name}.toml"
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    data.setdefault("name", path.stem)
    if seed is not None:
        data["seed"] = seed
    for change in changes:
        apply(data, change)
    return make_scenario(data)


def apply(data: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    part, dot, field = name.partition(".")
    if not (equals and dot):
        raise UsageError(f"--set {change}: write it as part.field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    data.setdefault(part, {})[field] = value


def grow(options: argparse.Namespace) -> int:
    """One line for each size."""
    print("| nodes | hops, mean (most) | requests | p50 | p90 | true closest found | CPU |")
    print("|---|---|---|---|---|---|---|")
    for size in options.sizes:
        changes = [*options.set, f"network.nodes={size}"]
        report, seconds = run(load(options.scenario, options.seed, changes), None)
        looked = report.lookups
        print(
            f"| {size:,} | {looked.hops:.2f} ({looked.hops_max}) | {looked.requests:.1f} "
            f"| {looked.p50_s:.2f} s | {looked.p90_s:.2f} s | {100 * looked.recall:.2f} % "
            f"| {seconds:.0f} s |",
            flush=True,
        )
    return 0


def run(scenario: Scenario, trace: Path | None) -> tuple[Any, float]:
    begun = time.process_time()
    if trace is None:
        report = run_scenario(scenario)
    else:
        with trace.open("w", encoding="ascii") as file:
            report = run_scenario(scenario, file.write)
    return report, time.process_time() - begun


if __name__ == "__main__":
    sys.exit(main())
