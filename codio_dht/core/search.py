r"""One search: a lookup, and all that follows from its answers.

Decides from whom a lookup starts and what each request of it asks for; what an answer or a failure
says of its peer's health and of its place in the routing table; whose addresses are learnt; what
the end means for the refresh and for the estimate of the network's size. Whom to ask, and when
enough have answered, the lookup in it decides (:mod:`codio_dht.core.lookup`).

The caller performs the steps, and reports every ``Ask`` back at most once, by ``on_reply`` or
``on_failure``::

    next(now) -> Begin(deadline)   once, if the network has to be asked at all
               | Ask(peer, request, ...) | Working | Wait(until) | Done(reason, closest, ...)
               | Judge(check, ...)      only of a search for a value

States::

    new --next--> beginning --next--> walking --the lookup is over--> over
      \--all that was wanted is known here--------------------------/

The kinds of search differ in the request they send, in what they read in a reply, and in when that
is enough: :class:`ClosestSearch`, :class:`PeerSearch`, :class:`ProviderSearch`.

A report that comes after the end changes nothing in the result, and still tells of its peer: health
and table learn from it, and so does the next search. A report of a request that was not made, or
was reported already, is a no-op.

Must never: read a clock, wait past the deadline, raise at what a peer says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.disjoint import DisjointLookup
from codio_dht.core.keyspace import Key, cpl, key_of
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.lookup_states import (
    ClosestPeer,
    Done,
    Ended,
    GivenUp,
    LookBeyond,
    LookupEvent,
    LookupRules,
    PeerState,
    Query,
    Standing,
    StopReason,
)
from codio_dht.core.messages import (
    FailureReason,
    FindNode,
    GetProviders,
    PeerEntry,
    Reply,
    Request,
)
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.preimages import search_preimage
from codio_dht.core.requests import Contacts, Requests
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.validation import Judge
from codio_dht.errors import UsageError

MAX_PROVIDERS_PER_LOOKUP: Final = 10_000
"""Providers that one search collects; it is over when it has them."""

MAX_STRAGGLERS: Final = 128
"""Requests that may go on after their search is over, so that late answers are learnt from, over
all searches. Past the bound a search that ends cancels its requests."""

Found = TypeVar("Found")
"""What a search passes on while it goes on."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The search is about to ask the network: take another step when it is this search's turn and
    there is somebody to ask, or no hope for it, and at ``deadline`` in any case."""

    deadline: Monotonic


SearchStep = Begin | Ask | Judge | Working | Wait | Done


def stragglers_may_go_on(done: Done, running: int) -> bool:
    """Whether the requests that are open when a search is over go on, for what they tell serves the
    next one; ``running`` is how many requests the node has open. Those of a search that ran out of
    time do not."""
    return done.reason is not StopReason.TIMEOUT and running <= MAX_STRAGGLERS


class Search(Generic[Found]):
    """What all searches do. A kind of search overrides :meth:`_read` and its neighbours."""

    _looks_beyond = False
    """Whether what lies behind the horizon of the replies is looked for."""

    def __init__(self, searches: Searches, target: Key, request: Request, now: Monotonic) -> None:
        self.target = target
        """The key towards which the search walks."""
        self.seeds: list[PeerId] = []
        """From whom the lookup started."""
        self.events: list[LookupEvent] = []
        """What happened, in order; at most a few for each request."""
        self._searches = searches
        self._network = searches.network
        self._requests = searches.requests
        self._request = request
        self._deadline = Monotonic(now + searches.timeout_s)
        self._begun = False
        self._lookup: ClosestPeersLookup | DisjointLookup | None = None
        self._open: dict[Ask, LookBeyond | None] = {}
        """Requests without a report yet; with the look that each one is, if it is one."""
        self._dials: dict[PeerId, bool] = {}
        """Whether the query to each peer asked for the target had to dial."""
        self._looks: deque[tuple[LookBeyond, Iterator[bytes | None]]] = deque()
        """Looks that wait for a preimage, and the search for it."""
        self._told = 0
        """Events of the lookup that were taken over."""
        self._found: list[Found] = []
        self._result: Done | None = None

    # --- the machine ------------------------------------------------------------------------------

    def next(self, now: Monotonic) -> SearchStep:
        """What to do now. Call it until it returns ``Wait`` or ``Done``, and again after each
        report."""
        if self._result is not None:
            return self._result
        if not self._begun:
            self._begun = True
            return Begin(self._deadline)
        lookup = self._lookup = self._lookup or self._make_lookup(now)
        if now >= self._deadline:
            lookup.stop(StopReason.TIMEOUT)
        while True:
            step = lookup.next(now)
            self._take_events()
            match step:
                case Query(peer):
                    return self._ask(peer, now)
                case LookBeyond(_, point, prefix):
                    slices = search_preimage(point, prefix, self._searches.rng)
                    self._looks.append((step, slices))
                case Wait(until):
                    if self._looks:
                        return self._look(now)
                    return Wait(self._deadline if until is None else min(until, self._deadline))
                case Done():
                    return self._conclude(lookup, step, now)

    def on_reply(self, ask: Ask, reply: Reply, now: Monotonic) -> None:
        """The peer answered ``ask``."""
        if ask not in self._open:
            return
        look, peer, network = self._open.pop(ask), ask.peer, self._network
        self._requests.answered(ask, now)
        network.answered(peer, now)
        enough = look is None and self._read(peer, reply)
        closer = network.learn(reply.closer_peers, self._wanted_peer, now)
        assert self._lookup is not None
        if look is not None:
            self._lookup.on_beyond(peer, look.point, closer, now)
            return
        self._lookup.on_reply(peer, closer, now)
        if enough:
            self._lookup.stop(StopReason.FOUND)

    def on_failure(self, ask: Ask, why: FailureReason, now: Monotonic) -> None:
        """No answer to ``ask`` came."""
        if ask not in self._open:
            return
        look, peer = self._open.pop(ask), ask.peer
        self._requests.failed(peer, why, now, began=ask.began)
        self._network.failed(peer, why, now, began=ask.began)
        assert self._lookup is not None
        if look is not None:
            self._lookup.on_beyond(peer, look.point, (), now)
            return
        self._lookup.on_failure(peer, why, now)
        if why.reached and peer == self._wanted_peer:
            self._lookup.stop(StopReason.FOUND)

    # --- questions --------------------------------------------------------------------------------

    @property
    def result(self) -> Done | None:
        """How the search ended; None while it goes on."""
        return self._result

    @property
    def requests(self) -> int:
        """Requests so far."""
        return 0 if self._lookup is None else self._lookup.requests

    def open_requests(self) -> list[Ask]:
        """The requests that were made and have no report yet."""
        return list(self._open)

    def nearest(self) -> list[PeerId]:
        """The k nearest peers so far that may be in the result, nearest first, asked or not."""
        return [] if self._lookup is None else self._lookup.nearest()

    def take_found(self) -> list[Found]:
        """What was found since the last call, in order."""
        found, self._found = self._found, []
        return found

    # --- what a kind of search decides ------------------------------------------------------------

    @property
    def _wanted_peer(self) -> PeerId | None:
        """The peer that is looked for, if it is one: it is taken from replies without an address
        too, and the search is over once it was reached."""
        return None

    def _read(self, _peer: PeerId, _reply: Reply) -> bool:
        """Read the reply to the search's own request; whether what was looked for is found now."""
        return False

    def _completed(self, done: Done, now: Monotonic) -> None:
        """The k closest are known."""

    # --- inside -----------------------------------------------------------------------------------

    def _make_lookup(self, now: Monotonic) -> ClosestPeersLookup | DisjointLookup:
        rules = self._searches.rules(looks_beyond=self._looks_beyond)
        return ClosestPeersLookup(self.target, self._choose_seeds(now), rules)

    def _choose_seeds(self, now: Monotonic) -> list[PeerId]:
        """The nearest of the table, and those met lately that the table has no room for."""
        network = self._network
        met = network.health.nearest_alive(self.target, network.k, now)
        nearest = network.table.nearest(self.target, network.k)
        known = dict.fromkeys((*nearest, *met))
        self.seeds = [peer for peer in known if not network.denies(peer)]
        return self.seeds

    def _ask(self, peer: PeerId, now: Monotonic) -> Ask:
        ask = self._requests.begin(peer, self._request, now)
        self._open[ask] = None
        self._dials[peer] = ask.dials
        return ask

    def _look(self, now: Monotonic) -> SearchStep:
        """Go on with the preimage of a look beyond the horizon, and ask for it once it is found."""
        look, slices = self._looks[0]
        preimage = next(slices, b"")
        if preimage is None:
            return Working()
        self._looks.popleft()
        if not preimage:  # there is none within the effort: the look is over
            assert self._lookup is not None
            self._lookup.on_beyond(look.peer, look.point, (), now)
            return self.next(now)
        ask = self._requests.begin(look.peer, FindNode(preimage), now)
        self._open[ask] = look
        return ask

    def _take_events(self) -> None:
        """Take over what happened in the lookup; a peer that it gave up has lost in health."""
        assert self._lookup is not None
        for event in self._lookup.events[self._told :]:
            if isinstance(event, GivenUp):
                self._network.health.given_up(
                    event.peer,
                    event.waited_s,
                    event.at,
                    reached=event.alive_at == event.at,
                    dialled=self._dials[event.peer],
                )
            self.events.append(event)
        self._told = len(self._lookup.events)

    def _conclude(
        self, lookup: ClosestPeersLookup | DisjointLookup, done: Done, now: Monotonic
    ) -> Done:
        self._result = done
        self._looks.clear()
        self.events.append(Ended(now, done.reason, lookup.requests))
        for peer in lookup.useful_seeds():
            self._network.table.useful(peer, now)
        if done.reason is StopReason.COMPLETED:
            self._network.refresh.looked_up(self.target, now)
            self._completed(done, now)
        return done


