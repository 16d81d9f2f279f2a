"""The DHT as py-libp2p's routing interfaces, on hosts as a program of py-libp2p makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IContentRouting, IHost, IPeerRouting
from libp2p.host.exceptions import ConnectionFailure
from libp2p.host.routed_host import RoutedHost
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo as Libp2pPeerInfo

from codio_dht import DHTConfig, DHTManager, Libp2pRouting, PeerId
from codio_dht.errors import CapacityError, NoPeersError, NotRunningError, UsageError
from codio_dht.formats.multihash import encode_multihash
from codio_dht.node import libp2p_routing
from host_steps import TCP

CID = b"\x01\x55" + encode_multihash(0x12, b"1" * 32)
SECOND_CID = b"\x01\x55" + encode_multihash(0x12, b"2" * 32)
NOBODY = PeerId.from_base58("12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8").to_libp2p()

pytestmark = pytest.mark.deadline_s(60)


@dataclass
class Mounted:
    host: IHost
    dht: DHTManager
    routing: Libp2pRouting

    @property
    def addr(self) -> str:
        return str(self.host.get_addrs()[0])

    @property
    def peer_id(self) -> ID:
        return self.host.get_id()


@asynccontextmanager
async def mounted(*bootstrap: str, config: DHTConfig | None = None) -> AsyncIterator[Mounted]:
    """A host that routes through the DHT that is mounted on it."""
    routing = Libp2pRouting()
    host = new_host(disc_opt=routing)
    async with host.run(listen_addrs=[TCP]):
        try:
            async with DHTManager(host, config, bootstrap=bootstrap, mode="server") as dht:
                routing.attach(dht)
                yield Mounted(host, dht, routing)
        finally:
            with trio.move_on_after(2) as scope:
                scope.shield = True
                await host.close()  # its own end leaves sockets open


@asynccontextmanager
async def three(config: DHTConfig | None = None) -> AsyncIterator[tuple[Mounted, Mounted, Mounted]]:
    """Two that know the first; the third does not know the second yet."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(mounted(config=config))
        second = await stack.enter_async_context(mounted(first.addr, config=config))
        with trio.fail_after(20):
            while len(first.dht.routing_table_peers()) < 1:
                await trio.sleep(0.02)
        third = await stack.enter_async_context(mounted(first.addr, config=config))
        with trio.fail_after(20):
            while len(third.dht.routing_table_peers()) < 1:
                await trio.sleep(0.02)
        yield first, second, third


async def test_a_host_finds_the_addresses_of_a_peer_through_it() -> None:
    async with three() as (_, second, third):
        assert isinstance(third.host, RoutedHost)
        found = await third.routing.find_peer(second.peer_id)
        await third.host.connect(Libp2pPeerInfo(second.peer_id, []))
        connected, addrs = set(third.host.get_connected_peers()), second.host.get_transport_addrs()
        with pytest.raises(ConnectionFailure):
            await third.host.connect(Libp2pPeerInfo(NOBODY, []))

    assert isinstance(third.routing, IPeerRouting)
    assert isinstance(found, Libp2pPeerInfo)
    assert second.peer_id == found.peer_id
    assert addrs == found.addrs
    assert second.peer_id in connected


async def test_a_peer_is_not_found_where_there_is_nobody_to_ask() -> None:
    async with mounted() as alone:
        with pytest.raises(NoPeersError):
            await alone.dht.find_peer(NOBODY)
        assert await alone.routing.find_peer(NOBODY) is None


async def test_providers_are_found_in_a_loop_of_trio_and_in_one_of_a_thread() -> None:
    async with three() as (_, second, third):
        await second.dht.provide(CID)

        def in_thread() -> list[Libp2pPeerInfo]:
            return list(third.routing.find_provider_iter(CID, 5))

        with trio.fail_after(30):
            inside = [info async for info in third.routing.find_provider_iter(CID, 5)]
            outside = await trio.to_thread.run_sync(in_thread)
        addrs = second.host.get_transport_addrs()
        with pytest.raises(UsageError, match="async for"):
            list(third.routing.find_provider_iter(CID, 5))

    assert isinstance(third.routing, IContentRouting)
    for found in (inside, outside):
        assert {second.peer_id} == {info.peer_id for info in found}
        assert all(isinstance(info, Libp2pPeerInfo) for info in found)
        assert addrs == found[-1].addrs


