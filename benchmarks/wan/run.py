"""Runs the cells that have no result yet; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trio

from benchmarks.wan import simulated
from benchmarks.wan.cells import CLIENTS, PHASES, RESULTS, Cell, matrix, missing, result_file
from benchmarks.wan.client import LATER_S, QUIET_S, SETTLE_S, Plan, measure, programs
from benchmarks.wan.figures import load
from benchmarks.wan.network import HERE, Swarm, look, running
from benchmarks.wan.oracle import ORACLE, SIMULATED
from benchmarks.wan.report import summary

import peer_builds  # isort: skip - found through network

Facts = dict[str, Any]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def machine() -> Facts:
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def revision() -> str:
    """Of this project, with a mark where the tree differs from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def busy_s() -> float:
    """Processor time that the whole machine has spent on anything so far."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Run:
    """Of one cell."""

    def __init__(self, options: argparse.Namespace, cell: Cell, swarm: Swarm, base: Facts) -> None:
        self._options, self._cell, self._swarm, self._base = options, cell, swarm, base
        self._slots = trio.CapacityLimiter(options.at_once)

    async def all(self, names: list[str], found: dict[str, tuple[str, ...]]) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                await self._slots.acquire_on_behalf_of(name)
                nursery.start_soon(self._one, name, found[name])

    async def _one(self, name: str, program: tuple[str, ...]) -> None:
        options = self._options
        plan = Plan(
            options.operations,
            options.cold,
            name,
            tuple(options.phases),
            provides_only=name == "go-optimistic",
            is_oracle=name == ORACLE,
        )
        started, busy = time.time(), busy_s()
        say(f"{self._cell.name} {name} ..")
        try:
            if name == SIMULATED:
                facts = await trio.to_thread.run_sync(self._simulate, plan)
            else:
                facts = await measure(self._swarm, self._cell, program, plan, options.logs)
        except Exception as error:  # noqa: BLE001 - the others go on; this one stays missing
            say(f"{self._cell.name} {name} failed: {error!r}")
            return
        finally:
            self._slots.release_on_behalf_of(name)
        took = time.time() - started
        facts = self._base | facts | {"client": name, "took_s": round(took, 1)}
        facts["machine"] = machine() | {"busy_cores": round((busy_s() - busy) / took, 2)}
        file = result_file(options.results, self._cell, name)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(facts, separators=(",", ":")) + "\n")
        unfinished.rename(file)
        say(f"{self._cell.name} {name} done in {took:.0f} s")

    def _simulate(self, plan: Plan) -> Facts:
        return simulated.measure(
            self._cell,
            operations=plan.operations,
            cold=plan.cold,
            quiet_s=QUIET_S,
            settle_s=SETTLE_S,
            later_s=LATER_S,
        )


async def run(options: argparse.Namespace) -> None:
    found = programs(options.tree) | {SIMULATED: ()}
    peer_builds.build(peer_builds.go_source("swarm", HERE / "swarm"))
    clients = [name for name in options.clients if name in found]
    for cell in options.cells:
        if options.fresh:
            for name in clients:
                result_file(options.results, cell, name).unlink(missing_ok=True)
        names = missing(options.results, cell, clients)
        if not names:
            say(f"{cell.name}: all there")
            continue
        async with running(cell) as swarm:
            base = {
                "cell": {"servers": cell.servers, "dead": cell.dead, "seed": cell.seed},
                "date": time.strftime("%Y-%m-%d"),
                "revision": revision(),
                "swarm": swarm.ready | {"looked_at": await look(swarm)},
                "at_once": options.at_once,
            }
            base["swarm"].pop("bootstrap")
            await Run(options, cell, swarm, base).all(names, found)
            say(f"{cell.name}: swarm has {(await swarm.ask('usage'))['rss_mib']} MiB")


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", type=words, default="base,dead,size", help="groups of cells")
    parser.add_argument("--seed", type=int, help="of the named groups, only this seed's cells")
    parser.add_argument("--servers", type=int, help="with --dead: one cell, instead of --cells")
    parser.add_argument("--dead", type=float, help="share of dead servers, 0 to 1")
    parser.add_argument("--clients", type=words, default=",".join(CLIENTS))
    parser.add_argument("--phases", type=words, default=",".join(PHASES), help="of what each does")
    parser.add_argument("--operations", type=int, default=12, help="of each kind, for each client")
    parser.add_argument("--cold", type=int, default=3, help="first lookups, of fresh clients")
    parser.add_argument("--at-once", type=int, default=3, help="clients measured side by side")
    parser.add_argument("--tree", type=Path, help="where our client's codio_dht is, if not here")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")


def main(options: argparse.Namespace) -> None:
    if options.servers or options.dead is not None:
        base = Cell()
        dead = base.dead if options.dead is None else options.dead
        options.cells = [Cell(options.servers or base.servers, dead, options.seed or base.seed)]
    else:
        cells = matrix(options.cells)
        options.cells = [c for c in cells if options.seed in (None, c.seed)]
    options.results.mkdir(parents=True, exist_ok=True)
    options.logs = peer_builds.cache_dir() / "benchmarks" / f"wan-{os.getpid()}"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(run, options)
    names = {cell.name for cell in options.cells}
    print(summary([one for one in load(options.results) if one.cell.name in names]))