class ClosestSearch(Search[ClosestPeer]):
    """Searches the k peers closest to the key of ``preimage``, along disjoint paths if the node is
    set so. Passes on each that surely is one of them, or else at the end; once, nearest first."""

    _looks_beyond = True

    def __init__(self, searches: Searches, preimage: bytes, now: Monotonic) -> None:
        super().__init__(searches, key_of(preimage), FindNode(preimage), now)
        self._passed_on: dict[PeerId, None] = {}

    def take_found(self) -> list[ClosestPeer]:
        certain: Sequence[ClosestPeer] = ()
        if self._result is not None:
            certain = self._result.closest
        elif self._lookup is not None:
            certain = self._lookup.certain()
        for each in certain:
            if each.standing is not Standing.HEARD and each.peer not in self._passed_on:
                self._passed_on[each.peer] = None
                self._found.append(each)
        return super().take_found()

    def _make_lookup(self, now: Monotonic) -> ClosestPeersLookup | DisjointLookup:
        paths = self._searches.disjoint_paths
        if paths == 1:
            return super()._make_lookup(now)
        rules = self._searches.rules(looks_beyond=True)
        return DisjointLookup(self.target, self._choose_seeds(now), rules, paths)

    def _completed(self, done: Done, now: Monotonic) -> None:
        """What the result tells of the network's size."""
        table, target = self._network.table, self.target
        known = dict.fromkeys(done.alive)
        known |= dict.fromkeys(table.nearest(target, table.bucket_size))
        prefix = cpl(table.local, target)
        in_bucket = sum(1 for peer in known if cpl(table.local, peer.key) == prefix)
        self._network.size.track(target, done.alive, in_bucket, now)


