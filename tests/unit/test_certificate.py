from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA224, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from libp2p.security.tls.certificate import verify_certificate_chain

from codio_dht.core.clock import UnixTime
from codio_dht.crypto.certificate import (
    IDENTITY_EXTENSION,
    MAX_CERTIFICATE_BYTES,
    make_certificate,
    verify_certificate,
)
from codio_dht.errors import ProtocolError
from forged_certificates import (
    ED25519,
    IDENTITIES,
    KEY,
    NOW,
    Forged,
    element,
    pair,
    signed_key,
    spki,
)

OID = bytes.fromhex("060a2b0601040183a25a0101")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"whatever")


def assert_refused(data: bytes, reason: str, now: float = NOW) -> None:
    with pytest.raises(ProtocolError) as caught:
        verify_certificate(data, UnixTime(now))
    assert ("certificate", reason) == (caught.value.layer, caught.value.reason)


# --- our own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IDENTITIES)
def test_our_certificate_proves_our_identity_of_every_type(kind):
    identity = IDENTITIES[kind]
    own = make_certificate(identity)
    assert identity.public_key() == verify_certificate(
        own.certificate.public_bytes(Encoding.DER), NOW
    )


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "rsa"])  # it knows no ECDSA
def test_another_implementation_reads_our_certificate(kind):
    own = make_certificate(IDENTITIES[kind])
    theirs = verify_certificate_chain([own.certificate])
    assert IDENTITIES[kind].public_key().to_protobuf() == theirs.serialize()


def test_our_certificate_looks_like_gos_with_the_identity_first():
    own = make_certificate(ED25519).certificate
    (extension,) = own.extensions
    assert (IDENTITY_EXTENSION, False) == (extension.oid, extension.critical)
    assert own.issuer == own.subject
    assert ["2.5.4.5"] == [part.oid.dotted_string for part in own.subject]
    assert isinstance(own.public_key(), ec.EllipticCurvePublicKey)
    assert 0 < own.serial_number < 1 << 62
    assert x509.Version.v3 == own.version


@pytest.mark.parametrize("days", [-8_000, -400, -40, 0, 40, 400, 50_000])
def test_our_certificate_is_valid_whatever_the_clock_shows(days):
    """Ours when it was made, or the one of whoever reads it."""
    data = make_certificate(ED25519).certificate.public_bytes(Encoding.DER)
    assert ED25519.public_key() == verify_certificate(data, UnixTime(NOW + days * 86_400))


def test_two_certificates_share_neither_key_nor_numbers():
    first, second = (make_certificate(ED25519).certificate for _ in range(2))
    assert first.public_key() != second.public_key()
    assert first.serial_number != second.serial_number
    assert first.subject != second.subject


# --- a peer's that is taken -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        Forged(),
        Forged(critical=True),
        Forged(before=((UNKNOWN, False),)),
        Forged(after=((UNKNOWN, False),)),
        Forged(key=ec.generate_private_key(ec.SECP384R1()), hashed=SHA384),
        Forged(key=ec.generate_private_key(ec.SECP521R1())),
        Forged(key=ed25519.Ed25519PrivateKey.generate()),
        Forged(key=rsa.generate_private_key(65_537, 2_048)),
        Forged(start=0.0),
        Forged(end=0.0),
    ],
)
def test_what_the_specification_leaves_open_is_taken(forged):
    assert ED25519.public_key() == verify_certificate(forged.der(), NOW)


# --- a peer's that is refused ---------------------------------------------------------------------


