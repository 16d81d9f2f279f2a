"""Whom the contract of the ``Host`` port is checked on, and the little that differs between them.

A subject is one implementation on one transport. What an ``Implementation`` says of itself is all
that the contract may know of it beyond the port: names of its counters, bounds of its own choice,
and how to hurry what it does by the clock.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

import libp2p_hosts
import stack_hosts
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.event_bus import EventBus
from codio_dht.net.host import Host
from codio_dht.net.libp2p_host import Libp2pHost, inbound
from codio_dht.net.libp2p_host import identifying as libp2p_identifying
from codio_dht.net.stack_host import host as stack_host
from codio_dht.net.stack_host import identifying as stack_identifying
from codio_dht.net.stack_host import reaper, stream_tasks
from host_steps import ECHO, IDLE_S, QUIC, QUIC6, TCP, TCP6, Echoes, connect


@dataclass(frozen=True, slots=True)
class Counters:
    """What a host calls in ``stats`` what every host counts."""

    streams_open: str
    idle: str
    """A stream was reset for being idle."""
    reset: str
    """A handler reset its stream for the reason ``test``."""
    refused: str
    """A stream with a task past the bound."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """One implementation of the port."""

    make: Callable[..., AbstractAsyncContextManager[Any]]
    """``make(key, listen, announce)``."""
    counters: Counters
    large_message_bytes: int
    """What it passes on in well under a second, many first windows long."""
    places_held: Callable[[Any], int]
    """What its connections and streams hold of what is bounded; 0 when nothing is under way."""
    bus: Callable[[Any], EventBus]
    listening: Callable[[Any], Sequence[Multiaddr]]
    """Where it listens, whatever it tells others."""
    quicken: Callable[[pytest.MonkeyPatch], None]
    """Look at deadlines and own addresses all the time."""
    bound_stream_tasks: Callable[[pytest.MonkeyPatch, int, int], None]
    """So many streams with a task, of one peer and in all."""
    bound_identify_time: Callable[[pytest.MonkeyPatch, float], None]
    set_network: Callable[[pytest.MonkeyPatch, object], None]
    """As if the machine's addresses and routes were this."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An implementation on a transport."""

    implementation: Implementation
    listen: Multiaddr
    dials_from_its_listener: bool = False
    """Its port as the other end sees it is the one that it listens on."""

    @property
    def counters(self) -> Counters:
        return self.implementation.counters

    def host(
        self,
        *listen: Multiaddr,
        announce: Sequence[Multiaddr] = (),
        key: PrivateKey | None = None,
    ) -> AbstractAsyncContextManager[Host]:
        """A host on loopback."""
        return self.implementation.make(
            key or PrivateKey.generate_ed25519(), listen or (self.listen,), announce
        )

    @asynccontextmanager
    async def pair(self, echoes: Echoes | None = None) -> AsyncGenerator[tuple[Host, Host]]:
        """A host that serves ``ECHO``, and one that is connected to it."""
        async with self.host() as server, self.host() as client:
            server.serve(ECHO, echoes or Echoes(), idle_timeout_s=IDLE_S)
            await connect(client, server)
            yield server, client

    def streams_open(self, host: Host) -> int:
        """Streams that the host has open (py-libp2p: those that it serves)."""
        return host.stats()[self.counters.streams_open]


# --- our own stack --------------------------------------------------------------------------------


def _bound_stack_tasks(monkeypatch: pytest.MonkeyPatch, per_peer: int, total: int) -> None:
    monkeypatch.setattr(stream_tasks, "MAX_STREAM_TASKS_PER_PEER", per_peer)
    monkeypatch.setattr(stream_tasks, "MAX_STREAM_TASKS", total)


def _quicken_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    stack_hosts.quicken(monkeypatch)
    monkeypatch.setattr(reaper, "OWN_ADDRESSES_INTERVAL_S", reaper.REAP_INTERVAL_S)
    monkeypatch.setattr(reaper, "NETWORK_INTERVAL_S", reaper.REAP_INTERVAL_S)


def _held_by_stack(host: stack_hosts.StackHost) -> int:
    bounded = ("bytes_held", "stream_tasks", "connections_pending", "dials_running")
    return sum(host.stats()[name] for name in bounded)


OWN = Implementation(
    make=lambda key, listen, announce: stack_hosts.made_host(*listen, announce=announce, key=key),
    counters=Counters(
        streams_open="streams_open",
        idle="stream_reset:idle",
        reset="stream_reset:test",
        refused="stream_tasks_refused",
    ),
    large_message_bytes=4 << 20,
    places_held=_held_by_stack,
    bus=lambda host: host._bus,
    listening=lambda host: host._listening,
    quicken=_quicken_stack,
    bound_stream_tasks=_bound_stack_tasks,
    bound_identify_time=lambda monkeypatch, seconds: monkeypatch.setattr(
        stack_identifying, "IDENTIFY_TIMEOUT_S", seconds
    ),
    set_network=lambda monkeypatch, state: monkeypatch.setattr(
        stack_host, "network_state", lambda: state
    ),
)


# --- py-libp2p ------------------------------------------------------------------------------------


def _bound_libp2p_streams(monkeypatch: pytest.MonkeyPatch, per_peer: int, total: int) -> None:
    monkeypatch.setattr(inbound, "MAX_INBOUND_STREAMS_PER_PEER", per_peer)
    monkeypatch.setattr(inbound, "MAX_INBOUND_STREAMS", total)


