"""The answers of a member that lies: the lies that a DHT has to survive.

Decides only the content of lies. ``core.responder`` makes honest answers. A liar's answer is made
here, as a ``Reply`` that goes through the same codec. Every lie but the flood names ``k`` peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from codio_dht.core.keyspace import Key, cpl, distance, key_of
from codio_dht.core.messages import (
    AddProvider,
    GetProviders,
    GetValue,
    MessageType,
    PeerEntry,
    PutValue,
    Record,
    Reply,
    Request,
)
from codio_dht.core.steps import NoReply, Refuse
from codio_dht.sim.population import Character, Member, Population
from codio_dht.sim.values import SimulatedValues
from codio_dht.wire.codec import expected_reply

Answered = Reply | NoReply | Refuse

FLOOD_PEERS: Final = 400
"""Peers a flooding liar names: twenty times k."""

GHOSTS_PER_SERVER: Final = 4
"""Ghosts to choose from, per server: their nearest beat the honest ones to any key."""

MAX_GHOSTS: Final = 50_000
"""Ghosts in all."""


class Liars:
    """Makes the replies of lying members."""

    def __init__(self, population: Population, values: SimulatedValues, k: int, seed: int) -> None:
        self._population = population
        self._values = values
        self._k = k
        self._rng = Random(f"{seed}/lies")
        self._groups = {
            character: [each.entry for each in population.all_of(character)]
            for character in (Character.COLLUDING, Character.ECLIPSING)
        }
        """Who names nobody but each other."""
        self._ghosts: list[PeerEntry] = []

    def reply(self, liar: Member, request: Request) -> Reply | None:
        """The reply of ``liar``, or None if it answers this request honestly."""
        if isinstance(request, AddProvider):
            return None
        if isinstance(request, PutValue) and liar.character is Character.FORGING:
            return Reply(MessageType.PUT_VALUE, request.key, request.record)  # and drops it
        key, character = key_of(request.key), liar.character
        match character:
            case Character.FAR:
                named = self._far(key)
            case Character.FLOODING:
                named = [self._one() for _ in range(FLOOD_PEERS)]
            case Character.GHOSTS:
                named = self._nearest(self._all_ghosts(), key)
            case Character.COLLUDING:
                named = self._nearest(self._groups[character], key, liar)
            case Character.ECLIPSING if key == self._population.attacked:
                named = self._nearest(self._groups[character], key, liar)
            case _:
                return None
        echoed = request.key if isinstance(request, GetProviders) else b""
        return Reply(expected_reply(request), echoed, closer_peers=tuple(named))

    def forge(self, request: Request, answer: Answered) -> Answered:
        """The honest ``answer``, but with a hostile or the older value if a value was asked for."""
        key = request.key
        hostile = self._values.hostile.get(key)
        if not isinstance(request, GetValue) or not isinstance(answer, Reply) or not hostile:
            return answer
        told = self._rng.choice((*hostile, self._values.genuine[key][0]))
        return replace(answer, record=Record(key, told))

    def _far(self, key: Key) -> list[PeerEntry]:
        """Random peers from the half of the keyspace that does not contain ``key``."""
        found: list[PeerEntry] = []
        while len(found) < self._k:
            entry = self._one()
            if cpl(entry.peer_id.key, key) == 0 or self._population.servers < 100:
                found.append(entry)
        return found

    def _one(self) -> PeerEntry:
        return self._population.members[int(self._rng.random() * self._population.servers)].entry

    def _nearest(
        self, group: Sequence[PeerEntry], key: Key, liar: Member | None = None
    ) -> list[PeerEntry]:
        """The ``k`` of ``group`` nearest to ``key``, without the ``liar`` itself."""
        others = [each for each in group if liar is None or each.peer_id != liar.peer]
        return sorted(others, key=lambda each: distance(each.peer_id.key, key))[: self._k]

    def _all_ghosts(self) -> list[PeerEntry]:
        if not self._ghosts:
            count = min(GHOSTS_PER_SERVER * self._population.servers, MAX_GHOSTS)
            self._ghosts = [self._population.make_ghost(self._rng) for _ in range(count)]
        return self._ghosts
