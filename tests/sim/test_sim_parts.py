"""The simulator's own parts against plain truth: queue, population, links, connections, churn."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from codio_dht.core.keyspace import Key, cpl
from codio_dht.core.lookup_states import ClosestPeer, Done, Standing, StopReason
from codio_dht.core.messages import FindNode, MessageType, PeerEntry, Reply
from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError
from codio_dht.sim.churn import Sessions
from codio_dht.sim.events import EventQueue, Process, Resume, suspend
from codio_dht.sim.links import ConnectionTable, Links
from codio_dht.sim.population import Character, Member, Population
from codio_dht.sim.report import (
    FindResult,
    LookupResult,
    SearchReport,
    lookup_figures,
    quantile,
    timeline,
)
from codio_dht.sim.scenario import ChurnPart, Scenario, make_scenario
from codio_dht.sim.world import WirePath


def scenario_of(**parts: Any) -> Scenario:
    return make_scenario({"name": "parts"} | parts)


# --- the queue ------------------------------------------------------------------------------------


def test_what_is_planned_for_one_moment_happens_in_the_order_of_planning() -> None:
    queue, happened = EventQueue(), []
    for name in "abc":
        queue.at(2.0, partial(lambda name: happened.append((queue.now, name)), name))
    queue.after(1.0, lambda: happened.append((queue.now, "first")))
    queue.run(5.0)
    assert [(1.0, "first"), (2.0, "a"), (2.0, "b"), (2.0, "c")] == happened
    assert 5.0 == queue.now


def test_nothing_can_be_planned_for_the_past() -> None:
    queue = EventQueue()
    queue.run(3.0)
    with pytest.raises(UsageError, match="is over"):
        queue.at(2.9, lambda: None)


def test_nothing_happens_after_the_end() -> None:
    queue = EventQueue()
    queue.at(2.0, lambda: None)
    assert (False, True, False) == (queue.step(1.9), queue.step(2.0), queue.step(9.0))


# --- processes ------------------------------------------------------------------------------------


def test_a_process_goes_on_at_the_first_call_and_later_ones_do_nothing() -> None:
    """So an answer that comes after the time-out is lost, and the other way round."""
    queue, told = EventQueue(), []

    def answer_or_time_out(resume: Resume) -> None:
        queue.after(2.0, lambda: resume("answer"))
        queue.after(3.0, lambda: resume("too late"))

    async def work() -> None:
        told.append(await suspend(answer_or_time_out))
        await queue.sleep(5.0)
        told.append(queue.now)

    group: dict[Process, None] = {}
    process = Process(work(), group)
    assert [process] == list(group)
    queue.run(10.0)
    assert ["answer", 7.0] == told
    assert {} == group


def test_a_cancelled_process_cleans_up_where_it_waits_and_never_goes_on() -> None:
    queue, told = EventQueue(), []

    async def work() -> None:
        try:
            await queue.sleep(1.0)
            told.append("went on")
        finally:
            told.append("cleaned up")

    group: dict[Process, None] = {}
    process = Process(work(), group)
    process.cancel()
    process.cancel()
    queue.run(2.0)
    assert ["cleaned up"] == told
    assert {} == group


def test_an_error_of_a_process_ends_the_run() -> None:
    queue = EventQueue()

    async def work() -> None:
        await queue.sleep(1.0)
        raise ValueError("broken")

    Process(work())
    with pytest.raises(ValueError, match="broken"):
        queue.run(2.0)


# --- the population -------------------------------------------------------------------------------


def test_the_nearest_servers_are_those_of_a_search_through_all() -> None:
    population = Population(scenario_of(network={"nodes": 500, "dead": 0.4}))
    rng = random.Random(5)
    for _ in range(50):
        key = Key(rng.getrandbits(256))
        living = [each for each in population.members if each.online]
        expected = sorted(living, key=lambda each: each.peer.key ^ key)[:20]
        assert expected == population.nearest(key, 20, lambda each: each.online)


def test_of_too_few_servers_the_nearest_are_all() -> None:
    population = Population(scenario_of(network={"nodes": 5}))
    assert 5 == len(population.nearest(Key(0), 20, lambda _: True))


def test_a_perfect_table_has_all_of_a_cpl_or_a_random_twenty() -> None:
    population = Population(scenario_of(network={"nodes": 400}))
    for member in population.members[:20]:
        table = population.table_of(member, 20)
        assert table == population.table_of(member, 20)
        assert member not in table
        for prefix in range(12):
            wanted = [
                each
                for each in population.members
                if each is not member and cpl(member.peer.key, each.peer.key) == prefix
            ]
            held = [each for each in table if cpl(member.peer.key, each.peer.key) == prefix]
            assert min(20, len(wanted)) == len(held)
            assert len({each.index for each in held}) == len(held)


def test_shares_of_the_population_are_as_the_scenario_says() -> None:
    population = Population(
        scenario_of(network={"nodes": 5_000, "dead": 0.2, "slow": 0.1, "nat": 0.3, "far": 0.05})
    )
    members = population.members
    counts = {
        "dead": sum(each.character.is_dead for each in members),
        "refusing": sum(each.character is Character.REFUSING for each in members),
        "slow": sum(each.one_way_s == 1.5 for each in members),
        "nat": sum(each.nat for each in members),
        "far": sum(each.character is Character.FAR for each in members),
    }
    expected = {"dead": 1_000, "refusing": 500, "slow": 500, "nat": 1_500, "far": 250}
    assert expected == pytest.approx(counts, rel=0.15)


def test_the_same_seed_makes_the_same_population() -> None:
    def ids(seed: int) -> list[bytes]:
        population = Population(scenario_of(seed=seed, network={"nodes": 50}))
        return [each.peer.to_bytes() for each in population.members]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


# --- links ----------------------------------------------------------------------------------------


def _links(**links: Any) -> tuple[Links, list[Member]]:
    scenario = scenario_of(network={"nodes": 50}, links=links)
    population = Population(scenario)
    return Links(scenario, population, random.Random(1)), population.members


def test_a_pair_has_one_delay_in_both_directions() -> None:
    links, members = _links(model="pair")
    delays = [(links.one_way_s(a, b), links.one_way_s(b, a)) for a in members for b in members]
    assert all(there == back for there, back in delays)
    assert len({there for there, _ in delays}) > 1_000


def test_delays_have_the_median_and_the_cap_of_the_scenario() -> None:
    links, members = _links(model="pair", rtt_median_s=0.1, rtt_max_s=0.3)
    trips = sorted(2 * links.one_way_s(a, b) for a in members for b in members if a is not b)
    assert 0.1 == pytest.approx(trips[len(trips) // 2], rel=0.1)
    assert 0.3 == trips[-1]


def test_lost_flights_arrive_later() -> None:
    links, (a, b, *_) = _links(loss=0.5)
    flights = [links.flight_s(a, b) for _ in range(200)]
    late = sum(flight > links.one_way_s(a, b) for flight in flights)
    assert 100 == pytest.approx(late, abs=30)


def test_a_dial_takes_the_round_trips_that_the_scenario_says() -> None:
    links, (a, b, *_) = _links(dial_round_trips=2.5)
    assert 5 * links.one_way_s(a, b) == pytest.approx(links.handshake_s(a, b))


def test_a_partition_parts_only_its_sides_and_only_for_its_time() -> None:
    scenario = scenario_of(
        network={"nodes": 40}, partition=[{"start_s": 10, "end_s": 20, "share": 0.5}]
    )
    population = Population(scenario)
    links = Links(scenario, population, random.Random(1))
    a = population.members[0]
    parted = [each for each in population.members if links.are_parted(a, each, 15.0)]
    assert 5 < len(parted) < 35
    assert not any(links.are_parted(parted[0], each, 15.0) for each in parted)
    assert not any(links.are_parted(a, each, moment) for each in parted for moment in (9.9, 20.0))


def test_the_connection_used_least_recently_makes_room() -> None:
    population = Population(scenario_of(network={"nodes": 5}))
    closed: list[tuple[int, int]] = []
    connections = ConnectionTable(2, lambda gone, left: closed.append((gone.index, left.index)))
    a, b, c, d, _ = population.members
    connections.open(a, b)
    connections.open(a, c)
    connections.used(a, b)
    connections.open(a, d)
    assert [(0, 2), (2, 0)] == closed
    assert [b, d] == connections.of(a)
    assert [] == connections.of(c)


# --- churn ----------------------------------------------------------------------------------------


def test_default_sessions_are_as_long_as_those_measured_in_ipfs() -> None:
    sessions = Sessions(ChurnPart(), random.Random(3))
    lengths_h = [sessions.draw(online=True) / 3_600 for _ in range(20_000)]
    under_8_h = sum(length < 8 for length in lengths_h) / len(lengths_h)
    over_24_h = sum(length > 24 for length in lengths_h) / len(lengths_h)
    assert (0.876, 0.025) == (
        pytest.approx(under_8_h, abs=0.01),
        pytest.approx(over_24_h, abs=0.005),
    )


def test_weibull_sessions_have_the_median_that_the_scenario_says() -> None:
    part = ChurnPart(session="weibull", session_median_s=1_000, session_shape=0.59)
    sessions = Sessions(part, random.Random(3))
    lengths = sorted(sessions.draw(online=True) for _ in range(20_000))
    assert 1_000 == pytest.approx(lengths[10_000], rel=0.05)


def test_at_the_start_the_long_sessions_are_more_likely_to_be_under_way() -> None:
    part = ChurnPart()
    fresh = Sessions(part, random.Random(4))
    median_left_s = sorted(
        until
        for online, until in (Sessions(part, random.Random(n)).steady() for n in range(600))
        if online
    )
    drawn = sorted(fresh.draw(online=True) for _ in range(600))
    assert median_left_s[len(median_left_s) // 2] > drawn[300]


# --- the wire and the report ----------------------------------------------------------------------


def test_what_passes_the_wire_is_read_back_from_its_bytes() -> None:
    wire = WirePath(1)
    peer = PeerId(bytes((0x12, 0x20)) + bytes(32))
    reply = Reply(
        MessageType.FIND_NODE, closer_peers=(PeerEntry(peer, (b"\x04\x01\x02\x03\x04",)),)
    )
    carried = wire.reply(reply)
    assert reply == carried
    assert carried.closer_peers[0] is not reply.closer_peers[0]
    assert FindNode(b"key") == wire.request(FindNode(b"key"))
    assert (2, 2) == (wire.messages, wire.encoded)


def test_sampled_encoding_carries_one_message_in_so_many_and_estimates_the_rest() -> None:
    wire = WirePath(4)
    for _ in range(8):
        wire.request(FindNode(b"0123456789"))
    assert (8, 2) == (wire.messages, wire.encoded)
    assert 4 * wire.encoded_bytes == wire.estimated_bytes


def test_a_quantile_is_one_of_the_values() -> None:
    assert (0.0, 5.0, 9.0, 10.0) == (
        quantile([], 0.5),
        quantile([float(n) for n in range(10, 0, -1)], 0.5),
        quantile([float(n) for n in range(10, 0, -1)], 0.9),
        quantile([float(n) for n in range(10, 0, -1)], 1.0),
    )


def a_lookup(began_s: float, took_s: float, requests: int, hops: int, found: int) -> LookupResult:
    """A lookup that found so many of the true twenty."""
    peers = [PeerId(bytes((0x12, 0x20)) + number.to_bytes(32, "big")) for number in range(20)]
    reason = StopReason.COMPLETED if found == 20 else StopReason.TIMEOUT
    done = Done(reason, tuple(ClosestPeer(each, Standing.ANSWERED) for each in peers[:found]))
    search = SearchReport(Key(0), done, began_s, took_s, requests, 0, hops)
    return LookupResult(search, peers, 0, [float(number) for number in range(1, 21)])


def test_recall_is_over_all_lookups_and_exactness_counts_the_whole_ones() -> None:
    whole, part = a_lookup(0.0, 1.0, 10, 2, 20), a_lookup(60.0, 3.0, 30, 4, 10)
    figures = lookup_figures([whole, part])
    wanted = {"recall": 0.75, "exact": 0.5, "requests": 20.0, "max_s": 3.0, "hops_max": 4}
    assert wanted == {name: figures[name] for name in wanted}
    assert {"completed": 1, "timeout": 1} == figures["reasons"]
    finds = [
        FindResult(replace(each.search, began_s=began_s, found=[(0.5, b"x")]), found)
        for each, began_s, found in ((whole, 5.0, True), (part, 65.0, False))
    ]
    parts = timeline([whole, part], finds, 120.0)
    assert [(0.0, 1, 1.0, 1, 1), (60.0, 1, 0.5, 1, 0)] == [
        (
            each["from_s"],
            each["lookups"]["count"],
            each["lookups"]["recall"],
            each["finds"]["searches"],
            each["finds"]["found"],
        )
        for each in parts
        if each["lookups"]["count"]
    ]


def test_a_lookup_is_compared_with_the_time_until_the_oracle_had_as_many_answers() -> None:
    oracle = lookup_figures([a_lookup(0.0, 30.0, 10, 2, 10)])["oracle"]
    assert (20.0, 1.5, 3.0) == (oracle["p50"], oracle["ratio_p50"], oracle["as_many_p50"])