async def test_a_thread_that_leaves_its_loop_early_leaves_no_search_behind() -> None:
    async with three() as (_, second, third):
        await second.dht.provide(CID)

        def first_in_thread() -> ID:
            return next(iter(third.routing.find_provider_iter(CID, 5))).peer_id

        with trio.fail_after(30):
            assert second.peer_id == await trio.to_thread.run_sync(first_in_thread)
            while third.dht._life.node.shared.errands.running:
                await trio.sleep(0.02)


async def test_a_plain_provide_is_made_in_the_background_on_any_thread() -> None:
    async with three() as (_, second, third):
        second.routing.provide(CID)
        await trio.to_thread.run_sync(second.routing.provide, SECOND_CID)
        for cid in (CID, SECOND_CID):
            with trio.fail_after(30):
                while not [info async for info in third.routing.find_provider_iter(cid, 1)]:
                    await trio.sleep(0.02)
        assert 2 == len(await second.dht.own_keys())


async def test_a_plain_provide_says_at_once_what_it_cannot_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libp2p_routing, "MAX_BEGUN_PROVIDES", 1)
    async with mounted() as alone:
        with pytest.raises(UsageError, match="announce"):
            alone.routing.provide(CID, announce=False)
        with pytest.raises(UsageError, match="cid"):
            alone.routing.provide(b"no cid")
        with pytest.raises(UsageError, match="count"):
            alone.routing.find_provider_iter(CID, 0)
        alone.routing.provide(CID)
        with pytest.raises(CapacityError):
            alone.routing.provide(SECOND_CID)
        with trio.fail_after(20):
            while alone.routing._begun:
                await trio.sleep(0.02)
        assert 1 == len(await alone.dht.own_keys()), "it is kept, though nobody could be told"
        alone.routing.provide(SECOND_CID)


class Longest:
    def validate(self, key: bytes, value: bytes) -> None:
        if not value.startswith(key):
            raise ValueError("it does not begin with its key")

    def select(self, key: bytes, values: object) -> int:
        assert isinstance(values, list | tuple)
        return max(range(len(values)), key=lambda index: len(values[index]))


async def test_values_are_put_and_got_by_keys_of_text() -> None:
    config = DHTConfig(protocol="/app/kad/1.0.0", validators={"app": Longest()})
    async with three(config) as (_, second, third):
        await second.routing.put_value("/app/a", b"/app/a and more")
        assert b"/app/a and more" == await third.routing.get_value("/app/a")
        assert await third.routing.get_value("/app/b") is None
        with pytest.raises(ValueError, match="invalid value"):
            await second.routing.put_value("/app/a", b"other")


async def test_without_an_open_dht_every_call_says_so() -> None:
    routing = Libp2pRouting()
    with pytest.raises(NotRunningError, match="attach"):
        await routing.find_peer(NOBODY)
    with pytest.raises(NotRunningError, match="attach"):
        routing.provide(CID)
    async with mounted() as alone:
        pass
    with pytest.raises(NotRunningError):
        await alone.routing.find_peer(NOBODY)
    with pytest.raises(NotRunningError):
        alone.routing.provide(CID)
    with pytest.raises(NotRunningError):
        await alone.routing.get_value("/pk/x")


def test_it_is_attached_on_the_thread_of_trio_only() -> None:
    async def make() -> Libp2pRouting:
        async with mounted() as one:
            with pytest.raises(UsageError, match="thread"):
                await trio.to_thread.run_sync(Libp2pRouting, one.dht)
            return Libp2pRouting(one.dht)

    routing = trio.run(make)
    with pytest.raises(NotRunningError):
        routing.provide(CID)
