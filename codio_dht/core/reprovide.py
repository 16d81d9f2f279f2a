"""When this node's own keys are provided again.

Decides which key is provided next, and how many at once; providing, and what is durable, is the
node's work. One key after another, each with a lookup of its own: right for thousands of keys. For
millions, a sweep over the keyspace takes this class's place.

    STORED --due, begun--> RUNNING --provided--> HELD --noted--> STORED
                           RUNNING --failed----> HELD (ever longer) --due, begun--> RUNNING

The keys are in the store, in the order in which they are to be provided: those never provided
first, in the order in which they were added; then the one that was provided longest ago. The node
reads the first of them, as many as ``begin_read`` says, and hands them to ``due``. Memory holds
only what the store does not say: the keys that run, and the keys that are *held* because they
failed and wait for another try, or the store was not yet told that they were provided, or they are
to be provided early.

A key provided while fewer than ``k`` peers were known is *thin*: too few hold it. It is provided
again as soon as at least twice as many peers are known as then, or ``k`` (``grown``); in a network
that stays small it waits its interval like any other. As the bar doubles, that makes at most
``log2(k) + 1`` provides more.

All times are Unix time, for they outlive the process; a clock that was set back delays no key by
more than one interval. No peer can grow what this holds, and it is bounded all the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from codio_dht.core.backoff import Backoff
from codio_dht.core.clock import UnixTime
from codio_dht.params import REPROVIDE_INTERVAL_S, K

MAX_REPROVIDES_AT_ONCE: Final = 8
"""Own keys that are provided again at the same time, each with a lookup of its own (JS 10)."""

PROVIDE_RETRY_S: Final = 60.0
"""A key that could not be provided is tried again after this many seconds; the time doubles with
each failure."""

PROVIDE_RETRY_MAX_S: Final = 3_600.0
"""The longest time until a key that could not be provided is tried again, seconds."""

REPROVIDE_CHECK_S: Final = 60.0
"""The reprovide schedule is looked at least this often, seconds: the Unix clock may jump."""

MAX_HELD_KEYS: Final = 4_096
"""Keys that failed, or whose success the store was not told yet, or that are to be provided early.
While there are so many, no other key is begun: so many failures are no fault of the keys."""

MAX_THIN_KEYS: Final = 65_536
"""Keys of which it is remembered that too few peers hold them; a further one waits its interval."""

FUTURE_BATCH: Final = 1_000
"""Keys with a time in the future that the store corrects in one transaction, so that other calls
have their turn."""


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key this node provides. ``last_provided`` is None until a provide succeeded."""

    key: bytes
    added: UnixTime
    last_provided: UnixTime | None


@dataclass(slots=True)
class _Held:
    """A key that is due at another time than the store says."""

    due: float
    provided_before: bool
    failures: int = 0
    unnoted: bool = False
    """Whether only that is missing: that the store is told when the key was provided."""


@dataclass(slots=True)
class _Running:
    """A key that is being provided."""

    provided_before: bool
    takes_place: bool


