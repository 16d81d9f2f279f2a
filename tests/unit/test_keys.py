"""Keys: what is taken, what is refused, and that nothing secret ever shows."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.crypto.keys import (
    MAX_PUBLIC_KEY_BYTES,
    MAX_SIGNATURE_BYTES,
    KeyType,
    PrivateKey,
    PublicKey,
)
from codio_dht.errors import IdentityError, PeerIdError, UsageError
from codio_dht.formats.protobuf import bytes_field, uint_field

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

ED25519 = PrivateKey.from_ed25519_seed(b"\x01" * 32)
SECP256K1 = PrivateKey(ec.derive_private_key(7, ec.SECP256K1()))
P256 = PrivateKey(ec.derive_private_key(7, ec.SECP256R1()))
P521 = PrivateKey(ec.derive_private_key(7, ec.SECP521R1()))
RSA = PrivateKey(rsa.generate_private_key(65537, 2048))
ALL = [ED25519, SECP256K1, P256, P521, RSA]
names = [f"{key.type.name}" for key in ALL]


def protobuf(kind: int, data: bytes) -> bytes:
    return uint_field(1, kind) + bytes_field(2, data)


def spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def data_of(key: PrivateKey | PublicKey) -> bytes:
    """The data field of a short key's protobuf (its length has one byte)."""
    return key.to_protobuf()[4:]


@pytest.mark.parametrize("key", ALL, ids=names)
def test_a_key_survives_its_protobuf_form(key: PrivateKey) -> None:
    again = PrivateKey.from_protobuf(key.to_protobuf())
    assert again.public_key() == key.public_key()
    assert again.to_protobuf() == key.to_protobuf()
    assert PublicKey.from_protobuf(key.public_key().to_protobuf()) == key.public_key()
    assert hash(again.public_key()) == hash(key.public_key())


@pytest.mark.parametrize("key", ALL, ids=names)
def test_a_signature_verifies_only_under_its_key_and_data(key: PrivateKey) -> None:
    signature = key.sign(b"data")
    assert key.public_key().verify(b"data", signature)
    assert not key.public_key().verify(b"other", signature)
    assert not any(other.public_key().verify(b"data", signature) for other in ALL if other != key)


@given(st.sampled_from(ALL), st.binary(max_size=MAX_SIGNATURE_BYTES + 1))
def test_no_bytes_of_a_peer_make_verify_raise(key: PrivateKey, signature: bytes) -> None:
    assert not key.public_key().verify(b"data", signature)


def test_a_peer_id_is_the_key_itself_up_to_42_bytes_and_its_digest_beyond() -> None:
    assert ED25519.peer_id().to_bytes() == b"\x00\x24" + ED25519.public_key().to_protobuf()
    assert SECP256K1.peer_id().to_bytes() == b"\x00\x25" + SECP256K1.public_key().to_protobuf()
    for key in (P256, P521, RSA):
        assert key.peer_id().to_bytes()[:2] == b"\x12\x20"
        assert len(key.peer_id().to_bytes()) == 34


def test_generated_keys_differ() -> None:
    assert PrivateKey.generate_ed25519().peer_id() != PrivateKey.generate_ed25519().peer_id()


# --- the protobuf form ----------------------------------------------------------------------------


def test_a_key_in_another_order_or_form_is_read_and_written_canonically() -> None:
    data = data_of(ED25519.public_key())
    odd = uint_field(9, 1) + bytes_field(2, data) + bytes_field(7, b"x") + uint_field(1, 1)
    assert PublicKey.from_protobuf(odd).to_protobuf() == ED25519.public_key().to_protobuf()
    point = SECP256K1._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert PublicKey.from_protobuf(protobuf(2, point)) == SECP256K1.public_key()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(uint_field(1, 1), id="no data"),
        pytest.param(bytes_field(2, b"x" * 32), id="no type"),
        pytest.param(protobuf(4, b"x" * 32), id="unknown type"),
        pytest.param(protobuf(2**63, b"x" * 32), id="huge type"),
        pytest.param(protobuf(1, b"x" * 31), id="short Ed25519"),
        pytest.param(protobuf(2, b"\x02" + b"\xff" * 32), id="not on secp256k1"),
        pytest.param(protobuf(2, b""), id="empty secp256k1"),
        pytest.param(protobuf(2, b"\x00"), id="point at infinity"),
        pytest.param(protobuf(0, b"\x30\x00"), id="RSA: not a key"),
        pytest.param(protobuf(3, b"\x30\x00"), id="ECDSA: not a key"),
        pytest.param(protobuf(0, spki(P256._key.public_key())), id="RSA: a curve"),  # type: ignore[arg-type]
        pytest.param(protobuf(3, spki(RSA._key.public_key())), id="ECDSA: RSA"),  # type: ignore[arg-type]
        pytest.param(protobuf(3, spki(SECP256K1._key.public_key())), id="ECDSA: secp256k1"),  # type: ignore[arg-type]
        pytest.param(protobuf(1, b"x" * MAX_PUBLIC_KEY_BYTES), id="too large"),
        pytest.param(b"\xff" * 40, id="no protobuf"),
    ],
)
def test_what_is_no_public_key_is_a_peer_id_error(data: bytes) -> None:
    with pytest.raises(PeerIdError):
        PublicKey.from_protobuf(data)


