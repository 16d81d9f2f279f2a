"""The schedule of own keys: order, limits, back-off, and clocks that jump."""

from __future__ import annotations

import weakref
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import UnixTime
from codio_dht.core.reprovide import ReprovideSchedule
from codio_dht.store.sqlite import SqliteStore

HOUR = 3600.0
A, B, C, D = b"a", b"b", b"c", b"d"


def at(hours: float) -> UnixTime:
    return UnixTime(1e9 + hours * HOUR)


class Plan:
    """A schedule over a real store, as a node uses it."""

    def __init__(self, **settings: Any) -> None:
        self.schedule = ReprovideSchedule(
            **{"interval_s": 12 * HOUR, "max_at_once": 10, "retry_s": 60.0, "retry_max_s": HOUR}
            | settings
        )
        self.store = SqliteStore()
        weakref.finalize(self, self.store.close)
        self.keys = self.store.keys
        self.turns = 0

    def add(self, key: bytes, last_provided: UnixTime | None) -> bool:
        self.turns += 1
        is_new = self.keys.add(key, UnixTime(self.turns)) is None
        if is_new and last_provided is not None:
            self.keys.mark_provided([key], last_provided)
        return is_new

    def due(self, now: UnixTime) -> tuple[list[bytes], UnixTime | None]:
        if self.schedule.clock_went_back(now):
            while self.keys.correct_future(now, 1):
                pass
            self.schedule.corrected(now)
        limit = self.schedule.begin_read()
        return self.schedule.due(now, self.keys.next_to_provide(limit))

    def begun(self, key: bytes, *, by_user: bool = False) -> None:
        if by_user:
            self.schedule.begun_by_user(key, provided_before=False)
        elif self.keys.contains(key):
            self.schedule.begun(key)

    def provided(self, key: bytes, now: UnixTime, *, known: int | None = None) -> bool:
        self.begun(key)
        enough = self.schedule.provided(key, now, known=known)
        self.keys.mark_provided([key], now)
        self.schedule.noted(key)
        return enough

    def failed(self, key: bytes, now: UnixTime) -> None:
        self.begun(key)
        self.schedule.failed(key, now)

    def remove(self, key: bytes) -> bool:
        self.schedule.removed(key)
        return self.keys.remove(key)

    def grown(self, known: int, now: UnixTime) -> bool:
        return self.schedule.grown(known, now)

    @property
    def running(self) -> int:
        return self.schedule.running


def schedule(max_at_once: int = 10) -> Plan:
    return Plan(max_at_once=max_at_once)


def test_an_empty_schedule_has_nothing_due_ever() -> None:
    assert ([], None) == schedule().due(at(0))


def test_keys_never_provided_come_first_and_then_the_longest_overdue() -> None:
    plan = schedule()
    plan.add(A, at(-13))
    plan.add(B, None)
    plan.add(C, at(-20))
    plan.add(D, None)

    assert ([B, D, C, A], None) == plan.due(at(0))


def test_a_key_is_due_again_one_interval_after_it_was_provided() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.begun(A)
    assert ([], None) == plan.due(at(0))
    plan.provided(A, at(0))

    assert ([], at(12)) == plan.due(at(11.9))
    assert ([A], None) == plan.due(at(12))


def test_asking_does_not_begin_anything() -> None:
    plan = schedule()
    plan.add(A, None)

    assert plan.due(at(0)) == plan.due(at(0)) == ([A], None)


def test_no_more_than_so_many_run_at_once() -> None:
    plan = schedule(max_at_once=2)
    for key in (A, B, C, D):
        plan.add(key, None)
    assert ([A, B], None) == plan.due(at(0))
    plan.begun(A)
    assert ([B], None) == plan.due(at(0))
    plan.begun(B)
    plan.begun(B)
    assert ([], None) == plan.due(at(0))
    assert plan.running == 2
    plan.provided(A, at(0))

    assert ([C], None) == plan.due(at(0))


