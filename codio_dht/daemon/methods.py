"""What each method of the control API does with the node, and how its results look as JSON.

Decides names, parameters and results (docs/control-api.md lists them); connections, bounds and
cancellation are :mod:`codio_dht.daemon.control`'s. Every address told ends in ``/p2p/<peer id>``,
so that it can be pasted into another command; durations are seconds, times Unix seconds.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.daemon.deny_methods import DenyMethods
from codio_dht.daemon.node_port import Dht
from codio_dht.daemon.parameters import Params, parse_key, parse_peer
from codio_dht.daemon.protocol import API_VERSION, ControlError, ErrorCode
from codio_dht.daemon.provide_methods import ProvideMethods
from codio_dht.daemon.settings import DEFAULT_BOOTSTRAP
from codio_dht.daemon.trace import event_json, relay
from codio_dht.daemon.value_methods import ValueMethods
from codio_dht.errors import (
    AddressError,
    CapacityError,
    CodioError,
    DeadlineError,
    DeniedError,
    DialError,
    NetworkError,
    NoPeersError,
    NotRunningError,
    PeerIdError,
    StorageError,
    UsageError,
)
from codio_dht.net.host import ConnectionInfo
from codio_dht.node.arguments import peer_or_name_argument
from codio_dht.node.results import FoundPeer

MAX_PROVIDERS_ASKED: Final = 100_000
"""Largest ``count`` of findprovs; 0 asks for all there are."""

MAX_PINGS: Final = 10_000
MAX_PING_INTERVAL_S: Final = 3600.0
PING_INTERVAL_S: Final = 1.0
PINGS: Final = 5

_CODES: Final[tuple[tuple[type[CodioError], ErrorCode], ...]] = (
    (UsageError, ErrorCode.USAGE),
    (PeerIdError, ErrorCode.USAGE),
    (AddressError, ErrorCode.USAGE),
    (DeniedError, ErrorCode.USAGE),
    (NoPeersError, ErrorCode.NO_PEERS),
    (DeadlineError, ErrorCode.TIMEOUT),
    (NetworkError, ErrorCode.NETWORK),
    (CapacityError, ErrorCode.CAPACITY),
    (StorageError, ErrorCode.STORAGE),
    (NotRunningError, ErrorCode.STOPPING),
)
"""The first class that fits decides."""

Emit = Callable[[object], Awaitable[None]]
"""Sends one item to the client; waits while it does not read."""

Method = Callable[[Params, Emit], Awaitable[object]]
"""Runs a request: emits items, returns the result, raises ``ControlError`` or ``CodioError``."""


class Methods:
    """The control API's methods over one node.

    ``daemon_stats`` gives what the daemon itself counts; it becomes ``stats``' field ``daemon``.
    ``bootstrap_addrs`` are the peers that the daemon joins through by default.
    """

    def __init__(
        self,
        dht: Dht,
        version: str,
        daemon_stats: Callable[[], Mapping[str, object]],
        bootstrap_addrs: Sequence[str] = (),
    ) -> None:
        self._dht = dht
        self._version = version
        self._bootstrap_addrs = bootstrap_addrs
        self._daemon_stats = daemon_stats
        self._provides = ProvideMethods(dht, code_of, to_json)
        self._values = ValueMethods(dht, _unix_now)
        self._denying = DenyMethods(dht)

    def table(self) -> dict[str, Method]:
        """Every method by its name in the API."""
        return {
            "version": self._version_,
            "id": self._id,
            "findprovs": self._findprovs,
            "findpeer": self._findpeer,
            "closest": self._closest,
            "ping": self._ping,
            "swarm.peers": self._swarm_peers,
            "swarm.connect": self._swarm_connect,
            "stats": self._stats,
            "bootstrap": self._bootstrap,
            **self._denying.table(),
            **self._provides.table(),
            **self._values.table(),
        }

    # --- this node ---

    async def _version_(self, params: Params, emit: Emit) -> object:
        params.done()
        return {
            "version": self._version,
            "api": API_VERSION,
            "python": platform.python_version(),
        }

    async def _id(self, params: Params, emit: Emit) -> object:
        asked = params.optional_text("peer")
        params.done()
        if asked is None:
            return self._own_id()
        peer = parse_peer(asked, "peer")
        if peer == self._dht.peer_id:
            return self._own_id()
        open_ = [info for info in self._dht.connections() if info.peer_id == peer]
        addrs = _addrs_of(open_) or await self._found(peer, asked=not open_)
        if not open_ and not addrs:
            raise ControlError(ErrorCode.NOT_FOUND, f"peer {peer} was not found")
        best = open_[0] if open_ else None
        return {
            "peer_id": str(peer),
            "addrs": full_addrs(peer, addrs),
            "connected": bool(open_),
            "agent": best.agent if best else None,
            "protocols": sorted(best.protocols) if best else None,
        }

    async def _found(self, peer: PeerId, *, asked: bool) -> Sequence[Multiaddr]:
        """The addresses of ``peer`` that the network knows. Unless ``asked``, a failed search
        counts as no address."""
        try:
            return await self._dht.find_peer(peer)
        except NetworkError:
            if asked:
                raise
            return ()

    def _own_id(self) -> object:
        dht = self._dht
        return {
            "peer_id": str(dht.peer_id),
            "addrs": full_addrs(dht.peer_id, dht.addrs),
            "mode": to_json(dht.mode),
            "version": self._version,
        }

    async def _stats(self, params: Params, emit: Emit) -> object:
        params.done()
        stats = to_json(self._dht.stats())
        if not isinstance(stats, dict):
            raise TypeError(type(stats))
        return {**stats, "daemon": to_json(self._daemon_stats())}

    # --- lookups ---

    async def _findprovs(self, params: Params, emit: Emit) -> object:
        cid = params.cid("cid")
        count = params.integer("count", 0, 0, MAX_PROVIDERS_ASKED)
        params.done()
        began = trio.current_time()
        found: set[PeerId] = set()
        async with aclosing(self._dht.iter_providers(cid, count or None)) as providers:
            try:
                async for info in providers:
                    await emit(peer_json(info.peer_id, info.addrs))
                    found.add(info.peer_id)
            except NoPeersError:  # what this node knows by itself is an answer all the same
                if not found:
                    raise
        return {"found": len(found), "seconds": _since(began)}

    async def _findpeer(self, params: Params, emit: Emit) -> object:
        peer = params.peer("peer")
        params.done()
        addrs = await self._dht.find_peer(peer)
        if not addrs:
            raise ControlError(ErrorCode.NOT_FOUND, f"peer {peer} was not found")
        return peer_json(peer, addrs)

    async def _closest(self, params: Params, emit: Emit) -> object:
        preimage = parse_key(params.text("key"), "key")
        local, trace = params.flag("local"), params.flag("trace")
        params.done()
        if local and trace:
            raise UsageError("trace: there is no walk to trace with local, which asks nobody")
        began = trio.current_time()
        if local:
            near = self._dht.get_closest_peers(preimage)
            for peer in near:
                await emit(peer_json(peer, ()))
            return {"found": len(near), "seconds": _since(began)}
        if not trace:
            closest = await self._dht.find_closest_peers(preimage)
            return await self._emit_closest(closest, began, emit)
        closest, missed = await relay(
            lambda watch: self._dht.find_closest_peers(preimage, watch),
            lambda event: emit(event_json(event, began)),
        )
        return {**await self._emit_closest(closest, began, emit), "missed": missed}

    async def _emit_closest(
        self, closest: Sequence[FoundPeer], began: float, emit: Emit
    ) -> dict[str, object]:
        for info in closest:
            standing = {"standing": info.standing.value, "alive_at": to_json(info.alive_at)}
            await emit({**peer_json(info.peer_id, info.addrs), **standing})
        return {"found": len(closest), "seconds": _since(began)}

    # --- peers ---

    async def _ping(self, params: Params, emit: Emit) -> object:
        target = params.text("target")
        count = params.integer("count", PINGS, 1, MAX_PINGS)
        interval_s = params.number("interval", PING_INTERVAL_S, 0.0, MAX_PING_INTERVAL_S)
        params.done()
        peer = await self._target(target)
        times: list[float] = []
        for seq in range(1, count + 1):
            if seq > 1:
                await trio.sleep(interval_s)
            try:
                seconds = await self._dht.ping(peer)
            except (DialError, NoPeersError):  # not reached: another try would tell the same
                raise
            except NetworkError as error:
                await emit({"peer_id": str(peer), "seq": seq, "error": str(error)})
            else:
                times.append(seconds)
                await emit({"peer_id": str(peer), "seq": seq, "seconds": round(seconds, 6)})
        if not times:
            raise ControlError(ErrorCode.NETWORK, f"peer {peer} did not answer")
        return {
            "peer_id": str(peer),
            "sent": count,
            "received": len(times),
            "min": round(min(times), 6),
            "avg": round(sum(times) / len(times), 6),
            "max": round(max(times), 6),
        }

    async def _target(self, target: str) -> PeerId:
        """The peer to ping. If the target is an address, connects to it first."""
        if target.startswith("/") and not target.startswith("/p2p/"):
            return await self._connect(target, "target")
        peer = parse_peer(target, "target")
        if peer == self._dht.peer_id:
            raise UsageError("target: that is this node itself")
        return peer

    async def _swarm_peers(self, params: Params, emit: Emit) -> object:
        params.done()
        connections = sorted(self._dht.connections(), key=lambda info: info.peer_id)
        for info in connections:
            await emit(_connection_json(info))
        return {"count": len(connections)}

    async def _swarm_connect(self, params: Params, emit: Emit) -> object:
        text = params.text("addr")
        params.done()
        return {"peer_id": str(await self._connect(text, "addr")), "addr": text}

    async def _connect(self, text: str, name: str) -> PeerId:
        found = peer_or_name_argument(text, name)
        if isinstance(found, PeerInfo) and found.peer_id == self._dht.peer_id:
            raise UsageError(f"{name}: that is this node itself")
        return await self._dht.connect(text)

    async def _bootstrap(self, params: Params, emit: Emit) -> object:
        addrs = params.texts("addrs") or list(self._bootstrap_addrs)
        params.done()
        if not addrs:
            raise UsageError(
                "addrs: this daemon has no bootstrap peers of its own; name at least one"
            )
        for addr in addrs:
            if addr != DEFAULT_BOOTSTRAP:
                peer_or_name_argument(addr, "addrs")
        began = trio.current_time()
        answered = await self._dht.bootstrap(addrs)
        stats = self._dht.stats()
        return {
            "answered": answered,
            "num_peers": stats.num_peers,
            "routing_table_size": stats.routing_table_size,
            "seconds": _since(began),
        }


# --- results as JSON ------------------------------------------------------------------------------


def peer_json(peer: PeerId, addrs: Iterable[Multiaddr]) -> dict[str, object]:
    """A peer and its addresses."""
    return {"peer_id": str(peer), "addrs": full_addrs(peer, addrs)}


def full_addrs(peer: PeerId, addrs: Iterable[Multiaddr]) -> list[str]:
    """The addresses with their ``/p2p/<peer id>``, each once, in order."""
    tail = f"/p2p/{peer}"
    texts = (str(addr) for addr in addrs)
    return list(dict.fromkeys(text if text.endswith(tail) else text + tail for text in texts))


def to_json(value: object) -> object:
    """``value`` as JSON: dataclasses and mappings as objects, enums by name, the rest as text."""
    match value:
        case None | bool() | int() | str() if not isinstance(value, Enum):
            return value
        case float():
            return value if math.isfinite(value) else None
        case Enum():
            return value.value if isinstance(value.value, str) else value.name.lower()
        case bytes():
            return value.hex()
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(item) for item in value]
        case _ if is_dataclass(value):
            return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        case _:
            return str(value)


def _unix_now() -> UnixTime:
    return UnixTime(time.time())


def code_of(error: CodioError) -> ErrorCode:
    """The code that a request which failed with ``error`` is answered with."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ErrorCode.INTERNAL


def _addrs_of(connections: Sequence[ConnectionInfo]) -> list[Multiaddr]:
    """The addresses that a peer says it listens on, or else the one at which it was reached. The
    port that its connection came from is left out, because nobody can dial it."""
    said = [addr for info in connections for addr in info.said_addrs]
    return said or [info.addr for info in connections if info.addr is not None and not info.inbound]


def _connection_json(info: ConnectionInfo) -> dict[str, object]:
    addrs = full_addrs(info.peer_id, [info.addr] if info.addr is not None else [])
    return {
        "peer_id": str(info.peer_id),
        "addr": addrs[0] if addrs else None,
        "direction": "inbound" if info.inbound else "outbound",
        "agent": info.agent,
        "protocols": sorted(info.protocols),
    }


def _since(began: float) -> float:
    return round(trio.current_time() - began, 6)
