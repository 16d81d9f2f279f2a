"""Who is remembered for a full bucket, and who is tried first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.peer import PeerId
from codio_dht.core.replacements import (
    MAX_REPLACEMENTS_PER_CPL,
    REPLACEMENT_MAX_AGE_S,
    Replacement,
    Replacements,
)


def peer(number: int) -> PeerId:
    made = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
    made._key = Key(number)
    return made


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def taken(cache: Replacements, at: float) -> PeerId | None:
    found = cache.take(0, now(at))
    return None if found is None else found.peer


A, B, C, D = (peer(number) for number in range(4))


def test_one_that_answered_comes_before_one_seen_later_and_of_equals_the_latest() -> None:
    cache = Replacements()
    for at, (each, answered) in enumerate([(A, True), (B, False), (C, True), (D, False)]):
        assert cache.add(each, 0, now(at), answered=answered) is True
    assert cache.of(0) == [C, A, D, B]
    assert cache.take(0, now(4)) == Replacement(C, now(2), now(2))
    assert [taken(cache, 4) for _ in range(3)] == [A, D, B]
    assert cache.take(0, now(4)) is None
    assert len(cache) == 0


def test_being_seen_again_makes_it_the_latest_and_takes_no_answer_away() -> None:
    cache = Replacements()
    cache.add(A, 0, now(0), answered=True)
    cache.add(B, 0, now(1), answered=True)
    cache.add(A, 0, now(2), answered=False)
    assert cache.take(0, now(3)) == Replacement(A, now(2), now(0))


def test_a_flood_of_identities_displaces_nobody_that_answered() -> None:
    cache = Replacements(max_per_cpl=3)
    cache.add(A, 0, now(0), answered=True)
    cache.add(B, 0, now(0), answered=True)
    for number in range(10, 1_000):
        cache.add(peer(number), 0, now(1), answered=False)
    assert cache.of(0) == [B, A, peer(999)]


def test_where_all_have_answered_one_that_has_not_is_not_remembered() -> None:
    cache = Replacements(max_per_cpl=2)
    for each in (A, B):
        cache.add(each, 0, now(0), answered=True)
    assert cache.add(C, 0, now(1), answered=False) is False
    assert cache.add(D, 0, now(1), answered=True) is True
    assert cache.of(0) == [D, B]


def test_cpls_are_apart() -> None:
    cache = Replacements(max_per_cpl=1)
    cache.add(A, 0, now(0), answered=False)
    cache.add(B, 1, now(0), answered=False)
    cache.forget(A, 1)
    assert (cache.of(0), cache.of(1), cache.of(2)) == ([A], [B], [])
    cache.forget(A, 0)
    assert cache.of(0) == []


def test_a_candidate_not_seen_for_long_is_not_tried() -> None:
    cache = Replacements()
    cache.add(A, 0, now(0), answered=True)
    cache.add(B, 0, now(10), answered=False)
    assert taken(cache, REPLACEMENT_MAX_AGE_S) == B
    assert cache.take(0, now(REPLACEMENT_MAX_AGE_S + 10)) is None


def test_the_bound_is_that_of_params() -> None:
    cache = Replacements()
    for number in range(100):
        cache.add(peer(number), 7, now(number), answered=True)
    assert len(cache) == MAX_REPLACEMENTS_PER_CPL


Kept = tuple[PeerId, Monotonic, Monotonic | None]

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["add", "answer", "take", "forget"]),
        st.integers(0, 7),
        st.integers(0, 1),
        st.integers(0, 40),
    ),
    max_size=80,
)


@given(MOVES)
def test_it_does_what_a_plain_list_would(moves: list[tuple[str, int, int, int]]) -> None:
    """The oracle: a list of (peer, seen, answered) per CPL, in the order they were seen."""
    cache = Replacements(max_per_cpl=3, max_age_s=100.0)
    oracle: dict[int, list[Kept]] = {0: [], 1: []}
    clock = now(0)

    def best_first(kept: list[Kept]) -> list[Kept]:
        latest = kept[::-1]
        return [x for x in latest if x[2] is not None] + [x for x in latest if x[2] is None]

    for move, number, prefix, pause in moves:
        clock = now(clock + pause)
        kept, who = oracle[prefix], peer(number)
        before = next((each for each in kept if each[0] == who), None)
        match move:
            case "add" | "answer":
                if before:
                    kept.remove(before)
                answered = clock if move == "answer" else (before[2] if before else None)
                kept.append((who, clock, answered))
                if len(kept) > 3:
                    unproven = [each for each in kept if each[2] is None]
                    kept.remove((unproven or kept)[0])
                cache.add(who, prefix, clock, answered=move == "answer")
            case "take":
                fresh = [each for each in best_first(kept) if each[1] + 100.0 > clock]
                expected = Replacement(*fresh[0]) if fresh else None
                assert cache.take(prefix, clock) == expected
                oracle[prefix] = [x for x in kept if not fresh or x != fresh[0]]
                known = cache.of(prefix)
                oracle[prefix] = [x for x in oracle[prefix] if x[0] in known or x in fresh]
            case _:
                oracle[prefix] = [each for each in kept if each[0] != who]
                cache.forget(who, prefix)
        assert cache.of(prefix) == [each[0] for each in best_first(oracle[prefix])]