def test_keys_that_the_user_provides_hold_up_none_that_is_due() -> None:
    plan = schedule(max_at_once=1)
    plan.add(A, at(-13))
    for key in (B, C, D):
        plan.add(key, None)
        plan.begun(key, by_user=True)
    assert ([A], None) == plan.due(at(0))
    plan.begun(A)
    assert plan.running == 1
    plan.provided(B, at(0))
    plan.remove(C)
    plan.failed(D, at(0))
    assert plan.running == 1
    plan.provided(A, at(0))
    assert plan.running == 0


def test_a_clock_set_back_before_anybody_asked_delays_no_key_either() -> None:
    """The clock was wrong for a moment, in which an provide ended."""
    for ended in (Plan.provided, Plan.failed):
        plan = schedule()
        plan.add(A, None)
        assert ([A], None) == plan.due(at(0))
        plan.begun(A)
        ended(plan, A, at(10_000))
        plan.due(at(0.01))
        assert ([A], None) == plan.due(at(12.02))


def test_failures_are_retried_ever_later_up_to_a_limit_and_success_forgets_them() -> None:
    plan = schedule()
    plan.add(A, None)
    now = at(0)
    waits = []
    for _ in range(9):
        plan.begun(A)
        plan.failed(A, now)
        due, until = plan.due(now)
        assert not due
        assert until is not None
        waits.append(until - now)
        now = until
    assert [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, HOUR, HOUR, HOUR] == waits
    plan.provided(A, now)
    plan.failed(A, now)

    assert ([], UnixTime(now + 60.0)) == plan.due(now)


def test_a_key_that_fails_does_not_hold_up_the_others() -> None:
    plan = schedule(max_at_once=1)
    plan.add(A, None)
    plan.add(B, at(-13))
    plan.begun(A)
    plan.failed(A, at(0))

    assert ([B], None) == plan.due(at(0))


def test_a_removed_key_is_gone_even_while_it_runs_and_late_news_of_it_is_a_no_op() -> None:
    plan = schedule(max_at_once=1)
    plan.add(A, None)
    plan.begun(A)

    assert plan.remove(A)
    assert not plan.remove(A)
    plan.provided(A, at(0))
    plan.failed(A, at(0))
    plan.begun(A)
    assert (0, 0) == (plan.keys.count(), plan.running)
    plan.add(B, None)
    assert ([B], None) == plan.due(at(0))


def test_a_key_added_again_keeps_its_place() -> None:
    plan = schedule()
    assert plan.add(A, at(0))
    assert not plan.add(A, None)

    assert ([], at(12)) == plan.due(at(0))


def test_a_key_removed_and_added_again_is_due_once() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.remove(A)
    plan.add(A, None)

    assert ([A], None) == plan.due(at(0))


def test_a_key_provided_twice_at_the_same_moment_is_due_once() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.provided(A, at(0))
    plan.provided(A, at(0))

    assert ([A], None) == plan.due(at(12))


