"""When this node's own keys are announced again.

Decides which key is announced next, and how many at once; announcing, and what is durable, is the
node's work. One key after another, each with a lookup of its own: right for thousands of keys. For
millions, a sweep over the keyspace takes this class's place behind the same methods.

    waiting --due--> (returned by ``due``) --begun--> running --provided--> waiting an interval
                                                      running --failed----> waiting, ever longer

A key announced while fewer than ``k`` peers were known is *thin*: too few hold it. It is announced
again as soon as at least twice as many peers are known as then, or ``k`` (``grown``); in a network
that stays small it waits its interval like any other. As the bar doubles, that makes at most
``log2(k) + 1`` announcements more.

Keys never announced come first, in the order in which they were added; then the one that is overdue
for longest. All times are Unix time, for they outlive the process; a clock that was set back delays
no key by more than one interval. Holds what the user provides: no peer can grow it.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import UnixTime
from codio_dht.params import (
    MAX_REPROVIDES_AT_ONCE,
    PROVIDE_RETRY_MAX_S,
    PROVIDE_RETRY_S,
    REPROVIDE_INTERVAL_S,
    K,
)


class _Key:
    __slots__ = ("announced", "due", "failures", "key", "running", "takes_place", "turn")

    def __init__(self, key: bytes, turn: int, due: float, *, announced: bool) -> None:
        self.key = key
        self.turn = turn
        self.due = due
        self.announced = announced
        self.failures = 0
        self.running = False
        self.takes_place = False


_Heap = list[tuple[float, int, _Key]]


class ReprovideSchedule:
    """See the module. Contains the keys that are kept provided."""

    def __init__(
        self,
        *,
        interval_s: float = REPROVIDE_INTERVAL_S,
        max_at_once: int = MAX_REPROVIDES_AT_ONCE,
        retry_s: float = PROVIDE_RETRY_S,
        retry_max_s: float = PROVIDE_RETRY_MAX_S,
        k: int = K,
    ) -> None:
        self._interval_s = interval_s
        self._max_at_once = max_at_once
        self._backoff = Backoff(retry_s, min(retry_max_s, interval_s))
        self._k = k
        self._keys: dict[bytes, _Key] = {}
        self._thin: dict[bytes, int] = {}
        """How many peers have to be known for a thin key to be announced again."""
        self._bar = k
        """The lowest of these, or lower."""
        self._never: _Heap = []
        self._again: _Heap = []
        self._turns = 0
        self._running = 0
        self._latest = -inf

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    @property
    def running(self) -> int:
        """Keys being announced because they were due."""
        return self._running

    def add(self, key: bytes, last_provided: UnixTime | None) -> bool:
        """Keep ``key`` provided; None if it was never announced. False, and a no-op, if it is kept
        already."""
        if key in self._keys:
            return False
        announced = last_provided is not None
        due = -inf if last_provided is None else last_provided + self._interval_s
        self._keys[key] = state = _Key(key, self._turns, due, announced=announced)
        self._turns += 1
        self._push(state)
        if announced:
            self._latest = inf  # a time from elsewhere may lie in the future: look at all again
        return True

    def remove(self, key: bytes) -> bool:
        """Forget ``key``, also while it is being announced; False if it is not kept."""
        state = self._keys.pop(key, None)
        self._thin.pop(key, None)
        if state is None:
            return False
        self._running -= state.takes_place
        return True

    def due(self, now: UnixTime) -> tuple[list[bytes], UnixTime | None]:
        """The keys to announce now, as many as may be announced at once beside those running, and
        when the next one is due if none is (None: not before something changes)."""
        if now < self._latest:
            self._distrust_the_future(now)
        self._latest = now
        room = self._max_at_once - self._running
        if room <= 0:
            return [], None
        keys = self._overdue(self._never, now, room)
        keys += self._overdue(self._again, now, room - len(keys))
        if keys:
            return keys, None
        next_due = min([heap[0][0] for heap in (self._never, self._again) if heap], default=None)
        return [], None if next_due is None else UnixTime(next_due)

    def begun(self, key: bytes, *, by_user: bool = False) -> None:
        """``key`` is being announced; ``by_user``: not because it was due. Then it takes the place
        of none that is, or a user who adds keys all the time would let the old ones expire. A no-op
        if it is not kept, or running already."""
        state = self._keys.get(key)
        if state is not None and not state.running:
            state.running = True
            state.takes_place = not by_user
            self._running += state.takes_place

    def provided(self, key: bytes, now: UnixTime, *, known: int | None = None) -> bool:
        """``key`` was announced while ``known`` peers were known (None: enough); whether that will
        do for an interval, as far as can be said now. A no-op if it is no longer kept."""
        state = self._keys.get(key)
        if state is None:
            return True
        self._latest = max(self._latest, now)
        state.announced = True
        state.failures = 0
        self._ended(state, now + self._interval_s)
        if known is None or known >= self._k:
            self._thin.pop(key, None)
            return True
        self._thin[key] = bar = min(self._k, max(2 * known, known + 1))
        self._bar = min(self._bar, bar)
        return False

    @property
    def thin(self) -> int:
        """Keys that are announced again when more peers are known."""
        return len(self._thin)

    def grown(self, known: int, now: UnixTime) -> bool:
        """``known`` peers are known now: thin keys for which that is enough are due at once;
        whether there are any. Cheap while there is nothing to do."""
        if not self._thin or known < self._bar:
            return False
        ready = [key for key, bar in self._thin.items() if bar <= known]
        for key in ready:
            state = self._keys[key]
            del self._thin[key]
            if not state.running:
                state.due = min(state.due, now)
                self._push(state)
        self._bar = min(self._thin.values(), default=self._k)
        return bool(ready)

    def failed(self, key: bytes, now: UnixTime) -> None:
        """``key`` could not be announced; it is tried again soon, then ever later. A no-op if it is
        no longer kept."""
        state = self._keys.get(key)
        if state is not None:
            state.failures += 1
            delay_s = self._backoff.delay_s(state.failures)
            self._latest = max(self._latest, now)
            self._ended(state, now + delay_s)

    # --- inside -----------------------------------------------------------------------------------

    def _ended(self, state: _Key, due: float) -> None:
        self._running -= state.takes_place
        state.running = state.takes_place = False
        state.due = due
        self._push(state)

    def _push(self, state: _Key) -> None:
        heap = self._again if state.announced else self._never
        heappush(heap, (state.due, state.turn, state))

    def _is_current(self, due: float, state: _Key) -> bool:
        return self._keys.get(state.key) is state and state.due == due and not state.running

    def _overdue(self, heap: _Heap, now: UnixTime, limit: int) -> list[bytes]:
        """Up to ``limit`` keys of ``heap`` that are due. Entries that no longer count are dropped
        on the way, so that the top is a real one."""
        found: _Heap = []
        seen: set[bytes] = set()
        while heap:
            due, _, state = heap[0]
            if not self._is_current(due, state) or state.key in seen:
                heappop(heap)
            elif due <= now and len(found) < limit:
                found.append(heappop(heap))
                seen.add(state.key)
            else:
                break
        for entry in found:
            heappush(heap, entry)
        return [state.key for _, _, state in found]

    def _distrust_the_future(self, now: UnixTime) -> None:
        """The clock was set back, or times came from elsewhere: no key may wait for more than an
        interval."""
        latest = now + self._interval_s
        heaps: tuple[_Heap, _Heap] = ([], [])
        for state in self._keys.values():
            state.due = min(state.due, latest)
            heaps[state.announced].append((state.due, state.turn, state))
        for heap in heaps:
            heapify(heap)
        self._never, self._again = heaps
