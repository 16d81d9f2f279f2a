"""The answers of a member: the truth, or one of the lies that a DHT has to survive.

Decides only the content of lies. ``core.responder`` makes honest answers. A liar's answer is made
here, as a ``Reply`` that goes through the same codec. Every lie but the flood names ``k`` peers.
"""

from __future__ import annotations

from random import Random
from typing import Final

from codio_dht.core.keyspace import Key, cpl, distance, key_of
from codio_dht.core.messages import AddProvider, GetProviders, PeerEntry, Reply, Request
from codio_dht.sim.population import Character, Member, Population
from codio_dht.wire.codec import expected_reply

FLOOD_PEERS: Final = 400
"""Peers a flooding liar names: twenty times k."""

GHOSTS_PER_SERVER: Final = 4
"""Ghosts to choose from, per server: their nearest beat the honest ones to any key."""

MAX_GHOSTS: Final = 50_000
"""Ghosts in all."""


class Liars:
    """Makes the replies of lying members."""

    def __init__(self, population: Population, attacked: Key, k: int, seed: int) -> None:
        self._population = population
        self._attacked = attacked
        self._k = k
        self._rng = Random(f"{seed}/lies")
        self._ghosts: list[PeerEntry] = []

    def reply(self, liar: Member, request: Request) -> Reply | None:
        """The reply of ``liar``, or None if it answers this request honestly."""
        if isinstance(request, AddProvider):
            return None
        key = key_of(request.key)
        match liar.character:
            case Character.FAR:
                named = self._far(key)
            case Character.COLLUDING:
                named = self._nearest_of(self._population.colluders, key, liar)
            case Character.FLOODING:
                named = self._random(FLOOD_PEERS)
            case Character.GHOSTS:
                named = self._nearest_ghosts(key)
            case Character.ECLIPSING:
                if key != self._attacked:
                    return None
                named = self._nearest_of(self._population.eclipsers, key, liar)
            case _:
                return None
        echoed = request.key if isinstance(request, GetProviders) else b""
        return Reply(expected_reply(request), echoed, closer_peers=tuple(named))

    def _far(self, key: Key) -> list[PeerEntry]:
        """Random peers from the half of the keyspace that does not contain ``key``."""
        found: list[PeerEntry] = []
        while len(found) < self._k:
            entry = self._one()
            if cpl(entry.peer_id.key, key) == 0 or self._population.servers < 100:
                found.append(entry)
        return found

    def _random(self, count: int) -> list[PeerEntry]:
        return [self._one() for _ in range(count)]

    def _one(self) -> PeerEntry:
        members = self._population.members
        return _entry(members[int(self._rng.random() * self._population.servers)])

    def _nearest_of(self, group: list[Member], key: Key, liar: Member) -> list[PeerEntry]:
        others = sorted(group, key=lambda each: distance(each.peer.key, key))[: self._k + 1]
        return [_entry(each) for each in others if each is not liar][: self._k]

    def _nearest_ghosts(self, key: Key) -> list[PeerEntry]:
        if not self._ghosts:
            count = min(GHOSTS_PER_SERVER * self._population.servers, MAX_GHOSTS)
            for _ in range(count):
                peer, addr = self._population.make_ghost(self._rng)
                self._ghosts.append(PeerEntry(peer, (addr,)))
        return sorted(self._ghosts, key=lambda each: distance(each.peer_id.key, key))[: self._k]


def _entry(member: Member) -> PeerEntry:
    return PeerEntry(member.peer, (member.addr,))
