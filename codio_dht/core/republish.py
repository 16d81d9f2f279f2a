"""When this node's own values are put again (republished).

Decides which value is due; what a renewed record says, and how it gets to its holders, others do.
Servers forget a value 48 hours after it was put last, and an IPNS record ends by itself, so each is
put again every ``interval_s``, and in any case well before it ends.

    waiting --due--> (returned by ``due``) --begun--> running --published--> waiting
                                                      running --failed-----> waiting, ever longer

A value never published is due at once. All times are Unix time, for they outlive the process; a
clock that was set back delays no value by more than one interval. Holds what the user asked for: no
peer can grow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import UnixTime

REPUBLISH_INTERVAL_S: Final = 4 * 3600.0
"""Time after which an own value is put again, seconds (Kubo's republisher)."""

REPUBLISH_SHARE: Final = 0.5
"""A record that ends by itself is renewed at the latest when this share of its life is over."""

MAX_REPUBLISHES_AT_ONCE: Final = 4
"""Own values that are put again at the same time, each with a lookup of its own."""

REPUBLISH_RETRY_S: Final = 60.0
"""A value that could not be put is tried again after this many seconds; the time doubles with each
failure, up to the interval."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How a record of an IPNS name is made anew."""

    signer: str
    """The label of the private key that signs it."""
    lifetime_s: float
    """How long each record holds, seconds."""
    ttl_s: float
    """How long a resolver may keep it, seconds."""


@dataclass(frozen=True, slots=True)
class OwnValue:
    """A value that this node keeps published."""

    key: bytes
    value: bytes
    added: UnixTime
    published: UnixTime | None
    """When peers took it last; None before the first time."""
    naming: Naming | None = None
    """For an IPNS record: how it is renewed. Other values are put again as they are."""


@dataclass(slots=True)
class _Value:
    due: float
    failures: int = 0
    running: bool = False


class RepublishSchedule:
    """When each own value is put again. Contains the keys whose values are kept published."""

    def __init__(
        self,
        *,
        interval_s: float = REPUBLISH_INTERVAL_S,
        max_at_once: int = MAX_REPUBLISHES_AT_ONCE,
        retry_s: float = REPUBLISH_RETRY_S,
    ) -> None:
        self._interval_s = interval_s
        self._max_at_once = max_at_once
        self._retry_s = retry_s
        self._values: dict[bytes, _Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def add(self, key: bytes, published: UnixTime | None, eol: UnixTime | None) -> None:
        """Keep the value of ``key`` published, which was put last at ``published``, if ever, and
        ends at ``eol``, if it does. A no-op while it is being put."""
        value = self._values.get(key)
        if value is None or not value.running:
            self._values[key] = _Value(self._next(published, eol))

    def remove(self, key: bytes) -> None:
        """Keep it published no more. A no-op if it is not there."""
        self._values.pop(key, None)

    def due(self, now: UnixTime) -> tuple[list[bytes], float | None]:
        """The values to put now, the one overdue for longest first, and when the next is due (None:
        not before one that is running has ended). Report each with :meth:`begun`."""
        running = 0
        waiting = []
        for key, value in self._values.items():
            if value.running:
                running += 1
            else:
                value.due = min(value.due, now + self._interval_s)
                waiting.append((value.due, key))
        waiting.sort()
        room = max(0, self._max_at_once - running)
        ready = [key for due, key in waiting if due <= now][:room]
        later = [due for due, _ in waiting if due > now]
        if len(ready) == room and len(waiting) > room:
            return ready, None
        return ready, min(later, default=None)

    def begun(self, key: bytes) -> None:
        """The value of ``key`` is being put."""
        if key in self._values:
            self._values[key].running = True

    def published(self, key: bytes, now: UnixTime, eol: UnixTime | None) -> None:
        """Peers hold the value of ``key``, which ends at ``eol``, if it does."""
        if key in self._values:
            self._values[key] = _Value(self._next(now, eol))

    def failed(self, key: bytes, now: UnixTime) -> None:
        """Nobody took the value of ``key``."""
        value = self._values.get(key)
        if value is not None:
            wait_s = min(self._retry_s * 2**value.failures, self._interval_s)
            self._values[key] = _Value(now + wait_s, min(value.failures + 1, 16))

    def retry_failed(self, now: UnixTime) -> None:
        """There are peers again: values that nobody took are due at once, and their failures, which
        were nobody's fault, are forgotten."""
        for value in self._values.values():
            if value.failures:
                value.due = min(value.due, now)
                value.failures = 0

    def _next(self, published: UnixTime | None, eol: UnixTime | None) -> float:
        if published is None:
            return float("-inf")
        due = published + self._interval_s
        return due if eol is None else min(due, published + (eol - published) * REPUBLISH_SHARE)
