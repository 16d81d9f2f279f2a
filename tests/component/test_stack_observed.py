"""Where peers see a host of our own stack becomes an address of it, when enough of them agree."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.net import observed_addrs
from codio_dht.net.host import AddrsChanged, HostEvent
from codio_dht.net.limits import MIN_OBSERVER_GROUPS
from codio_dht.net.link import Link
from codio_dht.net.stack_host import StackHost
from host_steps import TCP, connect, identified, next_event, until
from stack_hosts import made_host

OUTSIDE = Multiaddr("/ip4/5.6.7.8/tcp/4001")
OUTSIDE_QUIC = Multiaddr("/ip4/5.6.7.8/udp/4001/quic-v1")
QUIC = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")


@pytest.fixture(autouse=True)
def all_of_loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each socket a group of its own."""
    monkeypatch.setattr(observed_addrs, "is_public", lambda addr: True)
    monkeypatch.setattr(observed_addrs, "ip_group", str)


def sees(client: StackHost, addr: Multiaddr) -> None:
    """From now on ``client`` tells whoever asks that it sees them at ``addr``."""
    identifier = client._identifier
    message = identifier._message

    def told(link: Link) -> bytes:
        message(link)
        assert identifier._introduction is not None
        return identifier._introduction.to(addr.to_bytes())

    identifier._message = told


@asynccontextmanager
async def observers(
    count: int, addr: Multiaddr = OUTSIDE, *listen: Multiaddr
) -> AsyncGenerator[list[StackHost]]:
    """Hosts that see everybody at ``addr``."""
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(made_host(*listen)) for _ in range(count)]
        for host in hosts:
            sees(host, addr)
        yield hosts


async def visit(hosts: Sequence[StackHost], server: StackHost) -> None:
    for host in hosts:
        await connect(host, server)
        await identified(server, host.peer_id)


async def change_of_addrs(events: AsyncIterator[HostEvent]) -> AddrsChanged:
    while True:
        event = await anext(events)
        if isinstance(event, AddrsChanged):
            return event


async def test_an_address_is_told_to_everybody_when_a_dial_back_proved_it_and_not_before() -> None:
    """However many peers say that they see the host there."""
    async with (
        made_host() as server,
        observers(MIN_OBSERVER_GROUPS) as hosts,
        made_host() as bystander,
    ):
        listening = server.addrs
        await visit(hosts, server)
        await connect(bystander, server)
        await identified(bystander, server.peer_id)
        await identified(server, bystander.peer_id)
        changes: list[AddrsChanged] = []
        async with server.events() as events:
            with trio.fail_after(10):
                server._look_at_own_addresses()
                newcomer = await next_event(server, lambda event: isinstance(event, AddrsChanged))
                changes.append(await change_of_addrs(events))
                assert listening == server.addrs
                server.prove_address(OUTSIDE)
                server._look_at_own_addresses()
                changes.append(await change_of_addrs(events))
        perhaps = AddrsChanged(listening, unproven=(OUTSIDE,))
        assert [perhaps, AddrsChanged((*listening, OUTSIDE))] == changes
        assert perhaps == newcomer
        assert (*listening, OUTSIDE) == server.addrs
        with trio.fail_after(30):  # by identify push, in the clear and in the signed record
            while (await identified(bystander, server.peer_id)).addrs != server.addrs:
                await trio.sleep(0.01)


async def test_announced_addresses_stay_as_they_were_announced() -> None:
    announced = Multiaddr("/ip4/7.7.7.7/tcp/4001")
    async with made_host(announce=[announced]) as server, observers(4) as hosts:
        for host in hosts:
            await host.connect(server.peer_id, server._listening, trio.current_time() + 30)  # type: ignore[arg-type]
            await identified(server, host.peer_id)
        assert 4 == len(server._observed)
        server._look_at_own_addresses()
        assert (announced,) == server.addrs


async def test_peers_that_we_dialled_over_tcp_saw_a_port_on_which_nobody_listens() -> None:
    async with made_host() as server, observers(MIN_OBSERVER_GROUPS) as hosts:
        for host in hosts:
            await connect(server, host)
            await identified(server, host.peer_id)
        assert 0 == len(server._observed)


async def test_a_quic_dial_from_a_socket_that_takes_no_connections_says_nothing() -> None:
    async with (
        made_host(TCP) as server,
        observers(MIN_OBSERVER_GROUPS, OUTSIDE_QUIC, QUIC) as hosts,
    ):
        for host in hosts:
            await connect(server, host)
            await identified(server, host.peer_id)
        assert 0 == len(server._observed)


async def test_a_connection_that_ends_leaves_its_vote_to_expire() -> None:
    async with made_host() as server:
        async with observers(MIN_OBSERVER_GROUPS) as hosts:
            await visit(hosts, server)
            assert MIN_OBSERVER_GROUPS == len(server._observed._cast_by)
        await until(lambda: not server.connections())
        assert 0 == len(server._observed._cast_by)
        assert MIN_OBSERVER_GROUPS == len(server._observed)
