"""Values in the simulator: the right one is found among hostile ones, and nothing else is kept."""

from __future__ import annotations

from typing import Any

import pytest

from codio_dht.core.best_value import BestValue
from codio_dht.core.clock import UnixTime
from codio_dht.core.validation import VALIDATOR_TIMEOUT_S, Check, Verdict
from codio_dht.core.value_records import ValueRecords
from codio_dht.sim.events import START_UNIX_S, EventQueue, Process
from codio_dht.sim.invariants import InvariantError
from codio_dht.sim.scenario import make_scenario
from codio_dht.sim.simulation import Simulation
from codio_dht.sim.values import SimulatedValues, judge

NOW = UnixTime(START_UNIX_S)


def simulation_of(**values: Any) -> Simulation:
    network = {"nodes": 150, "diverse": False, "forging": 0.2}
    return Simulation(
        make_scenario(
            {"name": "values", "network": network, "values": values, "lookups": {"count": 0}}
        )
    )


def verdict_on(values: SimulatedValues, key: bytes, value: bytes, best: bytes | None) -> Verdict:
    """What the validators say in the end."""
    queue = EventQueue()
    verdict = values.validators.judge(key, value, best, NOW)
    told: list[Verdict] = []

    async def ask(check: Check) -> None:
        told.append(await judge(queue, values.validators, check))

    if not isinstance(verdict, Check):
        return verdict
    Process(ask(verdict))
    queue.run(VALIDATOR_TIMEOUT_S)
    return told[0]


def test_every_hostile_value_is_refused_and_the_right_one_beats_the_older_one() -> None:
    values = SimulatedValues(4, seed=1)
    for key in values.keys:
        older, right = values.genuine[key]
        assert verdict_on(values, key, older, None) is Verdict.BETTER
        assert verdict_on(values, key, right, older) is Verdict.BETTER
        assert verdict_on(values, key, older, right) is Verdict.WORSE
        for hostile in values.hostile[key]:
            assert hostile not in (older, right)
            for best in (None, older, right):
                assert verdict_on(values, key, hostile, best) is Verdict.INVALID, hostile[:80]


def test_the_right_value_is_found_and_nothing_wrong_is_returned_or_kept() -> None:
    """The long form is ``scripts/simulate values``."""
    simulation = simulation_of(keys=6, finds=25)
    report = simulation.run()  # checks what is on the disks
    found = report["values"]
    assert (25, 25, 0) == (found["searches"], found["found"], found["wrong"])
    assert 12 == found["provided"]
    assert found["holders"] == pytest.approx(20, abs=1)
    kept = [each.storage.values for each in simulation.hosts.static.values()]
    refused = sum(each.stats().outcomes.get("invalid value", 0) for each in kept)
    too_long = sum(each.stats().outcomes.get("value too long", 0) for each in kept)
    assert refused > 100
    assert 0 == too_long  # a frame of 10 MiB is not even read


def test_a_search_that_does_not_judge_returns_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        BestValue,
        "on_record",
        lambda best, peer, record, _now: (
            None if record is None else best._conclude(peer, record.value, Verdict.BETTER)
        ),
    )
    assert simulation_of(keys=2, finds=4).run()["values"]["wrong"] > 0


def test_a_server_that_does_not_judge_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from codio_dht.core.value_records import ValueRow

    monkeypatch.setattr(
        ValueRecords,
        "_put",
        lambda records, key, value, now: records._take(ValueRow(key, value, now)),
    )
    with pytest.raises(InvariantError, match="a value that is not valid is kept"):
        simulation_of(keys=2, finds=4).run()
