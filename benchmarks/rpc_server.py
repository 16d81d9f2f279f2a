"""Every implementation as a kad server, in one run, under one load: see README.md.

    benchmarks/rpc_server.py                  everything (about 15 minutes)
    benchmarks/rpc_server.py --quick          TCP, 8 in flight, short: two minutes
    benchmarks/rpc_server.py --servers ours,go --transports tcp --in-flight 1,8

A case that is in the results file is not measured again, so an interrupted run goes on where it
stopped; --fresh starts over.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from servers import Kind, Server, holding_load, kinds, run_load, running

import peer_builds  # found through servers

OPERATIONS = ("find_node", "get_providers", "add")
"""In this order: go's servers slow down with the records that ``add`` leaves."""

STREAMS = ("reused", "new")

FILLERS = 95
"""Peers in each server's routing table, as many as in the measurements of the prototype."""

MAX_IDLE = {"js": 1_000, "py-libp2p": 1_000}
"""Connections that a server is asked to hold at most, where it takes a minute for a thousand."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One measurement."""

    server: str
    transport: str
    what: str
    """An operation, or ``idle``."""
    stream: str = ""
    in_flight: int = 0
    connections: int = 0

    @property
    def key(self) -> str:
        parts = (self.transport, self.what, self.stream, self.in_flight or self.connections or "")
        return " ".join(str(part) for part in (*parts, self.server) if part != "")


