"""A search for a value: what is best, when it is enough, whom to correct."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.best_value import BestValue
from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.core.peer import PeerId
from codio_dht.core.validation import Check, Validators, Verdict
from value_fakes import VersionValidator, make_validators

NOW = UnixTime(1_000.0)
KEY = b"/v/\xffkey"
PEERS = [PeerId(b"\x12\x20" + bytes([n]) * 32) for n in range(40)]


def machine_for(key: bytes = KEY, **more) -> BestValue:
    return BestValue(key, make_validators(), **more)


def bring(machine: BestValue, n: int | None, value: bytes | None) -> Verdict | Check | None:
    record = None if value is None else Record(machine.key, value)
    return machine.on_record(None if n is None else PEERS[n], record, NOW)


@pytest.mark.conformance("c42")
@given(st.lists(st.sampled_from([b"1:", b"2:", b"3:", b"3:x", b"bad", b"", None]), max_size=30))
def test_what_is_passed_on_improves_strictly_and_ends_with_the_best(values) -> None:
    machine = machine_for()
    passed_on = [
        value
        for n, value in enumerate(values)
        if bring(machine, n, value) is Verdict.BETTER and value is not None
    ]
    versions = [int(value[:1]) for value in passed_on]
    assert versions == sorted(versions)
    assert len(set(passed_on)) == len(passed_on)
    valid = [value for value in values if value and value[:1].isdigit()]
    assert (machine.best is None) == (not valid)
    if valid:
        assert machine.best == passed_on[-1]
        assert machine.best is not None
        assert machine.best[:1] == max(value[:1] for value in valid)


def test_the_best_is_the_same_whatever_the_order_of_the_answers() -> None:
    for order in permutations([b"1:", b"3:", b"2:", b"bad"]):
        machine = machine_for()
        for n, value in enumerate(order):
            bring(machine, n, value)
        assert machine.best == b"3:"


@pytest.mark.conformance("c28")
def test_a_record_of_another_key_is_no_answer() -> None:
    machine = machine_for()
    assert machine.on_record(PEERS[0], Record(b"/v/other", b"9:"), NOW) is Verdict.INVALID
    assert machine.best is None
    assert machine.stats().invalid == 1
    assert machine.outdated(PEERS[:1]) == ()


def test_a_value_past_the_bound_is_not_even_judged() -> None:
    validator = VersionValidator()
    machine = BestValue(KEY, Validators({"v": validator}), max_value_bytes=10)
    assert bring(machine, 0, b"1:" + bytes(9)) is Verdict.INVALID
    assert validator.judged == []
    assert bring(machine, 1, b"1:" + bytes(8)) is Verdict.BETTER


@pytest.mark.conformance("c41")
def test_the_quorum_must_be_passed_by_valid_answers() -> None:
    machine = machine_for(quorum=3)
    bring(machine, None, b"1:")
    bring(machine, 0, b"bad")
    bring(machine, 1, None)
    bring(machine, 2, b"2:")
    bring(machine, 3, b"1:")
    assert not machine.enough
    bring(machine, 4, b"2:")
    assert machine.enough
    assert machine.outdated(PEERS[:10]) == ()


@pytest.mark.conformance("c41")
def test_those_among_the_closest_without_the_best_value_are_corrected() -> None:
    machine = machine_for()
    bring(machine, 0, b"2:")
    bring(machine, 1, b"1:")
    bring(machine, 2, b"bad")
    bring(machine, 3, None)
    bring(machine, 4, b"2:")
    assert machine.outdated(PEERS[:6]) == (PEERS[1], PEERS[2], PEERS[3], PEERS[5])
    bring(machine, 7, b"3:")
    assert machine.outdated(PEERS[:2]) == (PEERS[0], PEERS[1])
    assert not machine.enough


def test_nobody_is_corrected_without_a_value() -> None:
    machine = machine_for()
    bring(machine, 0, b"bad")
    bring(machine, 1, None)
    assert machine.outdated(PEERS[:3]) == ()


def test_a_quorum_of_nothing_is_never_passed() -> None:
    machine = machine_for()
    for n in range(40):
        bring(machine, n, b"1:")
    assert not machine.enough


def test_the_first_valid_value_ends_the_search_where_values_do_not_change() -> None:
    machine = machine_for(b"/fixed/x")
    bring(machine, 0, b"bad")
    assert not machine.enough
    bring(machine, 1, b"1:")
    assert machine.enough


def test_the_same_value_is_judged_once_however_many_bring_it() -> None:
    validator = VersionValidator()
    machine = BestValue(KEY, Validators({"v": validator}))
    for n in range(10):
        bring(machine, n, b"bad")
    for n in range(10):
        bring(machine, 10 + n, b"1:")
    assert validator.judged == [b"bad", b"1:"]
    bring(machine, 20, b"2:")
    judged = len(validator.judged)
    for n in range(10):
        bring(machine, 21 + n, b"1:")
    assert len(validator.judged) == judged
    assert (machine.stats().valid, machine.stats().invalid) == (21, 10)


def test_an_applications_verdicts_may_come_late_and_out_of_order() -> None:
    machine = machine_for(b"/app/x")
    validators = make_validators()
    first, second, third = (
        bring(machine, n, value) for n, value in enumerate([b"1:", b"3:", b"2:"])
    )
    assert isinstance(first, Check)
    assert isinstance(second, Check)
    assert isinstance(third, Check)
    assert machine.on_verdict(PEERS[1], second, validators.perform(second)) is Verdict.BETTER
    again = machine.on_verdict(PEERS[0], first, validators.perform(first))
    assert again == Check(b"/app/x", b"1:", b"3:")
    assert isinstance(again, Check)
    assert machine.on_verdict(PEERS[0], again, validators.perform(again)) is Verdict.WORSE
    assert machine.on_verdict(PEERS[2], third, Verdict.INVALID) is Verdict.INVALID
    same = bring(machine, 3, b"3:")
    assert same is Verdict.SAME
    assert machine.best == b"3:"
    assert machine.outdated(PEERS[:4]) == (PEERS[0], PEERS[2])


def test_two_peers_with_the_same_value_under_judgement_both_hold_it() -> None:
    machine = machine_for(b"/app/x")
    validators = make_validators()
    first, second = (bring(machine, n, b"1:") for n in range(2))
    assert isinstance(first, Check)
    assert isinstance(second, Check)
    machine.on_verdict(PEERS[0], first, validators.perform(first))
    assert machine.on_verdict(PEERS[1], second, validators.perform(second)) is Verdict.SAME
    assert machine.outdated(PEERS[:2]) == ()
