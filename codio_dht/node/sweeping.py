"""Runs the sweep: the driver of ``core.sweep`` and ``core.region_sweep``.

Decides nothing of what is swept when, and of who gets what: it performs the steps of the machines,
reads the keys a page at a time, and tells the store what was done before the machine forgets it. So
after a restart nothing is missing, and at most the page under way is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import trio

from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.delivery import Parcel, provider_parcel
from codio_dht.core.keyspace import key_of
from codio_dht.core.lookup_states import StopReason
from codio_dht.core.messages import PeerEntry
from codio_dht.core.netsize import UnknownNetworkSizeError
from codio_dht.core.own_keys import SweptPage
from codio_dht.core.peer import PeerId
from codio_dht.core.region_sweep import GiveAll, Look, RegionSweep, RegionSwept
from codio_dht.core.regions import Place, RegionMap, place_of
from codio_dht.core.steps import Ask, Wait, Working
from codio_dht.core.sweep import LAG_WARNING_S, MAX_LEFT_KEYS, Measure, Rest, Sweep, SweepStep, Turn
from codio_dht.errors import NetworkError, NoPeersError, RemoteError, StorageError
from codio_dht.logger import get_logger
from codio_dht.node.clock import Clock
from codio_dht.node.lookups import Lookups
from codio_dht.node.rpc import failure_reason
from codio_dht.node.storage import Storage
from codio_dht.wire.codec import encode_request

PAGE_KEYS: Final = 4_096
"""Keys that are read, and handed out, at once. It bounds the memory of a sweep, and what is
repeated after a crash."""

log = get_logger(__name__)


class Sweeping:
    """The sweep of one node, on one network.

    Args:
        told_addrs: the addresses that the records name; raises ``NoPeersError`` if there are none.
    """

    def __init__(
        self,
        lookups: Lookups,
        storage: Storage,
        sweep: Sweep,
        clock: Clock,
        told_addrs: Callable[[], tuple[bytes, ...]],
    ) -> None:
        self.sweep = sweep
        self._lookups = lookups
        self._network = lookups.searches.network
        self._storage = storage
        self._clock = clock
        self._told_addrs = told_addrs
        self._changed = trio.Event()
        self._cursor = Place(0)
        """Where the last turn for waiting keys ended."""
        self._alone: dict[bytes, int] = {}
        """Keys that are being provided by themselves, and how many times."""
        self._pages: dict[RegionSweep, None] = {}
        self._reads = 0
        """Pages that are being read."""
        self._stopped_meanwhile: dict[bytes, None] = {}
        """Keys that were removed while a page was being read."""
        self._warned_lag_s = 0.0

    def notify_changed(self) -> None:
        """Something happened that the sweep may wait for."""
        self._changed.set()

    # --- beside what single calls do --------------------------------------------------------------

    def begin_alone(self, key: bytes) -> None:
        """``key`` is being provided by itself: the sweep leaves it alone until :meth:`end_alone`
        was called as often."""
        self._alone[key] = self._alone.get(key, 0) + 1

    def end_alone(self, key: bytes) -> None:
        """``key`` is no longer being provided by itself. A no-op after :meth:`withdraw`."""
        if key in self._alone:
            self._alone[key] -= 1
            if not self._alone[key]:
                del self._alone[key]
        self._changed.set()

    def withdraw(self, key: bytes) -> None:
        """``key`` was removed: its record goes to nobody from now on."""
        self._alone.pop(key, None)
        for page in self._pages:
            page.withdraw(key)
        if self._reads:
            self._stopped_meanwhile[key] = None

    # --- the schedule -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Learn from the store what was swept when.

        Raises:
            StorageError: as the store says.
        """
        keys, now = self._storage.store.keys, self._clock.unix()
        spans = await self._storage.call(keys.spans)
        if not spans:
            # Without keys nothing is due; keys of an older version were never swept.
            at = UnixTime(0.0) if len(self._storage.own_keys) else now
            await self._storage.call(partial(keys.begin_spans, at))
            spans = [(Place(0), at)]
        self.sweep.opened(spans)

    async def run(self) -> None:
        """Sweep what is due, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                match step := await self._next():
                    case Turn():
                        self.sweep.begun(step)
                        nursery.start_soon(self._take_turn, step)
                    case Measure(preimage):
                        await self._closest(preimage)
                    case Rest(until):
                        with trio.move_on_after(max(0.0, until - self._clock.unix())):
                            await self._changed.wait()

    async def _next(self) -> SweepStep:
        sweep, now = self.sweep, self._clock.unix()
        known = len(self._network.table)
        self._look_around(known, now)
        self._warn_of_lag(now)
        sweep.grown(known)
        if not len(self._storage.own_keys):
            return sweep.nothing_to_do(now)
        waiting = None
        try:
            waiting = await self._storage.call(partial(self._find_waiting, self._busy(now)))
        except StorageError as error:
            log.warning("own_keys_not_read", error=str(error))
        try:
            size = self._network.size.estimate(self._clock.monotonic())
        except UnknownNetworkSizeError:
            size = None
        step = sweep.next(self._clock.unix(), waiting, known, size)
        if isinstance(step, Turn) and step.waiting_only:
            self._cursor = step.end
        return step

    def _look_around(self, known: int, now: UnixTime) -> None:
        """Say whether anybody can be reached, and told where this node is."""
        try:
            self._told_addrs()
        except NoPeersError:
            known = 0
        if known and not self._network.outage.suspected:
            self.sweep.somebody()
        else:
            self.sweep.nobody(now)

    def _busy(self, now: UnixTime) -> list[tuple[int, int]]:
        places = [place_of(key_of(key)) for key in self._alone]
        return sorted([*self.sweep.busy(now), *((place, place + 1) for place in places)])

    def _find_waiting(self, busy: Sequence[tuple[int, int]]) -> Place | None:
        """The next place of a waiting key that is not in ``busy``, from where the last turn ended.
        Runs on the store's thread."""
        next_waiting = self._storage.store.keys.next_waiting
        for begin in (self._cursor, Place(0)):
            place = next_waiting(begin)
            for start, end in busy:
                if place is not None and start <= place < end:
                    place = next_waiting(end)
            if place is not None:
                return place
        return None

    def _warn_of_lag(self, now: UnixTime) -> None:
        """Say so if the sweep falls further and further behind."""
        lag_s = self.sweep.lag_s(now) if len(self._storage.own_keys) else 0.0
        if lag_s < LAG_WARNING_S:
            self._warned_lag_s = 0.0
        elif lag_s >= self._warned_lag_s + LAG_WARNING_S:
            if self._warned_lag_s:
                log.warning(
                    "reprovide_falls_behind",
                    lag_s=round(lag_s),
                    advice="records may expire before they are provided again: "
                    "make republish_interval longer, or provide fewer keys",
                )
            self._warned_lag_s = lag_s

    # --- one turn ---------------------------------------------------------------------------------

    async def _take_turn(self, turn: Turn) -> None:
        """Sweep the keys of ``turn``, a page at a time."""
        region, after, start = RegionMap(self._network.k), b"", turn.start
        failed = ended = False
        left: list[Place] = []
        try:
            while not ended:
                page, at = await self._read(turn, after)
                ended = len(page) < PAGE_KEYS
                end = turn.end if ended else Place(place_of(key_of(page[-1][0])) + 1)
                denies = self._lookups.denials.denies_key
                denied = {key: waits for key, waits in page if denies(key)}
                left_out = self._alone.keys() | denied.keys()
                keys = {key: waits for key, waits in page if key not in left_out}
                outcome = await self._hand_out(region, list(keys)) if keys else None
                if outcome is None and keys:
                    failed = True
                    break
                unheld = () if outcome is None else outcome.unheld
                held = () if outcome is None else outcome.held
                swept = SweptPage(
                    start,
                    end,
                    at,
                    turn.waiting_only,
                    provided=tuple(key for key in held if keys[key]),
                    unheld=tuple(key for key in unheld if not keys[key]),
                    holders=() if outcome is None else outcome.holders,
                )
                with trio.CancelScope(shield=True):  # the network has them: cancelled or not
                    await self._storage.call(partial(self._storage.store.keys.note_swept, swept))
                copies = 0 if outcome is None else outcome.copies
                self.sweep.swept(turn, start, end, at, keys=len(held), copies=copies)
                failed = failed or (bool(unheld) and not held)
                waiting = [*unheld, *(key for key, waits in denied.items() if waits)]
                room = MAX_LEFT_KEYS + 1 - len(left)
                left += [place_of(key_of(key)) for key in waiting[:room]]
                start, after = end, page[-1][0] if page else after
        except StorageError as error:  # what was handed out is handed out again, too early
            failed = True
            log.warning("sweep_not_noted", error=str(error))
        except BaseException:
            failed = True
            raise
        finally:
            known = len(self._network.table)
            self.sweep.ended(turn, self._clock.unix(), failed=failed, known=known, left=left)
            self._changed.set()

    async def _read(self, turn: Turn, after: bytes) -> tuple[list[tuple[bytes, bool]], UnixTime]:
        """The next page of keys, without those that were removed while it was read, and when it
        was read."""
        keys, at = self._storage.store.keys, self._clock.unix()
        self._reads += 1
        try:
            page = await self._storage.call(
                lambda: keys.turn_page(
                    turn.start, turn.end, after, PAGE_KEYS, waiting_only=turn.waiting_only
                )
            )
            return [each for each in page if each[0] not in self._stopped_meanwhile], at
        finally:
            self._reads -= 1
            if not self._reads:
                self._stopped_meanwhile.clear()

    async def _hand_out(self, region: RegionMap, keys: Sequence[bytes]) -> RegionSwept | None:
        """Hand out the records of ``keys``; None if nobody could be asked."""
        try:
            addrs = self._told_addrs()
        except NoPeersError:
            return None
        entry = PeerEntry(self._network.local, addrs)
        searches = self._lookups.searches
        machine = RegionSweep(
            self._network,
            searches.requests,
            searches.rng,
            region,
            keys,
            lambda key: provider_parcel(key, entry),
        )
        self._pages[machine] = None
        try:
            swept = await _Page(self, machine, lambda key: provider_parcel(key, entry)).to_end()
        finally:
            del self._pages[machine]
        log.debug(
            "region_swept",
            keys=len(keys),
            copies=swept.copies,
            peers=len(swept.holders),
            failed=swept.failed,
            lookups=swept.lookups,
        )
        return None if machine.is_hopeless and not swept.held else swept

    async def _closest(self, preimage: bytes) -> list[PeerId] | None:
        """The living peers closest to the key of ``preimage``, nearest first; None if the lookup
        was not completed."""
        try:
            done = await self._lookups.closest(preimage)
        except NetworkError:  # there is nobody to ask, or the key was denied a moment ago
            return None
        if done.reason is not StopReason.COMPLETED:
            return None
        point = key_of(preimage)  # disjoint paths may have more than k
        return sorted(done.alive, key=lambda peer: peer.key ^ point)[: self._network.k]


