"""A person asks for a peer that is no longer where it was: the network is asked where it is now."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht import DHTManager
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError, DialError
from memory_host import MemoryHost, MemoryNet
from nodes import full_addr, host_of, memory_net, open_nodes, settle, soon, until

OLD, NEW = Multiaddr("/ip4/127.0.0.1/tcp/10001"), Multiaddr("/ip4/127.0.0.1/tcp/2")


@asynccontextmanager
async def three_nodes() -> AsyncIterator[tuple[MemoryNet, list[DHTManager]]]:
    async with memory_net(0.01) as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        assert OLD == host_of(nodes[1]).addrs[0]
        yield net, nodes


async def leave(net: MemoryNet, host: MemoryHost) -> None:
    """``host`` is gone from where it was, without a word."""
    for peer in list(host.peers):
        await host.disconnect(peer)
    del net.hosts[str(host.addrs[0])]
    await trio.sleep(0.1)


async def move(net: MemoryNet, host: MemoryHost, seen_by: MemoryHost) -> None:
    """``host`` is at ``NEW`` now, and ``seen_by`` has met it there."""
    await leave(net, host)
    host.addrs = (NEW,)
    net.hosts[str(NEW)] = host
    await host.connect(seen_by.peer_id, seen_by.addrs, soon())
    await trio.sleep(0.1)


def asks(how: str, node: DHTManager, peer: PeerId):
    return node.ping(peer) if how == "ping" else node.connect(f"{OLD}/p2p/{peer}")


BOTH_WAYS = pytest.mark.parametrize("how", ["ping", "connect"])


@BOTH_WAYS
async def test_a_peer_that_moved_is_found_where_it_is_now(autojump_clock, how):
    async with three_nodes() as (net, [seed, moved, node]):
        await move(net, host_of(moved), seen_by=host_of(seed))
        assert OLD in node._node.main.addrs_of(moved.peer_id)
        await asks(how, node, moved.peer_id)
        assert host_of(node).is_connected(moved.peer_id)


@BOTH_WAYS
async def test_where_nobody_knows_better_the_error_says_what_became_of_the_known_address(
    autojump_clock, how
):
    async with three_nodes() as (net, [_, moved, node]):
        await leave(net, host_of(moved))
        with pytest.raises(DialError, match=r"nobody at \['/ip4/127.0.0.1/tcp/10001'\]"):
            await asks(how, node, moved.peer_id)


@BOTH_WAYS
async def test_an_address_that_failed_is_not_dialled_again(autojump_clock, how):
    async with three_nodes() as (net, [_, moved, node]):
        await leave(net, host_of(moved))
        before = host_of(node).dials[moved.peer_id]
        with pytest.raises(DialError):
            await asks(how, node, moved.peer_id)
        # One dial for the person; the lookup may have tried the peer once more.
        assert host_of(node).dials[moved.peer_id] - before <= 2


@BOTH_WAYS
async def test_a_doubted_connection_that_cannot_be_dialled_anew_has_to_do(autojump_clock, how):
    async with three_nodes() as (_, [_, other, node]):
        await node.connect(f"{OLD}/p2p/{other.peer_id}")

        async def fails(*_args, **_options):
            await trio.lowlevel.checkpoint()
            raise DialError("refused")

        async def looked_for(_peer):
            raise AssertionError("nobody needs to be asked")

        host_of(node).connect = fails
        node._node.main.lookups.peer = looked_for
        await asks(how, node, other.peer_id)


async def test_without_a_network_to_ask_the_error_is_that_of_the_dial(autojump_clock):
    async with memory_net(0.01) as net, open_nodes(net, 1) as [alone]:
        gone = net.host(7)
        addr = full_addr(gone)
        del net.hosts[str(gone.addrs[0])]
        with pytest.raises(DialError, match="nobody at"):
            await alone.connect(addr)


async def test_a_peer_that_does_not_answer_at_its_old_address_is_looked_for_too(autojump_clock):
    async with three_nodes() as (net, [seed, moved, node]):
        host = host_of(moved)
        await move(net, host, seen_by=host_of(seed))
        silent = net.host(8, str(OLD))
        net.dead.add(silent.peer_id)
        dial = host_of(node).connect

        async def swallowed(peer_id, addrs, deadline, **how):
            if list(addrs) == [OLD]:
                await trio.sleep_until(deadline)
                raise DeadlineError("no answer")
            await dial(peer_id, addrs, deadline, **how)

        host_of(node).connect = swallowed
        await asks("connect", node, moved.peer_id)
        await until(lambda: host_of(node).is_connected(moved.peer_id))
