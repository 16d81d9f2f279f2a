"""R6, R7, R8, R9: dials that end, that do not block each other, and that try every address.

Upstream: ``Swarm.dial_peer`` (libp2p/network/swarm.py, 0.8.1) tries one address per transport
(98, 880-892), waits 250 ms after a success too (936), holds one of 32 slots for as long as it
takes (907) and refuses a peer for 60 s after a failure (``_NegativePeerCache``);
``Swarm._dial_addr_single_attempt`` has no deadline for connecting or for security (1254;
transport/tcp/tcp.py:478).

Guard: ``dial_peer`` of one swarm races all addresses: the next one starts after
``DIAL_STAGGER_S`` or when one fails, the first success wins and the others are cancelled;
``MAX_DIALS`` addresses at once, first come, first served, each for ``DIAL_ATTEMPT_TIMEOUT_S`` at
most. Callers for one peer share one dial: the first of them owns it, and if the owner gives up,
the next takes over. Applies to a live host, and so to the dials of the program that owns it.
"""

# ruff: noqa: SLF001 - a guard works on what it guards

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.abc import INetConn
from libp2p.network.exceptions import SwarmDialAllFailedError, SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from multiaddr import Multiaddr

from codio_dht.logger import get_logger
from codio_dht.net.dial.failures import is_local
from codio_dht.net.dial.limits import DIAL_STAGGER_S, MAX_DIALS_PER_PEER
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check, replace
from codio_dht.net.libp2p_host.limits import (
    CLOSE_TIMEOUT_S,
    DIAL_ATTEMPT_TIMEOUT_S,
    MAX_DIALS,
)
from codio_dht.net.libp2p_host.shielding import shielded

_log = get_logger(__name__)

SYMBOLS = (
    Symbol("libp2p.network.swarm", "Swarm.dial_peer", ("self", "peer_id")),
    Symbol(
        "libp2p.network.swarm",
        "Swarm._dial_addr_single_attempt",
        ("self", "addr", "peer_id", "source"),
    ),
)

_UNSPECIFIED = ("/ip4/0.0.0.0/", "/ip6/::/")


@dataclass(slots=True, eq=False)
class _Dial:
    """A dial under way: the addresses still to be tried, and its end."""

    waiting: list[Multiaddr] = field(default_factory=list)
    known: set[Multiaddr] = field(default_factory=set)
    ended: trio.Event = field(default_factory=trio.Event)
    woken: trio.Event = field(default_factory=trio.Event)
    running: int = 0
    winner: INetConn | None = None
    owner_gone: bool = False
    errors: list[str] = field(default_factory=list)
    all_local: bool = True
    """No address failed for another reason than trouble of this node's own."""

    def add(self, addrs: Sequence[Multiaddr]) -> None:
        """More addresses of the same peer."""
        for addr in addrs:
            if addr not in self.known:
                self.known.add(addr)
                self.waiting.append(addr)
        self.woken.set()


def is_open(conn: Any) -> bool:
    """Whether streams can be opened on a connection: it is neither closed nor about to be."""
    if conn.is_closed or conn.muxed_conn.is_closed:
        return False
    shutting_down = getattr(conn.muxed_conn, "event_shutting_down", None)
    return shutting_down is None or not shutting_down.is_set()


