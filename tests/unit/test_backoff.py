"""The one back-off: how its delays grow, and the bounded memory of what failed."""

from __future__ import annotations

from random import Random

import pytest

from codio_dht.core.backoff import Backoff, BackoffMemory
from codio_dht.core.clock import Monotonic

BACKOFF = Backoff(initial_s=5.0, ceiling_s=300.0, jitter=0.25)
IDEAL = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def test_delays_double_up_to_the_ceiling() -> None:
    assert [BACKOFF.delay_s(failures) for failures in range(1, 9)] == IDEAL


def test_any_number_of_failures_has_a_delay() -> None:
    assert BACKOFF.delay_s(10**9) == 300.0


def test_the_factor_says_how_fast_delays_grow() -> None:
    tripled = Backoff(initial_s=1.0, ceiling_s=100.0, factor=3.0)
    assert [tripled.delay_s(failures) for failures in range(1, 7)] == [1, 3, 9, 27, 81, 100]


def test_jitter_spreads_each_delay_in_both_directions_and_no_further() -> None:
    rng = Random(1)
    for failures, ideal in enumerate(IDEAL, 1):
        delays = [BACKOFF.delay_s(failures, rng) for _ in range(200)]
        assert 0.75 * ideal <= min(delays) < 0.8 * ideal
        assert 1.2 * ideal < max(delays) <= 1.25 * ideal


def test_a_key_is_left_alone_for_longer_after_each_failure() -> None:
    memory: BackoffMemory[str] = BackoffMemory(capacity=4)
    assert not memory.is_blocked("a", now(0))
    memory.failed("a", BACKOFF, now(0))
    assert memory.is_blocked("a", now(4.9))
    assert not memory.is_blocked("b", now(4.9))
    assert not memory.is_blocked("a", now(5))
    memory.failed("a", BACKOFF, now(5))
    assert memory.blocked_until("a") == 15.0


def test_a_success_starts_over() -> None:
    memory: BackoffMemory[str] = BackoffMemory(capacity=4)
    for at in range(5):
        memory.failed("a", BACKOFF, now(at))
    memory.succeeded("a")
    assert not memory.is_blocked("a", now(5))
    assert len(memory) == 0
    memory.failed("a", BACKOFF, now(5))
    assert memory.blocked_until("a") == 10.0


def test_failures_of_several_kinds_are_counted_together() -> None:
    memory: BackoffMemory[str] = BackoffMemory(capacity=4)
    memory.failed("a", Backoff(1.0, 300.0), now(0))
    memory.failed("a", BACKOFF, now(1))
    assert memory.blocked_until("a") == 11.0


def test_the_key_that_failed_longest_ago_is_forgotten_when_the_memory_is_full() -> None:
    memory: BackoffMemory[int] = BackoffMemory(capacity=3)
    for key in (1, 2, 3, 1, 4):
        memory.failed(key, BACKOFF, now(0))
    assert len(memory) == 3
    assert [memory.is_blocked(key, now(1)) for key in (1, 2, 3, 4)] == [True, False, True, True]


@pytest.mark.parametrize("capacity", [1, 7])
def test_the_memory_never_grows_past_its_bound(capacity: int) -> None:
    memory: BackoffMemory[int] = BackoffMemory(capacity)
    for key in range(100):
        memory.failed(key, BACKOFF, now(key))
        assert len(memory) <= capacity


def test_a_memory_that_is_cleared_blocks_nobody() -> None:
    memory: BackoffMemory[int] = BackoffMemory(capacity=4)
    memory.failed(1, BACKOFF, now(0))
    memory.clear()
    assert (len(memory), memory.is_blocked(1, now(1))) == (0, False)
