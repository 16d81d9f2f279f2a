"""Preimages: bytes whose key lies where a refresh wants to look.

The wire knows no request for a bare point of the keyspace: to look at a CPL, a node must send bytes
whose SHA-256 shares exactly that many leading bits with its own key. They are found by trying, on
average ``2 ** (cpl + 1)`` times, so the search is cut into slices between which others may run.

A preimage has the form of an RSA peer id (a SHA2-256 multihash), which is what every implementation
sends here (GO, JS).
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from codio_dht import params
from codio_dht.core.keyspace import Key
from codio_dht.core.refresh import MAX_REFRESH_CPL
from codio_dht.core.rng import Rng
from codio_dht.errors import UsageError
from codio_dht.formats.multihash import SHA2_256_HEAD

MAX_PREIMAGE_EFFORT: Final = 64
"""A preimage search ends after this many times the expected tries (it then fails once in e**64)."""

PREIMAGE_TRIES_PER_SLICE: Final = 1_000
"""Tries between two chances for others to run: under 1 ms."""

_COUNTER_BYTES: Final = 4
_SALT_BITS: Final = 8 * (32 - _COUNTER_BYTES)
MAX_PREIMAGE_BITS: Final = MAX_REFRESH_CPL + 1
"""Bits of a key that a preimage can be made for; the first two bytes of the digest."""


def search_preimage(
    local: Key,
    cpl: int,
    rng: Rng,
    *,
    tries_per_slice: int = PREIMAGE_TRIES_PER_SLICE,
) -> Iterator[bytes | None]:
    """Search bytes whose key shares exactly ``cpl`` leading bits with ``local``.

    Yields None after each slice of fruitless tries, and at last the preimage. Ends without one
    after ``MAX_PREIMAGE_EFFORT`` times the expected tries.

    Raises:
        UsageError: ``cpl`` is not in ``0 .. MAX_REFRESH_CPL`` (at once, not at the first ``next``).
    """
    if not 0 <= cpl <= MAX_REFRESH_CPL:
        raise UsageError(f"cpl must be from 0 to {MAX_REFRESH_CPL}, not {cpl}")
    wanted = Key(local ^ (1 << (params.KEY_BITS - cpl - 1)))
    return search_preimage_in(wanted, cpl + 1, rng, tries_per_slice=tries_per_slice)


def search_preimage_in(
    start: Key, bits: int, rng: Rng, *, tries_per_slice: int = PREIMAGE_TRIES_PER_SLICE
) -> Iterator[bytes | None]:
    """Search bytes whose key shares its first ``bits`` bits with ``start``. Yields and ends as
    :func:`search_preimage` does.

    Raises:
        UsageError: ``bits`` is not in ``1 .. MAX_PREIMAGE_BITS``.
    """
    if not 1 <= bits <= MAX_PREIMAGE_BITS:
        raise UsageError(f"bits must be from 1 to {MAX_PREIMAGE_BITS}, not {bits}")
    prefix = SHA2_256_HEAD + rng.getrandbits(_SALT_BITS).to_bytes(_SALT_BITS // 8, "big")
    return _search(prefix, start >> (params.KEY_BITS - bits), bits, tries_per_slice)


def _search(prefix: bytes, wanted: int, bits: int, tries_per_slice: int) -> Iterator[bytes | None]:
    """Count up behind ``prefix`` until the first ``bits`` bits of the digest are ``wanted``."""
    shift, most = MAX_PREIMAGE_BITS - bits, MAX_PREIMAGE_EFFORT << bits
    for begin in range(0, most, tries_per_slice):
        for counter in range(begin, min(most, begin + tries_per_slice)):
            preimage = prefix + counter.to_bytes(_COUNTER_BYTES, "big")
            digest = sha256(preimage).digest()
            if (digest[0] << 8 | digest[1]) >> shift == wanted:
                yield preimage
                return
        yield None