class PeerSearch(Search[PeerId]):
    """Searches one peer: over as soon as the peer itself was reached (GO)."""

    def __init__(self, searches: Searches, peer: PeerId, now: Monotonic) -> None:
        super().__init__(searches, peer.key, FindNode(peer.to_bytes()), now)
        self._peer = peer

    @property
    def met(self) -> bool:
        """Whether the peer was asked on the way, or is known to be dead: its addresses are known,
        reachable or not (GO)."""
        state = None if self._lookup is None else self._lookup.state_of(self._peer)
        return state not in (None, PeerState.HEARD)

    @property
    def _wanted_peer(self) -> PeerId | None:
        return self._peer

    def _read(self, peer: PeerId, _reply: Reply) -> bool:
        return peer == self._peer


class ProviderSearch(Search[PeerEntry]):
    """Searches providers of ``key``: over when ``count`` are found, or complete if it is None.

    ``local`` are those that this node knows; if they are enough, or there is nobody to ask, they
    are all. Passes on each provider when it is found, and again if it had no addresses and now has.
    At most ``MAX_PROVIDERS_PER_LOOKUP`` are collected, whatever ``count`` says.

    Raises:
        UsageError: ``count`` is below 1.
    """

    def __init__(
        self,
        searches: Searches,
        key: bytes,
        count: int | None,
        local: Sequence[PeerEntry],
        now: Monotonic,
    ) -> None:
        if count is not None and count < 1:
            raise UsageError(f"count must be at least 1, or None for all, not {count}")
        super().__init__(searches, key_of(key), GetProviders(key), now)
        most = MAX_PROVIDERS_PER_LOOKUP
        self._wanted = most if count is None else min(count, most)
        self._providers: dict[PeerId, PeerEntry] = {}
        if self._take(local) or (self._providers and not len(self._network.table)):
            self._result = Done(StopReason.FOUND)

    @property
    def providers(self) -> list[PeerEntry]:
        """Those found, in the order they were found, each with the first addresses it had."""
        return list(self._providers.values())

    def _read(self, _peer: PeerId, reply: Reply) -> bool:
        if self._result is not None:
            return False
        keep = self._network.address_filter
        return self._take(
            [PeerEntry(entry.peer_id, keep(entry.addrs)) for entry in reply.provider_peers]
        )

    def _take(self, providers: Sequence[PeerEntry]) -> bool:
        """Collect ``providers``; whether there are enough now."""
        for entry in providers:
            if len(self._providers) >= self._wanted:
                break
            known = self._providers.get(entry.peer_id)
            if known is None or (entry.addrs and not known.addrs):
                self._providers[entry.peer_id] = entry
                self._found.append(entry)
        return len(self._providers) >= self._wanted


