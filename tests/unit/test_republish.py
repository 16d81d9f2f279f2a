"""When own values are put again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import UnixTime
from codio_dht.core.republish import (
    MAX_REPUBLISHES_AT_ONCE,
    REPUBLISH_INTERVAL_S,
    REPUBLISH_RETRY_S,
    RepublishSchedule,
)

NOW = UnixTime(1_700_000_000.0)


def at(seconds: float) -> UnixTime:
    return UnixTime(NOW + seconds)


def test_a_value_never_published_is_due_at_once_and_then_every_interval() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", None, None)
    assert schedule.due(NOW) == ([b"a"], None)
    schedule.begun(b"a")
    assert schedule.due(NOW) == ([], None)
    schedule.published(b"a", NOW, None)
    assert schedule.due(at(1)) == ([], at(REPUBLISH_INTERVAL_S))
    assert schedule.due(at(REPUBLISH_INTERVAL_S)) == ([b"a"], None)


def test_a_record_that_ends_soon_is_renewed_when_half_of_its_life_is_over() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", NOW, at(600))
    assert schedule.due(at(299)) == ([], at(300))
    assert schedule.due(at(300)) == ([b"a"], None)
    schedule.add(b"b", NOW, at(-5))
    assert b"b" in schedule.due(NOW)[0]


def test_a_failure_is_tried_again_ever_later_up_to_the_interval() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", None, None)
    waits = []
    for _ in range(12):
        schedule.begun(b"a")
        schedule.failed(b"a", NOW)
        ready, until = schedule.due(NOW)
        assert (ready, until is not None) == ([], True)
        waits.append((until or 0) - NOW)
    assert waits[:3] == [REPUBLISH_RETRY_S, 2 * REPUBLISH_RETRY_S, 4 * REPUBLISH_RETRY_S]
    assert waits[-1] == REPUBLISH_INTERVAL_S
    schedule.published(b"a", NOW, None)
    schedule.failed(b"a", NOW)
    assert schedule.due(NOW)[1] == at(REPUBLISH_RETRY_S)


def test_what_nobody_took_is_due_at_once_when_there_are_peers_again() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", None, None)
    schedule.add(b"b", NOW, None)
    for _ in range(5):
        schedule.begun(b"a")
        schedule.failed(b"a", NOW)
    assert schedule.due(at(1))[0] == []
    schedule.retry_failed(at(1))
    assert schedule.due(at(1)) == ([b"a"], at(REPUBLISH_INTERVAL_S))
    schedule.begun(b"a")
    schedule.failed(b"a", at(1))
    assert schedule.due(at(1))[1] == at(1 + REPUBLISH_RETRY_S)


def test_no_more_than_a_few_are_put_at_once_the_longest_overdue_first() -> None:
    schedule = RepublishSchedule()
    for n in range(MAX_REPUBLISHES_AT_ONCE + 2):
        schedule.add(b"%d" % n, at(-2 * REPUBLISH_INTERVAL_S - n), None)
    ready, until = schedule.due(NOW)
    assert ready == [b"%d" % n for n in range(MAX_REPUBLISHES_AT_ONCE + 1, 1, -1)]
    assert until is None
    for key in ready:
        schedule.begun(key)
    assert schedule.due(NOW) == ([], None)
    schedule.published(ready[0], NOW, None)
    assert schedule.due(NOW) == ([b"1"], None)


def test_a_clock_that_was_set_back_delays_no_value_by_more_than_an_interval() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", at(10 * REPUBLISH_INTERVAL_S), None)
    assert schedule.due(NOW) == ([], at(REPUBLISH_INTERVAL_S))


def test_what_is_removed_is_not_put_again_and_reports_on_it_are_no_ops() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", None, None)
    schedule.begun(b"a")
    schedule.remove(b"a")
    schedule.published(b"a", NOW, None)
    schedule.failed(b"a", NOW)
    schedule.begun(b"a")
    schedule.remove(b"a")
    assert (len(schedule), b"a" in schedule, schedule.due(NOW)) == (0, False, ([], None))


def test_a_value_added_again_while_it_is_being_put_is_not_put_twice() -> None:
    schedule = RepublishSchedule()
    schedule.add(b"a", None, None)
    schedule.begun(b"a")
    schedule.add(b"a", None, None)
    assert schedule.due(NOW) == ([], None)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.none() | st.floats(-1e6, 1e6)), max_size=8))
def test_every_value_is_due_within_an_interval(values) -> None:
    schedule = RepublishSchedule(max_at_once=100)
    for n, (published, eol) in enumerate(values):
        schedule.add(b"%d" % n, at(published), None if eol is None else at(eol))
    schedule.due(NOW)
    assert len(schedule.due(at(REPUBLISH_INTERVAL_S))[0]) == len(values)
