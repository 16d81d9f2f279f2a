"""What is remembered of how peers answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import (
    ALIVE_MEMORY_S,
    DEAD_BACKOFF_S,
    DEFAULT_ANSWER_S,
    MIN_PATIENCE_S,
    MIN_SOFT_DEADLINE_S,
    PATIENCE_FACTOR,
    REACH_FACTOR,
    SILENT_PEER_BACKOFF_S,
    SOFT_DEADLINE_FACTOR,
    SOFT_DEADLINE_S,
    Condition,
    PeerHealth,
)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def condition(health: PeerHealth, number: int, at: float) -> Condition:
    return health.outlook(peer(number), now(at), connected=False).condition


def seen(times: list[float], *, dialled: bool = False) -> PeerHealth:
    """A memory of so many answers of others."""
    health = PeerHealth()
    for number, took_s in enumerate(times):
        health.answered(peer(1_000 + number), took_s, now(0), dialled=dialled)
    return health


def test_a_stranger_has_the_default_deadline_until_answer_times_are_known() -> None:
    outlook = seen([]).outlook(peer(1), now(0), connected=True)
    assert outlook.condition is Condition.UNKNOWN
    assert outlook.soft_s == DEFAULT_ANSWER_S * SOFT_DEADLINE_FACTOR
    assert outlook.alive_at is None


def test_a_strangers_deadline_follows_the_recent_answer_times_and_not_the_few_very_slow() -> None:
    times = [0.2] * 40 + [9.0] * 24
    outlook = seen(times).outlook(peer(1), now(0), connected=True)
    assert outlook.soft_s == pytest.approx(0.2 * SOFT_DEADLINE_FACTOR)
    assert outlook.patience_s == pytest.approx(0.2 * PATIENCE_FACTOR)
    assert outlook.expected_s == 0.2


def test_a_peer_that_has_to_be_dialled_must_take_the_connection_within_a_part_of_its_time() -> None:
    outlook = seen([0.6] * 20, dialled=True).outlook(peer(1), now(0), connected=False)
    assert outlook.reach_s == pytest.approx(0.6 * REACH_FACTOR)
    assert outlook.reach_s < outlook.soft_s < outlook.patience_s


def test_times_with_and_without_a_dial_are_kept_apart() -> None:
    health = seen([0.6] * 20, dialled=True)
    for number in range(20):
        health.answered(peer(number), 0.2, now(0), dialled=False)
    assert health.outlook(peer(99), now(0), connected=False).expected_s == 0.6
    assert health.outlook(peer(99), now(0), connected=True).expected_s == 0.2


def test_a_peer_is_expected_to_answer_as_it_did_three_round_trips_if_it_has_to_be_dialled() -> None:
    health = seen([1.0] * 20)
    for _ in range(30):
        health.answered(peer(1), 0.1, now(0), dialled=False)
    connected = health.outlook(peer(1), now(0), connected=True)
    assert connected.expected_s == pytest.approx(0.1)
    assert connected.soft_s == MIN_SOFT_DEADLINE_S
    assert health.outlook(peer(1), now(0), connected=False).expected_s == pytest.approx(0.3)


def test_a_peers_deadline_follows_its_own_times_by_rfc_6298() -> None:
    health = seen([0.7] * 20)
    health.answered(peer(1), 0.4, now(0), dialled=False)  # 0.4 +- 0.2
    assert health.outlook(peer(1), now(0), connected=True).soft_s == pytest.approx(1.2)
    health.answered(peer(1), 0.8, now(0), dialled=False)  # 0.45 +- 0.25
    outlook = health.outlook(peer(1), now(0), connected=True)
    assert (outlook.expected_s, outlook.soft_s) == (pytest.approx(0.45), pytest.approx(1.45))


def test_of_an_answer_with_a_dial_one_round_trip_is_the_peers() -> None:
    health = seen([0.7] * 20)
    health.answered(peer(1), 0.6, now(0), dialled=True)
    assert health.outlook(peer(1), now(0), connected=True).expected_s == pytest.approx(0.2)


def test_a_peer_that_is_met_again_is_alive_whatever_failed_before() -> None:
    health = seen([])
    health.failed(peer(1), FailureReason.UNREACHABLE, now(0))
    health.introduced(peer(1), now(1))
    assert condition(health, 1, 1) is Condition.ALIVE


def test_who_only_introduces_itself_again_and_again_stays_suspect() -> None:
    health = seen([])
    cleared = []
    for at in range(0, 400, 100):
        health.failed(peer(1), FailureReason.TIMEOUT, now(at))
        cleared.append(health.introduced(peer(1), now(at + 1)))
    assert cleared == [True, False, False, False]
    assert condition(health, 1, 302) is Condition.DEAD
    health.answered(peer(1), 0.1, now(310), dialled=False)
    health.failed(peer(1), FailureReason.TIMEOUT, now(320))
    assert health.introduced(peer(1), now(321)) is True


def test_what_began_before_an_introduction_is_excused_when_it_fails() -> None:
    health = seen([])
    assert not health.excuses(peer(1), now(5))
    health.introduced(peer(1), now(10))
    assert [health.excuses(peer(1), now(at)) for at in (11, 10, 9.9, 5, 10)] == [0, 0, 1, 1, 0]
    assert not health.excuses(peer(2), now(5))


def test_one_introduction_is_excused_until_the_peer_has_answered() -> None:
    health = seen([])
    health.introduced(peer(1), now(10))
    assert health.excuses(peer(1), now(5))
    health.introduced(peer(1), now(20))
    assert not health.excuses(peer(1), now(15))
    assert health.excuses(peer(1), now(6))  # that one belongs to the first
    health.answered(peer(1), 0.1, now(25), dialled=False)
    assert health.excuses(peer(1), now(15))


def test_an_introduction_that_clears_of_failures_excuses_those_that_come_late() -> None:
    health = seen([])
    health.failed(peer(1), FailureReason.TIMEOUT, now(5))
    health.introduced(peer(1), now(10))
    assert health.excuses(peer(1), now(9))
    health.introduced(peer(1), now(20))
    assert not health.excuses(peer(1), now(15))


def test_a_forgiven_failure_is_no_sign_of_life() -> None:
    health = seen([])
    health.failed(peer(1), FailureReason.BROKEN, now(0))
    health.given_up(peer(1), 0.0, now(31), reached=True, dialled=False)
    health.forgive()
    assert condition(health, 1, 32) is Condition.UNKNOWN


def test_the_nearest_alive_are_neither_suspect_nor_met_too_long_ago() -> None:
    health = PeerHealth()
    health.answered(peer(1), 0.1, now(0), dialled=False)
    at = 1 + ALIVE_MEMORY_S
    for number in (2, 3, 4):
        health.answered(peer(number), 0.1, now(at - 100), dialled=False)
    health.failed(peer(2), FailureReason.TIMEOUT, now(at - DEAD_BACKOFF_S))
    assert condition(health, 2, at) is Condition.SUSPECT
    assert health.nearest_alive(peer(3).key, 9, now(at)) == sorted(
        [peer(3), peer(4)], key=lambda each: each.key ^ peer(3).key
    )
    assert health.nearest_alive(peer(4).key, 1, now(at)) == [peer(4)]


def test_a_peer_that_answered_is_alive_for_a_while() -> None:
    health = seen([])
    health.answered(peer(1), 0.1, now(5), dialled=True)
    outlook = health.outlook(peer(1), now(6), connected=True)
    assert (outlook.condition, outlook.alive_at) == (Condition.ALIVE, now(5))
    assert condition(health, 1, 5 + ALIVE_MEMORY_S) is Condition.ALIVE
    assert condition(health, 1, 5 + ALIVE_MEMORY_S + 1) is Condition.UNKNOWN


def test_a_failed_peer_is_dead_then_suspect_and_alive_again_once_it_answers() -> None:
    health = seen([])
    health.failed(peer(1), FailureReason.TIMEOUT, now(0))
    assert condition(health, 1, DEAD_BACKOFF_S - 1) is Condition.DEAD
    outlook = health.outlook(peer(1), now(DEAD_BACKOFF_S), connected=False)
    assert outlook.condition is Condition.SUSPECT
    assert (outlook.soft_s, outlook.patience_s) == (0.0, 0.0)
    health.answered(peer(1), 0.1, now(40), dialled=True)
    assert condition(health, 1, 40) is Condition.ALIVE


def test_each_failure_doubles_the_time_a_peer_is_left_alone_up_to_a_bound() -> None:
    health, at, times = seen([]), 0.0, []
    for _ in range(8):
        health.failed(peer(1), FailureReason.UNREACHABLE, now(at))
        began = at
        while condition(health, 1, at) is Condition.DEAD:
            at += 1.0
        times.append(at - began)
    base = DEAD_BACKOFF_S
    assert times == [base * 2**n for n in (0, 1, 2, 3, 4, 5, 5, 5)]


def test_the_same_failure_seen_by_many_lookups_counts_once() -> None:
    health = seen([])
    for _ in range(5):
        health.failed(peer(1), FailureReason.TIMEOUT, now(1))
    assert condition(health, 1, 1 + DEAD_BACKOFF_S) is Condition.SUSPECT


def test_our_own_lack_of_room_says_nothing_of_a_peer() -> None:
    health = seen([])
    health.failed(peer(1), FailureReason.CAPACITY, now(0))
    assert condition(health, 1, 0) is Condition.UNKNOWN


def test_a_peer_given_up_without_a_sign_of_life_is_left_alone_until_its_request_ends() -> None:
    health = seen([])
    health.given_up(peer(1), 2.0, now(2), reached=False, dialled=True)
    assert condition(health, 1, 3) is Condition.DEAD
    assert condition(health, 1, 2 + SILENT_PEER_BACKOFF_S) is Condition.UNKNOWN
    health.given_up(peer(2), 2.0, now(2), reached=False, dialled=True)
    health.answered(peer(2), 6.0, now(6), dialled=True)
    assert condition(health, 2, 6) is Condition.ALIVE


def test_a_peer_given_up_that_showed_life_is_alive_and_not_waited_for_again() -> None:
    health = seen([0.1] * 20, dialled=True)
    health.given_up(peer(1), 1.5, now(2), reached=True, dialled=True)
    outlook = health.outlook(peer(1), now(3), connected=False)
    assert (outlook.condition, outlook.alive_at) == (Condition.ALIVE, now(2))
    assert (outlook.expected_s, outlook.patience_s) == (3.0, 0.0)


def test_a_slow_peer_that_answers_again_quickly_is_waited_for_again() -> None:
    health = seen([0.1] * 20)
    health.given_up(peer(1), 1.5, now(2), reached=True, dialled=False)
    health.answered(peer(1), 0.2, now(3), dialled=False)
    outlook = health.outlook(peer(1), now(3), connected=True)
    assert outlook.expected_s == 0.2
    assert outlook.patience_s == MIN_PATIENCE_S


def test_a_connection_alone_does_not_revive_a_peer_that_failed() -> None:
    health = seen([])
    health.failed(peer(1), FailureReason.BROKEN, now(0))
    health.given_up(peer(1), 0.0, now(31), reached=True, dialled=False)
    assert health.outlook(peer(1), now(45), connected=True).alive_at is None


def test_who_was_met_least_recently_is_forgotten() -> None:
    health = PeerHealth(capacity=2)
    for number in (1, 2, 1, 3):
        health.failed(peer(number), FailureReason.TIMEOUT, now(0))
    assert len(health) == 2
    assert [condition(health, number, 1) for number in (1, 2, 3)] == [
        Condition.DEAD,
        Condition.UNKNOWN,
        Condition.DEAD,
    ]


def test_names_that_lead_nowhere_push_out_nobody_that_was_met() -> None:
    health = PeerHealth(capacity=3)
    for number in (1, 2, 3):
        health.answered(peer(number), 0.1, now(0), dialled=False)
    for number in range(10, 1_000):
        health.given_up(peer(number), 1.0, now(1), reached=bool(number % 2), dialled=True)
        health.failed(peer(number), FailureReason.UNREACHABLE, now(1))
    assert [condition(health, number, 1) for number in (1, 2, 3)] == [Condition.ALIVE] * 3
    assert len(health) == 6
    assert set(health.nearest_alive(peer(1).key, 9, now(1))) == {peer(1), peer(2), peer(3)}


def test_a_stranger_that_answers_is_one_that_was_met_from_then_on() -> None:
    health = PeerHealth(capacity=1)
    health.failed(peer(1), FailureReason.TIMEOUT, now(0))
    health.answered(peer(1), 0.1, now(40), dialled=False)
    assert len(health) == 1
    health.failed(peer(2), FailureReason.TIMEOUT, now(40))
    assert condition(health, 1, 41) is Condition.ALIVE
    health.failed(peer(1), FailureReason.TIMEOUT, now(42))
    health.failed(peer(3), FailureReason.TIMEOUT, now(42))
    assert condition(health, 1, 43) is Condition.DEAD


@pytest.mark.parametrize("took_s", [0.001, 9.0])
def test_a_peer_that_answers_without_end_has_one_voice_in_the_deadlines_of_others(
    took_s: float,
) -> None:
    """How often it is asked may be its own doing: by coming and going it gets probe upon probe."""
    for dialled in (False, True):
        health = seen([0.3] * 20, dialled=dialled)
        before = health.outlook(peer(1), now(0), connected=not dialled)
        for at in range(500):
            health.answered(peer(7), took_s, now(at), dialled=dialled)
        assert health.outlook(peer(1), now(500), connected=not dialled) == before


def test_answers_that_took_longer_than_a_request_may_say_nothing_of_the_peer() -> None:
    """The machine was suspended while they were on their way."""
    health = seen([0.1] * 20)
    health.answered(peer(1), 0.1, now(0), dialled=False)
    before = health.outlook(peer(1), now(0), connected=True)
    for number in (1, *range(1_000, 1_020)):
        health.answered(peer(number), 3_600.0, now(3_600), dialled=False)
    after = health.outlook(peer(1), now(3_600), connected=True)
    assert (after.expected_s, after.soft_s, after.patience_s) == (
        before.expected_s,
        before.soft_s,
        before.patience_s,
    )
    assert after.alive_at == now(3_600)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "failed", "given up", "reached"]),
            st.integers(0, 5),
            st.floats(0, 30),
        ),
        max_size=60,
    )
)
def test_deadlines_are_always_within_their_bounds(happened: list[tuple[str, int, float]]) -> None:
    health, at = PeerHealth(capacity=4), 0.0
    for what, number, took_s in happened:
        at += took_s
        match what:
            case "answered":
                health.answered(peer(number), took_s, now(at), dialled=bool(number % 2))
            case "failed":
                health.failed(peer(number), FailureReason.TIMEOUT, now(at))
            case _:
                reached = what == "reached"
                health.given_up(peer(number), took_s, now(at), reached=reached, dialled=True)
        outlook = health.outlook(peer(number), now(at), connected=bool(number % 3))
        assert 0 <= outlook.soft_s <= outlook.patience_s <= SOFT_DEADLINE_S
        assert outlook.expected_s >= 0
        assert (outlook.alive_at is not None) == (outlook.condition is Condition.ALIVE)
    assert len(health) <= 2 * 4
