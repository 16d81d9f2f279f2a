"""Kept streams: one idle per peer, bounded, none too old, none for peers that end them."""

from __future__ import annotations

from typing import Any

from codio_dht.core.peer import PeerId
from codio_dht.node.stream_pool import KEPT_STREAM_MAX_AGE_S, MAX_REUSE_FAILURES, StreamPool

ALICE = PeerId(b"\x12\x20" + b"a" * 32)
BOB = PeerId(b"\x12\x20" + b"b" * 32)
CAROL = PeerId(b"\x12\x20" + b"c" * 32)


def pool_of(**settings: int) -> Any:
    """Streams are never touched, and times only compared: text and plain numbers will do."""
    return StreamPool(**settings)


def test_a_stream_given_back_is_taken_once():
    pool = pool_of()
    assert pool.give_back(ALICE, "stream", 0.0) is None
    assert pool.take(ALICE, 1.0) == ("stream", None)
    assert pool.take(ALICE, 1.0) == (None, None)


def test_only_one_idle_stream_is_kept_for_a_peer():
    pool = pool_of()
    pool.give_back(ALICE, "first", 0.0)
    assert pool.give_back(ALICE, "second", 0.0) == "second"
    assert pool.take(ALICE, 0.0) == ("first", None)


def test_a_stream_that_the_server_is_about_to_reset_is_not_reused():
    pool = pool_of()
    pool.give_back(ALICE, "stream", 0.0)
    assert pool.take(ALICE, KEPT_STREAM_MAX_AGE_S + 0.1) == (None, "stream")
    assert len(pool) == 0


def test_past_the_bound_the_least_recently_used_stream_goes():
    pool = pool_of(capacity=2)
    pool.give_back(ALICE, "a", 0.0)
    pool.give_back(BOB, "b", 1.0)
    assert pool.give_back(CAROL, "c", 2.0) == "a"
    assert len(pool) == 2


def test_a_peer_that_keeps_ending_reused_streams_gets_new_ones_until_it_is_gone():
    pool = pool_of()
    for _ in range(MAX_REUSE_FAILURES):
        pool.reuse_failed(ALICE)
    assert pool.give_back(ALICE, "stream", 0.0) == "stream"
    pool.forget(ALICE)
    assert pool.give_back(ALICE, "stream", 0.0) is None


def test_the_memory_of_failures_is_bounded():
    pool = pool_of(capacity=1)
    for peer in (ALICE, BOB, CAROL):
        for _ in range(MAX_REUSE_FAILURES):
            pool.reuse_failed(peer)
    assert pool.give_back(ALICE, "stream", 0.0) is None


def test_forgetting_and_draining_hand_out_what_must_be_closed():
    pool = pool_of()
    pool.give_back(ALICE, "a", 0.0)
    pool.give_back(BOB, "b", 0.0)
    assert pool.forget(ALICE) == "a"
    assert pool.forget(CAROL) is None
    assert pool.drain() == ["b"]
    assert len(pool) == 0
