"""What the daemon answers, as Python objects. Reads JSON; does no I/O."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiaddr import Multiaddr

from codio_dht.core.clock import UnixTime
from codio_dht.core.lookup_states import Standing
from codio_dht.core.mode import Mode
from codio_dht.core.multihash import multihash_of
from codio_dht.core.own_keys import OwnKey
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.node.results import FoundPeer, ProvideResult

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who the daemon's node is."""

    peer_id: PeerId
    addrs: list[Multiaddr]
    """Addresses at which others can reach it, without ``/p2p``."""
    mode: Mode
    version: str
    """The release of codio-dht that the daemon runs."""


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """An open connection of the daemon."""

    peer_id: PeerId
    addr: Multiaddr | None
    """The other end's address, without ``/p2p``."""
    inbound: bool
    agent: str | None
    """What the peer calls its software."""
    protocols: frozenset[str]


@dataclass(frozen=True, slots=True)
class NameRecord:
    """What an IPNS name stands for."""

    name: str
    """``k51...``."""
    path: str
    """The path at the end of the chain, if names lead to names."""
    sequence: int
    """The record's sequence number; each new path has a higher one."""
    eol: float
    """Until when the record holds, Unix seconds."""
    ttl: float
    """How long it may be kept before it is asked for again, seconds."""


@dataclass(frozen=True, slots=True)
class PublishedRecord(NameRecord):
    """A name that was published."""

    put: ProvideResult
    """How it went; ``put.key`` is empty."""


def node_identity(answer: Json) -> NodeIdentity:
    """The answer to ``id``."""
    info = peer_info(answer)
    return NodeIdentity(info.peer_id, info.addrs, Mode(answer["mode"]), answer["version"])


def peer_info(answer: Json) -> PeerInfo:
    """A peer with its addresses."""
    return PeerInfo(answer["peer_id"], _addrs(answer))


def found_peer(item: Json) -> FoundPeer:
    """An item of ``closest``."""
    standing, alive_at = Standing(item["standing"]), item["alive_at"]
    return FoundPeer(PeerId.from_string(item["peer_id"]), _addrs(item), standing, alive_at)


def connected_peer(item: Json) -> ConnectedPeer:
    """An item of ``swarm.peers``."""
    addr = item["addr"]
    return ConnectedPeer(
        PeerId.from_string(item["peer_id"]),
        None if addr is None else _bare(addr),
        item["direction"] == "inbound",
        item["agent"],
        frozenset(item["protocols"]),
    )


def provide_result(answer: Json, key: bytes = b"") -> ProvideResult:
    """How a provide or a put went."""
    return ProvideResult(
        key,
        answer["holders"],
        answer["confirmed"],
        answer["attempted"],
        answer["pending"],
        answer["seconds"],
    )


def own_key(item: Json) -> OwnKey:
    """An item of ``provide.ls``."""
    last = item["last_provided"]
    return OwnKey(
        multihash_of(item["cid"]),
        UnixTime(item["added"]),
        None if last is None else UnixTime(last),
        item["cid"],
        waits=item["waits"],
    )


def value(item: Json) -> bytes:
    """A value of ``value.get``."""
    return b64decode(item["value"])


def name_record(answer: Json) -> NameRecord:
    """The answer to ``name.resolve``."""
    return NameRecord(
        answer["name"], answer["path"], answer["sequence"], answer["eol"], answer["ttl"]
    )


def published_record(answer: Json) -> PublishedRecord:
    """The answer to ``name.publish``."""
    return PublishedRecord(
        answer["name"],
        answer["value"],
        answer["sequence"],
        answer["eol"],
        answer["ttl"],
        provide_result(answer),
    )


def _addrs(answer: Json) -> list[Multiaddr]:
    return [_bare(addr) for addr in answer["addrs"]]


def _bare(addr: str) -> Multiaddr:
    head, _, _ = addr.rpartition("/p2p/")
    return Multiaddr(head or addr)
