"""Keys that are provided and searched for, over hours of churn.

Decides who publishes what, and who searches for which key when. A search has found its key if it
was told a peer that has provided it.
"""

from __future__ import annotations

from functools import partial
from random import Random

from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Load
from codio_dht.formats.multihash import SHA2_256_HEAD
from codio_dht.sim.driver import SearchReport
from codio_dht.sim.events import EventQueue
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member
from codio_dht.sim.providing import SimulatedProviding
from codio_dht.sim.report import RecordFigures, mean, quantile
from codio_dht.sim.scenario import Scenario

"""Code and length of SHA2-256: keys look like those of content."""


class RecordWorkload:
    """Provides keys and searches for them, over hours of churn."""

    def __init__(self, scenario: Scenario, queue: EventQueue) -> None:
        self._part = scenario.records
        self._queue = queue
        self._rng = Random(f"{scenario.seed}/records")
        self._keys_of: dict[int, list[bytes]] = {}
        self._publisher_of: dict[bytes, PeerId] = {}
        self._provided_keys: list[bytes] = []
        self._last: dict[bytes, float] = {}
        self._holders: list[float] = []
        self._first_s: list[float] = []
        self.searches: list[tuple[float, bool]] = []
        """When each search began, and whether it found a provider."""
        self._figures = RecordFigures()
        self.providers: dict[tuple[bytes, PeerId], None] = {}
        """Who began to provide what: nothing else may be on any disk."""

    def assign(self, publishers: list[Member]) -> None:
        """Give every publisher its keys."""
        for number in range(self._part.keys):
            key = SHA2_256_HEAD + self._rng.randbytes(32)
            member = publishers[number % len(publishers)]
            self._keys_of.setdefault(member.index, []).append(key)
            self._publisher_of[key] = member.peer
            self.providers[key, member.peer] = None

    def publishes(self, member: Member) -> bool:
        """Whether ``member`` has keys of its own."""
        return member.index in self._keys_of

    def start(self, node: SimNode) -> None:
        """Start ``node``, or start it again. It provides its keys when they are due."""
        keys = self._keys_of.get(node.member.index)
        if keys is None:
            return
        for key in keys:
            last = self._last.get(key)
            unix = None if last is None else self._queue.unix - (self._queue.now - last)
            node.own_keys.add(key, unix)  # type: ignore[arg-type]
        self._queue.after(0.0, SimulatedProviding(node, self._note).provide_due)

    def search(self, nodes: list[SimNode]) -> None:
        """Let random ``nodes`` search for random keys that were provided."""
        if not self._provided_keys or not nodes:
            return
        for _ in range(self._part.finds):
            key = self._provided_keys[int(self._rng.random() * len(self._provided_keys))]
            node = nodes[int(self._rng.random() * len(nodes))]
            if self._publisher_of[key] != node.member.peer:
                self._search(node, key)

    def figures(self) -> RecordFigures:
        """The figures of the run."""
        figures = self._figures
        figures.searches = len(self.searches)
        figures.found = sum(found for _, found in self.searches)
        figures.holders = mean(self._holders)
        figures.first_p50_s = quantile(self._first_s, 0.5)
        figures.first_p90_s = quantile(self._first_s, 0.9)
        return figures

    def _search(self, node: SimNode, key: bytes) -> None:
        """Search for a key. The node first reads its own rows, as a real node does."""
        began_s = self._queue.now

        def search() -> None:
            rows = node.keeper.records.get(key, self._queue.unix)
            if isinstance(rows, Load):
                node.keeper.load(rows, search)
                return
            local = [PeerEntry(row.provider, row.addrs) for row in rows]
            node.providers(key, 1, local, partial(self._ended, node, key, began_s))

        search()

    def _ended(self, node: SimNode, key: bytes, began_s: float, report: SearchReport) -> None:
        """Count a search that has ended. A search that the end of the run interrupts does not
        count."""
        publisher = self._publisher_of[key]
        found = any(each.peer_id == publisher for each in report.providers)
        node.world.trace.note(
            self._queue.now, "searched", node.member.index, report.requests, found
        )
        self.searches.append((began_s, found))
        if found:
            self._first_s.append(report.first_provider_s or 0.0)

    def _note(self, key: bytes, holders: int) -> None:
        if not holders:
            self._figures.failed += 1
            return
        self._figures.provided += 1
        self._holders.append(holders)
        if key not in self._last:
            self._provided_keys.append(key)
        self._last[key] = self._queue.now
