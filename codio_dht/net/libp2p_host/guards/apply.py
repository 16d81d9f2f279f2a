"""Applies the guards to one running host, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.transport.upgrader import TransportUpgrader

from codio_dht.errors import UsageError
from codio_dht.net.libp2p_host.guards.containment import contain_streams, contain_tasks
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.dialing import SwarmDialer, race_dials
from codio_dht.net.libp2p_host.guards.inbound import know_remote_address, release_inbound_slots
from codio_dht.net.libp2p_host.guards.multistream import bound_dialer, bound_listener
from codio_dht.net.libp2p_host.guards.own_keys import protect_own_entry
from codio_dht.net.libp2p_host.guards.quic import guard_quic_connection
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check, replace
from codio_dht.net.libp2p_host.guards.yamux import guard_connection

_MARK: Final = "_codio_dht_guards"

SYMBOLS = (
    Symbol("libp2p.network.swarm", "Swarm.add_conn", ("self", "muxed_conn", "direction")),
    Symbol(
        "libp2p.transport.upgrader",
        "TransportUpgrader.upgrade_security",
        ("self", "raw_conn", "is_initiator", "peer_id"),
    ),
)


@dataclass(frozen=True, slots=True)
class Guards:
    """The guards of one host, applied."""

    counters: Counters
    dialer: SwarmDialer


def guard_host(host: BasicHost) -> Guards:
    """Apply every guard that a running host can take.

    Raises:
        UpstreamMismatchError: the installed py-libp2p is not the one the guards were written for.
        UsageError: ``host`` is not a running py-libp2p host.
    """
    swarm = host.get_network()
    if not isinstance(swarm, Swarm):
        raise UsageError(f"host: expected a py-libp2p BasicHost with a Swarm, got {host!r}")
    if getattr(swarm, "_manager", None) is None or not swarm.manager.is_running:
        raise UsageError("host: not running; mount inside its `async with host.run(...)`")
    applied = getattr(swarm, _MARK, None)
    if isinstance(applied, Guards):
        return applied
    check(SYMBOLS)
    counters = Counters()
    protect_own_entry(host.get_peerstore(), host.get_id(), counters)
    contain_streams(swarm, counters)
    contain_tasks(swarm, counters)
    _bound_negotiations(host, swarm.upgrader, counters)
    release_inbound_slots(swarm, counters)
    _guard_connections(swarm, counters)
    guards = Guards(counters, race_dials(swarm, counters))
    setattr(swarm, _MARK, guards)
    return guards


def _bound_negotiations(host: BasicHost, upgrader: TransportUpgrader, counters: Counters) -> None:
    for multistream in (upgrader.security_multistream, upgrader.muxer_multistream, host):
        bound_listener(multistream.multiselect, counters)
        bound_dialer(multistream.multiselect_client, counters)


def _guard_connections(swarm: Swarm, counters: Counters) -> None:
    upgrader = swarm.upgrader
    upgrade_security = upgrader.upgrade_security
    add_conn = swarm.add_conn

    async def secured(
        raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        know_remote_address(raw_conn)
        return await upgrade_security(raw_conn, is_initiator, peer_id)

    def guard(muxed_conn: IMuxedConn) -> None:
        guard_connection(muxed_conn, counters)
        guard_quic_connection(muxed_conn)

    async def guarded(muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        guard(muxed_conn)
        return await add_conn(muxed_conn, direction)

    replace(upgrader, "upgrade_security", secured)
    replace(swarm, "add_conn", guarded)
    for swarm_conn in swarm.get_connections():
        guard(swarm_conn.muxed_conn)
