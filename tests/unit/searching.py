"""A network of made-up peers, for tests of searches and deliveries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from codio_dht import params
from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, key_of
from codio_dht.core.messages import MessageType, PeerEntry, Reply
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.search import Begin, Search, Searches, SearchStep
from codio_dht.core.steps import Ask

PREIMAGE = b"\x12\x20" + bytes(32)
TARGET = key_of(PREIMAGE)
ADDR = bytes((0x04, 8, 8, 8, 8, 0x06, 0x0F, 0xA1))


AnySearch = TypeVar("AnySearch", bound=Search[Any])


def now(seconds: float) -> Monotonic:
    return Monotonic(seconds)


def peer_at(away: int) -> PeerId:
    """A peer at a distance from the target of the tests."""
    peer = PeerId(b"\x12\x20" + away.to_bytes(32, "big"))
    peer._key = Key(away ^ TARGET)
    return peer


def peers_of(*aways: int) -> list[PeerId]:
    return [peer_at(away) for away in aways]


def entries(peers: Sequence[PeerId], addr: bytes = ADDR) -> tuple[PeerEntry, ...]:
    return tuple(PeerEntry(peer, (addr,)) for peer in peers)


def found_node(*closer: PeerId) -> Reply:
    return Reply(MessageType.FIND_NODE, closer_peers=entries(closer))


class FakeContacts:
    """What a host says of its connections: the same of everybody."""

    def __init__(self, *, connected: bool = False, reached: bool = False) -> None:
        self._connected = connected
        self._reached = reached

    def is_connected(self, _peer: PeerId) -> bool:
        return self._connected

    def is_reached(self, _peer: PeerId) -> bool:
        return self._reached


def network_of(*known: PeerId) -> Network:
    """A network whose table holds ``known``; this node is as far from the target as can be."""
    local = peer_at((1 << params.KEY_BITS) - 1)
    network = Network(local, protocol="/kad", policy=NetworkPolicy(KEEP_ALL))
    for peer in known:
        network.book.heard(peer, (ADDR,), now(0))
        network.table.add(peer, now(0))
    return network


def searches_of(
    *known: PeerId, paths: int = 1, connected: bool = False, reached: bool = False
) -> Searches:
    contacts = FakeContacts(connected=connected, reached=reached)
    rng = random.Random(1)
    return Searches(network_of(*known), contacts, rng, disjoint_paths=paths, timeout_s=60.0)


def begun(search: AnySearch, at: float = 0.0) -> AnySearch:
    """``search``, whose turn it is."""
    assert search.next(now(at)) == Begin(now(at + 60.0))
    return search


def asks(search: Search[Any], at: float = 0.0) -> tuple[list[Ask], SearchStep]:
    """The requests that are due now, and the step after them."""
    due: list[Ask] = []
    while isinstance(step := search.next(now(at)), Ask):
        due.append(step)
    return due, step
