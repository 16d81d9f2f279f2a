"""Multibase: bytes as text, whose first character says in which base (multiformats/multibase).

Bases of a power of two are RFC 4648's, bit by bit, their padding optional; the others are one
number with its leading zeros (as base58). Where a base has a form in capitals its digits are read
in either case. The bases that are not ASCII or still drafts are not read.
"""

from __future__ import annotations

from typing import Final

import base58

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER: Final = _UPPER.lower()
_BASE32: Final = _LOWER + "234567"
_BASE58: Final = base58.BITCOIN_ALPHABET.decode("ascii")
_BASE64: Final = _UPPER + _LOWER + _DIGITS[:10]

_BASES: Final[dict[str, tuple[str, bool]]] = {
    "0": (_DIGITS[:2], False),
    "7": (_DIGITS[:8], False),
    "9": (_DIGITS[:10], False),
    "f": (_DIGITS[:16], True),
    "b": (_BASE32, True),
    "c": (_BASE32, True),
    "v": (_DIGITS[:32], True),
    "t": (_DIGITS[:32], True),
    "h": ("ybndrfg8ejkmcpqxot1uwisza345h769", False),
    "k": (_DIGITS, True),
    "z": (_BASE58, False),
    "Z": ("123456789" + _LOWER.replace("l", "") + _UPPER.replace("I", "").replace("O", ""), False),
    "m": (_BASE64 + "+/", False),
    "M": (_BASE64 + "+/", False),
    "u": (_BASE64 + "-_", False),
    "U": (_BASE64 + "-_", False),
}
"""Prefixes, their digits, and whether case is ignored; where it is, the upper-case prefix means the
same."""


def decode_multibase(text: str) -> bytes | None:
    """The bytes that ``text`` stands for, or None if it is not written in a base known here."""
    prefix, digits = text[:1], text[1:]
    if prefix not in _BASES:
        prefix = prefix.lower()
        if prefix not in _BASES or not _BASES[prefix][1]:
            return None
    alphabet, ignore_case = _BASES[prefix]
    return _decode(digits.lower() if ignore_case else digits, alphabet)


def decode_base58(text: str) -> bytes | None:
    """The bytes of base58btc digits without a prefix, as peer ids and version 0 CIDs have them."""
    return _decode(text, _BASE58)


def encode_base58(data: bytes) -> str:
    """``data`` in base58btc, without a prefix."""
    return str(base58.b58encode(data), "ascii")


def encode_base32(data: bytes) -> str:
    """``data`` as multibase text in base32: lower case, no padding, the prefix ``b``."""
    spare = -8 * len(data) % 5
    number = int.from_bytes(data, "big") << spare
    count = (8 * len(data) + spare) // 5
    return "b" + "".join(_BASE32[number >> 5 * place & 31] for place in reversed(range(count)))


def encode_base36(data: bytes) -> str:
    """``data`` as multibase text in base36: lower case, the prefix ``k``. Peer ids and IPNS names
    that begin host names are written so: they are shorter than 63 characters."""
    digits = []
    number = int.from_bytes(data, "big")
    while number:
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    zeros = len(data) - len(data.lstrip(b"\x00"))
    return "k" + _DIGITS[0] * zeros + "".join(reversed(digits))


def _decode(digits: str, alphabet: str) -> bytes | None:
    base = len(alphabet)
    by_bits = base.bit_count() == 1
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
