"""To whom a provider record is handed, and what the caller is told of it."""

from __future__ import annotations

import trio
import trio.testing

from codio_dht import DHTManager
from codio_dht.core import delivery
from codio_dht.core.delivery import Delivery
from codio_dht.core.keyspace import key_of
from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId
from codio_dht.params import KEY_BITS, K
from hostile_host import numbered_id
from keepers import KEEPERS, client_of, keepers
from nodes import host_of, until

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
OTHER_CID = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
TARGET = key_of(multihash_of(CID))
NEAREST = sorted(
    (numbered_id(each) for each in range(1, KEEPERS + 1)), key=lambda p: p.key ^ TARGET
)


async def die(client: DHTManager, count: int) -> None:
    """``count`` of the closest, alive until now, take no connection any more."""
    host = host_of(client)
    for peer in NEAREST[:count]:
        host.net.dead.add(peer)
        await host.disconnect(peer)


async def test_a_delivery_in_which_nobody_fails_hands_the_record_to_the_closest_only(
    autojump_clock,
):
    async with keepers(0.02) as peers, client_of(peers) as client:
        result = await client.provide_once(CID, quorum=K)
        assert sorted(peers.holding) == sorted(NEAREST[:K])
        assert (result.holders, result.confirmed, result.attempted) == (K, K, K)
        await until(lambda: client._node.main.deliveries.running == 0)
        assert client._node.main.deliveries.counters == {"provided": 1, "record_delivered": K}


async def test_who_takes_a_record_without_a_word_holds_it_and_has_not_confirmed_it(
    autojump_clock,
):
    async with keepers(0.02) as peers, client_of(peers) as client:
        peers.lingering |= set(NEAREST[:2])
        result = await client.provide_once(CID, quorum=K)
        assert (result.holders, result.confirmed, result.attempted) == (K, K - 2, K)


async def test_the_places_of_those_that_refuse_go_to_the_next_closest(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        peers.refusing |= set(NEAREST[:3])
        result = await client.provide_once(CID, quorum=K)
        assert sorted(peers.holding) == sorted(NEAREST[3 : K + 3])
        assert (result.holders, result.attempted) == (K, K + 3)
        await until(lambda: client._node.main.deliveries.running == 0)
        assert client._node.main.deliveries.counters["record_failed"] == 3


async def test_a_record_that_nobody_takes_is_a_result_without_holders(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        peers.refusing |= set(NEAREST)
        result = await client.provide_once(CID)
        assert (result.holders, result.pending, result.attempted) == (0, 0, KEEPERS)
        assert client._node.main.deliveries.counters["provide_failed"] == 1


async def test_past_the_bound_on_deliveries_a_caller_waits_for_the_end(autojump_clock, monkeypatch):
    monkeypatch.setattr("codio_dht.node.deliveries.MAX_BACKGROUND_DELIVERIES", 1)
    async with keepers(0.02) as peers, client_of(peers) as client:
        await die(client, 2)
        first = await client.provide_once(CID, quorum=1)
        assert first.pending > 0
        second = await client.provide_once(OTHER_CID, quorum=1)
        assert (second.holders, second.pending) == (K, 0)
        await until(lambda: client._node.main.deliveries.running == 0)
        third = await client.provide_once(CID, quorum=1)
        assert third.pending > 0


async def test_a_delivery_whose_search_goes_on_is_not_over_although_nobody_is_pending(
    autojump_clock, monkeypatch
):
    """The guessed ones have it, and somebody who does not answer keeps the search going."""
    monkeypatch.setattr(delivery, "_guess_within", lambda *_: 1 << KEY_BITS)
    async with keepers(0.02) as peers, client_of(peers) as client:
        peers.net.mute.add(NEAREST[0])
        await client._node.main.rpc.aclose()
        result = await client.provide_once(CID, quorum=5)
        assert result.holders >= 5
        assert result.pending > 0
        await until(lambda: client._node.main.deliveries.running == 0)


async def test_a_bug_after_the_caller_went_on_is_counted(autojump_clock, monkeypatch):
    def broken(*_: object) -> list[PeerId]:
        raise ZeroDivisionError

    monkeypatch.setattr(Delivery, "on_not_given", broken)
    async with keepers(0.02) as peers, client_of(peers) as client:
        await die(client, 1)
        result = await client.provide_once(CID, quorum=1)
        assert result.pending > 0
        await until(lambda: client._node.main.deliveries.running == 0)
        assert client.stats().failures == {"delivery": 1}


# --- stopping -------------------------------------------------------------------------------------


async def test_who_stops_providing_ends_the_delivery_that_is_under_way(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        await die(client, 2)
        result = await client.provide(CID, quorum=1)
        assert result.pending > 0
        await until(lambda: len(peers.holding) == K - 2)  # others would take the dead ones' places
        assert await client.stop_providing(CID)
        await trio.testing.wait_all_tasks_blocked()
        assert client._node.main.deliveries.running == 0
        await trio.sleep(60)
        assert len(peers.holding) == K - 2


async def test_a_caller_of_a_provide_that_is_stopped_is_told_how_far_it_came(
    autojump_clock,
):
    async with keepers(0.02) as peers, client_of(peers) as client:
        await die(client, 8)

        async def stop_soon() -> None:
            await trio.sleep(1)
            assert await client.stop_providing(CID)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_soon)
            began = trio.current_time()
            result = await client.provide(CID, quorum=K)
            assert trio.current_time() - began < 2
        assert (result.holders, result.pending) == (len(peers.holding), 0)
        assert 0 < result.holders < K
        assert await client.own_keys() == []


async def test_stopping_one_key_lets_the_delivery_of_another_go_on(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        await die(client, 2)
        await client.provide(CID, quorum=1)
        await client.provide(OTHER_CID, quorum=1)
        await client.stop_providing(CID)
        await until(lambda: client._node.main.deliveries.running == 0)
        [own] = await client.own_keys()
        assert own.last_provided is not None
