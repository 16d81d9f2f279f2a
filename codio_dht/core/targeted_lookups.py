"""Lookups that end sooner: as soon as one peer was reached, or enough providers are found.

Each decides only when it is over; the walk is that of :mod:`codio_dht.core.lookup`.
"""

from __future__ import annotations

from collections.abc import Sequence

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import LookupRules, PeerState, StopReason
from codio_dht.core.messages import FailureReason, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError


class PeerLookup(ClosestPeersLookup):
    """Finds one peer: over as soon as the peer itself was reached (FOUND)."""

    def __init__(self, peer: PeerId, seeds: Sequence[PeerId], rules: LookupRules) -> None:
        super().__init__(peer.key, seeds, rules)
        self._peer = peer

    def on_connected(self, peer: PeerId) -> None:
        """There is a connection to ``peer``: that is enough if it is the one looked for."""
        if peer == self._peer:
            self.stop(StopReason.FOUND)

    def on_reply(self, peer: PeerId, closer: Sequence[PeerId], now: Monotonic) -> None:
        super().on_reply(peer, closer, now)
        if peer == self._peer and self.state_of(peer) is PeerState.QUERIED:
            self.stop(StopReason.FOUND)

    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None:
        expected = self._asked_candidate(peer) is not None
        super().on_failure(peer, why, now)
        if expected and why.reached:
            self.on_connected(peer)


class ProvidersLookup(ClosestPeersLookup):
    """Finds providers of a key: over when ``count`` are found, or complete if it is None.

    At most ``MAX_PROVIDERS_PER_LOOKUP`` are collected, whatever ``count`` says.

    Raises:
        UsageError: ``count`` is below 1.
    """

    def __init__(
        self, target: Key, seeds: Sequence[PeerId], rules: LookupRules, *, count: int | None = None
    ) -> None:
        if count is not None and count < 1:
            raise UsageError(f"count must be at least 1, or None for all, not {count}")
        most = params.MAX_PROVIDERS_PER_LOOKUP
        self._wanted = most if count is None else min(count, most)
        self._providers: dict[PeerId, PeerEntry] = {}
        super().__init__(target, seeds, rules)

    @property
    def providers(self) -> list[PeerEntry]:
        """Those found, in the order they were found, each with the first addresses it had."""
        return list(self._providers.values())

    def on_providers(self, peer: PeerId | None, providers: Sequence[PeerEntry]) -> list[PeerEntry]:
        """Take the providers of ``peer``'s reply, before ``on_reply``; those worth passing on.

        Worth it is one not seen before, and one that had no addresses before and now has. ``None``
        stands for this node's own records.
        """
        if peer is not None and self._asked_candidate(peer) is None:
            return []
        fresh: list[PeerEntry] = []
        for entry in providers:
            if len(self._providers) >= self._wanted:
                break
            known = self._providers.get(entry.peer_id)
            if known is None or (entry.addrs and not known.addrs):
                self._providers[entry.peer_id] = entry
                fresh.append(entry)
        if len(self._providers) >= self._wanted:
            self.stop(StopReason.FOUND)
        return fresh
