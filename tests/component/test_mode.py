"""A node's mode while it runs."""

from __future__ import annotations

from multiaddr import Multiaddr

from codio_dht import DHTManager
from codio_dht.core.mode import Mode
from codio_dht.net.host import AddrsChanged
from codio_dht.params import KAD_PROTOCOL
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

            move(host, *private, PUBLIC, unproven=(PUBLIC,))
            await until(
                lambda: PUBLIC.to_bytes() in node._node.main.server.responder._own_entry.addrs
            )
            assert (Mode.CLIENT, False) == (node.mode, KAD_PROTOCOL in host.factories)

            move(host, *private, PUBLIC)
            await until(lambda: node.mode is Mode.SERVER)
            assert ("server", True) == (node.stats().mode, KAD_PROTOCOL in host.factories)

            move(host, *private)
            await until(lambda: node.mode is Mode.CLIENT)
            assert ("client", False) == (node.stats().mode, KAD_PROTOCOL in host.factories)
