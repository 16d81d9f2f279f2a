"""libp2p keys: the four types, their protobuf form, signatures, and the peer id they make.

Decides which keys are taken. The encodings are those of the libp2p specification "Peer Ids and
Keys"; they are deterministic, because a peer id is made of them: a public key that arrived in some
other valid form is written, and hashed, in the canonical one, as GO and RS do.

Remote bytes come in through ``PublicKey.from_protobuf`` (``PeerIdError``) and ``verify`` (False);
neither lets any other exception through. Private bytes come in through ``PrivateKey.from_protobuf``
(``IdentityError``); no error, ``repr`` or log line ever has them in it.

Bounds: RSA 2,048 to 8,192 bits with a public exponent below 2**31 (GO; the upper ones against
CVE-2023-39533, minutes of work per handshake). ECDSA on P-256, P-384 and P-521 only.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from codio_dht.core.peer import PeerId
from codio_dht.errors import IdentityError, PeerIdError, RemoteError, UsageError
from codio_dht.formats.multihash import IDENTITY, SHA2_256, encode_multihash
from codio_dht.formats.protobuf import bytes_field, bytes_tag, read_fields, uint_field
from codio_dht.formats.varint import encode_varint

MIN_RSA_BITS: Final = 2_048
MAX_RSA_BITS: Final = 8_192
MAX_RSA_EXPONENT: Final = 2**31 - 1

MAX_PUBLIC_KEY_BYTES: Final = 2_048
"""A public key's protobuf: RSA of 8,192 bits takes about 1,070."""

MAX_PRIVATE_KEY_BYTES: Final = 8_192
"""A private key's protobuf: RSA of 8,192 bits takes about 4,700."""

MAX_SIGNATURE_BYTES: Final = MAX_RSA_BITS // 8
"""No key that is taken makes a longer signature."""

MAX_INLINED_BYTES: Final = 42
"""A public key's protobuf up to this size is a peer id's digest itself; a longer one is hashed."""

_TYPE: Final = 1
_DATA: Final = 2
_MAX_FIELDS: Final = 16
"""Fields read of a key's protobuf: two are known."""
_LAYER: Final = "key"
_ED25519_BYTES: Final = 32
_SECP256K1_BYTES: Final = 32
_SECP256K1_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_ECDSA: Final = ec.ECDSA(SHA256())
_NIST_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_Public = Ed25519PublicKey | rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_Private = Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class KeyType(IntEnum):
    """``KeyType`` of the specification's protobuf."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


_ED25519_HEAD: Final = (
    uint_field(_TYPE, KeyType.ED25519) + bytes_tag(_DATA) + encode_varint(_ED25519_BYTES)
)
"""The protobuf of an Ed25519 public key before its 32 bytes."""
_ED25519_PROTOBUF_BYTES: Final = len(_ED25519_HEAD) + _ED25519_BYTES


class PublicKey:
    """A public key. Immutable, hashable; equal if type and key are."""

    __slots__ = ("_key", "_peer_id", "_protobuf", "type")

    def __init__(self, key: _Public, protobuf: bytes | None = None) -> None:
        """``protobuf`` is the canonical form of ``key``, where it is at hand."""
        self._key = key
        self.type = _type_of(key)
        self._protobuf = protobuf or _protobuf(self.type, _public_data(key))
        self._peer_id: PeerId | None = None

    @classmethod
    def from_protobuf(cls, data: bytes) -> PublicKey:
        """The public key in a peer's bytes.

        Raises:
            PeerIdError: not a public key, or one outside the bounds.
        """
        if len(data) > MAX_PUBLIC_KEY_BYTES:
            raise PeerIdError(f"a public key of {len(data)} bytes")
        try:
            if len(data) == _ED25519_PROTOBUF_BYTES and data.startswith(_ED25519_HEAD):
                # What nearly every peer sends; these 32 bytes have one form only.
                raw = data[len(_ED25519_HEAD) :]
                return cls(Ed25519PublicKey.from_public_bytes(raw), data)
            kind, content = _read(data)
            return cls(_load_public(kind, content))
        except (ValueError, RemoteError, UnsupportedAlgorithm) as error:
            raise PeerIdError(f"not a usable public key: {error}") from error

    def to_protobuf(self) -> bytes:
        """The canonical protobuf form."""
        return self._protobuf

    def peer_id(self) -> PeerId:
        """The peer id: the protobuf form itself up to 42 bytes, else its SHA-256 (made once)."""
        if self._peer_id is None:
            data = self._protobuf
            if len(data) <= MAX_INLINED_BYTES:
                self._peer_id = PeerId(encode_multihash(IDENTITY, data))
            else:
                self._peer_id = PeerId(encode_multihash(SHA2_256, sha256(data).digest()))
        return self._peer_id

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``data``. Never raises on a peer's bytes."""
        if len(signature) > MAX_SIGNATURE_BYTES:
            return False
        try:
            match self._key:
                case Ed25519PublicKey() as key:
                    key.verify(signature, data)
                case rsa.RSAPublicKey() as key:
                    key.verify(signature, data, PKCS1v15(), SHA256())
                case ec.EllipticCurvePublicKey() as key:
                    key.verify(signature, data, _ECDSA)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self._protobuf == other._protobuf

    def __hash__(self) -> int:
        return hash(self._protobuf)

    def __repr__(self) -> str:
        return f"PublicKey({self.type.name}, {self.peer_id()})"


