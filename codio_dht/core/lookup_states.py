"""The vocabulary of lookups: states of a peer, steps, events, results. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Wait


class PeerState(Enum):
    """A peer within one lookup."""

    HEARD = "heard"
    """Named by somebody, not asked yet."""
    WAITING = "waiting"
    """Asked, within its soft deadline."""
    QUERIED = "queried"
    """It answered."""
    UNRESPONSIVE = "unresponsive"
    """Past its soft deadline; a late answer still counts."""
    FAILED = "failed"
    AVOIDED = "avoided"
    """Known to be dead, so not asked."""


class StopReason(Enum):
    """Why a lookup is over."""

    COMPLETED = "completed"
    """The k closest live peers have answered, or are known to be alive."""
    OVERRUN = "overrun"
    """It took too long, for the peers kept naming nearer ones that lead nowhere: the result is the
    closest of those that have answered, or are known to be alive."""
    NO_PEERS = "no_peers"
    """There was nobody to start from."""
    NOBODY_ANSWERED = "nobody_answered"
    """Every peer failed."""
    FOUND = "found"
    """What was looked for is found: the peer, or enough providers."""
    TIMEOUT = "timeout"
    """The caller's deadline passed."""
    CANCELLED = "cancelled"
    """The caller wants no more."""


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """Ask ``peer``. ``follow_up``: beyond the walk itself, as one of the k closest."""

    peer: PeerId
    follow_up: bool = False


@dataclass(frozen=True, slots=True)
class LookBeyond:
    """Ask ``peer``, which has answered, for a key that shares ``cpl`` leading bits with ``point``
    instead of the target; report by ``on_beyond``."""

    peer: PeerId
    point: Key
    cpl: int


class Standing(Enum):
    """What is promised of a peer in a result."""

    ANSWERED = "answered"
    """It answered this lookup."""
    ALIVE = "alive"
    """Too slow for this lookup, but it answered a request or took a connection at ``alive_at``."""
    HEARD = "heard"
    """Only heard of. There are none of these in a lookup that was completed, or overrun."""


@dataclass(frozen=True, slots=True)
class ClosestPeer:
    """One of the closest peers, and what is known of it."""

    peer: PeerId
    standing: Standing
    alive_at: Monotonic | None = None
    """When it last gave a sign of life, if ever."""


@dataclass(frozen=True, slots=True)
class Done:
    """The lookup is over. ``closest`` has up to k live peers, nearest first, and up to k of each
    path where disjoint ones disagree; ``next_closest`` up to k more live ones, to take the place of
    any of them."""

    reason: StopReason
    closest: tuple[ClosestPeer, ...] = ()
    next_closest: tuple[ClosestPeer, ...] = ()

    @property
    def answered(self) -> list[PeerId]:
        """Those of the closest that have answered, nearest first."""
        return [each.peer for each in self.closest if each.standing is Standing.ANSWERED]

    @property
    def alive(self) -> list[PeerId]:
        """Those of the closest that have answered or are known to be alive, nearest first."""
        return [each.peer for each in self.closest if each.standing is not Standing.HEARD]


Step = Query | LookBeyond | Wait | Done


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to ``peer`` begins."""

    at: Monotonic
    peer: PeerId
    distance: int
    follow_up: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """``peer`` answered after ``took_s`` and named ``named`` peers, of which ``new`` were unknown
    to the lookup."""

    at: Monotonic
    peer: PeerId
    distance: int
    took_s: float
    named: int
    new: int
    late: bool
    """After its soft deadline."""


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The request to ``peer`` failed after ``took_s``."""

    at: Monotonic
    peer: PeerId
    distance: int
    took_s: float
    why: FailureReason


@dataclass(frozen=True, slots=True)
class Overdue:
    """``peer`` is past its soft deadline: others are asked in its place."""

    at: Monotonic
    peer: PeerId
    distance: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """``peer`` is not waited for any more. It remains in the result if ``alive_at`` is not None."""

    at: Monotonic
    peer: PeerId
    distance: int
    waited_s: float
    alive_at: Monotonic | None


@dataclass(frozen=True, slots=True)
class FollowUpBegan:
    """The beta nearest have answered: the rest of the k closest are asked."""

    at: Monotonic


@dataclass(frozen=True, slots=True)
class LookedBeyond:
    """``peer`` is asked who lies beyond the horizon of the replies, at ``distance``."""

    at: Monotonic
    peer: PeerId
    distance: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The lookup is over, after ``requests`` requests. Told by whoever runs the machine, after all
    that the machine tells."""

    at: Monotonic
    reason: StopReason
    requests: int


LookupEvent = (
    Asked | Answered | RequestFailed | Overdue | GivenUp | FollowUpBegan | LookedBeyond | Ended
)
