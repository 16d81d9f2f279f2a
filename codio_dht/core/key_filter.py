"""A filter of keys: "certainly not here" or "perhaps here", in two to three bytes a key.

Decides nothing by itself. A key that was added is never denied. It grows in layers, each four times
the one before (scalable Bloom filters: Almeida et al. 2007), up to the number of keys it is made
for; past that, "perhaps" comes more often and memory no longer grows. Keys cannot be taken out: a
filter is built anew from the store instead, on another thread if need be, for it is a plain object
that nobody else knows until it is handed over.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final

from codio_dht.params import KEY_FILTER_BITS_PER_KEY, KEY_FILTER_PROBES

_PROBES: Final = Struct(f">{KEY_FILTER_PROBES}Q")
"""The first 32 bytes of a SHA-256 digest are so many independent 64-bit numbers."""

_FIRST_LAYER_KEYS: Final = 1_024
_GROWTH: Final = 4


class KeyFilter:
    """Made for up to ``max_keys`` keys."""

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
        """What the bits take."""
        return sum(len(bits) for bits, _ in self._layers)

    def add(self, key: bytes, count: int = 0) -> None:
        """``key`` is here, with ``count`` more rows."""
        self.rows += count
        if key in self:
            return
        if self._room <= 0 and (not self._layers or self.keys < self._max_keys):
            self._grow()
        bits, mask = self._layers[-1]
        for number in _PROBES.unpack(sha256(key).digest()):
            index = number & mask
            bits[index >> 3] |= 1 << (index & 7)
        self.keys += 1
        self._room -= 1

    def __contains__(self, key: bytes) -> bool:
        """False: certainly not here. True: perhaps."""
        numbers = _PROBES.unpack(sha256(key).digest())
        for bits, mask in self._layers:
            for number in numbers:
                index = number & mask
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
