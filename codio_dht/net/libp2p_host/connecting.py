"""Connects to a peer over addresses with IPs and with names.

Addresses with an IP are dialled at once; names are resolved meanwhile and join the same dial.
Names that would lead to no transport of ours (a WebSocket address) are not asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
from libp2p.network.exceptions import SwarmException
from multiaddr import Multiaddr

from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError, DeadlineError, DialError, NetworkError
from codio_dht.net.dial.limits import DNS_TIMEOUT_S
from codio_dht.net.dial.names import is_worth_resolving
from codio_dht.net.dnsaddr import is_name, resolve
from codio_dht.net.libp2p_host.guards.dialing import AllAddressesFailedError, SwarmDialer
from codio_dht.net.name_servers import NameServers


async def connect(
    dialer: SwarmDialer,
    peer_id: PeerId,
    addrs: Sequence[Multiaddr],
    deadline: Monotonic,
    servers: NameServers,
    stranger_filter: AddressFilter | None,
) -> None:
    """Make sure that there is a connection to the peer. With ``stranger_filter`` the addresses are
    the words of strangers: only those that it keeps are dialled, also of what names stand for.

    Raises:
        DialError: no address led to this peer; ``local`` if for reasons of this node's own.
        DeadlineError: the deadline passed first.
    """
    if stranger_filter is not None:
        kept = set(stranger_filter(addr.to_bytes() for addr in addrs))
        addrs = [addr for addr in addrs if addr.to_bytes() in kept]
    names = [
        addr
        for addr in addrs
        if is_name(addr)
        and is_worth_resolving(addr, lambda each: dialer.can_dial(peer_id.to_libp2p(), each))
    ]
    ready = [addr for addr in addrs if not is_name(addr)]

    async def dial_ready() -> None:
        await dialer.dial(peer_id.to_libp2p(), ready)

    async def dial_names() -> None:
        dns_deadline = Monotonic(min(deadline, trio.current_time() + DNS_TIMEOUT_S))
        resolved = await resolve(names, dns_deadline, peer_id=peer_id, servers=servers)
        if stranger_filter is not None:
            kept = set(stranger_filter(addr.to_bytes() for addr in resolved))
            resolved = [addr for addr in resolved if addr.to_bytes() in kept]
        await dialer.dial(peer_id.to_libp2p(), resolved)

    ways = [dial_ready] if ready or not names else []
    if names:
        ways.append(dial_names)
    try:
        with trio.fail_at(deadline):
            await _first_success(ways)
    except trio.TooSlowError as error:
        raise DeadlineError(f"no connection to {peer_id} before the deadline") from error


async def _first_success(ways: Sequence[Callable[[], Awaitable[None]]]) -> None:
    errors: list[CodioError | SwarmException] = []
    done = False
    async with trio.open_nursery() as nursery:

        async def run(way: Callable[[], Awaitable[None]]) -> None:
            nonlocal done
            try:
                await way()
            except (CodioError, SwarmException) as error:
                errors.append(error)
            else:
                done = True
                nursery.cancel_scope.cancel()

        for way in ways:
            nursery.start_soon(run, way)
    if not done:
        raise DialError("; ".join(map(str, errors)), local=all(map(_is_local, errors)))


def _is_local(error: CodioError | SwarmException) -> bool:
    """Whether a way failed for reasons of this node's own."""
    if isinstance(error, NetworkError):
        return error.local
    return isinstance(error, AllAddressesFailedError) and error.local
