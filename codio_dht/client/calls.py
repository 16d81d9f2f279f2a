"""The requests that a client can make: their parameters, and how their answers are read.

Written once for :class:`~codio_dht.client.Client` and :class:`~codio_dht.client.AsyncClient`, which
only differ in how they wait.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from multiaddr import Multiaddr

from codio_dht.client import results
from codio_dht.client.results import ConnectedPeer, NameRecord, NodeIdentity, PublishedRecord
from codio_dht.core.multihash import CidLike, multihash_of
from codio_dht.core.own_keys import OwnKey
from codio_dht.core.peer import PeerId, PeerInfo, PeerLike
from codio_dht.errors import UsageError
from codio_dht.formats.cid import RAW, format_cid
from codio_dht.node.results import FoundPeer, ProvideResult

AddressLike: TypeAlias = Multiaddr | str

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what its items and its result are for the caller. ``missing`` is the result if
    the daemon says that what was asked for is not there."""

    method: str
    params: Mapping[str, Any]
    read: Callable[[Sequence[Any], Any], T]
    missing: Callable[[], T] | None = None


@dataclass(frozen=True)
class StreamCall(Generic[T]):
    """A request whose items are given one by one."""

    method: str
    params: Mapping[str, Any]
    read: Callable[[Any], T]


def _none() -> None:
    return None


def _is_gone() -> bool:
    return False


# --- the node -------------------------------------------------------------------------------------


def identity() -> Call[NodeIdentity]:
    return Call("id", {}, lambda _, done: results.node_identity(done))


def stats() -> Call[dict[str, Any]]:
    return Call("stats", {}, lambda _, done: dict(done))


def connections() -> Call[list[ConnectedPeer]]:
    return Call("swarm.peers", {}, lambda items, _: [results.connected_peer(one) for one in items])


def bootstrap(addrs: Sequence[AddressLike]) -> Call[int]:
    texts = [str(addr) for addr in addrs]
    return Call("bootstrap", {"addrs": texts}, lambda _, done: int(done["answered"]))


def connect(addr: AddressLike) -> Call[PeerId]:
    return Call(
        "swarm.connect", {"addr": str(addr)}, lambda _, done: PeerId.from_string(done["peer_id"])
    )


def ping(peer: PeerLike) -> Call[float]:
    params = {"target": _peer(peer), "count": 1}
    return Call("ping", params, lambda _, done: float(done["avg"]))


# --- content --------------------------------------------------------------------------------------


def provide(cid: CidLike) -> Call[ProvideResult]:
    return _provide("provide.add", cid)


def provide_once(cid: CidLike) -> Call[ProvideResult]:
    return _provide("provide.once", cid)


def _provide(method: str, cid: CidLike) -> Call[ProvideResult]:
    key = multihash_of(cid)
    return Call(method, _cid(cid), lambda _, done: results.provide_result(done, key))


def stop_providing(cid: CidLike) -> Call[bool]:
    return Call("provide.rm", _cid(cid), lambda _items, _done: True, _is_gone)


def own_keys() -> Call[list[OwnKey]]:
    return Call("provide.ls", {}, lambda items, _: [results.own_key(one) for one in items])


def find_providers(cid: CidLike, count: int | None) -> StreamCall[PeerInfo]:
    return StreamCall("findprovs", _cid(cid) | {"count": count or 0}, results.peer_info)


def find_peer(peer: PeerLike) -> Call[list[Multiaddr]]:
    params = {"peer": _peer(peer)}
    return Call("findpeer", params, lambda _, done: results.peer_info(done).addrs, list)


def find_closest_peers(key: bytes | PeerId) -> Call[list[FoundPeer]]:
    preimage = key.to_bytes() if isinstance(key, PeerId) else key
    params = {"key": f"0x{preimage.hex()}"}
    return Call("closest", params, lambda items, _: [results.found_peer(one) for one in items])


# --- values and names -----------------------------------------------------------------------------


def put_value(key: str, value: bytes, *, keep: bool) -> Call[ProvideResult]:
    params = {"key": key, "value": b64encode(value).decode(), "keep": keep}
    return Call("value.put", params, lambda _, done: results.provide_result(done))


def get_value(key: str, quorum: int | None) -> Call[bytes | None]:
    params = {"key": key} | ({} if quorum is None else {"quorum": quorum})
    return Call("value.get", params, lambda _, done: results.value(done), _none)


def search_value(key: str, quorum: int) -> StreamCall[bytes]:
    return StreamCall("value.get", {"key": key, "quorum": quorum}, results.value)


def publish_name(
    path: str, key: str, lifetime: float | None, ttl: float | None
) -> Call[PublishedRecord]:
    given = {"path": path, "key": key, "lifetime": lifetime, "ttl": ttl}
    params = {name: value for name, value in given.items() if value is not None}
    return Call("name.publish", params, lambda _, done: results.published_record(done))


def unpublish_name(key: str) -> Call[bool]:
    return Call("name.unpublish", {"key": key}, lambda _items, _done: True, _is_gone)


def resolve_name(name: PeerLike, *, recursive: bool) -> Call[NameRecord | None]:
    params = {"name": name if isinstance(name, str) else _peer(name), "recursive": recursive}
    return Call("name.resolve", params, lambda _, done: results.name_record(done), _none)


def name_keys() -> Call[dict[str, str]]:
    return Call("key.ls", {}, lambda items, _: {one["key"]: one["name"] for one in items})


def generate_name_key(label: str) -> Call[str]:
    return Call("key.gen", {"key": label}, lambda _, done: str(done["name"]))


def remove_name_key(label: str) -> Call[bool]:
    return Call("key.rm", {"key": label}, lambda _items, _done: True, _is_gone)


# --- parameters -----------------------------------------------------------------------------------


def _cid(cid: CidLike) -> dict[str, Any]:
    return {"cid": cid if isinstance(cid, str) else format_cid(RAW, multihash_of(cid))}


def _peer(peer: PeerLike) -> str:
    if isinstance(peer, str):
        return peer
    try:
        return str(PeerId.coerce(peer))
    except ValueError as error:
        raise UsageError(f"peer_id: {error}") from error
