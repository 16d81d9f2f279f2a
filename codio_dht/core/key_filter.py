"""Which keys the store holds: "certainly not" or "perhaps", in two to three bytes a key.

:class:`KeyFilter` is the bits. A key that was added is never denied. It grows in layers, each four
times the one before (scalable Bloom filters: Almeida et al. 2007), up to the number of keys it is
made for; past that, "perhaps" comes more often and memory no longer grows. No key can be taken out.

:class:`StoredKeys` is such a filter over the life of a store::

    INCOMPLETE --finish_rebuild--> COMPLETE --distrust--> INCOMPLETE

Only a complete one says "certainly not". It is built from the store, a page of keys at a time, on
another thread if need be: what is being built is a plain object that nobody else uses. Meanwhile
the last one answers, and the keys that are written are collected and added to the new one as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codio_dht.core.keyspace import Key, key_of

KEY_FILTER_BITS_PER_KEY: Final = 16
"""Bits of a filter for each key that it is made for: with 4 probes, 0.24 % of the answers for keys
that are not there are "perhaps" (Bloom 1970). Each of these costs one read of the store."""

KEY_FILTER_PROBES: Final = 4
"""Bits of a filter that are set for each key: a point of the keyspace is so many independent 64-bit
numbers."""

FILTER_PAGE_KEYS: Final = 1_024
"""Keys that are read from the store and added to a filter in one step, which takes some 2 ms of the
store's thread; loads and flushes have their turn between two steps."""

MIN_STALE_KEYS: Final = 1_024
"""A filter with fewer keys that are no longer in the store is not worth building anew."""

_SHIFTS: Final = tuple(64 * number for number in range(KEY_FILTER_PROBES))

_FIRST_LAYER_KEYS: Final = 1_024
_GROWTH: Final = 4


class KeyFilter:
    """A set of keys, by their points of the keyspace, that may say "perhaps" of a key that was not
    added. Made for up to ``max_keys`` keys."""

    __slots__ = ("_layers", "_max_keys", "_room", "_size", "keys", "rows")

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._size = self._room = 0
        self._layers: list[tuple[bytearray, int]] = []
        """Bits, and the mask that makes a number an index into them; the youngest last."""
        self.keys = 0
        """Keys added that were not "perhaps here" before."""
        self.rows = 0
        """Sum of the counts given to :meth:`add`."""

    @property
    def memory_bytes(self) -> int:
        """The size of the bits, in bytes."""
        return sum(len(bits) for bits, _ in self._layers)

    def add(self, key: Key, count: int = 0) -> None:
        """``key`` is here, with ``count`` more rows."""
        self.rows += count
        if key in self:
            return
        if self._room <= 0 and (not self._layers or self.keys < self._max_keys):
            self._grow()
        bits, mask = self._layers[-1]
        for shift in _SHIFTS:
            index = key >> shift & mask
            bits[index >> 3] |= 1 << (index & 7)
        self.keys += 1
        self._room -= 1

    def __contains__(self, key: Key) -> bool:
        """False: certainly not here. True: perhaps."""
        for bits, mask in self._layers:
            for shift in _SHIFTS:
                index = key >> shift & mask
                if not bits[index >> 3] & (1 << (index & 7)):
                    break
            else:
                return True
        return False

    def _grow(self) -> None:
        self._size = self._size * _GROWTH or _FIRST_LAYER_KEYS
        self._room = min(self._size, self._max_keys - self.keys)
        bits = 1 << (self._room * KEY_FILTER_BITS_PER_KEY - 1).bit_length()
        self._layers.append((bytearray(bits // 8), bits - 1))


class StoredKeys:
    """The filter of one store's keys, complete for an empty store. See the module."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._filter = KeyFilter(max_keys)
        self._stale = 0
        self._written: list[Key] | None = None
        """Keys added since the rebuild began and not yet handed over; None while there is none."""
        self.complete = True
        """Whether a key that is not in the filter is certainly not in the store."""

    def __len__(self) -> int:
        """Keys in the filter, those that are no longer in the store included."""
        return self._filter.keys

    def may_hold(self, preimage: bytes, key: Key | None = None) -> bool:
        """False: ``preimage`` is certainly not in the store. True: perhaps. ``key`` is its point of
        the keyspace, where the caller knows it: that saves a hash."""
        return not self.complete or (key_of(preimage) if key is None else key) in self._filter

    def add(self, preimage: bytes) -> None:
        """``preimage`` is in the store now."""
        key = key_of(preimage)
        self._filter.add(key)
        if self._written is not None:
            self._written.append(key)

    def removed(self) -> None:
        """A key may have left the store."""
        self._stale += 1

    def distrust(self) -> None:
        """The store may hold keys that were never added here. A rebuild under way counts for
        nothing."""
        self.complete = False
        self._written = None

    def rebuild_due(self) -> bool:
        """Whether the filter is incomplete, or so many keys are gone that it should be built
        anew."""
        return not self.complete or self._stale > max(MIN_STALE_KEYS, self._filter.keys // 2)

    def begin_rebuild(self) -> KeyFilter:
        """An empty filter, to be filled with every key of the store and handed to
        :meth:`finish_rebuild`. One that was begun before counts for nothing."""
        self._written = []
        return KeyFilter(self._max_keys)

    def take_written(self) -> Iterable[Key]:
        """The keys added since the last call or the beginning of the rebuild, which have to be
        added to the new filter too."""
        if not self._written:
            return ()
        taken, self._written = self._written, []
        return taken

    def finish_rebuild(self, rebuilt: KeyFilter) -> bool:
        """Use ``rebuilt`` from now on. False, and a no-op, if no rebuild is under way."""
        if self._written is None:
            return False
        for key in self._written:
            rebuilt.add(key)
        self._filter = rebuilt
        self._written = None
        self._stale = 0
        self.complete = True
        return True
