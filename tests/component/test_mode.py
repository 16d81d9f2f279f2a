"""A node's mode while it runs."""

from __future__ import annotations

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht import DHTManager
from codio_dht.core.mode import Mode
from codio_dht.errors import StreamError
from codio_dht.net.host import AddrsChanged, Stream
from codio_dht.params import KAD_PROTOCOL
from host_steps import soon
from memory_host import MemoryHost
from nodes import full_addr, memory_net, until

PUBLIC = Multiaddr("/ip4/5.6.7.8/tcp/4001")


def move(host: MemoryHost, *addrs: Multiaddr, unproven: tuple[Multiaddr, ...] = ()) -> None:
    host.addrs = addrs
    host._tell(AddrsChanged(addrs, unproven))


async def test_a_node_behind_a_nat_serves_once_others_reach_it_and_no_longer_when_they_do_not(
    autojump_clock,
):
    async with memory_net(0.05) as net:
        seed = net.host(1, "/ip4/8.8.8.8/tcp/1")
        host = net.host(2, "/ip4/192.168.1.2/tcp/1")
        private = host.addrs
        async with DHTManager(host, bootstrap=[full_addr(seed)]) as node:
            assert (Mode.CLIENT, False) == (node.mode, KAD_PROTOCOL in host.factories)

            move(host, *private, unproven=(PUBLIC,))  # peers say so, and no more
            await trio.sleep(1)
            assert PUBLIC.to_bytes() not in node._node.main.server.responder._own_entry.addrs
            assert (Mode.CLIENT, False) == (node.mode, KAD_PROTOCOL in host.factories)

            move(host, *private, PUBLIC)
            await until(lambda: node.mode is Mode.SERVER)
            assert ("server", True) == (node.stats().mode, KAD_PROTOCOL in host.factories)

            move(host, *private)
            await until(lambda: node.mode is Mode.CLIENT)
            assert ("client", False) == (node.stats().mode, KAD_PROTOCOL in host.factories)


async def to_its_end(stream: Stream) -> None:
    while await stream.read(100):
        pass


@pytest.mark.conformance("c30")
async def test_a_server_that_becomes_a_client_ends_its_streams_and_leaves_the_tables_of_others():
    loopback = ["/ip4/127.0.0.1/tcp/0"]
    ping = b"\x02\x08\x05"
    async with DHTManager.open(listen=loopback) as node:
        bootstrap = [f"{node.addrs[0]}/p2p/{node.peer_id}"]
        async with DHTManager.open(listen=loopback, bootstrap=bootstrap) as other:
            with trio.fail_after(30):
                while node.peer_id not in other.routing_table_peers():
                    await trio.sleep(0.01)
                stream = await other._host.open_stream(node.peer_id, KAD_PROTOCOL, soon(30))
                await stream.write(ping)
                assert await stream.read(1)
                node._main.set_public(public=True)  # it has no public address
                assert Mode.CLIENT is node.mode
                with pytest.raises(StreamError):
                    await to_its_end(stream)
                while node.peer_id in other.routing_table_peers():
                    await trio.sleep(0.01)
