r"""One delivery: hands a request to the k peers closest to its key, while the search still runs.

Decides who gets it at once, before the search is over: those so near that they probably are among
the k closest, given the size of the network (GO's optimistic provide). When the search is over, the
rest of the k closest get it, and the next closest in place of each that fails, so that in the end
the k closest living peers hold it, whatever was guessed before.

The caller performs the steps of the search (:mod:`codio_dht.core.search`) and those of its own, and
reports each: an ``Ask`` by ``on_reply`` or ``on_failure``, a ``Give`` by ``on_given`` or
``on_not_given``::

    next(now) -> Begin | Ask | Working | Give(peer, request, ...) | Wait(until)
               | Searched(done)   once, when the search is over
               | Delivered(...)

States of the whole::

    searching --its search is over--> settled --everybody has reported--> over

States of one peer::

    due --next--> given --on_given--> holds, or confirmed
                    |--on_not_given--> failed
                    \--the stream broke--> doubted --next--> questioned --it has it--> confirmed
                                                                 \--it has not, or fails--> failed

A peer whose stream broke is asked whether it has what it was given: js resets a stream whose sender
has finished although it takes the record, while go resets it to refuse.

Must never: give to one peer twice, count a failed peer as a holder, read a clock.
Bound: ``k`` guesses, and the closest and spares of the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, distance
from codio_dht.core.lookup_states import Done, StopReason
from codio_dht.core.messages import (
    AddProvider,
    FailureReason,
    GetProviders,
    GetValue,
    PeerEntry,
    PutValue,
    Record,
    Reply,
    Request,
)
from codio_dht.core.netsize import UnknownNetworkSizeError, expected_within
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.search import Searches, SearchStep
from codio_dht.core.steps import Ask, Wait

EARLY_DOUBT: Final = 0.5
"""A peer gets the record while the walk still runs if the chance that k others are nearer is at
most this. GO's 0.1 lets 14 of the 20 have it early, so that the quorum has to wait for the end of
the walk every other time (0.44 s in ``benchmarks/wan``; 0.20 s with this). A wrong guess costs one
request: the closest get the record in any case."""

PROVIDE_RPC_TIMEOUT_S: Final = 10.0
"""How long handing one record to one peer may take, a dial included, in seconds (GO: 10 in its
sweep, 30 in its classic provide)."""

RECORD_ALONE_TIME_S: Final = 1.0
"""Time for each record, on average, of a peer that gets many and takes one on a stream, seconds. A
slower one gets no more of them: it would hold up what is handed out to others."""

PROVIDE_CONFIRM_TIMEOUT_S: Final = 3.0
"""How long a sender waits for the peer to end the stream of a record, in seconds. Without that end
the record counts as sent, not as confirmed."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a delivery hands out."""

    key: bytes
    """The preimage of the key: the k peers closest to it get the parcel."""

    request: Request
    """What each of them is sent."""

    question: Request
    """What a peer is asked whose stream broke, to learn whether it kept the parcel."""

    is_kept: Callable[[Reply], bool]
    """Whether an answer says so: to the question, or to the request if it is one with an answer."""


def provider_parcel(key: bytes, provider: PeerEntry) -> Parcel:
    """The record that ``provider`` provides the multihash ``key`` (ADD_PROVIDER)."""

    def is_kept(reply: Reply) -> bool:
        return provider.peer_id in [entry.peer_id for entry in reply.provider_peers]

    return Parcel(key, AddProvider(key, (provider,)), GetProviders(key), is_kept)


def value_parcel(record: Record) -> Parcel:
    """``record``, to be kept under its key (PUT_VALUE). A peer that repeats it, at once or when it
    is asked, keeps it (GO wants the same of the answer to a put)."""

    def is_kept(reply: Reply) -> bool:
        return reply.record is not None and reply.record.value == record.value

    return Parcel(record.key, PutValue(record.key, record), GetValue(record.key), is_kept)


class Receipt(Enum):
    """What is known of a request that was handed over."""

    CONFIRMED = "confirmed"
    """The peer answered it or, if it has no answer, ended the stream normally."""
    SENT = "sent"
    """It was sent; the peer did not say in time what became of it."""


@dataclass(frozen=True, slots=True)
class Give:
    """Hand ``request`` to ``peer``, and report once what became of it, by ``deadline``."""

    peer: PeerId
    request: Request
    began: Monotonic
    deadline: Monotonic


@dataclass(frozen=True, slots=True)
class Searched:
    """The search of the delivery is over; the delivery goes on."""

    done: Done


