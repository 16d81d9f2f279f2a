"""Public key records: only the key whose peer id stands in the DHT key."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import UnixTime
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.public_key_records import PublicKeyValidator, public_key_key
from codio_dht.errors import InvalidValueError

ED25519 = PrivateKey.from_ed25519_seed(b"k" * 32)
ECDSA = PrivateKey(ec.derive_private_key(7, ec.SECP256R1()))
NOW = UnixTime(1_700_000_000.0)
VALIDATOR = PublicKeyValidator()


def reason_of(key: bytes, value: bytes) -> str:
    with pytest.raises(InvalidValueError) as caught:
        VALIDATOR.validate_at(key, value, NOW)
    return caught.value.reason


@pytest.mark.parametrize("key", [ED25519, ECDSA])
def test_a_public_key_is_valid_under_its_own_peer_id_only(key: PrivateKey) -> None:
    value = key.public_key().to_protobuf()
    VALIDATOR.validate_at(public_key_key(key.peer_id()), value, NOW)
    other = ECDSA if key is ED25519 else ED25519
    assert reason_of(public_key_key(other.peer_id()), value) == "another peer's public key"
    assert reason_of(b"/ipns/" + key.peer_id().to_bytes(), value) == "not a public key's key"
    assert reason_of(b"/pk/x", value) == "not a public key's key"
    assert reason_of(public_key_key(key.peer_id()), value[:-1]) == "not a public key"


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes_are_invalid_and_nothing_else_is_raised(key: bytes, value: bytes) -> None:
    reason_of(key, value)
    reason_of(public_key_key(ED25519.peer_id()), value)


def test_every_valid_value_is_as_good_as_the_first() -> None:
    assert VALIDATOR.select(b"/pk/x", [b"a", b"b"]) == 0
    with pytest.raises(InvalidValueError):
        VALIDATOR.select(b"/pk/x", [])