class SwarmDialer:
    """Dials for one swarm."""

    def __init__(self, swarm: Swarm, counters: Counters) -> None:
        self._swarm = swarm
        self._counters = counters
        self._limiter = trio.CapacityLimiter(MAX_DIALS)
        self._dials: dict[ID, _Dial] = {}
        self._attempt = swarm._dial_addr_single_attempt

    async def dial(self, peer_id: ID, addrs: Sequence[Multiaddr]) -> INetConn:
        """A connection to the peer, an open one or a new one over any of ``addrs``.

        Raises:
            SwarmException: no address led to this peer.
        """
        usable = await self._usable(peer_id, addrs)
        while True:
            existing = self._open_connection(peer_id)
            if existing is not None:
                return existing
            dial = self._dials.get(peer_id)
            if dial is None:
                return await self._own_dial(peer_id, usable)
            dial.add(usable)
            await dial.ended.wait()
            if dial.winner is not None:
                return dial.winner
            if not dial.owner_gone and not dial.waiting:  # else our addresses came too late
                raise AllAddressesFailedError(peer_id, dial)

    async def attempt(
        self, addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None
    ) -> INetConn:
        """Upstream's single attempt, with an end."""
        try:
            with trio.fail_after(DIAL_ATTEMPT_TIMEOUT_S):
                return await self._attempt(addr, peer_id, source)
        except trio.TooSlowError as error:
            self._counters.add("dial_timeouts")
            raise SwarmException(
                f"no connection to {addr} in {DIAL_ATTEMPT_TIMEOUT_S} s"
            ) from error

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """What ``Swarm.dial_peer`` does, for the addresses in the peer store."""
        existing = [conn for conn in self._swarm.get_connections(peer_id) if is_open(conn)]
        if existing:
            return existing
        try:
            addrs = self._swarm.peerstore.addrs(peer_id)
        except PeerStoreError as error:
            raise SwarmException(f"no known addresses of peer {peer_id}") from error
        return [await self.dial(peer_id, addrs)]

    # --- one dial ---------------------------------------------------------------------------------

    def _open_connection(self, peer_id: ID) -> INetConn | None:
        for conn in self._swarm.get_connections(peer_id):
            if is_open(conn):
                return conn
        return None

    async def _own_dial(self, peer_id: ID, addrs: Sequence[Multiaddr]) -> INetConn:
        dial = self._dials[peer_id] = _Dial()
        dial.owner_gone = True  # until the race is over: a cancelled owner leaves it so
        dial.add(addrs)
        try:
            await self._race(peer_id, dial)
            dial.owner_gone = False
        finally:
            del self._dials[peer_id]
            dial.ended.set()
        if dial.winner is None:
            raise AllAddressesFailedError(peer_id, dial)
        return dial.winner

    async def _race(self, peer_id: ID, dial: _Dial) -> None:
        async with trio.open_nursery() as nursery:
            while dial.winner is None and (dial.waiting or dial.running):
                dial.woken = trio.Event()
                if dial.waiting and dial.running < MAX_DIALS_PER_PEER:
                    dial.running += 1
                    nursery.start_soon(self._try, peer_id, dial.waiting.pop(0), dial)
                pause = DIAL_STAGGER_S if dial.waiting else float("inf")
                with trio.move_on_after(pause):
                    await dial.woken.wait()
            nursery.cancel_scope.cancel()

    async def _try(self, peer_id: ID, addr: Multiaddr, dial: _Dial) -> None:
        try:
            async with self._limiter:
                conn = await self.attempt(addr, peer_id)
        except Exception as error:  # noqa: BLE001 - one address of several; upstream raises anything
            dial.errors.append(f"{addr}: {_reason(error)}")
            dial.all_local = dial.all_local and _is_local(error)
        else:
            if dial.winner is None:
                dial.winner = conn
            elif conn is not dial.winner:
                await self._close(conn)
        finally:
            dial.running -= 1
            dial.woken.set()

    async def _close(self, conn: INetConn) -> None:
        with shielded(CLOSE_TIMEOUT_S):
            try:
                await conn.close()
            except Exception as error:  # noqa: BLE001 - it lost the race in any case
                _log.debug("close failed", error=repr(error))

    # --- addresses --------------------------------------------------------------------------------

    async def _usable(self, peer_id: ID, addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
        """The addresses that one of our transports can dial, best first, without repetition."""
        usable = [addr for addr in dict.fromkeys(addrs) if self.can_dial(peer_id, addr)]
        gate = self._swarm.connection_gate
        allowed = [addr for addr in usable if await gate.is_allowed(addr)]
        return sorted(allowed, key=_rank)

    def can_dial(self, peer_id: ID, addr: Multiaddr) -> bool:
        """Whether one of our transports can dial the address, and it may be this peer's."""
        text = str(addr)
        if "/p2p-circuit" in text or text.startswith(_UNSPECIFIED):
            return False
        other = addr.get_peer_id()
        if other is not None and other != peer_id.to_base58():
            return False
        transports: list[Any] = self._swarm.transport_manager.get_transports()
        return any(transport.can_dial(addr) for transport in transports)


def _rank(addr: Multiaddr) -> tuple[bool, bool]:
    """TCP before QUIC, which costs this library four times as much; IPv4 before IPv6."""
    text = str(addr)
    return ("/udp/" in text, text.startswith("/ip6/"))


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    return f"{error}" if cause is None or str(cause) in str(error) else f"{error} ({cause})"


class AllAddressesFailedError(SwarmDialAllFailedError):
    """No address led to the peer; ``local`` if for reasons of this node's own."""

    def __init__(self, peer_id: ID, dial: _Dial) -> None:
        reasons = "; ".join(dial.errors) or "no address that can be dialled"
        super().__init__(
            f"cannot connect to {peer_id}: {reasons}",
            peer_id=peer_id,
            num_addrs_tried=len(dial.errors),
        )
        self.local = bool(dial.errors) and dial.all_local


def _is_local(error: BaseException | None) -> bool:
    """Whether the system's error behind ``error`` is trouble of this machine's own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return is_local(error.errno, at_once=error.errno == errno.ENETUNREACH)
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__
    return False


def race_dials(swarm: Swarm, counters: Counters) -> SwarmDialer:
    """Make ``swarm`` dial as this module says."""
    check(SYMBOLS)
    dialer = SwarmDialer(swarm, counters)
    replace(swarm, "_dial_addr_single_attempt", dialer.attempt)
    replace(swarm, "dial_peer", dialer.dial_peer)
    return dialer
