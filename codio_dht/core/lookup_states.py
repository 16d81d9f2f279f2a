"""The vocabulary of lookups: the states of a peer, the steps, the events and the results.

Decides what each state means for a peer's place in the result; :mod:`codio_dht.core.lookup` moves
peers from one state to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import DEFAULT_ANSWER_S, SOFT_DEADLINE_S, Condition, Outlook
from codio_dht.core.steps import Wait
from codio_dht.errors import UsageError

# --- a peer within one lookup ---------------------------------------------------------------------


class PeerState(Enum):
    """Where a peer stands within one lookup."""

    HEARD = "heard"
    """Somebody named it, and it was not asked yet."""
    WAITING = "waiting"
    """It was asked, and its soft deadline has not passed."""
    QUERIED = "queried"
    """It answered."""
    UNRESPONSIVE = "unresponsive"
    """Its soft deadline passed without an answer: others are asked, and it is still waited for."""
    GIVEN_UP = "given_up"
    """The patience with it ended without an answer: it is not waited for any more."""
    FAILED = "failed"
    """Its request failed."""
    AVOIDED = "avoided"
    """It is known to be dead, so it is not asked unless nobody else is left."""

    @property
    def is_open(self) -> bool:
        """Whether the peer was asked and its request was not reported yet."""
        return self in _OPEN


_OPEN = (PeerState.WAITING, PeerState.UNRESPONSIVE, PeerState.GIVEN_UP)


class Candidate:
    """One peer as it stands in one lookup: its state, its deadlines, and what is known of it."""

    __slots__ = (
        "alive_at",
        "asked",
        "distance",
        "expected_s",
        "is_seed",
        "patient_until",
        "peer",
        "reach",
        "reach_until",
        "soft_until",
        "state",
        "took_s",
        "until",
    )

    def __init__(self, peer: PeerId, distance: int, outlook: Outlook, *, is_seed: bool) -> None:
        self.peer = peer
        self.distance = distance
        """Distance to the target of the lookup."""
        self.is_seed = is_seed
        self.state = PeerState.HEARD
        self.expected_s = outlook.expected_s
        self.alive_at = outlook.alive_at
        """The peer's last sign of life, if that still counts."""
        self.asked = Monotonic(0.0)
        """When its request began."""
        self.soft_until = Monotonic(0.0)
        self.reach_until = Monotonic(0.0)
        self.patient_until = Monotonic(0.0)
        self.until: Monotonic | None = None
        """When its state is looked at again; None if only a report can change it."""
        self.reach: int | None = None
        """The distance up to which its reply named everybody (``core.horizon``); None without a
        reply to this lookup."""
        self.took_s: float | None = None
        """Its answer time; None if it did not answer this lookup."""

    @property
    def is_live(self) -> bool:
        """Whether the peer may be in the result."""
        match self.state:
            case PeerState.FAILED | PeerState.AVOIDED:
                return False
            case PeerState.GIVEN_UP:
                return self.alive_at is not None
            case _:
                return True

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is expected of the peer: it answered, or was given up and is known
        to be alive."""
        state = self.state
        return state is PeerState.QUERIED or (
            state is PeerState.GIVEN_UP and self.alive_at is not None
        )

    def result(self) -> ClosestPeer:
        """The peer as it stands in a result."""
        if self.state is PeerState.QUERIED:
            return ClosestPeer(self.peer, Standing.ANSWERED, self.alive_at)
        if self.alive_at is not None:
            return ClosestPeer(self.peer, Standing.ALIVE, self.alive_at)
        return ClosestPeer(self.peer, Standing.HEARD)


# --- how a node looks things up -------------------------------------------------------------------

OutlookOf = Callable[[PeerId, Monotonic], Outlook]
"""What to expect of a request to this peer that starts now."""


def no_outlook(_peer: PeerId, _now: Monotonic) -> Outlook:
    """The outlook where nothing is known of anybody."""
    most = SOFT_DEADLINE_S
    return Outlook(Condition.UNKNOWN, DEFAULT_ANSWER_S, most, most, most)


def no_life(_peer: PeerId) -> bool:
    """The signs of life where peers give none but their answers."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupRules:
    """How a node looks things up, and what a lookup is told of the world around it.

    ``shows_life`` tells whether a peer that was asked gave a sign of life without answering yet,
    such as a transport connection. ``looks_beyond`` says that the caller can ask for other keys
    than the target.

    Raises:
        UsageError: ``k``, ``alpha`` or ``beta`` is below 1.
    """

    local: PeerId
    outlook: OutlookOf = no_outlook
    shows_life: Callable[[PeerId], bool] = no_life
    looks_beyond: bool = False
    k: int = params.K
    alpha: int = params.ALPHA
    beta: int = params.BETA

    def __post_init__(self) -> None:
        if min(self.k, self.alpha, self.beta) < 1:
            raise UsageError(
                f"k, alpha and beta must be at least 1, not {self.k}, {self.alpha}, {self.beta}"
            )


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """Ask ``peer`` for the target. ``follow_up`` says that the walk itself is over and that it is
    asked as one of the k closest."""

    peer: PeerId
    follow_up: bool = False


@dataclass(frozen=True, slots=True)
class LookBeyond:
    """Ask ``peer``, which has answered, for a key that shares ``cpl`` leading bits with ``point``
    instead of the target; report by ``on_beyond``."""

    peer: PeerId
    point: Key
    cpl: int


# --- results --------------------------------------------------------------------------------------


class StopReason(Enum):
    """Why a lookup is over."""

    COMPLETED = "completed"
    """The k closest live peers have answered, or are known to be alive."""
    OVERRUN = "overrun"
    """It took too long, for peers kept naming nearer ones that lead nowhere: the result is the
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


class Standing(Enum):
    """What is promised of a peer in a result."""

    ANSWERED = "answered"
    """It answered this lookup."""
    ALIVE = "alive"
    """Too slow for this lookup, but it answered a request or took a connection at ``alive_at``."""
    HEARD = "heard"
    """Only heard of. A lookup that was completed, or overrun, returns none of these."""


@dataclass(frozen=True, slots=True)
class ClosestPeer:
    """One of the closest peers, and what is known of it."""

    peer: PeerId
    standing: Standing
    alive_at: Monotonic | None = None
    """When it last gave a sign of life, if ever."""


@dataclass(frozen=True, slots=True)
class Done:
    """The lookup is over.

    ``closest`` has up to k live peers, nearest first, and up to k of each path where disjoint ones
    disagree. ``next_closest`` has up to k more, to take the place of any of them.
    """

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


LookupStep = Query | LookBeyond | Wait | Done


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
class Unresponsive:
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
    """The lookup is over, after ``requests`` requests. The search tells this, after everything that
    the lookup tells."""

    at: Monotonic
    reason: StopReason
    requests: int


LookupEvent = (
    Asked | Answered | RequestFailed | Unresponsive | GivenUp | FollowUpBegan | LookedBeyond | Ended
)
