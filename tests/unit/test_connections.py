"""Which connection is used, and which goes when there are too many."""

from __future__ import annotations

from collections import Counter
from typing import Any

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.limits import Limits
from codio_dht.net.stack_host.connections import Connections

OWN, *PEERS = sorted(
    PrivateKey.from_ed25519_seed(bytes([number]) * 32).peer_id() for number in range(6)
)
"""In order, so that of two connections with any of the others the one that it dialled is surplus:
it has the greater id."""
NOW = Monotonic(1_000.0)


class FakeLink:
    """What ``Connections`` knows of a link."""

    def __init__(
        self,
        peer_id: PeerId,
        *,
        inbound: bool = False,
        opened_at: float = 0.0,
        heard_at: float | None = None,
        last_active: float = 0.0,
    ) -> None:
        self.peer_id = peer_id
        self.inbound = inbound
        self.opened_at = opened_at
        self.heard_at = opened_at if heard_at is None else heard_at
        self.last_active = last_active
        self.doubtful = False
        self.usable = True
        self.stream_count = 0
        self.ended = False

    def end(self, _reason: object) -> None:
        self.ended = True


def connections(*links: FakeLink, **limits: Any) -> Connections:
    made = Connections(OWN, Limits(**limits), Counter())
    for link in links:
        made.add(link)  # type: ignore[arg-type]
    return made


def test_surplus_connections_go_before_idle_ones() -> None:
    idle = FakeLink(PEERS[0], last_active=1.0)
    kept = FakeLink(PEERS[1], inbound=False, last_active=900.0)
    surplus = FakeLink(PEERS[1], inbound=True, last_active=900.0)
    made = connections(idle, kept, surplus, high_water=2, low_water=2)
    made.trim(NOW)

    assert [False, False, True] == [link.ended for link in (idle, kept, surplus)]


def test_of_the_others_those_go_first_on_which_nothing_happened_for_longest() -> None:
    links = [
        FakeLink(peer, last_active=moment)
        for peer, moment in zip(PEERS[:3], (5.0, 1.0, 9.0), strict=True)
    ]
    connections(*links, high_water=2, low_water=1).trim(NOW)

    assert [True, True, False] == [link.ended for link in links]


def test_the_newest_connection_is_used_until_the_one_to_keep_is_heard_of_again() -> None:
    keep = FakeLink(PEERS[0], inbound=False, opened_at=10.0, heard_at=50.0)
    newest = FakeLink(PEERS[0], inbound=True, opened_at=100.0)
    made = connections(keep, newest)
    assert newest is made.best(PEERS[0])
    keep.heard_at = 101.0
    assert keep is made.best(PEERS[0])
    keep.doubtful = True
    assert newest is made.best(PEERS[0])
    newest.usable = False
    assert keep is made.best(PEERS[0])


def test_of_two_that_are_alike_the_newest_is_used() -> None:
    old = FakeLink(PEERS[0], opened_at=10.0, heard_at=200.0)
    new = FakeLink(PEERS[0], opened_at=100.0, heard_at=200.0)
    assert new is connections(old, new).best(PEERS[0])
