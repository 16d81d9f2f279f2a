"""The peer book: what is believed of whom, for how long, and who is forgotten first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import ConnectionType, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook, PeerBookStats
from codio_dht.params import (
    CONNECTED_ADDR_TTL_S,
    HEARD_ADDR_TTL_S,
    MAX_ADDRS_PER_PEER,
    MAX_PEER_ENTRY_BYTES,
    PROVIDER_ADDR_TTL_S,
)


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x02" + number.to_bytes(2, "big"))


def addr(number: int) -> bytes:
    return b"\x04" + number.to_bytes(4, "big")


def at(seconds: float) -> Monotonic:
    return Monotonic(seconds)


LOCAL = peer(0)
P, Q, R = peer(1), peer(2), peer(3)
A, B, C = addr(1), addr(2), addr(3)
NOW = at(1000.0)


@pytest.fixture
def book() -> PeerBook:
    return PeerBook(LOCAL)


def test_an_unknown_peer_has_no_entry_and_no_address(book: PeerBook) -> None:
    assert book.entry(P, NOW) is None
    assert book.addrs(P, NOW) == ()
    assert not book.is_connected(P)
    assert [] == book.entries([P], NOW)
    assert [PeerEntry(P)] == book.all_entries([P], NOW)


def test_hearsay_is_believed_for_two_minutes(book: PeerBook) -> None:
    book.heard(P, [A], NOW)

    assert (A,) == book.addrs(P, at(NOW + HEARD_ADDR_TTL_S - 0.001))
    assert () == book.addrs(P, at(NOW + HEARD_ADDR_TTL_S))
    assert book.entry(P, at(NOW + HEARD_ADDR_TTL_S)) is None


def test_hearsay_that_is_heard_again_is_believed_for_longer(book: PeerBook) -> None:
    book.heard(P, [A, B], NOW)
    book.heard(P, [B], at(NOW + 100))

    assert (B,) == book.addrs(P, at(NOW + 150))


def test_what_a_peer_says_itself_holds_while_it_is_connected_and_fifteen_minutes_after(
    book: PeerBook,
) -> None:
    book.identified(P, [A], NOW)
    left = at(NOW + 1e6)

    assert (A,) == book.addrs(P, left)
    book.gone(P, left)
    assert (A,) == book.addrs(P, at(left + CONNECTED_ADDR_TTL_S - 0.001))
    assert () == book.addrs(P, at(left + CONNECTED_ADDR_TTL_S))


def test_identify_replaces_what_was_identified_before(book: PeerBook) -> None:
    book.identified(P, [A, B], NOW)
    book.identified(P, [C], at(NOW + 1))

    assert (C,) == book.addrs(P, at(NOW + 1))


def test_nothing_is_believed_about_a_connected_peer_but_its_own_word(book: PeerBook) -> None:
    book.identified(P, [A], NOW)
    book.heard(P, [B], NOW)

    assert (A,) == book.addrs(P, NOW)


def test_a_peers_own_word_comes_before_hearsay(book: PeerBook) -> None:
    book.heard(P, [A], NOW)
    book.identified(P, [B], NOW)

    assert (B, A) == book.addrs(P, NOW)


@pytest.mark.conformance("c16")
def test_a_provider_is_found_at_its_own_addresses_for_a_day(book: PeerBook) -> None:
    book.provided(P, (A,), NOW)
    book.provided(P, (A,), at(NOW + 30))  # one of thousands in a row
    book.provided(P, (A, B), at(NOW + 100))

    assert (A, B) == book.addrs(P, at(NOW + 100 + PROVIDER_ADDR_TTL_S - 1))
    assert () == book.addrs(P, at(NOW + 100 + PROVIDER_ADDR_TTL_S))


def test_a_peer_in_the_routing_table_keeps_its_addresses(book: PeerBook) -> None:
    book.identified(P, [A], NOW)
    book.pin(P)
    book.gone(P, NOW)

    assert (A,) == book.addrs(P, at(NOW + 1e6))
    book.unpin(P)
    assert () == book.addrs(P, at(NOW + 1e6))


def test_a_peer_that_entered_the_table_by_hearsay_keeps_that_until_it_speaks(
    book: PeerBook,
) -> None:
    book.heard(P, [A], NOW)
    book.pin(P)

    assert (A,) == book.addrs(P, at(NOW + 1e6))
    book.identified(P, [B], at(NOW + 1e6))
    assert (B,) == book.addrs(P, at(NOW + 1e6))


def test_a_provider_that_leaves_is_still_found_for_the_day_it_asked_for(book: PeerBook) -> None:
    book.identified(P, [A], NOW)
    book.provided(P, (A,), NOW)
    book.gone(P, NOW)

    assert (A,) == book.addrs(P, at(NOW + PROVIDER_ADDR_TTL_S - 1))


def test_a_peer_back_in_the_table_does_not_bring_back_its_old_addresses(book: PeerBook) -> None:
    book.identified(P, [A], NOW)
    book.pin(P)
    book.gone(P, NOW)
    book.unpin(P)
    later = at(NOW + 1e6)
    book.heard(P, [B], later)
    book.pin(P)

    assert (B,) == book.addrs(P, later)


def test_the_local_peer_is_never_in_the_book(book: PeerBook) -> None:
    book.heard(LOCAL, [A], NOW)
    book.identified(LOCAL, [A], NOW)
    book.provided(LOCAL, (A,), NOW)
    book.pin(LOCAL)

    assert len(book) == 0


def test_late_news_of_an_unknown_peer_is_a_no_op(book: PeerBook) -> None:
    book.gone(P, NOW)
    book.unpin(P)
    book.heard(P, [], NOW)

    assert len(book) == 0


def test_an_entry_says_whether_the_peer_is_connected(book: PeerBook) -> None:
    book.identified(P, [A], NOW)
    connected = book.entry(P, NOW)
    book.gone(P, NOW)

    assert PeerEntry(P, (A,), ConnectionType.CONNECTED) == connected
    assert PeerEntry(P, (A,), ConnectionType.NOT_CONNECTED) == book.entry(P, NOW)


def test_an_entry_is_the_same_object_until_it_changes(book: PeerBook) -> None:
    book.identified(P, [A], NOW)
    first = book.entry(P, NOW)
    book.identified(P, [A], at(NOW + 1))
    book.provided(P, (A,), at(NOW + 2))

    assert first is book.entry(P, at(NOW + 3))
    assert first is book.entry_of(P.to_bytes(), at(NOW + 3))
    assert first is book.entries([Q, P], at(NOW + 3))[0]
    book.identified(P, [B], at(NOW + 4))
    assert PeerEntry(P, (B, A), ConnectionType.CONNECTED) == book.entry(P, at(NOW + 4))


def test_only_an_entry_on_the_peers_own_word_is_a_told_one(book: PeerBook) -> None:
    book.heard(P, [A], NOW)
    book.provided(Q, (B,), NOW)
    book.identified(R, [C], NOW)

    assert book.told_entry(P, NOW) is None
    assert book.entry(Q, NOW) is book.told_entry(Q, NOW)
    assert book.entry(R, NOW) is book.told_entry(R, NOW)
    assert book.told_entry(Q, at(NOW + PROVIDER_ADDR_TTL_S)) is None


# --- bounds ---------------------------------------------------------------------------------------


def test_past_the_bound_the_peer_heard_of_least_recently_is_forgotten() -> None:
    book = PeerBook(LOCAL, max_heard=2)
    book.heard(P, [A], NOW)
    book.heard(Q, [A], NOW)
    book.heard(P, [A], NOW)
    book.heard(R, [A], NOW)

    assert [True, False, True] == [book.entry(each, NOW) is not None for each in (P, Q, R)]


def test_hearsay_never_displaces_peers_known_by_their_own_word_nor_kept_ones() -> None:
    book = PeerBook(LOCAL, max_heard=2, max_told=2)
    book.identified(P, [A], NOW)
    book.heard(Q, [A], NOW)
    book.pin(Q)
    book.provided(R, (A,), NOW)
    for number in range(10, 60):
        book.heard(peer(number), [A], NOW)

    assert PeerBookStats(kept=2, told=1, heard=2) == book.stats()
    assert all(book.entry(each, NOW) for each in (P, Q, R))


def test_told_peers_are_bounded_too() -> None:
    book = PeerBook(LOCAL, max_told=3)
    for number in range(10, 60):
        book.provided(peer(number), (A,), NOW)

    assert PeerBookStats(kept=0, told=3, heard=0) == book.stats()


def test_a_peer_that_left_and_left_the_table_counts_against_the_bound_again() -> None:
    book = PeerBook(LOCAL, max_told=1)
    for number in (1, 2, 3):
        book.identified(peer(number), [A], NOW)
        book.pin(peer(number))
    for number in (1, 2, 3):
        book.gone(peer(number), NOW)
        book.unpin(peer(number))

    assert PeerBookStats(kept=0, told=1, heard=0) == book.stats()


def test_a_peer_has_a_bounded_number_of_addresses_and_bytes(book: PeerBook) -> None:
    book.identified(P, [addr(number) for number in range(1000)], NOW)
    book.gone(P, NOW)
    for number in range(1000):
        book.heard(P, [addr(number)], NOW)
        book.provided(P, (addr(number),), at(NOW + 100 * number))

    assert len(book.addrs(P, at(NOW + 1))) == MAX_ADDRS_PER_PEER
    big = [bytes([number]) * 1000 for number in range(20)]
    book.identified(Q, big, NOW)
    assert tuple(big[: MAX_PEER_ENTRY_BYTES // 1000]) == book.addrs(Q, NOW)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["heard", "identified", "provided", "gone", "pin", "unpin", "wait"]),
        st.integers(0, 12),
        st.lists(st.integers(0, 40), max_size=6),
    ),
    max_size=80,
)


@given(EVENTS)
def test_whatever_happens_every_bound_holds_and_the_two_views_agree(
    events: list[tuple[str, int, list[int]]],
) -> None:
    book = PeerBook(LOCAL, max_heard=3, max_told=2)
    kept: dict[int, set[str]] = {}
    now = 0.0
    for what, number, numbers in events:
        who, addrs = peer(number), tuple(addr(each) for each in numbers)
        match what:
            case "heard":
                book.heard(who, addrs, at(now))
            case "identified":
                book.identified(who, addrs, at(now))
                kept.setdefault(number, set()).add("connected")
            case "provided":
                book.provided(who, addrs, at(now))
            case "gone":
                book.gone(who, at(now))
                kept.setdefault(number, set()).discard("connected")
            case "pin":
                book.pin(who)
                kept.setdefault(number, set()).add("pinned")
            case "unpin":
                book.unpin(who)
                kept.setdefault(number, set()).discard("pinned")
            case _:
                now += 50.0 * number
        stats = book.stats()
        assert len([one for one, why in kept.items() if why and one]) == stats.kept
        assert stats.heard <= 3
        assert stats.told <= 2
        assert len(book) == stats.kept + stats.told + stats.heard
    for number in range(13):
        entry = book.entry(peer(number), at(now))
        assert book.addrs(peer(number), at(now)) == (entry.addrs if entry else ())
        assert ([entry] if entry else []) == book.entries([peer(number)], at(now))


def test_a_provider_that_moved_is_told_where_it_is_now_at_once(book: PeerBook) -> None:
    book.provided(P, (A,), NOW)
    book.provided(P, (B,), at(NOW + 1))
    assert B in book.addrs(P, at(NOW + 1))