class Results:
    """The results file: one line a case."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        self.by_key: dict[str, Result] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                result = json.loads(line)
                self.by_key[result["case"]] = result

    def wants(self, case: Case) -> bool:
        return case.key not in self.by_key

    def add(self, case: Case, result: Result) -> None:
        line = {"case": case.key, **vars(case), **result, "at": time.strftime("%F %T")}
        self.by_key[case.key] = line
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{case.key:45} {_in_short(result)}", file=sys.stderr, flush=True)


def _in_short(result: Result) -> str:
    if "error" in result:
        return str(result["error"])
    parts = [
        f"{result[name]:,.{digits}f} {unit}"
        for name, digits, unit in (
            ("requests_per_s", 0, "/s"),
            ("cpu_us_per_request", 1, "us of CPU"),
            ("held", 0, "connections"),
            ("kib_per_connection", 1, "KiB each"),
            ("cpu_ms_per_connection", 2, "ms of CPU each"),
            ("rss_kib", 0, "KiB in all"),
        )
        if name in result
    ]
    return ", ".join(parts)


# --- the run --------------------------------------------------------------------------------------


def run(options: argparse.Namespace, results: Results) -> None:
    found = kinds(options.ours.split(), options.profile)
    chosen = [found[name] for name in options.servers if name in found]
    for transport in options.transports:
        cases = [case for case in rpc_cases(options, transport, chosen) if results.wants(case)]
        if cases:
            run_rpc(options, transport, chosen, cases, results)
    for case in idle_cases(options, chosen):
        if results.wants(case):
            run_idle(options, found[case.server], case, results)


def rpc_cases(
    options: argparse.Namespace, transport: str, chosen: Sequence[Kind]
) -> Iterator[Case]:
    """The servers of one case come one after another, so that what else the machine does meets
    all of them alike."""
    for operation in options.operations:
        for stream in STREAMS:
            for in_flight in options.in_flight:
                for kind in chosen:
                    yield Case(kind.name, transport, operation, stream, in_flight)


def run_rpc(
    options: argparse.Namespace,
    transport: str,
    chosen: Sequence[Kind],
    cases: Sequence[Case],
    results: Results,
) -> None:
    wanted = {case.server for case in cases}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for kind in chosen:
            if kind.name in wanted:
                server = stack.enter_context(
                    running(kind, transport, options.server_core, options.logs)
                )
                fill = ["fill", "-target", server.addr(transport), "-peers", str(FILLERS)]
                filled = stack.enter_context(holding_load(fill, options.load_core))
                print(f"{transport} {kind.name}: filled {filled}", file=sys.stderr)
                servers[kind.name] = server
        for server in servers.values():
            server.settle()
            filled_kib = {"rss_kib": server.rss_kib()}
            results.add(Case(server.name, transport, "memory", "after joining"), filled_kib)
        for case in cases:
            server = servers[case.server]
            arguments = ["rpc", "-target", server.addr(transport), "-pid", str(server.pid)]
            arguments += ["-op", case.what, "-in-flight", str(case.in_flight)]
            arguments += ["-seconds", str(options.seconds), "-warm-up", str(options.seconds / 6)]
            arguments += ["-new-stream"] if case.stream == "new" else []
            results.add(case, run_load(arguments, options.load_core))
        for server in servers.values():
            loaded_kib = {"rss_kib": server.rss_kib()}
            results.add(Case(server.name, transport, "memory", "after all requests"), loaded_kib)


def idle_cases(options: argparse.Namespace, chosen: Sequence[Kind]) -> Iterator[Case]:
    for count in options.idle:
        for kind in chosen:
            if count <= MAX_IDLE.get(kind.name, count):
                yield Case(kind.name, "tcp", "idle", connections=count)


def run_idle(options: argparse.Namespace, kind: Kind, case: Case, results: Results) -> None:
    """On a server of its own: memory that was used before would hide what a connection takes."""
    with running(kind, case.transport, options.server_core, options.logs) as server:
        server.settle()
        arguments = ["idle", "-target", server.addr(case.transport), "-pid", str(server.pid)]
        arguments += ["-connections", str(case.connections)]
        with holding_load(arguments, options.load_core) as held:
            results.add(case, held)


# --- what is printed ------------------------------------------------------------------------------


def tables(results: Sequence[Result]) -> str:
    """Each table has the servers as its columns; a ratio is to go's figure of the same case."""
    rpc = [result for result in results if result["in_flight"]]
    idle = [result for result in results if result["what"] == "idle"]
    memory = [result for result in results if result["what"] == "memory"]
    parts = [
        _table("CPU us per request (of go's)", rpc, partial(_with_ratio, "cpu_us_per_request", 1)),
        _table("requests/s, p50 / p99 ms", rpc, _speed),
        _table("resident MiB", memory, lambda result, _: f"{result['rss_kib'] / 1024:.0f}"),
        _table("idle: KiB each (of go's)", idle, partial(_with_ratio, "kib_per_connection", 1)),
        _table("accept: CPU ms (of go's)", idle, partial(_with_ratio, "cpu_ms_per_connection", 2)),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(title: str, results: Sequence[Result], cell: Callable[[Result, Result], str]) -> str:
    servers = list(dict.fromkeys(result["server"] for result in results))
    by_case: dict[str, dict[str, Result]] = {}
    for result in results:
        by_case.setdefault(result["case"].rpartition(" ")[0], {})[result["server"]] = result
    lines = [f"| {title} | {' | '.join(servers)} |", "|---" * (len(servers) + 1) + "|"]
    for case, of in by_case.items():
        go = of.get("go", {})
        cells = [
            cell(of[server], go) + _note(of[server]) if server in of else "-" for server in servers
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines) if by_case else ""


def _with_ratio(name: str, digits: int, result: Result, go: Result) -> str:
    value, reference = result.get(name), go.get(name)
    if value is None:
        return "-"
    ratio = f" ({value / reference:.2f})" if reference and result is not go else ""
    return f"{value:,.{digits}f}{ratio}"


def _speed(result: Result, _: Result) -> str:
    if not result.get("requests"):
        return "-"
    p50, p99 = result["p50_ms"], result["p99_ms"]
    return f"{result['requests_per_s']:,.0f}, {p50:.2f} / {p99:.2f}"


def _note(result: Result) -> str:
    """What makes a figure one of something else."""
    notes = []
    if "error" in result:
        notes.append(str(result["error"])[:60])
    if result.get("failed"):
        notes.append(f"{result['failed']} failed")
    if result.get("stored", 1) < 1:
        notes.append(f"{result['stored']:.0%} stored")
    if result.get("closer_peers", 20) < 19.5 and result.get("requests"):
        notes.append(f"{result['closer_peers']:.0f} closer peers")
    if result.get("held", result["connections"]) < result["connections"]:
        notes.append(f"held {result['held']:,}")
    return f" [{', '.join(notes)}]" if notes else ""


# --- options --------------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def options() -> argparse.Namespace:
    cores: list[int | None] = [*sorted(os.sched_getaffinity(0))]
    apart = cores if len(cores) > 1 else [None, None]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--servers", type=_words, default="ours,go,rust,js,py-libp2p")
    parser.add_argument("--transports", type=_words, default="tcp,quic")
    parser.add_argument("--operations", type=_words, default=",".join(OPERATIONS))
    parser.add_argument("--in-flight", type=_numbers, default="1,8,32")
    parser.add_argument("--idle", type=_numbers, default="100,1000,5000", help="'' for none")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ours", default="", help="further options of our daemon")
    parser.add_argument("--profile", type=Path, help="profile our daemon into this file")
    parser.add_argument("--server-core", type=int, default=apart[0])
    parser.add_argument("--load-core", type=int, default=apart[1])
    parser.add_argument("--results", type=Path, default=None, help="one JSON line a case")
    parser.add_argument("--fresh", action="store_true", help="forget the results file")
    parser.add_argument("--json", type=Path, help="write all results here as one JSON list")
    parser.add_argument("--table-only", action="store_true", help="print what was measured before")
    if "--quick" in sys.argv:
        parser.set_defaults(transports="tcp", in_flight="8", idle="100", seconds=0.6)
    chosen = parser.parse_args()
    name = "rpc_server-quick.jsonl" if chosen.quick else "rpc_server.jsonl"
    chosen.results = chosen.results or peer_builds.cache_dir() / "benchmarks" / name
    chosen.logs = chosen.results.parent
    return chosen


def main() -> None:
    chosen = options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results = Results(chosen.results, fresh=chosen.fresh)
    if not chosen.table_only:
        run(chosen, results)
    print(tables(list(results.by_key.values())))
    print(f"\nEach case: {chosen.results}", file=sys.stderr)
    if chosen.json:
        chosen.json.write_text(json.dumps(list(results.by_key.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
