"""Many keys over the memory network: saved together, handed out by the sweep, and told of."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from codio_dht import DHTConfig, DHTManager, PeerId
from codio_dht.core.keyspace import key_of
from codio_dht.core.multihash import multihash_of
from codio_dht.core.sweep import PROVIDE_RETRY_MAX_S
from codio_dht.errors import UsageError
from codio_dht.formats.cid import DAG_PB, RAW, format_cid
from codio_dht.node.results import KeyStatus, ProvideStatus
from codio_dht.params import K
from hostile_host import lab_node, numbered_id, plant
from keepers import KEEPERS, Keepers, client_of, keepers
from nodes import until

PEERS = [numbered_id(each) for each in range(1, KEEPERS + 1)]


def cid(number: int) -> str:
    return format_cid(DAG_PB, b"\x12\x20" + number.to_bytes(32, "big"))


def closest(text: str, count: int = K) -> list[PeerId]:
    return sorted(PEERS, key=lambda peer: peer.key ^ key_of(multihash_of(text)))[:count]


def held(peers: Keepers, text: str) -> list[PeerId]:
    return sorted(peers.held.get(multihash_of(text), []))


async def nothing_waits(client: DHTManager) -> None:
    with trio.fail_after(3_600):
        while (await totals(client)).waiting:
            await trio.sleep(1)


async def totals(client: DHTManager) -> ProvideStatus:
    status = await client.provide_status()
    assert isinstance(status, ProvideStatus)
    return status


async def status_of(client: DHTManager, text: str) -> KeyStatus:
    status = await client.provide_status(text)
    assert isinstance(status, KeyStatus)
    return status


@pytest.mark.conformance("c55")
@pytest.mark.conformance("c59")
async def test_many_keys_reach_exactly_their_closest_peers_each_peer_on_few_streams(
    autojump_clock,
):
    cids = [cid(number) for number in range(300)]
    async with keepers(0.02) as peers, client_of(peers) as client:
        told: list[int] = []
        result = await client.provide_many((each for each in cids), progress=told.append)
        assert (result.keys, result.changed, told[-1]) == (300, 300, 300)
        await nothing_waits(client)
        assert [held(peers, each) for each in cids] == [sorted(closest(each)) for each in cids]
        assert peers.record_streams == KEEPERS
        again = await client.provide_many(cids)
        assert (again.keys, again.changed) == (300, 0)
        status = await totals(client)
        assert (status.keys, status.waiting, status.holders_per_key) == (300, 0, K)
        assert client.stats().failures == {}


async def test_a_peer_that_takes_one_record_a_stream_gets_them_all(autojump_clock):
    cids = [cid(number) for number in range(40)]
    async with keepers(0.02) as peers, client_of(peers) as client:
        peers.echoing |= set(PEERS[:3])
        await client.provide_many(cids)
        await nothing_waits(client)
        for each in cids:
            assert set(held(peers, each)) == set(closest(each))
        assert client._node.main.rpc.counters["records_one_by_one"] == 3


@pytest.mark.conformance("c62")
async def test_what_was_swept_is_not_repeated_after_a_restart(autojump_clock, tmp_path):
    cids = [cid(number) for number in range(50)]
    async with keepers(0.02) as peers:
        async with client_of(peers, data_dir=tmp_path) as client:
            await client.provide_many(cids)
            await nothing_waits(client)
            before = len(peers.holding)
        async with client_of(peers, data_dir=tmp_path) as client:
            await trio.sleep(300)
            assert len(peers.holding) == before
            assert (await totals(client)).keys == 50
            status = await status_of(client, cids[7])
            assert status.held_by == tuple(closest(cids[7]))


async def test_a_peer_that_draws_out_each_record_does_not_hold_up_the_sweep(autojump_clock):
    cids = [cid(number) for number in range(60)]
    async with keepers(0.02) as peers, client_of(peers) as client:
        peers.dawdling.update([PEERS[0], PEERS[1]])
        began = trio.current_time()
        await client.provide_many(cids)
        await nothing_waits(client)
        assert trio.current_time() - began < 60
        for each in cids:
            near = [peer for peer in closest(each, KEEPERS) if peer not in peers.dawdling]
            assert set(near[: K - 2]) <= set(held(peers, each))


@pytest.mark.conformance("c61")
async def test_keys_saved_while_nobody_can_be_reached_are_provided_afterwards(autojump_clock):
    cids = [cid(number) for number in range(20)]
    async with keepers(0.02) as peers, lab_node(peers.net) as node:
        await node.provide_many(cids)
        await trio.sleep(3 * 3_600)
        status = await totals(node)
        assert (status.waiting, status.connectivity, peers.holding) == (20, "offline", [])
        await plant(node, peers.hosts)
        await nothing_waits(node)
        assert (await totals(node)).connectivity == "online"
        assert all(held(peers, each) == sorted(closest(each)) for each in cids)


async def test_callers_who_provide_at_once_share_the_syncs_of_the_disk(tmp_path):
    async with keepers(0.0) as peers, client_of(peers, data_dir=tmp_path) as client:
        writes = client._node.providing._writes
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(client.provide, cid(number))
        assert client.stats().own_keys == 60
        assert writes.commits < 20
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(client.stop_providing, cid(number))
        assert client.stats().own_keys == 0
        assert await client.own_keys() == []


async def test_the_status_of_a_key_says_when_it_was_provided_who_holds_it_and_when_it_is_due(
    autojump_clock,
):
    config = DHTConfig(republish_interval=1_000)
    async with keepers(0.02) as peers, client_of(peers, config=config) as client:
        assert await client.provide_status(cid(1)) is None
        await client.provide(cid(1))
        await until(lambda: client._node.main.deliveries.running == 0)
        status = await status_of(client, cid(1))
        assert (status.cid, status.held_by, status.holders) == (cid(1), tuple(closest(cid(1))), K)
        assert status.last_provided is not None
        assert status.due is not None
        assert status.last_provided <= status.due <= status.last_provided + 1_000
        await trio.sleep(1_100)
        later = await status_of(client, cid(1))
        assert (later.last_provided or 0) > status.last_provided
        assert (later.cid, later.held_by) == (cid(1), tuple(closest(cid(1))))


async def test_keys_are_listed_as_they_were_written_one_page_after_another(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr("codio_dht.node.providing.LIST_PAGE_KEYS", 3)
    multihash = multihash_of(cid(0))
    async with keepers(0.02) as peers, client_of(peers) as client:
        await client.provide_many([cid(number) for number in range(1, 8)])
        await client.provide_many(
            [multihash, f"ipfs://{cid(9)}", b"\x01\x71" + multihash_of(cid(8))]
        )
        listed = [own.written async for own in client.iter_own_keys()]
        assert len(listed) == 10
        written = {cid(n) for n in range(1, 8)} | {
            None,
            cid(9),
            format_cid(0x71, multihash_of(cid(8))),
        }
        assert set(listed) == written
        removed = await client.stop_providing_many([format_cid(RAW, multihash), cid(5), cid(77)])
        assert (removed.keys, removed.changed, client.stats().own_keys) == (3, 2, 8)


async def test_a_cid_that_is_none_is_named_by_its_place_and_those_before_it_are_kept(
    autojump_clock,
):
    async with keepers(0.02) as peers, client_of(peers) as client:

        async def cids():
            for number in range(2_000):
                yield cid(number)
            yield "no cid"

        told: list[int] = []
        with pytest.raises(UsageError, match=r"cids, after 2000 of them: .no cid. is not a CID"):
            await client.provide_many(cids(), progress=told.append)
        assert client.stats().own_keys == told[-1] == 1_024


async def test_records_name_the_addresses_that_the_user_says_the_content_is_served_at(
    autojump_clock,
):
    config = DHTConfig(provider_addrs=("/dns/edge.example/tcp/443/https",))
    told = b"5\x0cedge.example\x06\x01\xbb\xbb\x03"
    async with keepers(0.02) as peers, client_of(peers, config=config) as client:
        await client.provide(cid(1))
        await client.provide_many([cid(2)])
        await nothing_waits(client)
        assert peers.told_addrs == {(told,)}
        [own] = await client.find_providers(cid(1), 1)
        assert (own.peer_id, [str(addr) for addr in own.addrs]) == (
            client.peer_id,
            ["/dns/edge.example/tcp/443/https"],
        )


async def test_a_saved_key_that_is_denied_holds_up_no_other(autojump_clock):
    async with keepers(0.02) as peers, client_of(peers) as client:
        await client.deny(f"/ipfs/{cid(0)}")
        await client.provide_many([cid(0)])
        await trio.sleep(6 * 3_600)
        for number in range(1, 4):
            await client.provide_many([cid(number)])
            with trio.fail_after(60):
                while held(peers, cid(number)) != sorted(closest(cid(number))):
                    await trio.sleep(1)
        assert held(peers, cid(0)) == []
        assert (await totals(client)).waiting == 1
        await client.stop_denying(f"/ipfs/{cid(0)}")
        await trio.sleep(PROVIDE_RETRY_MAX_S)
        await nothing_waits(client)
        assert held(peers, cid(0)) == sorted(closest(cid(0)))
