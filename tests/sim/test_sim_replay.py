"""The same scenario and seed give the same run to the last bit, whatever the hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.scenario import make_scenario
from codio_dht.sim.simulation import Simulation, run_scenario

ROOT = Path(__file__).resolve().parents[2]

SCENARIO = {
    "name": "replay",
    "network": {
        "nodes": 24,
        "dead": 0.1,
        "slow": 0.05,
        "far": 0.05,
        "ghosts": 0.05,
    },
    "links": {"loss": 0.02, "jitter": 0.1, "max_connections": 20},
    "churn": {"share": 0.5, "session_median_s": 60, "downtime_median_s": 60},
    "lookups": {"count": 4, "start_s": 30, "interval_s": 10},
    "records": {"keys": 3, "publishers": 2, "find_interval_s": 40, "finds": 3},
    "run": {"duration_s": 70, "check_interval_s": 40},
}

SMALL = {"name": "small", "network": {"nodes": 60}, "lookups": {"count": 5}}

PROGRAM = f"""
from codio_dht.sim.scenario import make_scenario
from codio_dht.sim.simulation import run_scenario
report = run_scenario(make_scenario({SCENARIO!r}))
del report["timeline"]
print(report)
"""


def _run_with_hash_seed(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.deadline_s(300)
def test_four_hash_seeds_give_the_same_trace_and_the_same_report() -> None:
    runs = {_run_with_hash_seed(seed) for seed in ("0", "1", "2", "4242")}
    assert 1 == len(runs), runs


def test_another_seed_gives_another_trace() -> None:
    digests = {run_scenario(make_scenario({**SMALL, "seed": seed}))["digest"] for seed in (1, 2)}
    assert 2 == len(digests)


def test_watching_a_run_closely_does_not_change_it() -> None:
    watched, unwatched = (
        run_scenario(make_scenario({**SMALL, "run": {"check_one_in": one_in}}))
        for one_in in (1, 1_000_000)
    )
    assert watched["checks"] > unwatched["checks"]
    assert watched["digest"] == unwatched["digest"]


def test_a_broken_invariant_names_the_command_that_replays_it() -> None:
    simulation = Simulation(make_scenario({**SMALL, "seed": 7}))
    member = simulation.world.population.members[3]
    simulation.world.queue.at(0.1, lambda: simulation.world.connections.open(member, member))
    with pytest.raises(InvariantError, match=r"scripts/simulate small --seed 7"):
        simulation.run()
