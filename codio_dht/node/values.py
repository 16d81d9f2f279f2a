"""The values of one network: put, found, and corrected where a search found them outdated.

Decides what happens before and after a search or a delivery; whom they ask, and which value is
best, ``core`` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import trio

from codio_dht.core.clock import Monotonic, Now
from codio_dht.core.delivery import PROVIDE_RPC_TIMEOUT_S, value_parcel
from codio_dht.core.messages import Record, Reply
from codio_dht.core.peer import PeerId
from codio_dht.core.search import MAX_STRAGGLERS
from codio_dht.core.steps import Refuse
from codio_dht.core.validation import Validators
from codio_dht.core.value_search import ValueSearch
from codio_dht.errors import NetworkError, RemoteError, UsageError
from codio_dht.node.clock import Clock
from codio_dht.node.deliveries import AtEnd, Deliveries
from codio_dht.node.errands import Errands
from codio_dht.node.lookups import Lookups
from codio_dht.node.results import ProvideResult
from codio_dht.node.value_storage import ValueStorage


class Values:
    """Puts and finds the values of one network. Validators, held values and clocks are those of the
    node's network."""

    def __init__(
        self,
        lookups: Lookups,
        deliveries: Deliveries,
        storage: ValueStorage,
        validators: Validators,
        errands: Errands,
        clock: Clock,
    ) -> None:
        self._lookups = lookups
        self._deliveries = deliveries
        self._storage = storage
        self._validators = validators
        self._errands = errands
        self._clock = clock
        self.counters: Counter[str] = Counter()

    async def put(self, record: Record, quorum: int, at_end: AtEnd) -> ProvideResult:
        """Hold ``record`` here and hand it to the k closest peers; returns when ``quorum`` of them
        hold it, or when it is over. ``at_end`` is called when it is over.

        Raises:
            UsageError: it is not valid, or worse than the one held here.
            NoPeersError: nobody answered the lookup.
        """
        self._lookups.denials.check_key(record.key)
        await self.hold(record)
        return await self._deliveries.hand_out(value_parcel(record), quorum, at_end)

    def cancel(self, key: bytes) -> None:
        """End every put of ``key`` that is under way: nobody else gets the value."""
        self._deliveries.cancel(key)

    async def hold(self, record: Record) -> None:
        """Hold ``record`` here, as a server does with the values of others.

        Raises:
            UsageError: it is not valid, or worse than the one held here.
        """
        self._raise_if_refused(await self._storage.put(record))

    async def check(self, record: Record) -> None:
        """Return if :meth:`hold` would hold ``record`` now; nothing is held.

        Raises:
            UsageError: it is not valid, or worse than the one held here.
        """
        self._raise_if_refused(await self._storage.check(record))

    def _raise_if_refused(self, answer: Record | Refuse | None) -> None:
        if isinstance(answer, Refuse):
            raise UsageError(f"value: {answer.reason} (namespaces: {self._namespaces()})")

    async def held(self, key: bytes) -> Record | None:
        """What this node itself holds under ``key``."""
        return await self._storage.get(key)

    async def search(self, key: bytes, quorum: int, found: Callable[[bytes], None]) -> bytes | None:
        """The best value of ``key``; None if there is none. ``found`` is called for each that is
        better than all before, as it comes.

        Raises:
            NoPeersError: there is nobody to ask, and no value here.
            UsageError: values of this namespace are not known here.
        """
        if not self._validators.knows(key):
            raise UsageError(f"key: its namespace is not one of {self._namespaces()}")
        self._lookups.denials.check_key(key)
        now = Now(Monotonic(trio.current_time()), self._clock.unix())
        local = await self._storage.get(key)
        search = ValueSearch(
            self._lookups.searches, key, self._validators, quorum=quorum, local=local, now=now
        )
        await self._lookups.value(search, found)
        if search.best.best is not None:
            record = Record(key, search.best.best)
            await self._storage.put(record)
            self._correct(record, search.outdated())
        return search.best.best

    def _correct(self, record: Record, outdated: tuple[PeerId, ...]) -> None:
        """Give the best record to those that should hold it and do not, in the background."""
        if self._errands.running > MAX_STRAGGLERS:
            self.counters["corrections_left_out"] += len(outdated)
            return
        for peer in outdated:
            self._errands.start("correction", partial(self._give, peer, record))

    async def _give(self, peer: PeerId, record: Record) -> None:
        parcel = value_parcel(record)
        deadline = Monotonic(trio.current_time() + PROVIDE_RPC_TIMEOUT_S)
        try:
            told = await self._lookups.rpc.give(peer, parcel.request, deadline)
        except (NetworkError, RemoteError):
            self.counters["correction_failed"] += 1
            return
        kept = isinstance(told, Reply) and parcel.is_kept(told)
        self.counters["corrected" if kept else "correction_failed"] += 1

    def _namespaces(self) -> str:
        return ", ".join(self._validators.namespaces) or "none"
