"""Multihashes and CIDs, as far as the DHT needs them: is this one, and which multihash is meant.

Decides what counts as the name of some content. A provider record is about a multihash, so two CIDs
of the same multihash (version 0 and 1, raw and dag-pb, whatever base) are one key.

    text     CIDv0 (``Qm...``), CIDv1 in any of the bases below, ``ipfs://<cid>``, ``/ipfs/<cid>``
    bytes    a binary CIDv1 if the first byte is 1, else a multihash (which a binary CIDv0 is)
    object   whatever has a ``multihash`` of bytes, as py-cid's objects do

Bytes are never ambiguous: 1 is the version of a CID and reserved among hash functions, so that no
multihash begins with it. Text as bytes is refused, rather than guessed at.
"""

from __future__ import annotations

from typing import Final

import base58

from codio_dht.errors import UsageError
from codio_dht.params import MAX_PROVIDER_KEY_BYTES

_MAX_VARINT_BYTES: Final = 9
"""Longest unsigned varint of the multiformats specification."""

_MAX_CID_TEXT: Final = 1_024
"""Longest text looked at, characters: 90 bytes take 220 digits in base 10."""

_CID_V1: Final = 1
_CID_V0_PREFIX: Final = b"\x12\x20"
_CID_V0_BYTES: Final = 34
_CID_V0_CHARS: Final = 46

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASE32: Final = _UPPER.lower() + "234567"
_BASE58: Final = base58.BITCOIN_ALPHABET.decode("ascii")
_BASE64: Final = _UPPER + _UPPER.lower() + _DIGITS[:10]

_BASES: Final[dict[str, tuple[str, bool]]] = {
    "9": (_DIGITS[:10], False),
    "f": (_DIGITS[:16], True),
    "b": (_BASE32, True),
    "c": (_BASE32, True),
    "v": (_DIGITS[:32], True),
    "t": (_DIGITS[:32], True),
    "k": (_DIGITS, True),
    "z": (_BASE58, False),
    "m": (_BASE64 + "+/", False),
    "M": (_BASE64 + "+/", False),
    "u": (_BASE64 + "-_", False),
    "U": (_BASE64 + "-_", False),
}
"""Multibase prefixes (multiformats/multibase table), their digits, and whether case is ignored;
where it is, the upper-case prefix means the same."""


def read_uvarint(data: bytes, offset: int = 0) -> tuple[int, int] | None:
    """The unsigned varint at ``offset`` and the offset after it; None if there is no whole one, or
    one that is longer than it has to be (multiformats/unsigned-varint)."""
    value = shift = 0
    for index in range(offset, min(len(data), offset + _MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return None if byte == 0 and shift else (value, index + 1)
        shift += 7
    return None


def is_multihash(data: bytes) -> bool:
    """Whether ``data`` is exactly one multihash: code, length, and that many bytes of digest."""
    if len(data) >= 2 and data[0] < 0x80 and data[1] < 0x80:  # both of one byte: nearly all are
        return len(data) == 2 + data[1]
    code = read_uvarint(data)
    if code is None:
        return False
    length = read_uvarint(data, code[1])
    return length is not None and length[1] + length[0] == len(data)


def multihash_of(cid: object, name: str = "cid") -> bytes:
    """The multihash that ``cid`` stands for: see the module for what it may be.

    Raises:
        UsageError: it is none of these, or longer than servers accept; the message begins with
            ``name``, the argument it was passed as.
    """
    if isinstance(cid, str):
        multihash = _of_text(cid, name)
    elif isinstance(cid, bytes | bytearray | memoryview):
        multihash = _of_bytes(bytes(cid))
    else:
        attribute = getattr(cid, "multihash", None)
        multihash = attribute if isinstance(attribute, bytes) and is_multihash(attribute) else None
    if multihash is None:
        raise UsageError(f"{name}: {_shown(cid)} is not a CID (text, bytes or object)")
    if len(multihash) > MAX_PROVIDER_KEY_BYTES:
        raise UsageError(
            f"{name}: its multihash has {len(multihash)} bytes, and DHT servers refuse more than "
            f"{MAX_PROVIDER_KEY_BYTES}"
        )
    return multihash


def _of_bytes(data: bytes) -> bytes | None:
    if data[:1] == bytes((_CID_V1,)):
        codec = read_uvarint(data, 1)
        data = b"" if codec is None else data[codec[1] :]
    return data if is_multihash(data) and data[0] != _CID_V1 else None


def _of_text(text: str, name: str) -> bytes | None:
    if len(text) > _MAX_CID_TEXT:
        return None
    bare = text.strip()
    for prefix in ("ipfs://", "/ipfs/"):
        if bare.startswith(prefix):
            bare = bare[len(prefix) :].rstrip("/")
            if "/" in bare:
                raise UsageError(
                    f"{name}: {_shown(text)} is a path inside of some content; give the CID of "
                    "what is meant"
                )
    if len(bare) == _CID_V0_CHARS and bare.startswith("Qm"):
        data = _decode(bare, _BASE58)
        is_v0 = data is not None and len(data) == _CID_V0_BYTES and data.startswith(_CID_V0_PREFIX)
        return data if is_v0 else None
    data = _of_multibase(bare)
    # A multibase-encoded CIDv0 is invalid (CID specification), so only version 1 is left.
    return _of_bytes(data) if data is not None and data[:1] == bytes((_CID_V1,)) else None


def _of_multibase(text: str) -> bytes | None:
    prefix, digits = text[:1], text[1:]
    if prefix not in _BASES:
        prefix = prefix.lower()
        if prefix not in _BASES or not _BASES[prefix][1]:
            return None
    alphabet, ignore_case = _BASES[prefix]
    return _decode(digits.lower() if ignore_case else digits, alphabet)


def _decode(digits: str, alphabet: str) -> bytes | None:
    """``digits`` of ``alphabet`` as bytes: bit by bit for a power of two (RFC 4648, padding
    optional), else as one number with its leading zeros (base58 and its like)."""
    base = len(alphabet)
    by_bits = base & (base - 1) == 0
    if by_bits:
        digits = digits.rstrip("=")
    number = 0
    for digit in digits:
        value = alphabet.find(digit)
        if value < 0:
            return None
        number = number * base + value
    if by_bits:
        bits = (base.bit_length() - 1) * len(digits)
        spare = bits % 8
        if number & ((1 << spare) - 1):
            return None
        return (number >> spare).to_bytes(bits // 8, "big")
    zeros = len(digits) - len(digits.lstrip(alphabet[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