def test_a_clock_that_was_wrong_delays_no_key_by_more_than_an_interval() -> None:
    plan = schedule()
    plan.add(A, at(100_000))  # provided before a restart, under a clock years ahead
    assert ([], at(12)) == plan.due(at(0))
    plan.begun(A)
    plan.provided(A, at(50_000))
    assert ([], at(50_012)) == plan.due(at(50_000))

    assert ([], at(24)) == plan.due(at(12))  # set back
    assert ([A], None) == plan.due(at(24))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "known", "begin", "provided", "failed", "remove", "wait"]),
            st.integers(0, 5),
            st.integers(0, 20),
        ),
        max_size=60,
    )
)
def test_it_says_what_a_plain_list_of_due_times_says(events: list[tuple[str, int, int]]) -> None:
    plan = schedule(max_at_once=3)
    due: dict[bytes, tuple[bool, float, int]] = {}  # provided before, due, turn
    running: set[bytes] = set()
    failures: dict[bytes, int] = {}
    turns: dict[bytes, int] = {}
    now, turn = at(0), 0
    offered: list[bytes] = []
    for what, number, amount in events:
        key = bytes([number])
        runs = key in due and (key in offered or key in running)  # only what was due is begun
        match what:
            case "add" | "known" if key not in due:
                turn += 1
                last = None if what == "add" else UnixTime(now - amount * HOUR)
                plan.add(key, last)
                due[key] = (
                    last is not None,
                    float("-inf") if last is None else last + 12 * HOUR,
                    turn,
                )
                turns[key] = turn
                failures[key] = 0
            case "begin" if runs:
                plan.begun(key)
                running.add(key)
            case "provided" if runs:
                plan.provided(key, now)
                running.discard(key)
                failures[key] = 0
                due[key] = (True, now + 12 * HOUR, turns[key])
            case "failed" if runs:
                plan.failed(key, now)
                running.discard(key)
                turn += 1  # among keys due at the same moment, those that failed come first
                delay_s = min(60.0 * 2 ** failures[key], HOUR)
                due[key] = (due[key][0], now + delay_s, turn - 1_000)
                failures[key] += 1
            case "remove":
                plan.remove(key)
                due.pop(key, None)
                running.discard(key)
            case "wait":
                now = UnixTime(now + amount * HOUR / 4)
            case _:
                continue
        room = max(0, 3 - len(running))
        idle = {key: when for key, when in due.items() if key not in running}
        ready = sorted((when, key) for key, when in idle.items() if when[1] <= now)
        expected = [key for _, key in ready][:room]
        later = min((when for _, when, _ in idle.values()), default=None)
        until = None if expected or not room or later is None else later
        assert (expected, until) == plan.due(now)
        offered = expected
        assert sorted(due) == [own.key for own in plan.keys.page(b"", 10)]


# --- thin provides ---------------------------------------------------------------------------


def test_a_key_provided_to_few_is_due_again_once_twice_as_many_peers_are_known() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.begun(A)
    assert plan.provided(A, at(0), known=3) is False
    assert plan.grown(5, at(0.1)) is False
    assert ([], at(12)) == plan.due(at(0.1))

    assert plan.grown(6, at(0.2)) is True
    assert ([A], None) == plan.due(at(0.2))


def test_a_key_provided_to_nobody_known_is_due_again_with_the_first_peer() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.provided(A, at(0), known=0)
    assert plan.grown(1, at(1)) is True
    assert ([A], None) == plan.due(at(1))


def test_a_key_provided_while_k_peers_were_known_waits_its_interval() -> None:
    plan = schedule()
    for key, known in ((A, 20), (B, None)):
        plan.add(key, None)
        assert plan.provided(key, at(0), known=known) is True
    assert plan.grown(10_000, at(1)) is False
    assert ([], at(12)) == plan.due(at(1))


def test_in_a_network_that_stays_small_a_thin_key_waits_its_interval() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.provided(A, at(0), known=4)
    assert [plan.grown(4, at(hour)) for hour in range(1, 12)] == [False] * 11
    assert ([], at(12)) == plan.due(at(11))


def test_a_growing_network_makes_few_provides_more() -> None:
    plan = schedule()
    plan.add(A, None)
    provided_at = []
    plan.provided(A, at(0), known=1)
    for known in range(1, 1_000):
        plan.grown(known, at(known / 1_000))
        for key in plan.due(at(known / 1_000))[0]:
            plan.begun(key)
            plan.provided(key, at(known / 1_000), known=known)
            provided_at.append(known)
    assert provided_at == [2, 4, 8, 16, 20]


