"""The 256-bit XOR keyspace: keys, distance and common prefix length.

A key is always the SHA-256 digest of a preimage (a peer id's bytes, a multihash, a record key),
read as a big-endian integer (SPEC; Maymounkov and Mazieres 2002, section 2).
"""

from __future__ import annotations

from hashlib import sha256
from typing import NewType

from codio_dht.params import KEY_BITS

Key = NewType("Key", int)
"""A point of the keyspace, ``0 <= key < 2**256``. Never a preimage."""


def key_of(preimage: bytes) -> Key:
    """The key of ``preimage``: its SHA-256 digest as a big-endian integer."""
    return Key(int.from_bytes(sha256(preimage).digest(), "big"))


def distance(a: Key, b: Key) -> int:
    """The XOR distance of two keys: 0 only for the same key, symmetric, unidirectional."""
    return a ^ b


def cpl(a: Key, b: Key) -> int:
    """The common prefix length of two keys in bits: 256 for the same key."""
    return KEY_BITS - (a ^ b).bit_length()
