"""Packet protection (RFC 9001, section 5): keys from secrets, packets sealed and opened.

Decides whether a packet is genuine. The ciphers are the ``cryptography`` library's, by its public
interface. ``Keys.open`` never raises on what anybody sent. Keys have no state but themselves, so an
attempt that fails leaves nothing behind.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import ECB

TAG_BYTES: Final = 16
"""What sealing adds to a payload."""

_INITIAL_SALT: Final = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
"""Of version 1 (RFC 9001, section 5.2)."""
_NONCE_BYTES: Final = 12
_MAX_NUMBER_BYTES: Final = 4
_SAMPLE_BYTES: Final = 16
_LONG_HEADER: Final = 0x80
_LONG_PROTECTED: Final = 0x0F
_SHORT_PROTECTED: Final = 0x1F
_NUMBER_BITS: Final = 0x03
_BYTE: Final = tuple(bytes([value]) for value in range(256))

Mask = Callable[[bytes], bytes]
"""Header protection: from a sample of 16 bytes, 5 bytes or more (RFC 9001, section 5.4)."""


class Aead(Protocol):
    """A cipher of the library."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Seal ``data``."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Open ``data``, or raise ``InvalidTag``."""
        ...


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite, as far as packets need it."""

    digest: str
    key_bytes: int
    aead: Callable[[bytes], Aead]
    mask: Callable[[bytes], Mask]


class Unmasked(NamedTuple):
    """A header without its protection, which says nothing yet of whether the packet is genuine."""

    first: int
    truncated: int
    """The last ``bits`` of the packet's number."""
    bits: int
    end: int
    """Where the header ends."""


class Opened(NamedTuple):
    """A genuine packet; ``first`` is its first byte, unprotected."""

    first: int
    number: int
    payload: bytes


def _aes_mask(key: bytes) -> Mask:
    return Cipher(AES(key), ECB()).encryptor().update  # noqa: S305 - RFC 9001 asks for one block


def _chacha_mask(key: bytes) -> Mask:
    def mask(sample: bytes) -> bytes:  # the sample is the block count and the nonce
        return Cipher(ChaCha20(key, sample), None).encryptor().update(bytes(5))

    return mask


AES_128: Final = Suite("sha256", 16, AESGCM, _aes_mask)
"""The suite of Initials."""
AES_256: Final = Suite("sha384", 32, AESGCM, _aes_mask)
CHACHA20: Final = Suite("sha256", 32, ChaCha20Poly1305, _chacha_mask)


class Keys:
    """One direction's keys."""

    __slots__ = ("_aead", "_iv", "_mask", "_secret", "_suite")

    def __init__(self, suite: Suite, secret: bytes, mask: Mask | None = None) -> None:
        """The keys that follow from a secret of the handshake. ``mask`` is that of the keys before
        them, which stays (RFC 9001, section 6.1)."""
        self._suite = suite
        self._secret = secret
        self._aead = suite.aead(expand(suite, secret, b"quic key", suite.key_bytes))
        self._iv = int.from_bytes(expand(suite, secret, b"quic iv", _NONCE_BYTES), "big")
        self._mask = mask or suite.mask(expand(suite, secret, b"quic hp", suite.key_bytes))

    def next(self) -> Keys:
        """The keys that follow these in a key update."""
        size = len(self._secret)
        return Keys(self._suite, expand(self._suite, self._secret, b"quic ku", size), self._mask)

    def seal(self, header: bytes, number: int, payload: bytes) -> bytes:
        """A protected packet. ``header`` ends with the packet number, as long as it says."""
        nonce = (self._iv ^ number).to_bytes(_NONCE_BYTES, "big")
        sealed = self._aead.encrypt(nonce, payload, header)
        first = header[0]
        size = (first & _NUMBER_BITS) + 1
        at = _MAX_NUMBER_BYTES - size
        mask = self._mask(sealed[at : at + _SAMPLE_BYTES])
        protected = _LONG_PROTECTED if first & _LONG_HEADER else _SHORT_PROTECTED
        hidden = int.from_bytes(header[-size:], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        return (
            _BYTE[first ^ (mask[0] & protected)]
            + header[1:-size]
            + hidden.to_bytes(size, "big")
            + sealed
        )

    def unmask(self, packet: bytes, number_at: int) -> Unmasked | None:
        """The packet's header without its protection; None if the packet is too short."""
        sample_at = number_at + _MAX_NUMBER_BYTES
        sample = packet[sample_at : sample_at + _SAMPLE_BYTES]
        if len(sample) < _SAMPLE_BYTES:
            return None
        mask = self._mask(sample)
        first = packet[0]
        first ^= mask[0] & (_LONG_PROTECTED if first & _LONG_HEADER else _SHORT_PROTECTED)
        size = (first & _NUMBER_BITS) + 1
        end = number_at + size
        truncated = int.from_bytes(packet[number_at:end], "big") ^ int.from_bytes(
            mask[1 : 1 + size], "big"
        )
        return Unmasked(first, truncated, 8 * size, end)

    def decrypt(self, packet: bytes, number_at: int, bare: Unmasked, number: int) -> bytes | None:
        """The payload of the packet with this number; None if it is not genuine."""
        first, truncated, bits, end = bare
        header = _BYTE[first] + packet[1:number_at] + truncated.to_bytes(bits // 8, "big")
        nonce = (self._iv ^ number).to_bytes(_NONCE_BYTES, "big")
        try:
            return self._aead.decrypt(nonce, packet[end:], header)
        except InvalidTag:
            return None

    def open(self, packet: bytes, number_at: int, expected: int) -> Opened | None:
        """The packet, whose number is next to ``expected``; None if it is not genuine."""
        bare = self.unmask(packet, number_at)
        if bare is None:
            return None
        number = whole_number(bare.truncated, bare.bits, expected)
        payload = self.decrypt(packet, number_at, bare, number)
        return None if payload is None else Opened(bare.first, number, payload)


def dialler_initial_keys(first_id: bytes) -> Keys:
    """The keys of a dialler's Initials, whose first one was for the id ``first_id``."""
    return Keys(AES_128, expand(AES_128, _initial_secret(first_id), b"client in", 32))


def listener_initial_keys(first_id: bytes) -> Keys:
    """The keys of a listener's Initials, in answer to such a dialler."""
    return Keys(AES_128, expand(AES_128, _initial_secret(first_id), b"server in", 32))


def _initial_secret(first_id: bytes) -> bytes:
    return hmac.digest(_INITIAL_SALT, first_id, AES_128.digest)


def expand(suite: Suite, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, section 7.1) with an empty context, of one hash at most."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + _BYTE[len(label)] + label + b"\0\1"
    return hmac.digest(secret, info, suite.digest)[:size]


def whole_number(truncated: int, bits: int, expected: int) -> int:
    """A packet's number from its last bits (RFC 9000, appendix A.3)."""
    window = 1 << bits
    number = (expected & -window) | truncated
    if number <= expected - window // 2 and number < (1 << 62) - window:
        return number + window
    if number > expected + window // 2 and number >= window:
        return number - window
    return number
