"""What a program sees of the library: names, waiting for the network, asyncio, how things show."""

from __future__ import annotations

import asyncio  # noqa: TID251 - what programs on asyncio do

import pytest
import trio

import codio_dht
from codio_dht import DHTManager, UsageError, multihash_of
from nodes import full_addr, host_of, memory_net


def test_every_public_name_is_there_and_is_told_to_type_checkers() -> None:
    for name in codio_dht.__all__:
        assert getattr(codio_dht, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        codio_dht.Nothing  # noqa: B018
    assert sorted(codio_dht.__all__) == codio_dht.__all__
    assert set(codio_dht.__all__) <= set(dir(codio_dht))


async def test_joined_returns_when_the_table_has_a_peer(autojump_clock) -> None:
    async with memory_net(0.05) as net:
        late = net.host(2)
        async with DHTManager(net.host(1), bootstrap=[full_addr(late)]) as node:
            with trio.move_on_after(20) as scope:
                await node.joined()
            assert scope.cancelled_caught, "nobody serves there"
            async with DHTManager(late):
                with trio.fail_after(600):
                    await node.joined()
                assert node.routing_table_peers() == [late.peer_id]
                await node.joined()


async def test_joined_ends_with_the_node(autojump_clock) -> None:
    async with memory_net() as net, trio.open_nursery() as nursery:
        node = DHTManager(net.host(1))

        async def wait() -> None:
            with pytest.raises(codio_dht.NotRunningError):
                await node.joined()

        async with node:
            nursery.start_soon(wait)
            await trio.sleep(1)


async def test_a_node_shows_who_it_is(autojump_clock) -> None:
    async with memory_net() as net:
        node = DHTManager(net.host(1))
        assert repr(node) == "<DHTManager, not open>"
        async with node:
            peer_id = host_of(node).peer_id
            assert repr(node) == f"<DHTManager {peer_id}, server, 0 peers in its table>"
        assert repr(node) == "<DHTManager, not open>"


def test_on_asyncio_a_node_says_what_to_use_instead() -> None:
    async def main() -> None:
        async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]):
            pass

    with pytest.raises(UsageError, match=r"codio_dht\.client\.AsyncClient"):
        asyncio.run(main())


def test_a_cid_leads_to_the_key_that_lookups_take() -> None:
    cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    assert multihash_of(f"ipfs://{cid}")[:2] == b"\x12\x20"