@dataclass(frozen=True, slots=True)
class Delivered:
    """The delivery is over: ``holders`` of the ``attempted`` peers have the parcel, ``confirmed``
    of them said so."""

    holders: int
    confirmed: int
    attempted: int
    unanswered: StopReason | None
    """Why the search found nobody alive, if nobody holds the parcel for that."""


DeliveryStep = SearchStep | Give | Searched | Delivered


class _Turn(Enum):
    """Where a peer stands in a delivery. See the module."""

    DUE = "due"
    GIVEN = "given"
    DOUBTED = "doubted"
    QUESTIONED = "questioned"
    HOLDS = "holds"
    CONFIRMED = "confirmed"
    FAILED = "failed"


_HOLDING = (_Turn.HOLDS, _Turn.CONFIRMED)
_ENDED = (*_HOLDING, _Turn.FAILED)


class Delivery:
    """Hands ``parcel`` to the k closest peers; ``quorum`` holders let its caller go on."""

    def __init__(
        self,
        searches: Searches,
        parcel: Parcel,
        now: Monotonic,
        *,
        quorum: int = params.PROVIDE_QUORUM,
    ) -> None:
        self._network = searches.network
        self._requests = searches.requests
        self._parcel = parcel
        self._quorum = quorum
        self._search = searches.closest(parcel.key, now)
        self._guess_within = _guess_within(searches.network, now)
        """The distance up to which a peer gets the parcel before the search is over; None if the
        size of the network is unknown."""
        self._turns: dict[PeerId, _Turn] = {}
        """Everybody who gets the parcel, in the order in which that was decided."""
        self._given: dict[PeerId, Give] = {}
        self._questions: dict[Ask, None] = {}
        self._wanted: dict[PeerId, None] = {}
        """The closest, and the spares that took a place: each that fails is replaced."""
        self._spares: list[PeerId] = []
        """Who takes the next places, nearest first."""
        self._done: Done | None = None

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> DeliveryStep:
        """What to do now. Call it until it returns ``Wait`` or ``Delivered``, and again after each
        report."""
        for peer, turn in self._turns.items():
            if turn is _Turn.DUE:
                return self._give(peer, now)
            if turn is _Turn.DOUBTED:
                return self._question(peer, now)
        if self._done is None:
            return self._search_on(now)
        if self.pending:
            return Wait(None)
        return self._result(self._done)

    def on_reply(self, ask: Ask, reply: Reply, now: Monotonic) -> None:
        """The peer answered ``ask``."""
        if ask not in self._questions:
            self._search.on_reply(ask, reply, now)
            return
        del self._questions[ask]
        self._requests.answered(ask, now)
        if self._parcel.is_kept(reply):
            self._turns[ask.peer] = _Turn.CONFIRMED
        else:
            self._failed(ask.peer)

    def on_given(self, give: Give, told: Receipt | Reply) -> None:
        """The peer was handed the parcel; ``told`` is its answer, if the request is one with an
        answer. Without effect if that was not expected."""
        if self._turns.get(give.peer) is not _Turn.GIVEN:
            return
        match told:
            case Receipt.CONFIRMED:
                self._turns[give.peer] = _Turn.CONFIRMED
            case Receipt.SENT:
                self._turns[give.peer] = _Turn.HOLDS
            case Reply() if self._parcel.is_kept(told):
                self._turns[give.peer] = _Turn.CONFIRMED
            case Reply():
                self._failed(give.peer)

    def on_failure(self, ask: Ask, why: FailureReason, now: Monotonic) -> None:
        """No answer to ``ask`` came."""
        if ask not in self._questions:
            self._search.on_failure(ask, why, now)
            return
        del self._questions[ask]
        self._requests.failed(ask.peer, why, now, began=ask.began)
        self._failed(ask.peer)

    def on_not_given(self, give: Give, why: FailureReason, now: Monotonic) -> None:
        """The peer could not be handed the parcel. Without effect if that was not expected."""
        if self._turns.get(give.peer) is not _Turn.GIVEN:
            return
        if why is FailureReason.BROKEN:
            self._turns[give.peer] = _Turn.DOUBTED
            return
        if why in (FailureReason.UNREACHABLE, FailureReason.TIMEOUT):
            self._requests.failed(give.peer, why, now, began=give.began)
        self._failed(give.peer)

    # --- questions --------------------------------------------------------------------------------

    @property
    def holders(self) -> int:
        """Peers that have the parcel."""
        return sum(turn in _HOLDING for turn in self._turns.values())

    @property
    def held_by(self) -> tuple[PeerId, ...]:
        """The peers that have the parcel, nearest first."""
        held = [peer for peer, turn in self._turns.items() if turn in _HOLDING]
        return tuple(sorted(held, key=lambda peer: distance(peer.key, self.target)))

    @property
    def confirmed(self) -> int:
        """The holders that said so."""
        return sum(turn is _Turn.CONFIRMED for turn in self._turns.values())

    @property
    def attempted(self) -> int:
        """Peers that got the parcel, or will at once."""
        return len(self._turns)

    @property
    def pending(self) -> int:
        """Peers of which it is not known yet whether they have the parcel."""
        return sum(turn not in _ENDED for turn in self._turns.values())

    @property
    def has_quorum(self) -> bool:
        """Whether enough peers hold the parcel for the caller to go on."""
        return self.holders >= self._quorum

    @property
    def target(self) -> Key:
        """The key whose k closest peers get the parcel."""
        return self._search.target

    def open_requests(self) -> list[Ask]:
        """The requests of the search that have no report yet."""
        return self._search.open_requests()

    # --- inside -----------------------------------------------------------------------------------

    def _search_on(self, now: Monotonic) -> DeliveryStep:
        """The search's next step; those who are near enough by now are given the parcel first, if
        the search has to wait."""
        step = self._search.next(now)
        match step:
            case Done():
                self._done = step
                self._settle(step, now)
                return Searched(step)
            case Wait() if self._guess():
                return self.next(now)
            case _:
                self._guess()
                return step

    def _guess(self) -> bool:
        """Give the parcel to those that are probably among the closest; whether there are any."""
        if self._guess_within is None:
            return False
        guessed = False
        for peer in self._search.nearest():
            away = distance(peer.key, self._search.target)
            if away > self._guess_within or self._not_failed() >= self._network.k:
                break
            guessed = self._add(peer) or guessed
        return guessed

    def _not_failed(self) -> int:
        return sum(turn is not _Turn.FAILED for turn in self._turns.values())

    def _settle(self, done: Done, now: Monotonic) -> None:
        """The search is over: the closest get the parcel (k of each of its disjoint paths), and
        spares the places of those that have failed already."""
        self._wanted = dict.fromkeys(done.alive)
        self._spares = self._choose_spares(done, now)
        for peer in done.alive:
            self._add(peer)
        for peer in done.alive:
            if self._turns[peer] is _Turn.FAILED:
                self._replace()

    def _choose_spares(self, done: Done, now: Monotonic) -> list[PeerId]:
        """Who takes the places of those that fail, nearest first. The search need not have heard of
        more than the k closest, so others that this node knows are taken as well."""
        network, target = self._network, self._search.target
        heard = [each.peer for each in done.next_closest]
        met = network.health.nearest_alive(target, 2 * network.k, now)
        known = network.table.nearest(target, 2 * network.k)
        others = [each for each in (*heard, *met, *known) if each not in self._wanted]
        return sorted(dict.fromkeys(others), key=lambda peer: distance(peer.key, target))

    def _add(self, peer: PeerId) -> bool:
        """Let ``peer`` get the parcel; whether it was not to get it before."""
        if peer in self._turns:
            return False
        self._turns[peer] = _Turn.DUE
        return True

    def _give(self, peer: PeerId, now: Monotonic) -> Give:
        self._turns[peer] = _Turn.GIVEN
        give = Give(peer, self._parcel.request, now, Monotonic(now + PROVIDE_RPC_TIMEOUT_S))
        self._given[peer] = give
        return give

    def _question(self, peer: PeerId, now: Monotonic) -> Ask:
        """Ask a peer whose stream broke, within the time that it had for the parcel."""
        self._turns[peer] = _Turn.QUESTIONED
        left_s = max(0.0, self._given[peer].deadline - now)
        ask = self._requests.begin(peer, self._parcel.question, now, timeout_s=left_s)
        self._questions[ask] = None
        return ask

    def _failed(self, peer: PeerId) -> None:
        self._turns[peer] = _Turn.FAILED
        if peer in self._wanted:
            self._replace()

    def _replace(self) -> None:
        """The next closest peer takes a failed one's place, and is wanted from now on. One that has
        the parcel already, or will, takes it without getting it again."""
        while self._spares:
            peer = self._spares.pop(0)
            self._wanted[peer] = None
            if self._add(peer) or self._turns[peer] is not _Turn.FAILED:
                return

    def _result(self, done: Done) -> Delivered:
        holders = self.holders
        unanswered = None if done.alive or holders else done.reason
        return Delivered(holders, self.confirmed, self.attempted, unanswered)


def _guess_within(network: Network, now: Monotonic) -> int | None:
    """The distance within which k peers are expected, but for ``EARLY_DOUBT``."""
    expected = expected_within(network.k, EARLY_DOUBT)
    try:
        return network.size.distance_of(expected, now)
    except UnknownNetworkSizeError:
        return None