class ReprovideSchedule:
    """The order of one node's reprovides. See the module."""

    def __init__(
        self,
        *,
        interval_s: float = REPROVIDE_INTERVAL_S,
        max_at_once: int = MAX_REPROVIDES_AT_ONCE,
        retry_s: float = PROVIDE_RETRY_S,
        retry_max_s: float = PROVIDE_RETRY_MAX_S,
        max_held: int = MAX_HELD_KEYS,
        max_thin: int = MAX_THIN_KEYS,
        k: int = K,
    ) -> None:
        self._interval_s = interval_s
        self._max_at_once = max_at_once
        self._backoff = Backoff(retry_s, min(retry_max_s, interval_s))
        self._max_held = max_held
        self._max_thin = max_thin
        self._k = k
        self._running: dict[bytes, _Running] = {}
        self._taken = 0
        self._held: dict[bytes, _Held] = {}
        self._thin: dict[bytes, int] = {}
        """How many peers have to be known for a thin key to be provided again."""
        self._bar = k
        """The lowest of these, or lower."""
        self._offered: dict[bytes, bool] = {}
        """What :meth:`due` returned last, and whether each was ever provided."""
        self._overtaken: dict[bytes, None] = {}
        """Keys of which what is being read from the store no longer holds."""
        self._latest = inf
        """The latest time seen; infinite before the first one, for the store's times may lie in the
        future."""

    @property
    def running(self) -> int:
        """Keys being provided because they were due."""
        return self._taken

    @property
    def held(self) -> int:
        """Keys that are due at another time than the store says."""
        return len(self._held)

    @property
    def thin(self) -> int:
        """Keys that are provided again when more peers are known."""
        return len(self._thin)

    # --- what is due ------------------------------------------------------------------------------

    def clock_went_back(self, now: UnixTime) -> bool:
        """Whether times in the store may lie in the future, because the clock was set back or
        nobody has looked yet: they are to be made ``now``, and :meth:`corrected` called, before
        :meth:`due` is asked. No key in memory waits for longer than an interval from now."""
        if now >= self._latest:
            return False
        for held in self._held.values():
            held.due = min(held.due, now + self._interval_s)
        return True

    def corrected(self, now: UnixTime) -> None:
        """No time in the store lies after ``now``."""
        self._latest = now

    def begin_read(self) -> int:
        """The store is about to be read: how many keys :meth:`due` has to be given, the first in
        the store's order."""
        self._overtaken.clear()
        if len(self._held) >= self._max_held or self._taken >= self._max_at_once:
            return 0
        return self._max_at_once - self._taken + len(self._running) + len(self._held) + 1

    def due(self, now: UnixTime, stored: Sequence[OwnKey]) -> tuple[list[bytes], UnixTime | None]:
        """The keys to provide now, as many as may be provided at once beside those running, and
        when the next one is due if none is (None: not before something changes). ``stored`` is what
        was read from the store since :meth:`begin_read`."""
        self._latest = max(self._latest, now)
        room = self._max_at_once - self._taken
        if room <= 0:
            return [], None
        turns = [
            (held.provided_before, held.due, place, key)
            for place, (key, held) in enumerate(self._held.items(), -len(self._held))
            if key not in self._running
        ]
        for place, own in enumerate(stored):
            key, last = own.key, own.last_provided
            if not (key in self._running or key in self._held or key in self._overtaken):
                due = -inf if last is None else last + self._interval_s
                turns.append((last is not None, due, place, key))
        ready = sorted([turn for turn in turns if turn[1] <= now])[:room]
        self._offered = {key: provided_before for provided_before, _, _, key in ready}
        if ready:
            return list(self._offered), None
        next_due = min([due for _, due, _, _ in turns], default=None)
        return [], None if next_due is None else UnixTime(next_due)

    # --- what happens to a key --------------------------------------------------------------------

    def begun(self, key: bytes) -> None:
        """``key``, which :meth:`due` returned, is being provided. A no-op if it runs already."""
        self._begin(key, provided_before=self._offered.get(key, False), takes_place=True)

    def begun_by_user(self, key: bytes, *, provided_before: bool) -> None:
        """``key`` is being provided because the user asked for it. It takes the place of none that
        is due, or a user who adds keys all the time would let the old ones expire. A no-op if it
        runs already."""
        self._begin(key, provided_before=provided_before, takes_place=False)

    def provided(self, key: bytes, now: UnixTime, *, known: int | None = None) -> bool:
        """``key`` was provided while ``known`` peers were known (None: enough); whether that will
        do for an interval, as far as can be said now. The store is to be told, then :meth:`noted`
        called. A no-op if the key does not run (any more)."""
        ended = self._end(key, now)
        if ended is None:
            return True
        self._hold(key, _Held(now + self._interval_s, provided_before=True, unnoted=True), ended)
        if known is None or known >= self._k:
            self._thin.pop(key, None)
            return True
        if key in self._thin or len(self._thin) < self._max_thin:
            self._thin[key] = bar = min(self._k, max(2 * known, known + 1))
            self._bar = min(self._bar, bar)
        return False

    def noted(self, key: bytes) -> None:
        """The store knows when ``key`` was provided. A no-op if that is not what it is held for
        any more."""
        self._overtaken[key] = None
        if key in self._held and self._held[key].unnoted:
            del self._held[key]

    def failed(self, key: bytes, now: UnixTime) -> None:
        """``key`` could not be provided; it is tried again soon, then ever later. A no-op if it
        does not run (any more)."""
        ended = self._end(key, now)
        if ended is not None:
            before = self._held.get(key)
            failures = 1 if before is None else before.failures + 1
            delay_s = self._backoff.delay_s(failures)
            self._hold(key, _Held(now + delay_s, ended.provided_before, failures), ended)

    def removed(self, key: bytes) -> None:
        """``key`` is no longer kept, also if it is being provided. A no-op if it was not kept."""
        self._overtaken[key] = None
        self._held.pop(key, None)
        self._thin.pop(key, None)
        running = self._running.pop(key, None)
        self._taken -= running is not None and running.takes_place

    def grown(self, known: int, now: UnixTime) -> bool:
        """``known`` peers are known now: thin keys for which that is enough are due at once;
        whether there are any. Cheap while there is nothing to do."""
        if not self._thin or known < self._bar:
            return False
        ready = [key for key, bar in self._thin.items() if bar <= known]
        for key in ready:
            held = self._held.get(key)
            if held is not None:
                held.due, held.unnoted = min(held.due, now), False
            elif key not in self._running:
                if len(self._held) >= self._max_held:
                    return True  # the others stay thin until there is room
                self._held[key] = _Held(now, provided_before=True)
            del self._thin[key]
        self._bar = min(self._thin.values(), default=self._k)
        return bool(ready)

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, key: bytes, *, provided_before: bool, takes_place: bool) -> None:
        if key not in self._running:
            self._running[key] = _Running(provided_before, takes_place)
            self._taken += takes_place

    def _end(self, key: bytes, now: UnixTime) -> _Running | None:
        ended = self._running.pop(key, None)
        if ended is not None:
            self._taken -= ended.takes_place
            self._latest = max(self._latest, now) if self._latest < inf else inf
        return ended

    def _hold(self, key: bytes, held: _Held, ended: _Running) -> None:
        """Hold ``key``. A user who provides very many keys may go past the bound: then the store's
        word counts, and the key is provided again early."""
        before = self._held.pop(key, None)
        if before is not None or ended.takes_place or len(self._held) < self._max_held:
            self._held[key] = held
