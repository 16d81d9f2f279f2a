"""What follows from the answers of a lookup: health, table, learning, and the end of each kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl, key_of
from codio_dht.core.lookup_states import Done, Ended, Standing, StopReason
from codio_dht.core.messages import (
    FailureReason,
    FindNode,
    GetProviders,
    MessageType,
    PeerEntry,
    Reply,
)
from codio_dht.core.netsize import MIN_SIZE_MEASUREMENTS
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import DIAL_ROUND_TRIPS, Condition
from codio_dht.core.refresh import RefreshSchedule
from codio_dht.core.search import (
    MAX_STRAGGLERS,
    Begin,
    PeerSearch,
    ProviderSearch,
    Search,
    stragglers_may_go_on,
)
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.errors import UsageError
from codio_dht.params import PEER_TIMEOUT_S, K
from searching import (
    ADDR,
    PREIMAGE,
    TARGET,
    asks,
    begun,
    entries,
    found_node,
    now,
    peer_at,
    peers_of,
    searches_of,
)

FAR = 1 << 250


def condition(search: Search[Any], peer: PeerId, at: float) -> Condition:
    health = search._network.health
    return health.outlook(peer, now(at), connected=False).condition


def done(search: Search[Any], at: float) -> Done:
    step = search.next(now(at))
    assert isinstance(step, Done), step
    return step


def answer_all(search: Search[Any], at: float = 0.0, reply: Reply | None = None) -> Done:
    """Everybody who is asked answers at once, until the search is over."""
    while True:
        step = search.next(now(at))
        if isinstance(step, Done):
            return step
        if not isinstance(step, Working):
            assert isinstance(step, Ask), step
            search.on_reply(step, reply or found_node(), now(at))


# --- beginning ------------------------------------------------------------------------------------


def test_a_search_waits_for_its_turn_before_it_asks_anybody() -> None:
    search = searches_of(*peers_of(1, 2)).closest(PREIMAGE, now(5))
    assert search.next(now(5)) == Begin(now(65))
    [first, second], _ = asks(search, 7)
    assert (first.peer, second.peer) == tuple(peers_of(1, 2))
    assert first.request == FindNode(PREIMAGE)
    assert (first.began, first.deadline) == (now(7), now(7 + PEER_TIMEOUT_S))


def test_who_enters_the_table_before_its_turn_is_a_seed() -> None:
    searches = searches_of()
    search = begun(searches.closest(PREIMAGE, now(0)))
    [peer] = peers_of(1)
    searches.network.book.heard(peer, (ADDR,), now(1))
    searches.network.table.add(peer, now(1))
    assert [ask.peer for ask in asks(search, 1)[0]] == [peer]
    assert search.seeds == [peer]


def test_with_nobody_to_ask_it_is_over_at_once() -> None:
    search = begun(searches_of().closest(PREIMAGE, now(0)))
    assert done(search, 0) == Done(StopReason.NO_PEERS)


def test_those_met_lately_are_seeds_although_the_table_has_no_room_for_them() -> None:
    known, met = peers_of(1, 2)
    searches = searches_of(known)
    searches.network.book.heard(met, (ADDR,), now(0))
    searches.network.health.introduced(met, now(0))
    search = begun(searches.closest(PREIMAGE, now(0)))
    assert [ask.peer for ask in asks(search)[0]] == [known, met]


def test_it_is_stopped_at_its_deadline_and_waits_no_longer_than_that() -> None:
    search = begun(searches_of(*peers_of(1)).closest(PREIMAGE, now(0)))
    [ask], step = asks(search, 59.99)
    assert step == Wait(now(60))
    assert done(search, 60).reason is StopReason.TIMEOUT
    assert search.open_requests() == [ask]


def test_a_turn_that_does_not_come_in_time_ends_it_without_a_request() -> None:
    search = begun(searches_of(*peers_of(1)).closest(PREIMAGE, now(0)))
    assert done(search, 60).reason is StopReason.TIMEOUT
    assert search.requests == 0


# --- what an answer tells -------------------------------------------------------------------------


def test_who_answers_is_alive_and_may_enter_the_table() -> None:
    seed, named = peers_of(1, 2)
    searches = searches_of(seed)
    search = begun(searches.closest(PREIMAGE, now(0)))
    [ask], _ = asks(search)
    search.on_reply(ask, found_node(named), now(0.1))
    assert condition(search, seed, 0.1) is Condition.ALIVE
    [ask], _ = asks(search, 0.1)
    assert (ask.peer, named in searches.network.table) == (named, False)
    search.on_reply(ask, found_node(), now(0.2))
    assert named in searches.network.table


def test_who_fails_is_left_alone_and_loses_its_place() -> None:
    seed = peer_at(1)
    searches = searches_of(seed)
    search = begun(searches.closest(PREIMAGE, now(0)))
    [ask], _ = asks(search)
    search.on_failure(ask, FailureReason.TIMEOUT, now(0.1))
    assert condition(search, seed, 0.1) is Condition.DEAD
    assert seed not in searches.network.table
    assert done(search, 0.1).reason is StopReason.NOBODY_ANSWERED


def test_the_addresses_of_those_named_are_learnt_and_those_without_any_are_not_asked() -> None:
    seed, named, bare = peers_of(1, 2, 3)
    searches = searches_of(seed)
    search = begun(searches.closest(PREIMAGE, now(0)))
    [ask], _ = asks(search)
    reply = replace(found_node(named), closer_peers=(*entries([named]), PeerEntry(bare)))
    search.on_reply(ask, reply, now(0.1))
    assert searches.network.book.addrs(named, now(0.1)) == (ADDR,)
    assert [each.peer for each in asks(search, 0.1)[0]] == [named]


@pytest.mark.parametrize("dials", [False, True])
def test_one_that_is_given_up_is_thought_to_be_so_slow(dials: bool) -> None:
    quick, slow = peers_of(1, 2)
    searches = searches_of(quick, slow, connected=not dials, reached=True)
    search = begun(searches.closest(PREIMAGE, now(0)))
    [ask, _], _ = asks(search)
    search.on_reply(ask, found_node(), now(0.1))
    asks(search, 4)
    asks(search, 5)
    outlook = searches.network.health.outlook(slow, now(5), connected=True)
    waited_s = 4.0
    assert outlook.condition is Condition.ALIVE
    assert outlook.expected_s == pytest.approx(2 * waited_s / (DIAL_ROUND_TRIPS if dials else 1))


def test_a_report_counts_once_and_only_for_a_request_that_was_made() -> None:
    seed, named = peers_of(1, 2)
    search = begun(searches_of(seed).closest(PREIMAGE, now(0)))
    [ask], _ = asks(search)
    never_made = replace(ask, began=now(9))
    search.on_reply(never_made, found_node(named), now(0.1))
    search.on_failure(never_made, FailureReason.TIMEOUT, now(0.1))
    assert condition(search, seed, 0.1) is Condition.UNKNOWN
    search.on_reply(ask, found_node(), now(0.1))
    search.on_failure(ask, FailureReason.TIMEOUT, now(0.2))
    search.on_reply(ask, found_node(named), now(0.2))
    assert condition(search, seed, 0.2) is Condition.ALIVE
    assert done(search, 0.2).answered == [seed]


# --- the end --------------------------------------------------------------------------------------


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Key, Monotonic]]:
    """What the refresh is told of."""
    told: list[tuple[Key, Monotonic]] = []
    monkeypatch.setattr(RefreshSchedule, "looked_up", lambda _self, key, at: told.append((key, at)))
    return told


def test_a_complete_search_counts_as_a_look_at_its_part_of_the_keyspace(looked_up) -> None:
    searches = searches_of(*peers_of(1, 2, 3))
    search = begun(searches.closest(PREIMAGE, now(0)))
    assert answer_all(search, 2).reason is StopReason.COMPLETED
    assert looked_up == [(TARGET, now(2))]
    assert search.events[-1] == Ended(now(2), StopReason.COMPLETED, 3)


def test_a_search_that_was_cut_short_does_not(looked_up) -> None:
    searches = searches_of(*peers_of(1))
    assert done(begun(searches.closest(PREIMAGE, now(0))), 60).reason is StopReason.TIMEOUT
    assert looked_up == []


def test_a_complete_search_for_the_closest_tells_of_the_networks_size() -> None:
    closest = [peer_at(place << 240) for place in range(1, K + 1)]
    searches = searches_of(*closest)
    for number in range(MIN_SIZE_MEASUREMENTS):
        at = float(number)
        answer_all(begun(searches.closest(PREIMAGE, now(at)), at), at, found_node(*closest))
    assert searches.network.size.estimate(now(9)) == pytest.approx((1 << 16) - 1)


def test_the_quick_seeds_were_useful() -> None:
    quick, slow, named = peers_of(1, 2, 3)
    searches = searches_of(quick, slow)
    search = begun(searches.closest(PREIMAGE, now(7)), 7)
    [first, second], _ = asks(search, 7)
    search.on_reply(first, found_node(named), now(7.1))
    [third], _ = asks(search, 7.1)
    search.on_reply(third, found_node(), now(7.2))
    search.on_reply(second, found_node(), now(7.3))
    done(search, 7.3)
    useful = [searches.network.table.entry(peer) for peer in (quick, slow)]
    assert [each and each.last_useful for each in useful] == [now(7.3), None]


def test_an_answer_after_the_end_changes_no_result_and_is_learnt_from() -> None:
    seed, named = peers_of(1, 2)
    searches = searches_of(seed)
    search = begun(searches.closest(PREIMAGE, now(0)))
    [ask], _ = asks(search)
    result = done(search, 60)
    search.on_reply(ask, found_node(named), now(61))
    assert done(search, 61) == result == search.result
    assert condition(search, seed, 61) is Condition.ALIVE
    assert searches.network.book.addrs(named, now(61)) == (ADDR,)


def test_requests_go_on_after_the_end_unless_time_is_over_or_there_are_too_many() -> None:
    complete, late = Done(StopReason.COMPLETED), Done(StopReason.TIMEOUT)
    assert stragglers_may_go_on(complete, MAX_STRAGGLERS)
    assert not stragglers_may_go_on(complete, MAX_STRAGGLERS + 1)
    assert not stragglers_may_go_on(late, 1)


# --- looking beyond the horizon -------------------------------------------------------------------


def beyond_the_horizon() -> tuple[Search[Any], list[Ask]]:
    """A search whose k-th peer lies behind all that was named, and its looks beyond."""
    near = [peer_at(place) for place in range(1, K)]
    search = begun(searches_of(*near, peer_at(FAR)).closest(PREIMAGE, now(0)))
    looks: list[Ask] = []
    while True:
        due, step = asks(search)
        for ask in due:
            if ask.request == FindNode(PREIMAGE):
                search.on_reply(ask, found_node(*near), now(0))
            else:
                looks.append(ask)
        if isinstance(step, Wait) and not due:
            return search, looks


def test_a_look_beyond_asks_for_bytes_whose_key_lies_there() -> None:
    _, [look, *_] = beyond_the_horizon()
    assert isinstance(look.request, FindNode)
    assert look.request.key != PREIMAGE
    assert cpl(key_of(look.request.key), TARGET) <= 16


def test_others_may_run_while_such_bytes_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    near = [peer_at(place) for place in range(1, K)]
    search = begun(searches_of(*near, peer_at(FAR)).closest(PREIMAGE, now(0)))
    slices = iter([None, None, b"found"])
    monkeypatch.setattr("codio_dht.core.search.search_preimage", lambda *_: slices)
    due: list[Ask] = []
    while len(due) < K:
        more, _ = asks(search)
        due += more
        for ask in more[: K - len(due) + len(more)]:
            search.on_reply(ask, found_node(*near), now(0))
    assert search.next(now(0)) == Working()
    look = search.next(now(0))
    assert isinstance(look, Ask)
    assert look.request == FindNode(b"found")


def test_whoever_a_look_beyond_finds_is_asked_for_the_target() -> None:
    search, [look, *_] = beyond_the_horizon()
    hidden = peer_at(FAR - 1)
    search.on_reply(look, found_node(hidden), now(0))
    assert [(ask.peer, ask.request) for ask in asks(search)[0] if ask.peer == hidden] == [
        (hidden, FindNode(PREIMAGE))
    ]


def test_a_look_that_fails_counts_against_its_peer_and_holds_nothing_up() -> None:
    search, looks = beyond_the_horizon()
    for look in looks:
        search.on_failure(look, FailureReason.TIMEOUT, now(0))
        assert condition(search, look.peer, 0) is Condition.DEAD
    assert answer_all(search).reason is StopReason.COMPLETED


# --- the closest ----------------------------------------------------------------------------------


def test_each_of_the_closest_is_passed_on_once_and_as_soon_as_it_is_certain() -> None:
    a, b, c = peers_of(1, 2, 3)
    search = begun(searches_of(a, b, c).closest(PREIMAGE, now(0)))
    first, second, third = asks(search)[0]
    assert search.take_found() == []
    search.on_reply(third, found_node(), now(0.1))
    search.on_reply(first, found_node(), now(0.1))
    assert [each.peer for each in search.take_found()] == []
    search.on_reply(second, found_node(), now(0.2))
    done(search, 0.2)
    found = search.take_found()
    assert [(each.peer, each.standing) for each in found] == [
        (peer, Standing.ANSWERED) for peer in (a, b, c)
    ]
    assert search.take_found() == []


def test_one_that_was_only_heard_of_is_not_passed_on() -> None:
    answering, silent = peers_of(1, 2)
    search = begun(searches_of(answering, silent).closest(PREIMAGE, now(0)))
    [ask, _], _ = asks(search)
    search.on_reply(ask, found_node(), now(0.1))
    assert done(search, 60).reason is StopReason.TIMEOUT
    assert [each.peer for each in search.take_found()] == [answering]


def test_along_disjoint_paths_everybody_is_asked_once() -> None:
    known = peers_of(*range(1, 9))
    search = begun(searches_of(*known, paths=2).closest(PREIMAGE, now(0)))
    asked: list[PeerId] = []
    while not isinstance(step := search.next(now(0)), Done):
        assert isinstance(step, Ask)
        asked.append(step.peer)
        search.on_reply(step, found_node(*known), now(0))
    assert sorted(asked, key=known.index) == known == step.answered


# --- one peer -------------------------------------------------------------------------------------


def peer_search(wanted: PeerId, *known: PeerId) -> tuple[PeerSearch, Ask]:
    search = begun(searches_of(*known).peer(wanted, now(0)))
    [ask], _ = asks(search)
    return search, ask


def test_a_search_for_a_peer_is_over_when_the_peer_itself_answers() -> None:
    wanted, seed = PeerId(b"\x12\x20" + bytes(31) + b"\x07"), peer_at(FAR)
    search, ask = peer_search(wanted, seed)
    assert ask.request == FindNode(wanted.to_bytes())
    search.on_reply(ask, found_node(wanted), now(0.1))
    [ask], _ = asks(search, 0.1)
    search.on_reply(ask, found_node(), now(0.2))
    assert done(search, 0.2).reason is StopReason.FOUND
    assert search.met


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        (FailureReason.UNSUPPORTED, StopReason.FOUND),
        (FailureReason.BROKEN, StopReason.FOUND),
        (FailureReason.UNREACHABLE, StopReason.COMPLETED),
        (FailureReason.TIMEOUT, StopReason.COMPLETED),
        (FailureReason.CAPACITY, StopReason.COMPLETED),
    ],
)
def test_a_peer_that_was_reached_but_is_no_server_is_found(
    why: FailureReason, reason: StopReason
) -> None:
    wanted, seed = PeerId(b"\x12\x20" + bytes(31) + b"\x07"), peer_at(FAR)
    search, ask = peer_search(wanted, seed)
    search.on_reply(ask, found_node(wanted), now(0.1))
    [ask], _ = asks(search, 0.1)
    search.on_failure(ask, why, now(0.2))
    assert done(search, 0.2).reason is reason
    assert search.met


def test_the_peer_that_is_wanted_is_asked_although_it_is_named_without_an_address() -> None:
    wanted, seed = PeerId(b"\x12\x20" + bytes(31) + b"\x07"), peer_at(FAR)
    search, ask = peer_search(wanted, seed)
    reply = Reply(MessageType.FIND_NODE, closer_peers=(PeerEntry(wanted),))
    search.on_reply(ask, reply, now(0.1))
    assert [each.peer for each in asks(search, 0.1)[0]] == [wanted]


def test_a_peer_that_nobody_named_was_not_met() -> None:
    wanted, seed = PeerId(b"\x12\x20" + bytes(31) + b"\x07"), peer_at(FAR)
    search, ask = peer_search(wanted, seed)
    search.on_reply(ask, found_node(), now(0.1))
    assert done(search, 0.1).reason is StopReason.COMPLETED
    assert not search.met


# --- providers ------------------------------------------------------------------------------------


def providers(*aways: int, addrs: tuple[bytes, ...] = (ADDR,)) -> tuple[PeerEntry, ...]:
    return tuple(PeerEntry(peer_at(away), addrs) for away in aways)


def telling(*entries: PeerEntry) -> Reply:
    return Reply(MessageType.GET_PROVIDERS, provider_peers=entries)


def provider_search(
    *known: PeerId, count: int | None = None, local: tuple[PeerEntry, ...] = ()
) -> ProviderSearch:
    return searches_of(*known).providers(PREIMAGE, count, local, now(0))


def test_providers_are_passed_on_once_and_again_with_their_first_addresses() -> None:
    search = provider_search(*peers_of(1, 2, 3))
    a, b, c = asks(begun(search))[0]
    assert a.request == GetProviders(PREIMAGE)
    bare = providers(50, addrs=())
    search.on_reply(a, telling(*bare, *providers(51)), now(0.1))
    assert search.take_found() == [*bare, *providers(51)]
    search.on_reply(b, telling(*providers(50, 51, 52)), now(0.1))
    assert search.take_found() == [*providers(50, 52)]
    search.on_reply(c, telling(*bare, *providers(50, addrs=(b"\x04\x01\x01\x01\x01",))), now(0.1))
    assert search.take_found() == []
    assert done(search, 0.1).reason is StopReason.COMPLETED
    assert search.providers == [*providers(50, 51, 52)]


def test_a_search_for_providers_is_over_when_enough_are_found() -> None:
    search = provider_search(*peers_of(1, 2), count=3, local=providers(49))
    a, b = asks(begun(search))[0]
    search.on_reply(a, telling(*providers(50, 50, 51, 52)), now(0.1))
    assert done(search, 0.1).reason is StopReason.FOUND
    search.on_reply(b, telling(*providers(53)), now(0.1))
    assert search.take_found() == [*providers(49, 50, 51)] == search.providers


def test_without_a_count_all_of_the_k_closest_are_asked() -> None:
    known = peers_of(*range(1, 26))
    search = begun(provider_search(*known))
    asked: list[PeerId] = []
    while not isinstance(step := search.next(now(0)), Done):
        assert isinstance(step, Ask)
        asked.append(step.peer)
        search.on_reply(step, telling(), now(0))
    assert asked == known[:K]


def test_those_known_here_are_all_if_they_are_enough_or_nobody_can_be_asked() -> None:
    enough = provider_search(*peers_of(1), count=1, local=providers(49, 50))
    assert done(enough, 0).reason is StopReason.FOUND
    assert enough.take_found() == [*providers(49)]
    alone = provider_search(count=9, local=providers(49, 50))
    assert done(alone, 0).reason is StopReason.FOUND
    assert alone.take_found() == [*providers(49, 50)]
    unknown = begun(provider_search(count=9))
    assert done(unknown, 0).reason is StopReason.NO_PEERS


def test_no_more_providers_are_collected_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codio_dht.core.search.MAX_PROVIDERS_PER_LOOKUP", 10)
    for count in (None, 99):
        search = provider_search(*peers_of(1), count=count)
        [ask], _ = asks(begun(search))
        search.on_reply(ask, telling(*providers(*range(50, 90))), now(0.1))
        assert len(search.take_found()) == 10
        assert done(search, 0.1).reason is StopReason.FOUND


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="count"):
        provider_search(*peers_of(1), count=0)
