"""Multihashes: the code of a hash function, the length of a digest, the digest.

Decides what is exactly one multihash. Whether the digest fits its hash function is not judged:
functions that nobody here has heard of name content and peers all the same.
"""

from __future__ import annotations

from typing import Final

from codio_dht.errors import FormatError
from codio_dht.formats.varint import ONE_BYTE_END, encode_varint, read_varint

IDENTITY: Final = 0x00
"""Code of the function that hashes nothing: the digest is the data itself."""

SHA2_256: Final = 0x12
"""Code of SHA2-256."""

SHA2_256_HEAD: Final = bytes((SHA2_256, 32))
"""What stands before the 32 bytes of a SHA2-256 digest."""


def encode_multihash(code: int, digest: bytes) -> bytes:
    """The multihash of a digest made by the hash function ``code``."""
    return encode_varint(code) + encode_varint(len(digest)) + digest


def is_multihash(data: bytes) -> bool:
    """Whether ``data`` is exactly one multihash: code, length, and that many bytes of digest."""
    if len(data) >= 2 and data[0] < ONE_BYTE_END and data[1] < ONE_BYTE_END:  # nearly all
        return len(data) == 2 + data[1]
    try:
        code = read_varint(data)
        length = None if code is None else read_varint(data, code[1])
    except FormatError:
        return False
    return length is not None and length[1] + length[0] == len(data)


def is_sha2_256(data: bytes) -> bool:
    """Whether ``data`` is the multihash of a SHA2-256 digest of full length."""
    return len(data) == 34 and data.startswith(SHA2_256_HEAD)
