"""The Noise handshake pattern XX with 25519, ChaChaPoly and SHA256 (Noise Protocol Framework, 34).

Decides the bytes of the three handshake messages and the two transport ciphers that follow. Knows
nothing of libp2p: payloads are opaque, framing and identities are :mod:`noise`'s::

    initiator:  write e         -> read e, ee, s, es -> write s, se -> split
    responder:  read e          -> write e, ee, s, es -> read s, se -> split

Raises :class:`~codio_dht.errors.ProtocolError` for what a peer sent; calling out of order is a
bug, and an assertion.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codio_dht.errors import CapacityError, ProtocolError

_LAYER: Final = "noise"
_PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
"""Exactly 32 bytes, so it is itself the first handshake hash."""
KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
_SEALED_KEY_BYTES: Final = KEY_BYTES + TAG_BYTES
_SHA256: Final = SHA256()
MAX_NONCE: Final = (1 << 64) - 2
"""The last nonce used; 2**64 - 1 is reserved by the framework."""


class CipherState:
    """One direction's cipher and its counter."""

    __slots__ = ("_cipher", "nonce")

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self.nonce = 0

    def encrypt(self, plaintext: bytes, associated: bytes | None = None) -> bytes:
        """``plaintext`` sealed.

        Raises:
            CapacityError: 2**64 - 1 messages were sent; the connection must end.
        """
        nonce = self.nonce
        if nonce > MAX_NONCE:
            raise CapacityError("Noise nonces are used up")
        self.nonce = nonce + 1
        return self._cipher.encrypt((nonce << 32).to_bytes(12, "little"), plaintext, associated)

    def decrypt(self, sealed: bytes | bytearray, associated: bytes | None = None) -> bytes:
        """What was sealed.

        Raises:
            ProtocolError: it was not, or not with this key and counter; or the counter is used up.
        """
        nonce = self.nonce
        if nonce > MAX_NONCE:
            raise ProtocolError(_LAYER, "nonces are used up")
        try:
            plaintext = self._cipher.decrypt(
                (nonce << 32).to_bytes(12, "little"), sealed, associated
            )
        except InvalidTag as error:
            raise ProtocolError(_LAYER, "message does not authenticate") from error
        self.nonce = nonce + 1
        return plaintext


class _SymmetricState:
    """The handshake's running hash, chaining key and cipher."""

    __slots__ = ("chaining_key", "cipher", "hash")

    def __init__(self, prologue: bytes) -> None:
        self.chaining_key = _PROTOCOL_NAME
        self.hash = sha256(_PROTOCOL_NAME + prologue).digest()
        self.cipher: CipherState | None = None

    def mix_hash(self, data: bytes) -> None:
        self.hash = sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self.chaining_key, key = _hkdf(self.chaining_key, secret)
        self.cipher = CipherState(key)

    def seal(self, plaintext: bytes) -> bytes:
        if self.cipher is not None:
            plaintext = self.cipher.encrypt(plaintext, self.hash)
        self.mix_hash(plaintext)
        return plaintext

    def open(self, sealed: bytes) -> bytes:
        plaintext = sealed if self.cipher is None else self.cipher.decrypt(sealed, self.hash)
        self.mix_hash(sealed)
        return plaintext


class Handshake:
    """One side of one handshake.

    ``remote_static`` and ``hash`` (the channel binding) are known once ``split`` may be called.
    """

    __slots__ = ("_ephemeral", "_initiator", "_remote_ephemeral", "_static", "_symmetric", "_turn",
                 "remote_static")  # fmt: skip

    def __init__(
        self,
        *,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey | None = None,
        prologue: bytes = b"",
    ) -> None:
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral or X25519PrivateKey.generate()
        self._symmetric = _SymmetricState(prologue)
        self._remote_ephemeral = b""
        self._turn = 0
        self.remote_static = b""

    @property
    def hash(self) -> bytes:
        return self._symmetric.hash

    @property
    def done(self) -> bool:
        """All three messages were written and read."""
        return self._turn == 3

    def write(self, payload: bytes) -> bytes:
        """The next message of this side."""
        assert self._initiator == (self._turn % 2 == 0), "not this side's turn"
        state = self._symmetric
        match self._turn:
            case 0:
                message = self._write_ephemeral()
            case 1:
                message = self._write_ephemeral()
                state.mix_key(_dh(self._ephemeral, self._remote_ephemeral))
                message += state.seal(self._static.public_key().public_bytes_raw())
                state.mix_key(_dh(self._static, self._remote_ephemeral))
            case _:
                assert self._turn == 2, "the handshake is done"
                message = state.seal(self._static.public_key().public_bytes_raw())
                state.mix_key(_dh(self._static, self._remote_ephemeral))
        self._turn += 1
        return message + state.seal(payload)

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's next message.

        Raises:
            ProtocolError: the message is short or does not authenticate, or a key in it is weak.
        """
        assert self._initiator == (self._turn % 2 == 1), "not the peer's turn"
        state = self._symmetric
        match self._turn:
            case 0:
                at = self._read_ephemeral(message)
            case 1:
                at = self._read_ephemeral(message)
                state.mix_key(_dh(self._ephemeral, self._remote_ephemeral))
                at = self._read_static(message, at)
                state.mix_key(_dh(self._ephemeral, self.remote_static))
            case _:
                assert self._turn == 2, "the handshake is done"
                at = self._read_static(message, 0)
                state.mix_key(_dh(self._ephemeral, self.remote_static))
        self._turn += 1
        return state.open(message[at:])

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers for sending and for receiving."""
        assert self.done, "the handshake is not done"
        first, second = _hkdf(self._symmetric.chaining_key, b"")
        sending, receiving = (first, second) if self._initiator else (second, first)
        return CipherState(sending), CipherState(receiving)

    def _write_ephemeral(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._symmetric.mix_hash(public)
        return public

    def _read_ephemeral(self, message: bytes) -> int:
        if len(message) < KEY_BYTES:
            raise ProtocolError(_LAYER, "short handshake message")
        self._remote_ephemeral = message[:KEY_BYTES]
        self._symmetric.mix_hash(self._remote_ephemeral)
        return KEY_BYTES

    def _read_static(self, message: bytes, at: int) -> int:
        end = at + _SEALED_KEY_BYTES
        if len(message) < end:
            raise ProtocolError(_LAYER, "short handshake message")
        self.remote_static = self._symmetric.open(message[at:end])
        return end


def _dh(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # a point of low order: the secret would be known to everybody
        raise ProtocolError(_LAYER, "weak public key") from error


def _hkdf(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    both = HKDF(_SHA256, 2 * KEY_BYTES, chaining_key, None).derive(secret)
    return both[:KEY_BYTES], both[KEY_BYTES:]
