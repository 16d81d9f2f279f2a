"""The schedule of the sweep: what is due, what goes first, what a restart does not repeat."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import UnixTime
from codio_dht.core.keyspace import Key
from codio_dht.core.regions import PLACES, Place
from codio_dht.core.sweep import (
    EARLIEST,
    MAX_LEFT_KEYS,
    MEASURING_LOOKUPS,
    OFFLINE_AFTER_S,
    PROVIDE_RETRY_MAX_S,
    PROVIDE_RETRY_S,
    REGION_PEERS,
    TURNS_AT_ONCE,
    Connectivity,
    Measure,
    Rest,
    Sweep,
    SweepStep,
    Turn,
    region_bits,
)
from codio_dht.params import K

INTERVAL_S = 1_000.0
NOW = 1_800_000_000.0
"""A multiple of the interval: here a cycle begins."""

KNOWN = 50
ALL = Place(PLACES)


def at(seconds: float) -> UnixTime:
    return UnixTime(NOW + seconds)


def sweep_of(
    *spans: tuple[int, float],
    own: int = 0,
    interval_s: float = INTERVAL_S,
    max_spans: int = 100,
) -> Sweep:
    """A schedule whose parts begin at the given place and were swept so many seconds after NOW."""
    sweep = Sweep(Key(own << 194), Random(1), interval_s=interval_s, max_spans=max_spans)
    sweep.opened([(Place(start), at(swept)) for start, swept in spans or [(0, 0.0)]])
    return sweep


def ask(
    sweep: Sweep,
    seconds: float,
    *,
    waiting: int | None = None,
    known: int = KNOWN,
    size: float | None = 100.0,
) -> SweepStep:
    return sweep.next(at(seconds), None if waiting is None else Place(waiting), known, size)


def done(sweep: Sweep, turn: Turn, seconds: float, *, known: int = KNOWN) -> None:
    """``turn`` is begun and over, and all went well."""
    sweep.begun(turn)
    sweep.swept(turn, turn.start, turn.end, at(seconds), keys=10, copies=200)
    sweep.ended(turn, at(seconds), failed=False, known=known)


# --- when -----------------------------------------------------------------------------------------


@pytest.mark.conformance("c57")
@pytest.mark.parametrize(
    ("own", "place", "slot"),
    [(0, 0, 0), (0, PLACES // 2, 500), (PLACES // 2, 0, 500), (PLACES // 4, PLACES // 2, 750)],
)
def test_the_slot_of_a_place_follows_from_its_prefix_and_the_own_id(
    own: int, place: int, slot: float
) -> None:
    spans = [(0, 0.0)] if place == 0 else [(0, 0.0), (place, 0.0)]
    sweep = sweep_of(*spans, own=own)
    earliest = slot if slot > EARLIEST * INTERVAL_S else INTERVAL_S
    assert sweep.due_at(Place(place), at(1)) == at(earliest)


@given(
    own=st.integers(0, PLACES - 1),
    place=st.integers(0, PLACES - 1),
    swept=st.floats(-5 * INTERVAL_S, 0),
)
def test_what_was_swept_is_due_again_within_an_interval_and_not_at_once(
    own: int, place: int, swept: float
) -> None:
    sweep = sweep_of((0, -9e6), (place, swept), own=own) if place else sweep_of((0, swept), own=own)
    due = sweep.due_at(Place(place), at(0))
    assert due is not None
    assert at(swept) + EARLIEST * INTERVAL_S - 0.01 <= due <= at(swept) + INTERVAL_S + 0.01


def test_however_fast_everything_was_added_the_next_cycle_is_spread_over_the_interval() -> None:
    sweep = sweep_of((0, 0.0))
    for step in range(64):
        part = Turn(Place(step * PLACES // 64), Place((step + 1) * PLACES // 64), False)
        done(sweep, part, 1.0)
    dues = sorted(sweep.due_at(Place(step * PLACES // 64), at(2)) or 0.0 for step in range(64))
    in_tenths = [sum(at(100 * n) <= due < at(100 * n + 100) for due in dues) for n in range(1, 10)]
    assert all(5 <= count <= 8 for count in in_tenths)


@pytest.mark.conformance("c63")
def test_an_interval_of_zero_sweeps_everything_once() -> None:
    sweep = sweep_of((0, -NOW), interval_s=0.0)
    step = ask(sweep, 0)
    assert step == Turn(Place(0), ALL, waiting_only=False)
    assert isinstance(step, Turn)
    done(sweep, step, 1)
    assert sweep.due_at(Place(0), at(10 * INTERVAL_S)) is None
    assert isinstance(ask(sweep, 10 * INTERVAL_S), Rest)
    assert ask(sweep, 20 * INTERVAL_S, waiting=5) == Turn(Place(0), ALL, waiting_only=True)


def test_a_clock_that_was_ahead_delays_nothing_by_more_than_an_interval() -> None:
    sweep = sweep_of((0, 1e9))
    assert isinstance(ask(sweep, 0), Rest)
    assert isinstance(ask(sweep, INTERVAL_S + 1), Turn)


def test_a_clock_that_is_set_back_while_it_runs_delays_nothing_by_more_than_an_interval() -> None:
    sweep = sweep_of((0, 0.0))
    assert isinstance(ask(sweep, 50), Rest)
    assert isinstance(ask(sweep, -9e6), Rest)
    assert isinstance(ask(sweep, -9e6 + INTERVAL_S + 1), Turn)


# --- what first -----------------------------------------------------------------------------------


@pytest.mark.conformance("c61")
def test_after_a_time_offline_the_oldest_part_comes_first() -> None:
    quarter = PLACES // 4
    sweep = sweep_of((0, -3e5), (quarter, -5e5), (2 * quarter, -4e5), (3 * quarter, -6e5))
    order = []
    while isinstance(step := ask(sweep, 0), Turn):
        order.append(step.start // quarter)
        done(sweep, step, 0)
    assert order == [3, 1, 2, 0]


def test_waiting_keys_come_first_and_leave_one_place_to_what_is_due() -> None:
    sweep = sweep_of((0, -1e6))
    turns = []
    for number in range(TURNS_AT_ONCE):
        step = ask(sweep, 0, waiting=PLACES - 1 - number * PLACES // 8, size=8.0 * REGION_PEERS)
        assert isinstance(step, Turn)
        sweep.begun(step)
        turns.append(step)
    assert turns[0].start * 8 // PLACES == 7
    assert isinstance(ask(sweep, 0, waiting=0, size=8.0 * REGION_PEERS), Rest)
    fresh = sweep_of((0, 0.0))
    kinds = []
    fresh.opened([(Place(0), at(-1e6)), (Place(PLACES // 8), at(0))])
    for number in range(TURNS_AT_ONCE):
        place = PLACES - 1 - number * PLACES // 8
        step = ask(fresh, 1, waiting=place, size=8.0 * REGION_PEERS)
        assert isinstance(step, Turn)
        kinds.append(step.waiting_only)
        fresh.begun(step)
    assert kinds == [True, True, True, False]


def test_a_part_with_waiting_keys_that_is_due_as_well_is_swept_whole() -> None:
    sweep = sweep_of((0, -1e6))
    assert ask(sweep, 0, waiting=7) == Turn(Place(0), ALL, waiting_only=False)
    assert ask(sweep_of((0, 0.0)), 1, waiting=7) == Turn(Place(0), ALL, waiting_only=True)


def test_turns_under_way_never_overlap() -> None:
    rng = Random(4)
    sweep = sweep_of((0, -1e6))
    running: list[Turn] = []
    for number in range(400):
        if running and (len(running) == TURNS_AT_ONCE or rng.random() < 0.5):
            turn = running.pop(rng.randrange(len(running)))
            middle = Place((turn.start + turn.end) // 2)
            sweep.swept(turn, turn.start, middle, at(number), keys=1, copies=1)
            sweep.ended(turn, at(number), failed=rng.random() < 0.3, known=KNOWN)
            continue
        busy = sweep.busy(at(number))
        place = rng.randrange(PLACES)
        is_free = not any(start <= place < end for start, end in busy)
        step = ask(sweep, number, waiting=place if is_free else None, size=rng.choice((100, 9_999)))
        if isinstance(step, Turn):
            assert step.start < step.end
            assert not any(step.start < other.end and other.start < step.end for other in running)
            sweep.begun(step)
            running.append(step)


def test_a_large_network_is_swept_region_by_region() -> None:
    assert [region_bits(size) for size in (None, 100, 2 * REGION_PEERS, 10_000, 1e9)] == [
        0,
        0,
        1,
        6,
        16,
    ]
    sweep, seen = sweep_of((0, -1e6)), []
    while isinstance(step := ask(sweep, 0, size=10_000.0), Turn):
        seen.append((step.start * 64 // PLACES, step.end * 64 // PLACES))
        done(sweep, step, 0)
    assert sorted(seen) == [(number, number + 1) for number in range(64)]


def test_the_size_of_the_network_is_measured_before_the_first_turn_but_not_for_ever() -> None:
    sweep = sweep_of((0, -1e6))
    asked = [ask(sweep, 0, size=None) for _ in range(MEASURING_LOOKUPS)]
    assert all(isinstance(step, Measure) for step in asked)
    assert len(set(asked)) == MEASURING_LOOKUPS
    assert isinstance(ask(sweep, 0, size=None), Turn)
    assert isinstance(ask(sweep_of((0, -1e6)), 0, size=None, known=K - 1), Turn)


# --- after a restart ------------------------------------------------------------------------------


@pytest.mark.conformance("c62")
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 15), st.integers(1, 8), st.floats(0, INTERVAL_S)), max_size=12
    )
)
def test_the_spans_say_of_each_place_when_it_was_swept_last(
    parts: list[tuple[int, int, float]],
) -> None:
    sweep, unit = sweep_of((0, -5.0)), PLACES // 16
    expected = [-5.0] * 16
    for start, length, seconds in parts:
        end = min(16, start + length)
        expected[start:end] = [seconds] * (end - start)
        turn = Turn(Place(start * unit), Place(end * unit), waiting_only=False)
        done(sweep, turn, seconds)
    again = sweep_of()
    again.opened(sweep.spans)
    for each in (sweep, again):
        assert [each.swept_at(Place(n * unit)) for n in range(16)] == [at(s) for s in expected]


@pytest.mark.conformance("c62")
def test_what_was_swept_before_a_restart_is_not_repeated() -> None:
    sweep, middle = sweep_of((0, -1e6)), Place(PLACES // 2)
    step = ask(sweep, 0)
    assert isinstance(step, Turn)
    sweep.begun(step)
    sweep.swept(step, Place(0), middle, at(1), keys=1, copies=20)
    again = sweep_of()
    again.opened(sweep.spans)
    assert ask(again, 2) == Turn(middle, ALL, waiting_only=False)


# --- failures -------------------------------------------------------------------------------------


def test_a_part_that_failed_is_tried_again_ever_later_up_to_a_limit() -> None:
    sweep, seconds = sweep_of((0, -1e6)), 0.0
    waits: list[float] = []
    for _ in range(9):
        step = ask(sweep, seconds)
        assert isinstance(step, Turn)
        sweep.begun(step)
        sweep.ended(step, at(seconds), failed=True, known=KNOWN)
        assert sweep.busy(at(seconds)) == [(0, PLACES)]
        rest = ask(sweep, seconds)
        assert isinstance(rest, Rest)
        began, again = seconds, rest
        while isinstance(again, Rest):
            seconds = again.until - NOW
            again = ask(sweep, seconds)  # type: ignore[assignment]
        waits.append(seconds - began)
    assert waits[:4] == pytest.approx([PROVIDE_RETRY_S * 2**n for n in range(4)])
    assert waits[-1] == pytest.approx(PROVIDE_RETRY_MAX_S)


def test_a_part_that_fails_holds_up_no_other() -> None:
    sweep = sweep_of((0, -1e6))
    first = ask(sweep, 0, size=8.0 * REGION_PEERS)
    assert isinstance(first, Turn)
    sweep.begun(first)
    sweep.ended(first, at(0), failed=True, known=KNOWN)
    seen = []
    while isinstance(step := ask(sweep, 0, size=8.0 * REGION_PEERS), Turn):
        seen.append(step)
        done(sweep, step, 0)
    assert len(seen) == 7
    assert first not in seen


def test_keys_that_are_left_over_rest_by_themselves_and_are_forgotten_when_they_are_done() -> None:
    sweep = sweep_of((0, -1e6))
    first = ask(sweep, 0)
    assert isinstance(first, Turn)
    sweep.begun(first)
    sweep.swept(first, first.start, first.end, at(0), keys=8, copies=160)
    sweep.ended(first, at(0), failed=False, known=KNOWN, left=[Place(7), Place(9)])
    assert sweep.busy(at(0)) == [(7, 8), (9, 10)]
    second = ask(sweep, 0, waiting=8)
    assert second == Turn(Place(0), ALL, waiting_only=True)
    assert isinstance(second, Turn)
    sweep.begun(second)
    sweep.ended(second, at(0), failed=False, known=KNOWN, left=[Place(9)])
    assert sweep.busy(at(PROVIDE_RETRY_S)) == [(9, 10)]
    assert sweep.busy(at(2 * PROVIDE_RETRY_S)) == []


def test_of_very_many_keys_left_over_the_whole_part_rests_and_what_rests_is_bounded() -> None:
    sweep = sweep_of((0, -1e6), max_spans=5)
    turn = ask(sweep, 0)
    assert isinstance(turn, Turn)
    for count in (9, MAX_LEFT_KEYS + 1):
        sweep.begun(turn)
        left = [Place(2 * each) for each in range(count)]
        sweep.ended(turn, at(0), failed=False, known=KNOWN, left=left)
        assert len(sweep._failures) <= 5
    assert sweep.busy(at(0)) == [(0, PLACES)]


@pytest.mark.conformance("c61")
def test_nothing_is_begun_while_nobody_can_be_reached_and_everything_after() -> None:
    sweep = sweep_of((0, -1e6))
    assert sweep.connectivity(at(0)) is Connectivity.ONLINE
    sweep.nobody(at(0))
    sweep.nobody(at(60))
    assert isinstance(ask(sweep, 60, waiting=3), Rest)
    assert sweep.connectivity(at(60)) is Connectivity.DISCONNECTED
    assert sweep.connectivity(at(OFFLINE_AFTER_S)) is Connectivity.OFFLINE
    sweep.somebody()
    assert sweep.connectivity(at(OFFLINE_AFTER_S)) is Connectivity.ONLINE
    assert isinstance(ask(sweep, OFFLINE_AFTER_S), Turn)


def test_what_failed_while_offline_is_tried_at_once_afterwards() -> None:
    sweep = sweep_of((0, -1e6))
    step = ask(sweep, 0)
    assert isinstance(step, Turn)
    sweep.begun(step)
    sweep.ended(step, at(0), failed=True, known=KNOWN)
    sweep.nobody(at(1))
    sweep.somebody()
    assert ask(sweep, 2) == step


# --- thin parts -----------------------------------------------------------------------------------


@pytest.mark.conformance("c64")
def test_what_too_few_peers_hold_is_due_again_once_twice_as_many_are_known() -> None:
    sweep = sweep_of((0, -1e6))
    step = ask(sweep, 0, known=3)
    assert isinstance(step, Turn)
    done(sweep, step, 0, known=3)
    assert (sweep.is_thin, sweep.grown(5)) == (True, False)
    assert isinstance(ask(sweep, 1, known=5), Rest)
    assert sweep.grown(6)
    assert ask(sweep, 2, known=6) == step
    done(sweep, step, 2, known=K)
    assert (sweep.is_thin, sweep.grown(1_000)) == (False, False)


def test_a_growing_network_makes_few_sweeps_more() -> None:
    sweep, sweeps = sweep_of((0, -1e6)), 0
    for known in range(1, 100):
        sweep.grown(known)
        while isinstance(step := ask(sweep, known, known=known), Turn):
            sweeps += 1
            done(sweep, step, known, known=known)
    assert sweeps <= 6


def test_a_key_provided_by_itself_to_few_makes_its_part_thin() -> None:
    sweep = sweep_of((0, 0.0), (PLACES // 2, 0.0))
    sweep.known_at(Place(PLACES // 2 + 9), 1)
    assert sweep.grown(2)
    assert ask(sweep, 1) == Turn(Place(PLACES // 2), ALL, waiting_only=False)


def test_without_keys_nothing_is_ever_due() -> None:
    sweep = sweep_of((0, -1e6), (PLACES // 2, -5.0))
    assert isinstance(sweep.nothing_to_do(at(0)), Rest)
    assert (sweep.spans, sweep.figures(at(1)).due) == ([(0, at(0))], 0)


# --- figures and bounds ---------------------------------------------------------------------------


def test_the_figures_say_what_is_due_how_late_and_how_fast() -> None:
    sweep = sweep_of((0, -1e6), (PLACES // 2, 0.0))
    figures = sweep.figures(at(1))
    assert (figures.regions, figures.due, figures.running) == (2, 1, 0)
    assert figures.lag_s == INTERVAL_S
    assert (figures.keys_per_s, figures.copies_per_key) == (0.0, None)
    step = ask(sweep, 1)
    assert isinstance(step, Turn)
    done(sweep, step, 1)
    figures = sweep.figures(at(2))
    assert (figures.due, figures.lag_s) == (0, 0.0)
    assert (figures.keys_per_s, figures.copies_per_key) == (pytest.approx(10 / 600), 20.0)
    assert figures.next_due is not None
    assert sweep.figures(at(700)).copies_per_key is None


def test_a_lag_is_how_long_the_part_is_due_that_is_due_for_longest() -> None:
    sweep = sweep_of((0, -INTERVAL_S - 30))
    assert sweep.figures(at(0)).lag_s == pytest.approx(30 + INTERVAL_S - 970, abs=31)


def test_past_the_bound_parts_are_joined_and_none_counts_as_swept_later_than_it_was() -> None:
    rng, unit = Random(3), PLACES // 1_000
    sweep, last = sweep_of((0, -5.0), max_spans=10), [-5.0] * 1_000
    for seconds in range(200):
        number = rng.randrange(1_000)
        last[number] = float(seconds)
        done(sweep, Turn(Place(number * unit), Place((number + 1) * unit), False), seconds)
        assert len(sweep.spans) <= 12
    assert all(sweep.swept_at(Place(n * unit)) <= at(last[n]) for n in range(1_000))