def test_a_thin_key_that_is_no_longer_kept_or_is_under_way_is_let_be() -> None:
    plan = schedule()
    for key in (A, B):
        plan.add(key, None)
        plan.provided(key, at(0), known=2)
    plan.remove(A)
    plan.begun(B)
    plan.grown(50, at(1))
    assert ([], None) == plan.due(at(1))
    assert plan.running == 1
    plan.provided(B, at(2), known=50)
    assert ([], at(14)) == plan.due(at(2))


# --- what the store and the schedule know of each other -------------------------------------------


def test_what_is_read_while_a_key_is_removed_or_provided_counts_for_nothing() -> None:
    plan = schedule()
    for key in (A, B, C):
        plan.add(key, at(-13))
    stored = plan.keys.next_to_provide(plan.schedule.begin_read())
    plan.remove(A)
    plan.provided(B, at(0))

    assert ([C], None) == plan.schedule.due(at(0), stored)
    assert ([C], None) == plan.due(at(0))


def test_a_provide_that_the_store_could_not_note_is_not_repeated_before_its_interval() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.begun(A)
    plan.schedule.provided(A, at(0))

    assert ([], at(12)) == plan.due(at(1))
    assert ([A], None) == plan.due(at(12))


def test_a_thin_key_that_is_due_early_stays_so_when_its_provide_is_noted_late() -> None:
    plan = schedule()
    plan.add(A, None)
    plan.begun(A)
    plan.schedule.provided(A, at(0), known=2)
    plan.grown(50, at(1))
    plan.keys.mark_provided([A], at(0))
    plan.schedule.noted(A)

    assert ([A], None) == plan.due(at(1))


def test_while_very_many_keys_fail_no_other_is_begun_until_one_of_them_is_provided() -> None:
    plan = Plan(max_at_once=2, max_held=4)
    for number in range(20):
        plan.add(bytes([number]), None)
    tried: list[bytes] = []
    for _ in range(20):
        for key in plan.due(at(0))[0]:
            plan.begun(key)
            plan.failed(key, at(0))
            tried.append(key)
    assert tried == [bytes([number]) for number in range(4)]
    assert ([], UnixTime(at(0) + 60.0)) == plan.due(at(0))

    later = UnixTime(at(0) + 60.0)
    assert ([bytes([0]), bytes([1])], None) == plan.due(later)
    for key in plan.due(later)[0]:
        plan.begun(key)
    plan.provided(bytes([0]), later)
    assert ([bytes([4])], None) == plan.due(later)


def test_a_user_whose_provides_all_fail_fills_no_memory() -> None:
    plan = Plan(max_held=4)
    for number in range(100):
        key = number.to_bytes(2, "big")
        plan.add(key, None)
        plan.begun(key, by_user=True)
        plan.failed(key, at(0))
    assert plan.schedule.held == 4
    assert ([], UnixTime(at(0) + 60.0)) == plan.due(at(0))


def test_so_many_thin_keys_are_remembered_and_the_others_wait_their_interval() -> None:
    plan = Plan(max_thin=3)
    for number in range(10):
        plan.add(bytes([number]), None)
        assert not plan.provided(bytes([number]), at(0), known=2)
    assert plan.schedule.thin == 3
    plan.grown(50, at(1))
    assert [bytes([number]) for number in range(3)] == plan.due(at(1))[0]


def test_times_of_a_clock_that_was_ahead_are_corrected_in_the_store_too() -> None:
    plan = schedule()
    plan.add(A, at(100_000))
    plan.due(at(0))
    assert [at(0)] == [own.last_provided for own in plan.keys.page(b"", 9)]


def test_times_that_could_not_be_corrected_are_corrected_the_next_time() -> None:
    plan = schedule()
    plan.due(at(1))
    assert not plan.schedule.clock_went_back(at(1))
    assert plan.schedule.clock_went_back(at(0))
    plan.schedule.due(at(0), [])  # the store could not be read
    assert plan.schedule.clock_went_back(at(0.5))
    plan.schedule.corrected(at(0.5))
    assert not plan.schedule.clock_went_back(at(0.5))
