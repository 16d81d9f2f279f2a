from __future__ import annotations

from codio_dht.core.shedding import MAX_PRESSURE, TARGET_LAG_S, Shedding


def test_a_node_in_time_presses_nobody() -> None:
    shedding = Shedding()
    assert {1.0} == {shedding.sample(TARGET_LAG_S / 2, 1.0) for _ in range(100)}


def test_one_late_wake_up_is_forgotten_soon() -> None:
    shedding = Shedding()
    shedding.sample(0.01, 1.0)
    assert 1.0 == [shedding.sample(0.0, 1.0) for _ in range(20)][-1]
    assert 0.01 == shedding.worst_lag_s


def test_the_pressure_rises_to_its_bound_while_the_node_is_late_and_falls_when_it_is_not() -> None:
    shedding = Shedding()
    rising = [shedding.sample(0.1, 1.0) for _ in range(10)]
    assert sorted(rising) == rising
    assert MAX_PRESSURE == rising[-1]
    falling = [shedding.sample(0.0, 1.0) for _ in range(60)]
    assert 1.0 == falling[-1]


def test_a_clock_that_goes_backwards_is_no_lag() -> None:
    shedding = Shedding()
    assert 1.0 == shedding.sample(-5.0, 1.0)
    assert 0.0 == shedding.lag_s


def test_a_loop_that_hardly_worked_is_late_because_of_others_and_nobody_is_pressed() -> None:
    shedding = Shedding()
    assert {1.0} == {shedding.sample(0.5, TARGET_LAG_S / 2) for _ in range(100)}
    assert shedding.lag_s > TARGET_LAG_S