ANOTHER_KEY = ec.derive_private_key(5, ec.SECP256R1())
MALLORY = IDENTITIES["ecdsa"]
ED25519_KEY = ED25519.public_key().to_protobuf()


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        (Forged(start=1.0), "not valid yet"),
        (Forged(end=-1.0), "expired"),
        (Forged(signed_by=ANOTHER_KEY), "self-signature does not verify"),
        (Forged(issuer="4321"), "malformed certificate"),
        (Forged(hashed=SHA224), "weak hash"),
        (Forged(identity=None), "no identity extension"),
        (Forged(after=((UNKNOWN, True),)), "unknown critical extension"),
        (Forged(before=((UNKNOWN, True),)), "unknown critical extension"),
        (
            Forged(after=((x509.BasicConstraints(ca=True, path_length=None), True),)),
            "unknown critical extension",
        ),
        (Forged(key=ec.derive_private_key(5, ec.SECP256K1())), "unusable certificate key"),
        (Forged(key=rsa.generate_private_key(65_537, 1_024)), "unusable certificate key"),
        (
            Forged(content=signed_key(ED25519, ANOTHER_KEY)),
            "identity signature does not verify",
        ),
        (
            Forged(content=signed_key(ED25519, KEY, prefix=b"libp2p-tls-handshake")),
            "identity signature does not verify",
        ),
        (
            Forged(content=pair(ED25519_KEY, MALLORY.sign(b"libp2p-tls-handshake:" + spki(KEY)))),
            "identity signature does not verify",
        ),
        (Forged(content=pair(ED25519_KEY, b"")), "identity signature does not verify"),
        (Forged(content=pair(b"", b"")), "unusable identity key"),
        (Forged(content=pair(ED25519_KEY[:-1], bytes(64))), "unusable identity key"),
        (Forged(content=b""), "malformed identity extension"),
        (Forged(content=b"\x30"), "malformed identity extension"),
        (Forged(content=b"\x30\x80\x04\x00\x04\x00\x00\x00"), "malformed identity extension"),
        (Forged(content=element(0x30, b"")), "malformed identity extension"),
        (Forged(content=element(0x30, element(0x04, b"k"))), "malformed identity extension"),
        (Forged(content=element(0x31, bytes(4))), "malformed identity extension"),
        (Forged(content=signed_key(ED25519, KEY) + b"\x00"), "malformed identity extension"),
        (
            Forged(content=element(0x30, signed_key(ED25519, KEY)[2:] + b"\x05\x00")),
            "malformed identity extension",
        ),
        (Forged(content=b"\x30\x84\xff\xff\xff\xff"), "malformed identity extension"),
        (
            Forged(content=b"\x30\x82\x00" + signed_key(ED25519, KEY)[1:]),
            "malformed identity extension",
        ),
        (
            Forged(content=pair(ED25519_KEY, b"").replace(b"\x04\x00", b"\x04\x81\x00")),
            "malformed identity extension",
        ),
        (Forged(content=b"\x30\xff" + bytes(200)), "malformed identity extension"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(forged, reason):
    assert_refused(forged.der(), reason)


def test_the_extension_twice_is_refused():
    neighbour = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.2"), b"x")
    der = Forged(after=((neighbour, False),)).der()
    assert 1 == der.count(OID[:-1] + b"\x02")
    assert_refused(der.replace(OID[:-1] + b"\x02", OID), "malformed certificate")


def test_a_certificate_past_the_size_limit_is_not_looked_at():
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(8_000))
    der = Forged(after=((padding, False),)).der()
    assert MAX_CERTIFICATE_BYTES < len(der)
    assert_refused(der, "certificate too long")


# --- anything -------------------------------------------------------------------------------------


def attempt(data: bytes) -> bool:
    try:
        verify_certificate(data, NOW)
    except ProtocolError as error:
        assert "certificate" == error.layer  # noqa: PT017 - any other error is the failure
        return False
    return True


@given(st.binary(max_size=600))
def test_any_bytes_give_only_the_documented_error(data):
    assert not attempt(data)


GOOD = Forged().der()


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1))
def test_a_changed_certificate_is_an_error_or_still_says_the_same(changes):
    """The same signature can be encoded in more than one way: the count of unused bits around it,
    for example, may change where those bits are zero. Nobody else's key ever comes out."""
    data = bytearray(GOOD)
    for position, flip in changes:
        data[position] ^= flip
    if attempt(bytes(data)):
        assert verify_certificate(GOOD, NOW) == verify_certificate(bytes(data), NOW)


@given(st.integers(0, len(GOOD)), st.integers(0, 40), st.binary(max_size=40))
def test_a_certificate_with_a_piece_replaced_gives_only_the_documented_error(at, size, piece):
    data = GOOD[:at] + piece + GOOD[at + size :]
    if data != GOOD:
        assert not attempt(data)


@given(st.binary(max_size=300))
def test_any_extension_content_gives_only_the_documented_error(content):
    assert not attempt(Forged(content=content).der())