class SigningKey(Protocol):
    """What signs for a node: its private key, or a library's object that holds it."""

    def public_key(self) -> PublicKey:
        """The public half."""
        ...

    def sign(self, data: bytes) -> bytes:
        """A signature over ``data``, as the specification has it for the type of the key."""
        ...


class PrivateKey:
    """A private key; what a node is. Its ``repr`` shows only the public side."""

    __slots__ = ("_key", "_public")

    def __init__(self, key: _Private) -> None:
        self._key = key
        self._public = PublicKey(key.public_key())

    @classmethod
    def generate_ed25519(cls) -> PrivateKey:
        """A new Ed25519 key: what every implementation takes, and the shortest handshake."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_ed25519_seed(cls, seed: bytes) -> PrivateKey:
        """The Ed25519 key of a 32-byte seed, for tests and simulations that must repeat."""
        if len(seed) != _ED25519_BYTES:
            raise UsageError(f"seed: 32 bytes are needed, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_protobuf(cls, data: bytes) -> PrivateKey:
        """The private key in the bytes of a key file.

        Raises:
            IdentityError: not a private key, or one outside the bounds.
        """
        if len(data) > MAX_PRIVATE_KEY_BYTES:
            raise IdentityError(f"not a libp2p private key: {len(data)} bytes")
        try:
            kind, content = _read(data)
            return cls(_load_private(kind, content))
        except (ValueError, TypeError, RemoteError, UnsupportedAlgorithm) as error:
            # Only our own words go on: a parser's might quote what it read.
            why = f": {error}" if isinstance(error, _KeyFormatError) else ""
            raise IdentityError(f"not a usable libp2p private key{why}") from None

    def to_protobuf(self) -> bytes:
        """The protobuf form, which is what key files hold. Secret."""
        return _protobuf(self._public.type, _private_data(self._key, self._public))

    def public_key(self) -> PublicKey:
        """The public half."""
        return self._public

    @property
    def type(self) -> KeyType:
        """The type of the key."""
        return self._public.type

    def peer_id(self) -> PeerId:
        """The peer id of the public half."""
        return self._public.peer_id()

    def sign(self, data: bytes) -> bytes:
        """A signature over ``data``, as the specification has it for the type of the key."""
        match self._key:
            case Ed25519PrivateKey() as key:
                return key.sign(data)
            case rsa.RSAPrivateKey() as key:
                return key.sign(data, PKCS1v15(), SHA256())
            case ec.EllipticCurvePrivateKey() as key:
                signature = key.sign(data, _ECDSA)
                return _low_s(signature) if self.type is KeyType.SECP256K1 else signature

    def __repr__(self) -> str:
        return f"PrivateKey({self.type.name}, {self.peer_id()})"


class _KeyFormatError(ValueError):
    """What is wrong with a key, in words without any of its bytes."""


# --- the protobuf around a key --------------------------------------------------------------------


def _protobuf(kind: KeyType, data: bytes) -> bytes:
    """Both fields, in the order of their numbers: the one encoding that counts."""
    return uint_field(_TYPE, kind) + bytes_field(_DATA, data)


def _read(data: bytes) -> tuple[KeyType, bytes]:
    """Type and data, wherever they stand; the last of each counts, unknown fields do not."""
    kind: int | None = None
    content: bytes | None = None
    for number, value in read_fields(data, max_fields=_MAX_FIELDS, layer=_LAYER):
        if number == _TYPE and isinstance(value, int):
            kind = value
        elif number == _DATA and isinstance(value, bytes):
            content = value
    if kind is None or content is None:
        raise _KeyFormatError("type or data is missing")
    try:
        return KeyType(kind), content
    except ValueError:
        raise _KeyFormatError("unknown key type") from None


def _type_of(key: _Public) -> KeyType:
    match key:
        case Ed25519PublicKey():
            return KeyType.ED25519
        case rsa.RSAPublicKey():
            return KeyType.RSA
        case ec.EllipticCurvePublicKey():
            secp = isinstance(key.curve, ec.SECP256K1)
            return KeyType.SECP256K1 if secp else KeyType.ECDSA


# --- public data ----------------------------------------------------------------------------------


def _public_data(key: _Public) -> bytes:
    match key:
        case Ed25519PublicKey():
            return key.public_bytes_raw()
        case rsa.RSAPublicKey():
            return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        case ec.EllipticCurvePublicKey(curve=ec.SECP256K1()):
            return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        case ec.EllipticCurvePublicKey():
            return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load_public(kind: KeyType, data: bytes) -> _Public:
    match kind:
        case KeyType.ED25519:
            if len(data) != _ED25519_BYTES:
                raise _KeyFormatError(f"an Ed25519 public key of {len(data)} bytes")
            return Ed25519PublicKey.from_public_bytes(data)
        case KeyType.SECP256K1:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
        case KeyType.RSA:
            key = load_der_public_key(data)
            if not isinstance(key, rsa.RSAPublicKey):
                raise _KeyFormatError("not an RSA key")
            return _check_rsa(key)
        case KeyType.ECDSA:
            key = load_der_public_key(data)
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise _KeyFormatError("not an ECDSA key")
            _check_curve(key.curve)
            return key


def _check_rsa(key: rsa.RSAPublicKey) -> rsa.RSAPublicKey:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise _KeyFormatError(f"an RSA key of {key.key_size} bits")
    if key.public_numbers().e > MAX_RSA_EXPONENT:
        raise _KeyFormatError("an RSA key with too large an exponent")
    return key


def _check_curve(curve: ec.EllipticCurve) -> None:
    if not isinstance(curve, _NIST_CURVES):
        raise _KeyFormatError(f"an ECDSA key on {curve.name}")


# --- private data ---------------------------------------------------------------------------------


def _private_data(key: _Private, public: PublicKey) -> bytes:
    match key:
        case Ed25519PrivateKey():
            return key.private_bytes_raw() + key.public_key().public_bytes_raw()
        case rsa.RSAPrivateKey():
            return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        case ec.EllipticCurvePrivateKey() if public.type is KeyType.SECP256K1:
            return key.private_numbers().private_value.to_bytes(_SECP256K1_BYTES, "big")
        case ec.EllipticCurvePrivateKey():
            return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _load_private(kind: KeyType, data: bytes) -> _Private:
    match kind:
        case KeyType.ED25519:
            return _load_ed25519(data)
        case KeyType.SECP256K1:
            if len(data) != _SECP256K1_BYTES:
                raise _KeyFormatError(f"a secp256k1 private key of {len(data)} bytes")
            return ec.derive_private_key(int.from_bytes(data, "big"), ec.SECP256K1())
        case KeyType.RSA:
            key = load_der_private_key(data, password=None)
            if not isinstance(key, rsa.RSAPrivateKey):
                raise _KeyFormatError("not an RSA key")
            _check_rsa(key.public_key())
            return key
        case KeyType.ECDSA:
            key = load_der_private_key(data, password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise _KeyFormatError("not an ECDSA key")
            _check_curve(key.curve)
            return key


def _load_ed25519(data: bytes) -> Ed25519PrivateKey:
    """64 bytes, private and public; or the old 96, with the public key twice. They must agree."""
    size = _ED25519_BYTES
    if len(data) not in (2 * size, 3 * size):
        raise _KeyFormatError(f"an Ed25519 private key of {len(data)} bytes")
    key = Ed25519PrivateKey.from_private_bytes(data[:size])
    public = key.public_key().public_bytes_raw()
    if data[size:] != public * (len(data) // size - 1):
        raise _KeyFormatError("an Ed25519 private key whose public half is another's")
    return key


def _low_s(signature: bytes) -> bytes:
    """The equivalent secp256k1 signature with the smaller ``s`` (BIP 62): others are refused by
    RS and JS."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, _SECP256K1_ORDER - s))
