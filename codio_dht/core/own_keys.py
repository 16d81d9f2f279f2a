"""This node's own keys: what is said of one, and which there are, without holding them in memory.

Decides when that is known and when the store has to be asked: :meth:`OwnKeys.provides` says yes or
no, or ``Load``; then the node reads the key, calls :meth:`OwnKeys.loaded` (or
:meth:`OwnKeys.load_failed`), and asks again.

Memory holds a filter of the keys in the store (:mod:`codio_dht.core.key_filter`) and the answers
about keys that were asked for lately. Both are bounded: ten million keys cost some 30 MB. No other
process writes to the store of own keys, so an answer holds until this node adds or removes the key.
What is read while a key is added or removed counts for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.key_filter import StoredKeys
from codio_dht.core.keyspace import Key
from codio_dht.core.peer import PeerId
from codio_dht.core.regions import Place
from codio_dht.core.steps import Load, LoadKind

MAX_FILTERED_OWN_KEYS: Final = 10_000_000
"""Own keys that the filter is made for; with more of them, more questions reach the store."""

MAX_OWN_KEY_ANSWERS: Final = 16_384
"""Keys of which it is remembered whether this node provides them; past it the one not asked for for
longest is forgotten, and read from the store when it is asked for again."""

MAX_OWN_KEY_LOADS: Final = 1_024
"""Keys being read from the store that are watched for being added or removed meanwhile; past it the
oldest is no longer watched, and what is read of it counts for nothing."""

OWN_KEY_RETRY_S: Final = 10.0
"""A key that could not be read counts as not provided by this node for this long, seconds."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be provided from now on."""

    key: bytes
    """The multihash."""
    written: str | None = None
    """The CID as the user wrote it; None if it was given as bytes."""


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key that this node provides."""

    key: bytes
    """The multihash."""
    added: UnixTime
    """Since when it is provided."""
    last_provided: UnixTime | None
    """When it was provided last; None until a provide succeeded."""
    written: str | None = None
    """The CID as the user wrote it; None if it was given as bytes."""
    waits: bool = True
    """Whether it waits to be provided ahead of the others: it is new, or nobody took it."""


@dataclass(frozen=True, slots=True)
class SweptPage:
    """What the store has to know of one page of a sweep: the keys whose places lie from ``start``
    up to ``end`` were provided at ``at``."""

    start: Place
    end: Place
    at: UnixTime
    waiting_only: bool
    """Whether only the keys that waited were provided."""
    provided: tuple[bytes, ...]
    """The keys that waited and were provided."""
    unheld: tuple[bytes, ...]
    """The keys that nobody took: they wait from now on."""
    holders: tuple[PeerId, ...]
    """The peers that took everything they were given."""


class OwnKeys:
    """The keys of one node. See the module."""

    def __init__(
        self,
        *,
        max_keys: int = MAX_FILTERED_OWN_KEYS,
        max_answers: int = MAX_OWN_KEY_ANSWERS,
    ) -> None:
        self.stored = StoredKeys(max_keys)
        self._max_answers = max_answers
        self._answers: OrderedDict[bytes, bool] = OrderedDict()
        self._unreadable: dict[bytes, UnixTime] = {}
        """When a key in ``_answers`` could not be read."""
        self._loading: OrderedDict[bytes, None] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """How many keys this node provides."""
        return self._count

    def opened(self, count: int) -> None:
        """The store holds ``count`` keys. For the start, before anything is asked."""
        self._count = count
        if count:
            self.stored.distrust()

    def provides(self, key: bytes, now: UnixTime, point: Key | None = None) -> bool | Load:
        """Whether this node provides ``key`` itself. ``point`` is ``key_of(key)``, where the caller
        knows it."""
        if not self._count:
            return False
        if not self.stored.may_hold(key, point):
            return False
        answer = self._answers.get(key)
        if answer is not None and not self._is_due_again(key, now):
            self._answers.move_to_end(key)
            return answer
        if len(self._loading) >= MAX_OWN_KEY_LOADS:
            self._loading.popitem(last=False)
        self._loading[key] = None
        return Load(LoadKind.OWN_KEY, key)

    def loaded(self, key: bytes, *, own: bool) -> None:
        """The store says whether it holds ``key``. A no-op if the key was added or removed since it
        was asked for."""
        if key in self._loading:
            self._remember(key, own=own)

    def load_failed(self, key: bytes, now: UnixTime) -> None:
        """The store could not read ``key``: for a while it counts as not provided. A no-op if the
        key was added or removed since it was asked for."""
        if key in self._loading:
            self._remember(key, own=False)
            self._unreadable[key] = now

    def added(self, key: bytes, *, is_new: bool) -> None:
        """``key`` is in the store now; ``is_new`` if it was not before."""
        self._count += is_new
        self.stored.add(key)
        self._remember(key, own=True)

    def removed(self, key: bytes) -> None:
        """``key`` was in the store and no longer is."""
        self._count -= 1
        self.stored.removed()
        self._remember(key, own=False)

    def _remember(self, key: bytes, *, own: bool) -> None:
        self._loading.pop(key, None)
        self._unreadable.pop(key, None)
        self._answers[key] = own
        self._answers.move_to_end(key)
        if len(self._answers) > self._max_answers:
            forgotten, _ = self._answers.popitem(last=False)
            self._unreadable.pop(forgotten, None)

    def _is_due_again(self, key: bytes, now: UnixTime) -> bool:
        since = self._unreadable.get(key)
        return since is not None and not since <= now < since + OWN_KEY_RETRY_S
