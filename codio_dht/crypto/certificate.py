"""The certificate of libp2p's TLS and QUIC: self-signed, with the host's identity inside.

Decides what this node's certificate looks like and which certificates of peers are taken. The key
that a certificate certifies is made for it and lives as long as the process; the identity is in an
extension, as a signature over that key (libp2p specification "libp2p TLS Handshake").

Ours is as GO's: ECDSA on P-256 with SHA-256, a random serial number as the only name, the extension
not critical. It is the only extension, hence the first: JS looks at no other. Unlike GO's, which is
valid from an hour ago, it is valid at any time that a clock may show: a node that started while its
clock was wrong must not be shut out when the clock is put right.

A peer's is refused (``ProtocolError``) unless it is valid now, signs itself with a key and a hash
that count as strong, carries the extension exactly once, critical or not, and no other critical
one, and the identity's signature verifies. All four types of identity are taken. No error holds
anything of the certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from codio_dht.core.clock import UnixTime
from codio_dht.crypto.keys import (
    MAX_RSA_BITS,
    MAX_RSA_EXPONENT,
    MIN_RSA_BITS,
    PrivateKey,
    PublicKey,
)
from codio_dht.errors import PeerIdError, ProtocolError

IDENTITY_EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
"""libp2p's extension, under the enterprise number of Protocol Labs."""

MAX_CERTIFICATE_BYTES: Final = 8 * 1024
"""Longest certificate looked at: RSA of 8,192 bits, as identity and as its own key, takes 4,600."""

_LAYER: Final = "certificate"
_SIGNATURE_PREFIX: Final = b"libp2p-tls-handshake:"
_VALID_FROM: Final = datetime(2000, 1, 1, tzinfo=UTC)
_VALID_UNTIL: Final = datetime(2199, 12, 31, tzinfo=UTC)
_SERIAL_BITS: Final = 62
_MIN_HASH_BYTES: Final = 32
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_SEQUENCE: Final = 0x30
_OCTET_STRING: Final = 0x04
_LONG_FORM: Final = 0x80

_MALFORMED: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    # The library warns of what it will refuse one day, such as negative serial numbers; where
    # warnings are errors it has refused them now.
    Warning,
)
"""What parsing a certificate may raise."""


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """This node's certificate and the key it certifies; never stored."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificate(identity: PrivateKey) -> OwnCertificate:
    """A new certificate with which ``identity`` is proven."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, str(_random_serial()))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_random_serial())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .add_extension(identity_extension(identity, key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return OwnCertificate(certificate, key)


def identity_extension(
    identity: PrivateKey, key: ec.EllipticCurvePublicKey
) -> x509.UnrecognizedExtension:
    """The extension by which ``identity`` vouches for ``key``."""
    signature = identity.sign(_SIGNATURE_PREFIX + _subject_public_key_info(key))
    content = _der(_OCTET_STRING, identity.public_key().to_protobuf())
    content += _der(_OCTET_STRING, signature)
    return x509.UnrecognizedExtension(IDENTITY_EXTENSION, _der(_SEQUENCE, content))


def verify_certificate(data: bytes, now: UnixTime) -> PublicKey:
    """The identity that a peer's certificate proves.

    Raises:
        ProtocolError: see the module.
    """
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise ProtocolError(_LAYER, "certificate too long")
    try:
        certificate = x509.load_der_x509_certificate(data)
        _check_validity(certificate, datetime.fromtimestamp(now, UTC))
        content = _find_identity(certificate)
        key = _signing_key(certificate)
        _check_self_signature(certificate)
        info = _subject_public_key_info(key)
    except _MALFORMED as error:
        raise ProtocolError(_LAYER, "malformed certificate") from error
    encoded_key, signature = _read_signed_key(content)
    try:
        identity = PublicKey.from_protobuf(encoded_key)
    except PeerIdError as error:
        raise ProtocolError(_LAYER, "unusable identity key") from error
    if not identity.verify(_SIGNATURE_PREFIX + info, signature):
        raise ProtocolError(_LAYER, "identity signature does not verify")
    return identity


# --- what a certificate must be -------------------------------------------------------------------

_CertificateKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | Ed25519PublicKey


def _check_validity(certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise ProtocolError(_LAYER, "not valid yet")
    if now > certificate.not_valid_after_utc:
        raise ProtocolError(_LAYER, "expired")


def _signing_key(certificate: x509.Certificate) -> _CertificateKey:
    """The certificate's key, if it is of a kind and size that is taken."""
    match certificate.public_key():
        case Ed25519PublicKey() as key:
            return key
        case ec.EllipticCurvePublicKey() as key if isinstance(key.curve, _CURVES):
            return key
        case rsa.RSAPublicKey() as key:
            exponent = key.public_numbers().e
            if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and exponent <= MAX_RSA_EXPONENT:
                return key
        case _:
            pass
    raise ProtocolError(_LAYER, "unusable certificate key")


def _check_self_signature(certificate: x509.Certificate) -> None:
    hashed = certificate.signature_hash_algorithm
    if hashed is not None and hashed.digest_size < _MIN_HASH_BYTES:  # None: part of the algorithm
        raise ProtocolError(_LAYER, "weak hash")
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature as error:
        raise ProtocolError(_LAYER, "self-signature does not verify") from error


def _find_identity(certificate: x509.Certificate) -> bytes:
    """The content of libp2p's extension."""
    content = None
    for extension in certificate.extensions:
        if extension.oid == IDENTITY_EXTENSION:
            assert isinstance(extension.value, x509.UnrecognizedExtension)
            content = extension.value.value
        elif extension.critical:
            raise ProtocolError(_LAYER, "unknown critical extension")
    if content is None:
        raise ProtocolError(_LAYER, "no identity extension")
    return content


def _subject_public_key_info(key: _CertificateKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _random_serial() -> int:
    return x509.random_serial_number() >> 159 - _SERIAL_BITS


# --- SignedKey ::= SEQUENCE { publicKey OCTET STRING, signature OCTET STRING } --------------------


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < _LONG_FORM:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG_FORM | len(length))) + length + content


def _read_signed_key(data: bytes) -> tuple[bytes, bytes]:
    content, rest = _read_der(_SEQUENCE, data)
    if rest:
        raise ProtocolError(_LAYER, "malformed identity extension")
    key, rest = _read_der(_OCTET_STRING, content)
    signature, rest = _read_der(_OCTET_STRING, rest)
    if rest:
        raise ProtocolError(_LAYER, "malformed identity extension")
    return key, signature


def _read_der(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """The content of the one element that ``data`` starts with, and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise ProtocolError(_LAYER, "malformed identity extension")
    size, start = data[1], 2
    if size >= _LONG_FORM:
        start += size & ~_LONG_FORM
        size = int.from_bytes(data[2:start], "big")
        if size < _LONG_FORM or not data[2]:  # not the shortest form
            raise ProtocolError(_LAYER, "malformed identity extension")
    end = start + size
    if end > len(data):
        raise ProtocolError(_LAYER, "malformed identity extension")
    return data[start:end], data[end:]