def _held_by_libp2p(host: Libp2pHost) -> int:
    """Slots of streams that it opened, and of connections that it took and are no more."""
    connections = [conn.muxed_conn for conn in host._swarm.get_connections()]
    slots = [getattr(conn, "stream_backlog_semaphore", None) for conn in connections]
    inbound_gone = host._swarm._inbound_limiter.borrowed_tokens - len(connections)
    outgoing: int = sum(256 - slot.value for slot in slots if slot)
    return outgoing + max(0, inbound_gone)


PY_LIBP2P = Implementation(
    make=lambda key, listen, announce: libp2p_hosts.made_host(
        *listen, announce=announce, key=key.to_protobuf()
    ),
    counters=Counters(
        streams_open="inbound_streams_open",
        idle="inbound_streams_idle",
        reset="inbound_streams_reset",
        refused="inbound_streams_refused",
    ),
    large_message_bytes=1 << 20,
    places_held=_held_by_libp2p,
    bus=lambda host: host._state.bus,
    listening=lambda host: host._ihost.get_transport_addrs(),
    quicken=lambda monkeypatch: monkeypatch.setattr(
        libp2p_identifying, "RECONCILE_INTERVAL_S", 0.05
    ),
    bound_stream_tasks=_bound_libp2p_streams,
    bound_identify_time=lambda monkeypatch, seconds: monkeypatch.setattr(
        libp2p_identifying, "IDENTIFY_TIMEOUT_S", seconds
    ),
    set_network=lambda monkeypatch, state: monkeypatch.setattr(
        libp2p_identifying, "network_state", lambda: state
    ),
)


# --- what the contract is checked on --------------------------------------------------------------

OWN_TCP = pytest.param(Subject(OWN, TCP), id="own-tcp")
OWN_QUIC = pytest.param(Subject(OWN, QUIC, dials_from_its_listener=True), id="own-quic")
OWN_TCP6 = pytest.param(Subject(OWN, TCP6), id="own-tcp6")
OWN_QUIC6 = pytest.param(Subject(OWN, QUIC6, dials_from_its_listener=True), id="own-quic6")
PY_TCP = pytest.param(Subject(PY_LIBP2P, TCP), id="py-libp2p-tcp")
PY_QUIC = pytest.param(Subject(PY_LIBP2P, QUIC), id="py-libp2p-quic")

EVERYWHERE = pytest.mark.parametrize("subject", [OWN_TCP, OWN_QUIC, PY_TCP, PY_QUIC])
EVERYWHERE_AND_IP6 = pytest.mark.parametrize(
    "subject", [OWN_TCP, OWN_TCP6, OWN_QUIC, OWN_QUIC6, PY_TCP, PY_QUIC]
)
BUT_PY_QUIC = pytest.mark.parametrize("subject", [OWN_TCP, OWN_QUIC, PY_TCP])
"""Where py-libp2p's QUIC, which takes half a minute for many connections, would say nothing new."""
BOTH = pytest.mark.parametrize("subject", [OWN_TCP, PY_TCP])
"""Where nothing depends on the transport."""


# --- a way that can fall silent -------------------------------------------------------------------


class Relay:
    """Passes on what one client and a server say to each other, until ``silent``."""

    def __init__(self, server: Host) -> None:
        _, ip, host, carrier, port, *rest = str(server.addrs[0]).split("/")
        self._server = (host, int(port))
        self._carrier = carrier
        self._form = "/".join(["", ip, host, carrier, "{}", *rest])
        self.silent = False
        self.addr = server.addrs[0]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Relay]:
        async with trio.open_nursery() as nursery:
            serve = self._serve_tcp if self._carrier == "tcp" else self._serve_udp
            port = await nursery.start(serve)
            self.addr = Multiaddr(self._form.format(port))
            yield self
            nursery.cancel_scope.cancel()

    async def _serve_tcp(self, task_status: Any) -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listener.socket.getsockname()[1])
        await trio.serve_listeners(self._join, [listener])

    async def _join(self, client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(*self._server) as server, trio.open_nursery() as both:
            both.start_soon(self._copy, client, server)
            both.start_soon(self._copy, server, client)

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(65_536):
                if not self.silent:
                    await sink.send_all(data)
            await sink.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await sink.aclose()

    async def _serve_udp(self, task_status: Any) -> None:
        datagrams = (trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        with trio.socket.socket(*datagrams) as near, trio.socket.socket(*datagrams) as far:
            await near.bind(("127.0.0.1", 0))
            await far.bind(("127.0.0.1", 0))
            client: list[Any] = []

            async def there() -> None:
                while True:
                    data, client[:] = await _received(near)
                    if not self.silent:
                        await far.sendto(data, self._server)

            async def back() -> None:
                while True:
                    data, _ = await _received(far)
                    if not self.silent:
                        await near.sendto(data, tuple(client))

            task_status.started(near.getsockname()[1])
            async with trio.open_nursery() as both:
                both.start_soon(there)
                both.start_soon(back)


async def _received(sock: trio.socket.SocketType) -> tuple[bytes, Any]:
    """A datagram; what the system says of the one sent before is none."""
    while True:
        try:
            return await sock.recvfrom(2_048)
        except OSError:
            continue
