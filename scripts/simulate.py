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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codio_dht.errors import UsageError
from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.report import Figures
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
        print(json.dumps(report | {"cpu_s": round(seconds, 2)}, indent=2))
    else:
        print(as_text(report))
        print(f"{'cpu':<22} {seconds:.1f} s")
    return 0


def as_text(report: Figures) -> str:
    """The report as a table for people."""
    lines = [f"{name:<22} {value}" for name, value in rows(report)]
    if report["timeline"]:
        lines.append("   from  lookups  true found    p50  requests  records found")
    for part in report["timeline"]:
        looked, finds = part["lookups"], part["finds"]
        lines.append(
            f"{part['from_s'] / 3600:6.2f}h {looked['count']:8} {100 * looked['recall']:9.2f} % "
            f"{looked['p50_s']:5.2f} s {looked['requests']:8.1f}   "
            f"{finds['found']} of {finds['searches']}"
        )
    return "\n".join(lines)


def rows(report: Figures) -> Iterator[tuple[str, str]]:
    """The lines of the table: a name and what is shown for it."""
    yield "scenario", f"{report['scenario']}, seed {report['seed']}"
    yield "nodes", f"{report['nodes']}, of which {report['living']} living servers at the end"
    yield "virtual time", f"{report['virtual_s']:.1f} s, {report['events']} events"
    if report["join_s"]:
        yield "joined", f"after {report['join_s']:.2f} s and {report['join_requests']} requests"
    if report["lookups"]["count"]:
        yield from lookup_rows(report["lookups"])
    yield from find_rows("provides", "records found", report["records"])
    yield from find_rows("puts", "values found", report["values"])
    if report["values"]["searches"]:
        yield "wrong values returned", f"in {report['values']['wrong']} searches"
    tables = report["tables"]
    if tables["entries"]:
        yield "tables", f"{tables['entries']:.0f} entries, {100 * tables['living']:.1f} % living"
    sampled = report["encoded"] != report["messages"]
    part = f", of which {report['encoded']} encoded" if sampled else ""
    yield "messages", f"{report['messages']}{part}; {report['bytes'] / 1e6:.1f} MB"
    yield "invariants", f"checked {report['checks']} times"
    yield "trace", f"{report['digest'][:16]} ({report['trace_lines']} lines)"


def lookup_rows(looked: Figures) -> Iterator[tuple[str, str]]:
    """Those of the lookups."""
    told = looked["oracle"]
    reasons = ", ".join(f"{name} {count}" for name, count in looked["reasons"].items())
    yield "lookups", f"{looked['count']} ({reasons})"
    yield (
        "latency",
        f"p50 {looked['p50_s']:.3f} s, p90 {looked['p90_s']:.3f} s, max {looked['max_s']:.3f} s",
    )
    yield "oracle's latency", f"p50 {told['p50']:.3f} s, p90 {told['p90']:.3f} s"
    yield (
        "times the oracle's",
        (
            f"p50 {told['ratio_p50']:.2f}, p90 {told['ratio_p90']:.2f}; for as many answers "
            f"p50 {told['as_many_p50']:.2f}, p90 {told['as_many_p90']:.2f}"
        ),
    )
    yield (
        "requests per lookup",
        (
            f"{looked['requests']:.1f} (most {looked['requests_max']}), "
            f"failed {looked['failures']:.1f}"
        ),
    )
    yield "hops", f"{looked['hops']:.2f} (most {looked['hops_max']})"
    yield (
        "true closest found",
        f"{100 * looked['recall']:.2f} %, all in {100 * looked['exact']:.1f} % of lookups",
    )
    yield "returned had answered", f"{100 * looked['answered']:.1f} %"
    if looked["lying"]:
        yield "returned that lie", f"{100 * looked['lying']:.1f} %"


def find_rows(given: str, sought: str, found: Figures) -> Iterator[tuple[str, str]]:
    """Those of the records or values that were handed out and searched for."""
    if found["provided"]:
        yield (
            given,
            f"{found['provided']} ({found['failed']} failed), {found['holders']:.1f} holders",
        )
    if found["searches"]:
        yield (
            sought,
            (
                f"{found['found']} of {found['searches']} ({100 * found['found_share']:.2f} %), "
                f"{found['requests']:.1f} requests each"
            ),
        )
        yield (
            "found after",
            (
                f"first p50 {found['first_p50_s']:.3f} s, p90 {found['first_p90_s']:.3f} s; "
                f"last p50 {found['last_p50_s']:.3f} s, p90 {found['last_p90_s']:.3f} s; "
                f"over p50 {found['p50_s']:.3f} s, p90 {found['p90_s']:.3f} s"
            ),
        )


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
        looked = report["lookups"]
        print(
            f"| {size:,} | {looked['hops']:.2f} ({looked['hops_max']}) "
            f"| {looked['requests']:.1f} | {looked['p50_s']:.2f} s | {looked['p90_s']:.2f} s "
            f"| {100 * looked['recall']:.2f} % | {seconds:.0f} s |",
            flush=True,
        )
    return 0


def run(scenario: Scenario, trace: Path | None) -> tuple[Figures, float]:
    begun = time.process_time()
    if trace is None:
        report = run_scenario(scenario)
    else:
        with trace.open("w", encoding="ascii") as file:
            report = run_scenario(scenario, file.write)
    return report, time.process_time() - begun


if __name__ == "__main__":
    sys.exit(main())
