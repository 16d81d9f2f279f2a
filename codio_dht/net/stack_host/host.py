"""The ``Host`` port over our own stack: ties links, dials, identify and what is served together.

Decides what a connection that comes or goes means to the host; everything else its parts decide.
States::

    NEW --start--> RUNNING --stop--> ENDED

Outside RUNNING every call that needs the network raises ``NotRunningError``. Made and run by
:func:`~codio_dht.net.stack_host.make_host.make_stack_host`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
from multiaddr import Multiaddr
from trio.lowlevel import checkpoint

from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Account, Flow, OriginLedger
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import CapacityError, DialError, NotRunningError, StreamError
from codio_dht.formats.multiaddr import is_public, strip_peer_id
from codio_dht.net.bugs import BugLog
from codio_dht.net.charging import Charging
from codio_dht.net.dial.budget import DialBudget
from codio_dht.net.dial.race import Dialler
from codio_dht.net.dnsaddr import peers_named_by
from codio_dht.net.event_bus import EventBus
from codio_dht.net.gate import Gate
from codio_dht.net.handlers import StreamHandlerFactory
from codio_dht.net.host import AddrsChanged, ConnectionInfo, HostEvent, Stream
from codio_dht.net.identify.message import IDENTIFY
from codio_dht.net.inbound_links import InboundLinks
from codio_dht.net.limits import Limits
from codio_dht.net.link import Link, LinkContext, LinkState, Transport, now
from codio_dht.net.name_servers import NameServers
from codio_dht.net.observed_addrs import ObservedAddrs
from codio_dht.net.own_addresses import network_state, told_addresses
from codio_dht.net.ping import PING, PingHandler, round_trip
from codio_dht.net.stack.channel import Channel, Served, ServedProtocols
from codio_dht.net.stack.security import Authenticated, Security
from codio_dht.net.stack_host.connections import Connections
from codio_dht.net.stack_host.identifying import LinkIdentifier
from codio_dht.net.stack_host.limits import PING_IDLE_S, STREAM_TASK_IDLE_S
from codio_dht.net.stack_host.load_watch import LoadWatch
from codio_dht.net.stack_host.reaper import Reaper
from codio_dht.net.stack_host.stream import StackStream, open_stream
from codio_dht.net.stack_host.stream_tasks import StreamTasks

TransportFactory = Callable[[LinkContext, InboundLinks, Callable[[], bool]], Transport]
"""Makes a transport: what links share, who may connect, and whether there is room for one more."""


class StackHost:
    """See ``codio_dht.net.host.Host``."""

    def __init__(
        self,
        private_key: PrivateKey,
        *,
        nursery: trio.Nursery,
        securities: Sequence[Security],
        announce: Sequence[Multiaddr],
        append_announce: Sequence[Multiaddr] = (),
        agent: str,
        name_servers: NameServers,
        limits: Limits,
        gate: Gate,
        transports: Sequence[TransportFactory],
    ) -> None:
        self._private_key = private_key
        self._peer_id = private_key.peer_id()
        self._announce = tuple(announce)
        self._append_announce = tuple(append_announce)
        self._gate = gate
        self._name_servers = name_servers
        self._counters: Counter[str] = Counter()
        self._served = ServedProtocols()
        self._tasks_of: dict[str, Callable[[Stream], Awaitable[None]]] = {}
        self._listening: list[Multiaddr] = []
        self._told: tuple[Multiaddr, ...] = ()
        self._unproven: tuple[Multiaddr, ...] = ()
        self._observed = ObservedAddrs()
        self._running = False
        self._network: Hashable = None
        self._bus = EventBus(self._counters)
        self._admitted: dict[PeerId, Link] = {}
        """Links whose peers have proved who they are, until they are open: a request that comes
        with the end of the handshake is answered in between."""
        self._connections = Connections(self._peer_id, limits, self._counters)
        self._origins = OriginLedger()
        self._charging = Charging(self._origins, gate, limits)
        self._admission = InboundLinks(gate, limits, self._charging, self._counters)
        self._stream_tasks = StreamTasks(nursery, self._counters)
        self._identifier = LinkIdentifier(
            private_key,
            agent=agent,
            addrs=lambda: self._told,
            served=self._served,
            connections=self._connections,
            bus=self._bus,
            counters=self._counters,
            nursery=nursery,
            observed=self._on_observed,
            affords=self._affords,
        )
        self._served.add(Served(PING, PingHandler, PING_IDLE_S))
        context = LinkContext(
            self,
            nursery,
            securities,
            self._served,
            limits,
            self._counters,
            BugLog(self._counters),
            self._charging,
        )
        self._nursery = nursery
        self._transports = [
            make(context, self._admission, lambda: self._connections.make_room(now()))
            for make in transports
        ]
        self._budget = DialBudget(limits, self._counters)
        self._dialler = Dialler(
            nursery=nursery,
            transports=self._transports,
            budget=self._budget,
            gate=gate,
            name_servers=name_servers,
            counters=self._counters,
            exempt_local=limits.exempt_local,
        )
        self._load_watch = LoadWatch(self._origins, trio.current_time)
        self._reaper = Reaper(
            admission=self._admission,
            connections=self._connections,
            limits=limits,
            counters=self._counters,
            look_at_own_addresses=self._look_at_own_addresses,
            look_at_network=self._look_at_network,
        )

    # --- life -------------------------------------------------------------------------------------

    @property
    def transports(self) -> Sequence[Transport]:
        """What carries its connections."""
        return tuple(self._transports)

    def start(self, listening: Sequence[Multiaddr]) -> None:
        """Serve the addresses that its transports listen on."""
        self._listening = list(listening)
        self._told = self._tell()
        self._charging.public = any(is_public(addr.to_bytes()) for addr in self._told)
        self._network = network_state()
        self._running = True
        for transport in self._transports:
            transport.start()
        self._nursery.start_soon(self._reaper.run)
        self._nursery.start_soon(self._load_watch.run)

    def stop(self) -> None:
        """Close everything, telling the peers as far as that can be done at once."""
        for link in [*self._connections, *self._admission.pending]:
            link.end()
        for transport in self._transports:
            transport.close()
        self._running = False
        self._bus.end()

    def _check_running(self) -> None:
        if not self._running:
            raise NotRunningError("the host is not running; use it as `async with`")

    # --- who and where ----------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """Own identity."""
        return self._peer_id

    @property
    def private_key(self) -> PrivateKey:
        """The key of the identity."""
        return self._private_key

    @property
    def addrs(self) -> tuple[Multiaddr, ...]:
        """Own addresses as told to others."""
        return self._told

    def _look_at_own_addresses(self) -> bool:
        """Tell everybody if our own addresses changed; whether they did. Done now and then, so that
        no peer can make us tell everybody of changes all the time."""
        observed = self._observed.addrs(now())
        told = self._tell(Multiaddr(each.addr) for each in observed if each.proven)
        seen = (Multiaddr(each.addr) for each in observed if not each.proven)
        unproven = tuple(addr for addr in seen if addr not in told)
        if (told, unproven) == (self._told, self._unproven):
            return False
        if told != self._told:
            self._identifier.self_changed()
        self._told, self._unproven = told, unproven
        self._charging.public = any(is_public(addr.to_bytes()) for addr in told)
        self._bus.emit(AddrsChanged(told, unproven))
        return True

    def prove_address(self, addr: Multiaddr) -> None:
        """Somebody whom this node asked has dialled it at ``addr``, as AutoNAT does: it is told to
        others for a while, from the next look at the own addresses on."""
        self._observed.prove(addr.to_bytes(), now())

    def _tell(self, observed: Iterable[Multiaddr] = ()) -> tuple[Multiaddr, ...]:
        return told_addresses(
            self._listening, self._announce, observed, append_announce=self._append_announce
        )

    def _look_at_network(self) -> None:
        """After a change of the machine's addresses or routes, whatever failed before may work now,
        and subscribers hear of it also if our own addresses are the same."""
        before, self._network = self._network, network_state()
        if before == self._network:
            return
        self._counters["network_changes"] += 1
        self._dialler.forget_failures()
        if not self._look_at_own_addresses():
            self._bus.emit(AddrsChanged(self._told, self._unproven))

    def _affords(self, peer_id: PeerId, flow: Flow) -> bool:
        """Whether the peer may cause one more of ``flow`` now. It is charged with it."""
        account = self.account(peer_id)
        return account is None or self._origins.afford(account, flow, now())

    def _on_observed(self, link: Link, addr: bytes) -> None:
        """The peer says where it sees us."""
        seen = strip_peer_id(addr, self._peer_id.to_bytes())
        if seen is not None and link.on_listener and link.state is LinkState.OPEN:
            self._observed.saw(link, remote=link.target.addr, observed=seen, now=now())

    # --- connections ------------------------------------------------------------------------------

    async def connect(
        self,
        peer_id: PeerId,
        addrs: Sequence[Multiaddr],
        deadline: Monotonic,
        *,
        retry_failed: bool = False,
        stranger_filter: AddressFilter | None = None,
        later: Callable[[], Sequence[Multiaddr]] | None = None,
    ) -> None:
        """Make sure that there is a connection to the peer; all of ``addrs`` are tried."""
        self._check_running()
        best = self._connections.best(peer_id)
        if best is not None and not best.doubtful:
            await checkpoint()
            return
        if peer_id == self._peer_id:
            raise DialError("that peer is this node itself")
        if not self._connections.make_room(now()):
            raise DialError("this node has too many connections", local=True)
        await self._dialler.connect(
            peer_id,
            addrs,
            deadline,
            retry_failed=retry_failed,
            stranger_filter=stranger_filter,
            later=later,
        )

    async def peers_named_by(self, addr: Multiaddr, deadline: Monotonic) -> list[Multiaddr]:
        """The peers that a ``/dnsaddr/HOST`` without a peer id lists."""
        self._check_running()
        return await peers_named_by(addr, deadline, servers=self._name_servers)

    async def disconnect(self, peer_id: PeerId) -> None:
        """Close every connection to the peer, if any."""
        for link in self._connections.of(peer_id):
            link.end()
        await checkpoint()

    def set_denied(self, entries: Sequence[str | PeerId]) -> None:
        """From now on, have no connection to what ``entries`` name."""
        self._gate.set_denied(entries)
        for link in list(self._connections):
            if link.peer_id is not None and not self._gate.admits(link.target.ip, link.peer_id):
                self._counters["connections_denied"] += 1
                link.end()

    def is_reached(self, peer_id: PeerId) -> bool:
        """Whether the peer is connected, or took a connection that is being set up."""
        return self.is_connected(peer_id) or self._dialler.is_reached(peer_id)

    def is_connected(self, peer_id: PeerId) -> bool:
        """Whether a connection to the peer is open."""
        return self._connections.best(peer_id) is not None

    def remote_addrs(self, peer_id: PeerId) -> list[Multiaddr]:
        """Where the open connections to the peer come from or lead to."""
        return [Multiaddr(link.target.addr) for link in self._connections.of(peer_id)]

    @property
    def origins(self) -> OriginLedger:
        """Who caused which cost."""
        return self._origins

    def account(self, peer_id: PeerId) -> Account | None:
        """The account that pays for what the connected peer causes."""
        link = self._connections.best(peer_id) or self._admitted.get(peer_id)
        return None if link is None else link.charges.account

    def connections(self) -> list[ConnectionInfo]:
        """Every open connection."""
        self._check_running()
        infos = []
        for link in self._connections:
            assert link.peer_id is not None
            said = self._identifier.known.get(link.peer_id)
            infos.append(
                ConnectionInfo(
                    peer_id=link.peer_id,
                    addr=Multiaddr(link.target.addr),
                    inbound=link.inbound,
                    agent=said.agent if said else "",
                    protocols=said.protocols if said else frozenset(),
                    said_addrs=said.addrs if said else (),
                )
            )
        return infos

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Never close connections to the peer for being too many or idle."""
        self._connections.protect(peer_id, tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> bool:
        """The reason is gone; whether another remains."""
        return self._connections.unprotect(peer_id, tag)

    # --- streams ----------------------------------------------------------------------------------

    async def open_stream(self, peer_id: PeerId, protocol: str, deadline: Monotonic) -> Stream:
        """A new stream to a connected peer.

        The negotiation rides with the first write, and the first read tells if the peer does not
        speak ``protocol``; except where identify said that it does not, when it is asked first.
        """
        self._check_running()
        link = self._connections.best(peer_id)
        if link is None:
            raise StreamError(f"not connected to {peer_id}")
        said = self._identifier.known.get(peer_id)
        doubtful = said is not None and protocol not in said.protocols
        return await open_stream(link, protocol, deadline, eager=doubtful)

    async def ping(self, peer_id: PeerId, deadline: Monotonic) -> float:
        """One round trip of ``/ipfs/ping/1.0.0`` to a connected peer, in seconds."""
        return await round_trip(await self.open_stream(peer_id, PING, deadline), deadline)

    # --- serving ----------------------------------------------------------------------------------

    def serve(self, protocol: str, factory: StreamHandlerFactory, *, idle_timeout_s: float) -> None:
        """Answer ``protocol`` and advertise it in identify."""
        self._check_running()
        self._serve(Served(protocol, factory, idle_timeout_s))

    def serve_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Answer ``protocol`` with a task per stream. A handler that returns leaves its stream
        closed; one that raises leaves it reset."""
        self._check_running()
        self._tasks_of[protocol] = handler
        self._serve(Served(protocol, None, STREAM_TASK_IDLE_S))

    def unserve(self, protocol: str) -> None:
        """Stop answering and advertising ``protocol``; its inbound streams are reset."""
        if protocol not in self._served.protocols():
            return
        self._served.remove(protocol)
        self._tasks_of.pop(protocol, None)
        self._stream_tasks.end(protocol)
        for link in self._connections:
            link.reset_protocol(protocol)
        if self._running:
            self._identifier.self_changed()

    def _serve(self, served: Served) -> None:
        if served.factory is not None:
            self._tasks_of.pop(served.protocol, None)
        self._served.add(served)
        self._identifier.self_changed()

    # --- events and counters ----------------------------------------------------------------------

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[HostEvent]]:
        """Subscribe; the first events describe the peers already identified, and own addresses
        that are not proven."""
        return self._events()

    @asynccontextmanager
    async def _events(self) -> AsyncIterator[AsyncIterator[HostEvent]]:
        self._check_running()
        first: list[HostEvent] = [*self._identifier.known]
        if self._unproven:
            first.append(AddrsChanged(self._told, self._unproven))
        with self._bus.subscribed(first) as events:
            yield events

    def stats(self) -> dict[str, int]:
        """Counters of the host, and what is open now."""
        links = list(self._connections)
        shedding = self._load_watch.shedding
        return {
            **dict(sorted(self._counters.items())),
            "connections_open": len(links),
            "connections_inbound": sum(link.inbound for link in links),
            "connections_pending": len(self._admission.pending),
            "streams_open": sum(link.stream_count for link in links),
            "stream_tasks": len(self._stream_tasks),
            "bytes_held": sum(link.held_bytes for link in links),
            "dials_running": self._budget.running,
            "peers_identified": len(self._identifier.known),
            "loop_lag_us": round(shedding.lag_s * 1e6),
            "loop_lag_worst_us": round(shedding.worst_lag_s * 1e6),
            "load_pressure": round(shedding.pressure),
            "origins": len(self._origins),
            "origins_at_limit": self._origins.refusals,
        }

    # --- what links tell --------------------------------------------------------------------------

    def admit(self, link: Link, authenticated: Authenticated) -> bool:
        """See ``LinkOwner``."""
        peer_id = authenticated.peer_id
        if peer_id == self._peer_id:
            reason = "own identity"
        elif not self._gate.admits(link.target.ip, peer_id):
            reason = "denied"
        elif link.inbound and not self._connections.has_room_for(peer_id):
            reason = "too many of one peer"
        elif link.inbound and not self._connections.make_room(now()):
            reason = "too many connections"
        else:
            link.charges.move(self._charging.peer(link.target.ip, peer_id))
            self._admitted[peer_id] = link
            return True
        self._counters[f"peers_refused:{reason}"] += 1
        return False

    def on_established(self, link: Link) -> None:
        """See ``LinkOwner``."""
        if link.inbound:
            self._admission.established(link)
        self._connections.add(link)
        self._forget_admitted(link)
        self._counters["connections_opened"] += 1
        self._identifier.ask(link)
        self._dialler.on_connected(link)

    def _forget_admitted(self, link: Link) -> None:
        for peer_id in [each for each, other in self._admitted.items() if other is link]:
            del self._admitted[peer_id]

    def on_accepted(self, link: Link, channel: Channel) -> None:
        """See ``LinkOwner``."""
        protocol = channel.protocol
        assert protocol is not None
        try:
            if protocol == IDENTIFY and protocol not in self._tasks_of:
                self._identifier.answer(link, channel)
                return
            stream = StackStream(link, channel, protocol, agreed=True)
        except StreamError:  # the link has just ended
            return
        handler = self._tasks_of.get(protocol)
        if handler is None:
            stream.abort()
        else:
            self._stream_tasks.start(stream, handler)

    def on_ended(self, link: Link) -> None:
        """See ``LinkOwner``."""
        self._observed.ended(link, now())
        self._forget_admitted(link)
        if link.inbound:
            self._admission.ended(link)
        if isinstance(link.error, CapacityError):
            self._counters["connections_refused_or_shed"] += 1
        if self._connections.remove(link):
            assert link.peer_id is not None
            self._identifier.known.gone(link.peer_id)
