"""Where a name leads is judged again: a stranger's name must not lead into this node's own network.

What a person gave (``connect``, bootstrap addresses) is exempt.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from multiaddr import Multiaddr

from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY
from codio_dht.core.messages import FindNode, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.errors import DialError, NetworkError
from codio_dht.net.host import Host
from host_steps import soon
from host_subjects import OWN, PY_LIBP2P, Implementation
from memory_host import MemoryHost
from nodes import ask, full_addr, host_of, memory_net, open_nodes, settle

BOTH_HOSTS = pytest.mark.parametrize("made", [OWN, PY_LIBP2P], ids=["own", "py-libp2p"])


class LeadsInside:
    """Every name leads to the loopback interface, or by a TXT record to what ``entries`` say."""

    entries: tuple[str, ...] = ()

    async def texts(self, name: str) -> list[str]:
        return [f"dnsaddr={entry}" for entry in self.entries]

    async def ips(self, name: str, ip_version: int) -> list[str]:
        return ["127.0.0.1"] if ip_version == 4 else ["::1"]


def use_names(host: Host, names: LeadsInside) -> None:
    holder: Any = host
    holder = getattr(holder, "_dialler", holder)
    holder._name_servers = holder._strangers_servers = names


@BOTH_HOSTS
async def test_a_name_is_dialled_only_where_the_filter_lets_it_lead(made: Implementation) -> None:
    from codio_dht.crypto.keys import PrivateKey
    from host_steps import TCP

    keys = [PrivateKey.generate_ed25519() for _ in range(2)]
    async with (
        made.make(keys[0], (TCP,), ()) as server,
        made.make(keys[1], (TCP,), ()) as client,
    ):
        port = str(server.addrs[0]).rsplit("/", 1)[1]
        names = LeadsInside()
        names.entries = (f"/ip4/127.0.0.1/tcp/{port}/p2p/{server.peer_id}",)
        use_names(client, names)
        for text in (
            f"/dns4/node.example.com/tcp/{port}",
            f"/dns/node.example.com/tcp/{port}",
            f"/dnsaddr/node.example.com/p2p/{server.peer_id}",
        ):
            name = [Multiaddr(text)]
            with pytest.raises(DialError) as caught:
                await client.connect(server.peer_id, name, soon(), stranger_filter=PUBLIC_ONLY)
            assert not caught.value.local
            assert not client.is_connected(server.peer_id)
            await client.connect(server.peer_id, name, soon(), stranger_filter=KEEP_ALL)
            await client.disconnect(server.peer_id)
            await client.connect(server.peer_id, name, soon())  # a person gave it
            await client.disconnect(server.peer_id)


class Watched(MemoryHost):
    """Notes how it is asked to dial each peer."""

    asked: dict[PeerId, list[tuple[bool, bool]]]

    def how(self, peer: PeerId) -> list[tuple[bool, bool]]:
        """Whether what failed is dialled again, and whether names are judged by a filter."""
        return self.asked.get(peer, [])

    async def connect(self, peer_id, addrs, deadline, **how):
        kept = how.get("stranger_filter")
        asked = (how.get("retry_failed", False), kept is not None)
        self.asked.setdefault(peer_id, []).append(asked)
        await super().connect(peer_id, addrs, deadline, **how)


async def test_only_what_a_person_gave_is_dialled_wherever_it_leads(autojump_clock) -> None:
    async with memory_net(0.01) as net, open_nodes(net, 2) as [seed, node]:
        await settle([seed, node], 1)
        host: Any = host_of(node)
        host.__class__ = Watched
        host.asked = {}
        given, known, stranger = net.host(11), net.host(12), net.host(13)
        await node.connect(full_addr(given))
        network, now = node._node.main.network, node._node.main._now()
        for peer in (known, stranger):
            addrs = tuple(addr.to_bytes() for addr in peer.addrs)
            network.learn([PeerEntry(peer.peer_id, addrs)], None, now)
        for asking in (
            node.ping(known.peer_id),
            ask(node._node.main, stranger.peer_id, FindNode(b"key")),
        ):
            with suppress(NetworkError):  # they are there, and speak no such protocol
                await asking

        assert [(True, False)] == host.how(given.peer_id)
        assert (True, True) == host.how(known.peer_id)[0]
        assert (False, True) == host.how(stranger.peer_id)[0]


async def test_bootstrap_addresses_may_lead_anywhere_and_are_dialled_again(autojump_clock) -> None:
    async with memory_net(0.01) as net, open_nodes(net, 2) as [seed, node]:
        await settle([seed, node], 1)
        host: Any = host_of(node)
        host.__class__ = Watched
        host.asked = {}
        await host.disconnect(seed.peer_id)
        await node.bootstrap([full_addr(host_of(seed))])

        assert (True, False) in host.how(seed.peer_id)