@given(st.integers(0, 3), st.binary(max_size=200))
def test_no_bytes_of_a_peer_raise_anything_else(kind: int, data: bytes) -> None:
    for candidate in (data, protobuf(kind, data)):
        try:
            PublicKey.from_protobuf(candidate)
        except PeerIdError:
            pass


@given(st.sampled_from(ALL), st.integers(0, 3000), st.integers(0, 255))
def test_a_damaged_key_is_a_key_or_the_documented_error(
    key: PrivateKey, place: int, byte: int
) -> None:
    public = bytearray(key.public_key().to_protobuf())
    public[place % len(public)] = byte
    try:
        PublicKey.from_protobuf(bytes(public))
    except PeerIdError:
        pass
    private = bytearray(key.to_protobuf())
    private[place % len(private)] = byte
    try:
        PrivateKey.from_protobuf(bytes(private))
    except IdentityError:
        pass


# --- bounds ---------------------------------------------------------------------------------------


def rsa_of(bits: int, exponent: int = 65537) -> bytes:
    """A public key of that size; nobody knows its factors."""
    numbers = rsa.RSAPublicNumbers(exponent, (1 << bits) - 159)
    return protobuf(0, spki(numbers.public_key()))


@pytest.mark.parametrize("bits", [2048, 4096, 8192])
def test_rsa_keys_within_the_bounds_are_taken(bits: int) -> None:
    assert PublicKey.from_protobuf(rsa_of(bits)).type is KeyType.RSA


@pytest.mark.parametrize("bits", [1024, 2047, 8193, 12_000])
def test_rsa_keys_outside_the_bounds_are_refused(bits: int) -> None:
    with pytest.raises(PeerIdError):
        PublicKey.from_protobuf(rsa_of(bits))


def test_an_rsa_exponent_that_makes_every_check_expensive_is_refused() -> None:
    with pytest.raises(PeerIdError, match="exponent"):
        PublicKey.from_protobuf(rsa_of(2048, (1 << 2000) + 1))


def test_secp256k1_signatures_have_the_low_s_that_others_insist_on() -> None:
    for number in range(20):
        signature = SECP256K1.sign(number.to_bytes(1, "big"))
        assert decode_dss_signature(signature)[1] <= SECP256K1_ORDER // 2


def test_a_high_s_of_another_is_accepted() -> None:
    r, s = decode_dss_signature(SECP256K1.sign(b"data"))
    assert SECP256K1.public_key().verify(b"data", encode_dss_signature(r, SECP256K1_ORDER - s))


# --- private keys ---------------------------------------------------------------------------------


def test_the_old_ed25519_form_with_the_public_key_twice_is_read() -> None:
    data = data_of(ED25519)
    old = protobuf(1, data + data[32:])
    assert PrivateKey.from_protobuf(old).to_protobuf() == ED25519.to_protobuf()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(data_of(ED25519)[:32], id="seed only"),
        pytest.param(data_of(ED25519)[:32] + b"x" * 32, id="another's public half"),
        pytest.param(data_of(ED25519) + b"x" * 32, id="two public halves that differ"),
        pytest.param(data_of(ED25519)[:32] + b"x" * 64, id="two wrong public halves"),
        pytest.param(b"", id="empty"),
    ],
)
def test_an_ed25519_key_that_does_not_fit_together_is_refused(data: bytes) -> None:
    with pytest.raises(IdentityError, match="Ed25519"):
        PrivateKey.from_protobuf(protobuf(1, data))


@pytest.mark.parametrize("value", [0, SECP256K1_ORDER, SECP256K1_ORDER + 1])
def test_a_secp256k1_key_outside_the_group_is_refused(value: int) -> None:
    with pytest.raises(IdentityError):
        PrivateKey.from_protobuf(protobuf(2, value.to_bytes(32, "big")))


@pytest.mark.parametrize("data", [b"", b"\xff" * 10, b"x" * 10_000, protobuf(7, b"x")])
def test_what_is_no_private_key_is_an_identity_error(data: bytes) -> None:
    with pytest.raises(IdentityError, match="libp2p private key"):
        PrivateKey.from_protobuf(data)


@pytest.mark.parametrize("key", ALL, ids=names)
def test_a_private_key_shows_only_its_public_side(key: PrivateKey) -> None:
    assert repr(key) == f"PrivateKey({key.type.name}, {key.peer_id()})"


def test_a_seed_of_the_wrong_size_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="seed"):
        PrivateKey.from_ed25519_seed(b"short")
