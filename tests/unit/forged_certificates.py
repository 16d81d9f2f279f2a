"""Certificates as a peer might send them: right in everything but what a test asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from codio_dht.core.clock import UnixTime
from codio_dht.crypto.certificate import IDENTITY_EXTENSION
from codio_dht.crypto.keys import PrivateKey

NOW = UnixTime(1_800_000_000.0)
PREFIX = b"libp2p-tls-handshake:"

ED25519 = PrivateKey.from_ed25519_seed(b"c" * 32)
IDENTITIES = {
    "ed25519": ED25519,
    "secp256k1": PrivateKey(ec.derive_private_key(7, ec.SECP256K1())),
    "ecdsa": PrivateKey(ec.derive_private_key(7, ec.SECP256R1())),
    "rsa": PrivateKey(rsa.generate_private_key(65_537, 2_048)),
}
KEY = ec.derive_private_key(99, ec.SECP256R1())


@dataclass
class Forged:
    """What goes into a certificate."""

    identity: PrivateKey | None = ED25519
    """None: a certificate without the extension."""
    key: Any = KEY
    signed_by: Any = None
    hashed: Any = SHA256
    issuer: str = "1234"
    start: float = -3_600.0
    end: float = 3_600.0
    critical: bool = False
    content: bytes | None = None
    before: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    after: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    serial: int = 77
    now: float = NOW

    def certificate(self) -> x509.Certificate:
        time = datetime.fromtimestamp(self.now, UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name("1234"))
            .issuer_name(name(self.issuer))
            .public_key(self.key.public_key())
            .serial_number(self.serial)
            .not_valid_before(time + timedelta(seconds=self.start))
            .not_valid_after(time + timedelta(seconds=self.end))
        )
        for value, critical in (*self.before, *self._own(), *self.after):
            builder = builder.add_extension(value, critical)
        signer = self.signed_by or self.key
        edwards = isinstance(signer, ed25519.Ed25519PrivateKey)
        return builder.sign(signer, None if edwards else self.hashed())

    def _own(self) -> list[tuple[x509.ExtensionType, bool]]:
        content = self.content
        if content is None:
            if self.identity is None:
                return []
            content = signed_key(self.identity, self.key)
        return [(x509.UnrecognizedExtension(IDENTITY_EXTENSION, content), self.critical)]

    def der(self) -> bytes:
        return self.certificate().public_bytes(Encoding.DER)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, text)])


def spki(key: Any) -> bytes:
    info: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return info


def element(tag: int, content: bytes) -> bytes:
    """A DER element, by another way than the product's."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    if size < 256:
        return bytes([tag, 0x81, size]) + content
    return bytes([tag, 0x82]) + size.to_bytes(2, "big") + content


def signed_key(identity: PrivateKey, key: Any, prefix: bytes = PREFIX) -> bytes:
    signature = identity.sign(prefix + spki(key))
    return pair(identity.public_key().to_protobuf(), signature)


def pair(key: bytes, signature: bytes) -> bytes:
    return element(0x30, element(0x04, key) + element(0x04, signature))
