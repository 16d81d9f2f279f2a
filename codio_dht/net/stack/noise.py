"""libp2p's Noise: frames, the identity proven inside the XX handshake, early muxer negotiation.

Decides who the peer is and whether it is the peer expected; encrypts and decrypts from then on. It
never reads beyond one frame of memory, and knows nothing of what it carries. States::

    initiator:  sent 1 -> read 2, sent 3 -> established
    responder:  read 1, sent 2 -> read 3 -> established

A frame is two bytes of length and at most 65,535 of Noise message. The payload of message 2 and 3
carries the identity key, its signature of the static key, and the muxers offered; the muxer is
settled early only if both sides offered some (the initiator's preference wins).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey, PublicKey
from codio_dht.errors import CodioError, ProtocolError
from codio_dht.formats.protobuf import bytes_field, read_fields
from codio_dht.net.stack.limits import MAX_EARLY_MUXERS, MAX_NOISE_HANDSHAKE_MESSAGE_BYTES
from codio_dht.net.stack.noise_xx import TAG_BYTES, CipherState, Handshake
from codio_dht.net.stack.security import Authenticated, Security

NOISE: Final = "/noise"
_LAYER: Final = "noise"
_SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"
_LENGTH_BYTES: Final = 2
_MAX_MESSAGE_BYTES: Final = 65_535
_MAX_PLAINTEXT_BYTES: Final = _MAX_MESSAGE_BYTES - TAG_BYTES
_MAX_PAYLOAD_FIELDS: Final = 32

_IDENTITY_KEY: Final = 1
_IDENTITY_SIGNATURE: Final = 2
_EXTENSIONS: Final = 4
_STREAM_MUXERS: Final = 2


class NoiseIdentity:
    """What this node proves to every peer; made once, shared by all of its connections.

    The static key lives as long as the process and is never stored, as the specification advises.
    """

    __slots__ = ("payload", "static")

    def __init__(self, identity: PrivateKey, static: X25519PrivateKey | None = None) -> None:
        self.static = static or X25519PrivateKey.generate()
        signature = identity.sign(_SIGNATURE_PREFIX + self.static.public_key().public_bytes_raw())
        self.payload = bytes_field(
            _IDENTITY_KEY, identity.public_key().to_protobuf()
        ) + bytes_field(_IDENTITY_SIGNATURE, signature)

    def security(self) -> Security:
        """Noise under this identity, for a connection to use."""

        def factory(initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Noise:
            return Noise(self, initiator=initiator, expected=expected, muxers=muxers)

        return Security(NOISE, factory, opens_with_message=True)


class Noise:
    """One side of one Noise connection; a :class:`SecurityLayer`."""

    __slots__ = (
        "_buffer",
        "_expected",
        "_handshake",
        "_identity",
        "_initiator",
        "_muxers",
        "_out",
        "_receiving",
        "_sending",
        "authenticated",
    )

    def __init__(
        self,
        identity: NoiseIdentity,
        *,
        initiator: bool,
        expected: PeerId | None = None,
        muxers: Sequence[str] = (),
    ) -> None:
        self._identity = identity
        self._initiator = initiator
        self._expected = expected
        self._muxers = tuple(muxers)
        self._buffer = bytearray()
        self._sending: CipherState | None = None
        self._receiving: CipherState | None = None
        self._handshake: Handshake | None = Handshake(initiator=initiator, static=identity.static)
        self._out = _frame(self._handshake.write(b"")) if initiator else b""
        self.authenticated: Authenticated | None = None

    def receive(self, data: bytes) -> bytes:
        """Take what arrived; plaintext, once established.

        Raises:
            ProtocolError: see the module. The layer is then used up.
        """
        view: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            view = self._buffer
        at, end = 0, len(view)
        plaintexts = []
        while end - at >= _LENGTH_BYTES:
            length = view[at] << 8 | view[at + 1]
            receiving = self._receiving
            if receiving is None and length > MAX_NOISE_HANDSHAKE_MESSAGE_BYTES:
                raise ProtocolError(_LAYER, "handshake message too long")
            start = at + _LENGTH_BYTES
            if end - start < length:
                break
            at = start + length
            if receiving is None:
                self._on_handshake(bytes(view[start:at]))
            elif length < TAG_BYTES:
                raise ProtocolError(_LAYER, "frame without a tag")
            else:
                plaintexts.append(receiving.decrypt(view[start:at]))
        if view is data:
            if at < end:
                self._buffer += data[at:] if at else data
        elif at:
            del self._buffer[:at]
        return plaintexts[0] if len(plaintexts) == 1 else b"".join(plaintexts)

    def seal(self, plaintext: bytes) -> bytes:
        """``plaintext`` as frames; as few as hold it."""
        sending = self._sending
        assert sending is not None, "seal before the handshake is done"
        if len(plaintext) <= _MAX_PLAINTEXT_BYTES:
            sealed = sending.encrypt(plaintext)
            return len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed
        return b"".join(
            _frame(sending.encrypt(plaintext[at : at + _MAX_PLAINTEXT_BYTES]))
            for at in range(0, len(plaintext), _MAX_PLAINTEXT_BYTES)
        )

    def data_to_send(self) -> bytes:
        """Handshake messages since the last call."""
        out, self._out = self._out, b""
        return out

    def _on_handshake(self, message: bytes) -> None:
        handshake = self._handshake
        assert handshake is not None
        payload = handshake.read(message)
        if not self._initiator and not handshake.remote_static:  # message 1: its payload is empty
            self._out += _frame(handshake.write(self._own_payload(offer=True)))
            return
        public_key, remote_muxers = _check_payload(payload, handshake.remote_static)
        peer_id = public_key.peer_id()
        if self._expected is not None and peer_id != self._expected:
            raise ProtocolError(_LAYER, "another peer than expected")
        if self._initiator:
            offer = bool(remote_muxers)
            self._out += _frame(handshake.write(self._own_payload(offer=offer)))
            muxer = self._settle(self._muxers, remote_muxers)
        else:
            muxer = self._settle(remote_muxers, self._muxers)
        self._sending, self._receiving = handshake.split()
        self._handshake = None
        self.authenticated = Authenticated(peer_id, public_key, muxer)

    def _own_payload(self, *, offer: bool) -> bytes:
        if not offer or not self._muxers:
            return self._identity.payload
        extensions = b"".join(bytes_field(_STREAM_MUXERS, name.encode()) for name in self._muxers)
        return self._identity.payload + bytes_field(_EXTENSIONS, extensions)

    @staticmethod
    def _settle(preferred: Sequence[str], others: Sequence[str]) -> str | None:
        if not preferred or not others:
            return None
        for name in preferred:
            if name in others:
                return name
        raise ProtocolError(_LAYER, "no muxer in common")


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


def _check_payload(payload: bytes, static: bytes) -> tuple[PublicKey, list[str]]:
    """The identity proven and the muxers offered in a handshake payload."""
    key = signature = extensions = b""
    for number, value in read_fields(payload, max_fields=_MAX_PAYLOAD_FIELDS, layer=_LAYER):
        if isinstance(value, int):
            continue
        if number == _IDENTITY_KEY:
            key = value
        elif number == _IDENTITY_SIGNATURE:
            signature = value
        elif number == _EXTENSIONS:
            extensions = value
    try:
        public_key = PublicKey.from_protobuf(key)
    except CodioError as error:
        raise ProtocolError(_LAYER, "unusable identity key") from error
    if not public_key.verify(_SIGNATURE_PREFIX + static, signature):
        raise ProtocolError(_LAYER, "identity signature does not verify")
    return public_key, _read_muxers(extensions)


def _read_muxers(extensions: bytes) -> list[str]:
    muxers: list[str] = []
    for number, value in read_fields(extensions, max_fields=2 * _MAX_PAYLOAD_FIELDS, layer=_LAYER):
        if number == _STREAM_MUXERS and isinstance(value, bytes) and len(muxers) < MAX_EARLY_MUXERS:
            try:
                muxers.append(value.decode())
            except UnicodeDecodeError as error:
                raise ProtocolError(_LAYER, "muxer name is not UTF-8") from error
    return muxers
