"""A peer as it stands in one lookup: its state (``core.lookup`` moves it), its deadlines, and what
is known of its life. Decides what a result may say of it."""

from __future__ import annotations

from codio_dht.core.clock import Monotonic
from codio_dht.core.lookup_states import ClosestPeer, PeerState, Standing
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Outlook


class Candidate:
    """A peer of one lookup."""

    __slots__ = (
        "alive_at",
        "asked",
        "expected_s",
        "given_up",
        "is_seed",
        "patient_until",
        "peer",
        "reach",
        "reach_until",
        "soft_until",
        "state",
        "took_s",
    )

    def __init__(self, peer: PeerId, outlook: Outlook, *, is_seed: bool) -> None:
        self.peer = peer
        self.is_seed = is_seed
        self.state = PeerState.HEARD
        self.expected_s = outlook.expected_s
        self.alive_at = outlook.alive_at
        self.asked = Monotonic(0.0)
        self.soft_until = Monotonic(0.0)
        self.reach_until = Monotonic(0.0)
        self.patient_until = Monotonic(0.0)
        self.given_up = False
        self.reach: int | None = None
        """How far its reply to this lookup reached (``core.horizon``); None without one."""
        self.took_s: float | None = None

    @property
    def settled(self) -> bool:
        """Nothing more is expected of it: it answered, or is known to be alive without that."""
        return self.state is PeerState.QUERIED or (self.given_up and self.alive_at is not None)

    @property
    def hoped_for(self) -> bool:
        """Late, but not given up."""
        return self.state is PeerState.UNRESPONSIVE and not self.given_up

    def result(self) -> ClosestPeer:
        """As it stands in a result."""
        if self.state is PeerState.QUERIED:
            return ClosestPeer(self.peer, Standing.ANSWERED, self.alive_at)
        if self.alive_at is not None:
            return ClosestPeer(self.peer, Standing.ALIVE, self.alive_at)
        return ClosestPeer(self.peer, Standing.HEARD)
