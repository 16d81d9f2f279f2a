"""Every open connection of a host, by peer, and the choice of those to close when there are too
many.

Above ``high_water`` connections are closed down to ``low_water``: never those younger than the
grace period or those of protected peers; surplus ones of one peer first, then those on which
nothing happened for longest. At ``max_connections`` a new one takes the place of such a one, or is
refused.

Two peers that dial each other at once get two connections. Both work; both sides agree which one is
surplus (the one dialled by the peer with the greater id), and it is closed when it has been idle.
But a peer that died and came back has a connection that is dead and a new one: until the old one is
heard of again, the new one is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CapacityError
from codio_dht.net.limits import Limits
from codio_dht.net.link import Link
from codio_dht.net.stack_host.limits import (
    DUPLICATE_IDLE_S,
    IDLE_CONNECTION_S,
    MAX_CLOSED_AT_ONCE,
    MAX_CONNECTIONS_PER_PEER,
)


class Connections:
    """The open connections of a host, by peer. ``own`` is the identity of the host."""

    def __init__(self, own: PeerId, limits: Limits, counters: Counter[str]) -> None:
        self._own = own
        self._limits = limits
        self._counters = counters
        self._by_peer: dict[PeerId, list[Link]] = {}
        self._links: dict[Link, None] = {}  # in order of opening
        self._tags: dict[PeerId, set[str]] = {}

    # --- what there is ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links))

    def of(self, peer_id: PeerId) -> list[Link]:
        """The open links to a peer, the one to use first."""
        return list(self._by_peer.get(peer_id, ()))

    def has(self, peer_id: PeerId) -> bool:
        """Whether there is a link to the peer."""
        return peer_id in self._by_peer

    def best(self, peer_id: PeerId) -> Link | None:
        """The link to open streams on, if any: the newest, until an older one of which both sides
        agree to keep it has been heard of again. A doubtful one comes last."""
        links = self._by_peer.get(peer_id)
        if links is None:
            return None
        if len(links) == 1:
            return links[0] if links[0].usable else None
        usable = [link for link in links if link.usable]
        if not usable:
            return None
        newest = max(usable, key=lambda link: link.opened_at)

        def rank(link: Link) -> tuple[bool, bool, bool, float]:
            silent = link is not newest and link.heard_at <= newest.opened_at
            surplus = self._is_surplus_direction(link)
            return link.doubtful, silent, surplus, -link.opened_at

        return min(usable, key=rank)

    def add(self, link: Link) -> None:
        """An open link."""
        assert link.peer_id is not None
        self._links[link] = None
        links = self._by_peer.setdefault(link.peer_id, [])
        links.append(link)
        if len(links) > 1:
            links.sort(key=self._is_surplus_direction)

    def remove(self, link: Link) -> bool:
        """A link that ended; whether it was its peer's last one."""
        if link not in self._links:
            return False
        assert link.peer_id is not None
        del self._links[link]
        links = self._by_peer[link.peer_id]
        links.remove(link)
        if links:
            return False
        del self._by_peer[link.peer_id]
        return True

    def has_room_for(self, peer_id: PeerId) -> bool:
        """Whether the peer may have one more connection."""
        return len(self._by_peer.get(peer_id, ())) < MAX_CONNECTIONS_PER_PEER

    # --- protection -------------------------------------------------------------------------------

    def protect(self, peer_id: PeerId, tag: str) -> None:
        """Keep connections to the peer, for the reason ``tag``."""
        self._tags.setdefault(peer_id, set()).add(tag)

    def unprotect(self, peer_id: PeerId, tag: str) -> bool:
        """The reason is gone; whether others remain."""
        tags = self._tags.get(peer_id, set())
        tags.discard(tag)
        if not tags:
            self._tags.pop(peer_id, None)
        return bool(tags)

    def is_protected(self, peer_id: PeerId) -> bool:
        """Whether there is a reason to keep connections to the peer."""
        return peer_id in self._tags

    # --- too many ---------------------------------------------------------------------------------

    def make_room(self, moment: Monotonic) -> bool:
        """Whether one more connection is within the maximum, after closing some if need be."""
        if len(self._links) < self._limits.max_connections:
            return True
        self.trim(moment)
        return len(self._links) < self._limits.max_connections

    def trim(self, moment: Monotonic) -> int:
        """Close some if there are more than ``high_water``; how many are still too many.

        Closes at most ``MAX_CLOSED_AT_ONCE``: call again, after others ran, while that returns
        more than 0.
        """
        high = min(self._limits.high_water, self._limits.max_connections - 1)
        if len(self._links) <= high:
            return 0
        excess = len(self._links) - min(self._limits.low_water, high)
        candidates = [link for link in self._links if self._may_go(link, moment)]
        candidates.sort(key=lambda link: (not self.is_surplus(link), link.last_active))
        for link in candidates[: min(excess, MAX_CLOSED_AT_ONCE)]:
            self._counters["connections_trimmed"] += 1
            link.end(CapacityError("too many connections"))
        return max(min(excess, len(candidates)) - MAX_CLOSED_AT_ONCE, 0)

    def is_idle(self, link: Link, moment: Monotonic) -> bool:
        """Whether the link has outlived its use. One that ended has not."""
        if link not in self._links:
            return False
        assert link.peer_id is not None
        idle_s = moment - link.last_active
        if link.stream_count or idle_s <= DUPLICATE_IDLE_S:
            return False
        return self.is_surplus(link) or (
            idle_s > IDLE_CONNECTION_S and not self.is_protected(link.peer_id)
        )

    def is_surplus(self, link: Link) -> bool:
        """Whether there is one in the other direction, and both sides agree to keep that."""
        assert link.peer_id is not None
        links = self._by_peer.get(link.peer_id, ())
        return (
            len(links) > 1
            and self._is_surplus_direction(link)
            and any(other.inbound != link.inbound for other in links)
        )

    def _is_surplus_direction(self, link: Link) -> bool:
        """Dialled by the peer with the greater id."""
        assert link.peer_id is not None
        return (link.peer_id < self._own) == (not link.inbound)

    def _may_go(self, link: Link, moment: Monotonic) -> bool:
        assert link.peer_id is not None
        return moment - link.opened_at > self._limits.grace_s and not self.is_protected(
            link.peer_id
        )
