"""Makes the host that a daemon runs on our own stack, and closes it in the right order.

Decides what is offered: Noise and Yamux over TCP, ping and identify; nothing else. Never leaves a
socket open.
"""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht import __version__
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import NetworkError, UsageError
from codio_dht.net.dnsaddr import NameServers, SystemNameServers
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack.security import Security
from codio_dht.net.stack_host.gate import Gate
from codio_dht.net.stack_host.host import StackHost
from codio_dht.net.stack_host.limits import Limits
from codio_dht.net.stack_host.targets import Target, parse

AGENT: Final = f"codio-dht/{__version__}"


@asynccontextmanager
async def make_stack_host(
    private_key: PrivateKey,
    listen: Sequence[Multiaddr],
    announce: Sequence[Multiaddr] = (),
    *,
    agent: str | None = None,
    securities: Sequence[Security] | None = None,
    name_servers: NameServers | None = None,
    limits: Limits | None = None,
    gate: Gate | None = None,
) -> AsyncIterator[StackHost]:
    """A running host for the identity, listening on ``listen``; closed when the block ends.

    ``announce``, if given, is told to others in place of the addresses listened on; ``agent`` in
    place of ours; ``securities`` are offered in place of Noise; ``name_servers`` answer in place of
    the system's. ``limits`` are cut to the files that the process may have open.

    Raises:
        UsageError: an address that cannot be listened on.
        NetworkError: an address that is in use, or that this machine does not have.
    """
    targets = [(addr, _listen_target(addr)) for addr in listen]
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        host = StackHost(
            private_key,
            nursery=nursery,
            securities=list(securities or [NoiseIdentity(private_key).security()]),
            announce=announce,
            agent=agent or AGENT,
            name_servers=name_servers or SystemNameServers(),
            limits=(limits or Limits()).within(open_files),
            gate=gate or Gate(),
        )
        try:
            host.start([_listen(host, addr, target) for addr, target in targets])
            yield host
        except BaseException as error:  # noqa: BLE001 - raised below, past the nursery
            failure = error
        finally:
            host.stop()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _listen_target(addr: Multiaddr) -> Target:
    target = parse(addr.to_bytes())
    if target is None:
        raise UsageError(f"listen: {addr} is not /ip4|ip6/.../tcp/...")
    return target


def _listen(host: StackHost, addr: Multiaddr, target: Target) -> Multiaddr:
    for transport in host.transports:
        if transport.can_listen(target):
            try:
                return transport.listen(target)
            except OSError as error:
                raise NetworkError(f"cannot listen on {addr}: {error.strerror}") from error
    raise UsageError(f"listen: {addr} is not /ip4|ip6/.../tcp/...")