class _Page:
    """One page under way."""

    def __init__(
        self, sweeping: Sweeping, machine: RegionSweep, parcel_of: Callable[[bytes], Parcel]
    ) -> None:
        self._sweeping = sweeping
        self._rpc = sweeping._lookups.rpc  # noqa: SLF001 - its other half
        self._machine = machine
        self._parcel_of = parcel_of
        self._frames: dict[bytes, bytes] = {}
        """The request that hands out each record: it is the same for every peer."""
        self._reported = trio.Event()

    async def to_end(self) -> RegionSwept:
        """Perform what the machine says until it is over."""
        async with trio.open_nursery() as nursery:
            while True:
                match step := self._machine.next(_now()):
                    case RegionSwept():
                        return step
                    case Working():
                        await trio.lowlevel.checkpoint()
                    case Wait():
                        await self._reported.wait()
                        self._reported = trio.Event()
                    case Look() | GiveAll() | Ask():
                        nursery.start_soon(self._perform, step)
        raise AssertionError("a page ends with its result")

    async def _perform(self, step: Look | GiveAll | Ask) -> None:
        match step:
            case Look(preimage):
                self._machine.on_looked(step, await self._sweeping._closest(preimage))  # noqa: SLF001
            case GiveAll():
                await self._give(step)
            case Ask():
                await self._ask(step)
        self._reported.set()

    async def _give(self, give: GiveAll) -> None:
        try:
            await self._rpc.give_all(give.peer, partial(self._records, give), give.deadline)
        except (NetworkError, RemoteError) as error:
            self._machine.on_not_given(give, failure_reason(error), _now())
        else:
            self._machine.on_given(give)

    def _records(self, give: GiveAll) -> Iterator[bytes]:
        """The requests of ``give`` as frames, without those that are withdrawn by now."""
        for key in give.keys:
            if self._machine.is_withdrawn(key):
                continue
            frame = self._frames.get(key)
            if frame is None:
                frame = self._frames[key] = encode_request(self._parcel_of(key).request)
            yield frame

    async def _ask(self, ask: Ask) -> None:
        try:
            reply = await self._rpc.request(ask.peer, ask.request, ask.deadline)
        except (NetworkError, RemoteError) as error:
            self._machine.on_failure(ask, failure_reason(error), _now())
        else:
            self._machine.on_reply(ask, reply, _now())


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
