"""Makes the host that a daemon runs on our own stack, and closes it in the right order.

Decides what is offered: Noise or TLS and Yamux over TCP, QUIC v1, ping and identify; nothing else.
Never leaves a socket open.
"""

from __future__ import annotations

import resource
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht import __version__
from codio_dht.core.clock import UnixTime
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import NetworkError, UsageError
from codio_dht.net.gate import Gate
from codio_dht.net.limits import Limits
from codio_dht.net.listening import each_once, judge_failures
from codio_dht.net.name_servers import NameServers, SystemNameServers
from codio_dht.net.quic.connection import QuicIdentity
from codio_dht.net.quic.transport import QuicTransport
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack.security import Security
from codio_dht.net.stack.tls import TlsIdentity
from codio_dht.net.stack_host.host import StackHost
from codio_dht.net.stack_host.tcp import TcpTransport
from codio_dht.net.targets import Carrier, Target, parse

AGENT: Final = f"codio-dht/{__version__}"


@asynccontextmanager
async def make_stack_host(
    private_key: PrivateKey,
    listen: Sequence[Multiaddr],
    announce: Sequence[Multiaddr] = (),
    *,
    append_announce: Sequence[Multiaddr] = (),
    agent: str | None = None,
    securities: Sequence[Security] | None = None,
    name_servers: NameServers | None = None,
    limits: Limits | None = None,
    gate: Gate | None = None,
) -> AsyncIterator[StackHost]:
    """A running host for the identity, listening on ``listen``; closed when the block ends.

    ``announce``, if given, is told to others in place of the addresses listened on,
    ``append_announce`` in any case. ``agent`` replaces ours. ``securities`` are offered on TCP in
    place of Noise and TLS (the first is sent ahead). ``name_servers`` answer in place of the
    system's. ``limits`` are cut to the files that the process may have open.

    Raises:
        UsageError: an address that cannot be listened on.
        NetworkError: none of the addresses can be listened on: each is in use, or this machine does
            not have it.
    """
    targets = [(addr, _listen_target(addr)) for addr in each_once(listen)]
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = limits or Limits()
    if open_files != resource.RLIM_INFINITY:
        limits = limits.within(open_files)
    tcp_ports: dict[str, int] = {}
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        host = StackHost(
            private_key,
            nursery=nursery,
            securities=list(securities or _securities(private_key)),
            announce=announce,
            append_announce=append_announce,
            agent=agent or AGENT,
            name_servers=name_servers or SystemNameServers(),
            limits=limits,
            gate=gate or Gate(),
            transports=[
                TcpTransport,
                partial(
                    QuicTransport,
                    identity=QuicIdentity(private_key, _unix_now),
                    wanted_ports=tcp_ports,
                ),
            ],
        )
        try:
            host.start(_listen_all(host, targets, tcp_ports))
            yield host
        except BaseException as error:  # noqa: BLE001 - raised below, past the nursery
            failure = error
        finally:
            host.stop()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _unix_now() -> UnixTime:
    return UnixTime(time.time())


def _securities(private_key: PrivateKey) -> Sequence[Security]:
    noise = NoiseIdentity(private_key).security()
    return [noise, TlsIdentity(private_key, _unix_now).security()]


def _listen_target(addr: Multiaddr) -> Target:
    target = parse(addr.to_bytes())
    if target is None:
        raise UsageError(f"listen: {addr} is not /ip4|ip6/.../tcp/... or /udp/.../quic-v1")
    return target


def _listen_all(
    host: StackHost, targets: Sequence[tuple[Multiaddr, Target]], tcp_ports: dict[str, int]
) -> list[Multiaddr]:
    """Listen, on TCP first: its ports are noted, for QUIC to take the same."""
    bound: dict[int, Multiaddr] = {}
    failures: list[NetworkError] = []
    for index, (addr, target) in sorted(
        enumerate(targets), key=lambda entry: entry[1][1].carrier is not Carrier.TCP
    ):
        try:
            bound[index] = _listen(host, addr, target)
        except NetworkError as error:
            failures.append(error)
            continue
        real = parse(bound[index].to_bytes())
        if real is not None and real.carrier is Carrier.TCP:
            tcp_ports.setdefault(target.host, real.port)
    judge_failures(failures, listens=bool(bound))
    return [bound[index] for index in sorted(bound)]


def _listen(host: StackHost, addr: Multiaddr, target: Target) -> Multiaddr:
    for transport in host.transports:
        if transport.can_listen(target):
            try:
                return transport.listen(target)
            except OSError as error:
                raise NetworkError(f"cannot listen on {addr}: {error.strerror}") from error
    raise UsageError(f"listen: {addr} is not /ip4|ip6/.../tcp/... or /udp/.../quic-v1")