class Searches:
    """Makes the searches of one network, all by the same rules. A search takes at most
    ``timeout_s`` seconds from when it was made."""

    def __init__(
        self,
        network: Network,
        contacts: Contacts,
        rng: Rng,
        *,
        alpha: int = params.ALPHA,
        beta: int = params.BETA,
        disjoint_paths: int = 1,
        timeout_s: float = params.QUERY_TIMEOUT_S,
    ) -> None:
        self.network = network
        self.requests = Requests(network, contacts)
        self.rng = rng
        self.disjoint_paths = disjoint_paths
        self.timeout_s = timeout_s
        self._alpha = alpha
        self._beta = beta

    def closest(self, preimage: bytes, now: Monotonic) -> ClosestSearch:
        """A search for the k peers closest to the key of ``preimage``."""
        return ClosestSearch(self, preimage, now)

    def peer(self, peer: PeerId, now: Monotonic) -> PeerSearch:
        """A search for ``peer``."""
        return PeerSearch(self, peer, now)

    def providers(
        self, key: bytes, count: int | None, local: Sequence[PeerEntry], now: Monotonic
    ) -> ProviderSearch:
        """A search for ``count`` providers of ``key``, or for all; ``local`` are known already.

        Raises:
            UsageError: ``count`` is below 1.
        """
        return ProviderSearch(self, key, count, local, now)

    def rules(self, *, looks_beyond: bool) -> LookupRules:
        """How this network's lookups go about."""
        return LookupRules(
            local=self.network.local,
            outlook=self.requests.outlook,
            shows_life=self.requests.is_reached,
            looks_beyond=looks_beyond,
            k=self.network.k,
            alpha=self._alpha,
            beta=self._beta,
        )
