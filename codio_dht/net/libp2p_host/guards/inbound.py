"""R4, R12, R16: an inbound connection gives its place back, and a handshake takes no place.

Upstream: ``Swarm._do_handle_inbound_connection`` (libp2p/network/swarm.py:2044, 2060, 0.8.1)
waits for the end of the swarm while it holds a slot of ``_inbound_limiter`` (250 by default), so
after 250 inbound connections, ever, all others are refused (R4). The slot is taken before the
handshake, so 300 idle sockets shut everyone out for ten seconds (R12).
``TrioTCPStream.get_remote_address`` (libp2p/io/trio.py:104) knows no IPv6 peers, and without an
address the connection gate is skipped (R16).

Guard: replaces ``Swarm._handle_inbound_connection`` of one swarm, which its listeners look up at
each connection. A slot is taken after the handshake and given back when the connection closes;
handshakes have a bound and a list of their own, from which the oldest is dropped. Applies to a
live host, for the connections that come after; those accepted before keep their slots.
"""

# ruff: noqa: SLF001 - a guard works on what it guards

from __future__ import annotations

from typing import Any

import trio
from libp2p.abc import IMuxedConn
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.metrics.swarm import SwarmEvent
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr

from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check, replace
from codio_dht.net.libp2p_host.limits import (
    CLOSE_TIMEOUT_S,
    INBOUND_UPGRADE_TIMEOUT_S,
    MAX_PENDING_INBOUND,
)
from codio_dht.net.libp2p_host.shielding import shielded

_log = get_logger(__name__)

SYMBOLS = (
    Symbol(
        "libp2p.network.swarm",
        "Swarm._handle_inbound_connection",
        ("self", "read_write_closer", "maddr"),
    ),
    Symbol("libp2p.network.swarm", "Swarm.upgrade_inbound_raw_conn", ("self", "raw_conn", "maddr")),
    Symbol("libp2p.network.swarm", "Swarm.add_conn", ("self", "muxed_conn", "direction")),
    Symbol("libp2p.io.trio", "TrioTCPStream.get_remote_address", ("self",)),
)


def know_remote_address(connection: Any) -> None:
    """R16: tell a TCP stream, or the raw connection over one, its peer's address, IPv6 too."""
    stream: Any = connection
    if isinstance(connection, RawConnection):
        stream = connection.stream
    if not isinstance(stream, TrioTCPStream) or stream._cached_remote_address is not None:
        return
    try:
        host, port, *_ = stream.stream.socket.getpeername()
    except OSError:  # gone already; the handshake will fail
        return
    stream._cached_remote_address = (str(host).partition("%")[0], int(port))


def release_inbound_slots(swarm: Swarm, counters: Counters) -> None:
    """Handle the inbound connections of ``swarm`` as this module says."""
    check(SYMBOLS)
    replace(swarm, "_handle_inbound_connection", InboundDoor(swarm, counters).handle)


class InboundDoor:
    """Takes in the connections of one swarm."""

    def __init__(self, swarm: Swarm, counters: Counters) -> None:
        self._swarm = swarm
        self._counters = counters
        self._handshakes: dict[trio.CancelScope, None] = {}

    async def handle(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Live as long as the connection does: upstream's listener closes the socket after."""
        await self._tell_metrics()
        know_remote_address(read_write_closer)
        try:
            remote = self._swarm._build_remote_multiaddr(read_write_closer)
            if remote is not None and not await self._swarm.connection_gate.is_allowed(remote):
                self._counters.add("inbound_denied_by_gate")
                return
            muxed_conn = await self._upgrade(read_write_closer, maddr)
            if muxed_conn is not None:
                await self._hold(muxed_conn)
        except Exception as error:  # noqa: BLE001 - the outermost edge of a connection's task
            self._counters.add("inbound_failed")
            _log.debug("inbound connection failed", error=repr(error))
        finally:
            with shielded(CLOSE_TIMEOUT_S):
                await _close(read_write_closer)

    async def _upgrade(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr
    ) -> IMuxedConn | None:
        """The connection after its handshake; None if it was too slow or dropped for others."""
        while len(self._handshakes) >= MAX_PENDING_INBOUND:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
            self._counters.add("inbound_handshakes_dropped")
        muxed_conn: IMuxedConn | None = None
        with trio.move_on_after(INBOUND_UPGRADE_TIMEOUT_S) as scope:
            self._handshakes[scope] = None
            try:
                if isinstance(read_write_closer, IMuxedConn):
                    await self._swarm.add_conn(read_write_closer, direction="inbound")
                    muxed_conn = read_write_closer
                else:
                    raw_conn = RawConnection(read_write_closer, False)
                    muxed_conn = await self._swarm.upgrade_inbound_raw_conn(raw_conn, maddr)
            finally:
                self._handshakes.pop(scope, None)
        if scope.cancelled_caught:
            self._counters.add("inbound_handshakes_timed_out")
        return muxed_conn

    async def _hold(self, muxed_conn: IMuxedConn) -> None:
        """Hold an inbound slot until the connection closes."""
        limiter = self._swarm._inbound_limiter
        try:
            limiter.acquire_on_behalf_of_nowait(muxed_conn)
        except trio.WouldBlock:
            self._counters.add("inbound_refused_full")
            await _close(muxed_conn)
            return
        try:
            await _wait_closed(self._swarm, muxed_conn)
        finally:
            limiter.release_on_behalf_of(muxed_conn)

    async def _tell_metrics(self) -> None:
        channel = self._swarm.metric_send_channel
        if channel is not None:
            event = SwarmEvent()
            event.conn_incoming = True
            await channel.send(event)


async def _wait_closed(swarm: Swarm, muxed_conn: IMuxedConn) -> None:
    for swarm_conn in swarm.connections.get(muxed_conn.peer_id, []):
        if swarm_conn.muxed_conn is muxed_conn:
            await swarm_conn.event_closed.wait()  # type: ignore[attr-defined]
    socket_closed: Any = getattr(muxed_conn, "event_closed", None)  # QUIC has no socket of its own
    if socket_closed is not None:
        with trio.move_on_after(CLOSE_TIMEOUT_S):  # its last frames may still be on their way
            await socket_closed.wait()


async def _close(connection: Any) -> None:
    try:
        await connection.close()
    except Exception as error:  # noqa: BLE001 - it is over in any case
        _log.debug("close failed", error=repr(error))
