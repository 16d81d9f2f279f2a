"""IPNS records: what is created is valid, and nothing else is."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.ipns import (
    IPNS_LIFETIME_S,
    MAX_IPNS_RECORD_BYTES,
    MAX_SEQUENCE,
    IpnsValidator,
    create_ipns_record,
    ipns_key,
    parse_ipns_record,
)
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import InvalidValueError, UsageError
from codio_dht.formats.dag_cbor import CborValue
from codio_dht.formats.protobuf import bytes_field, read_fields, uint_field

KEY = PrivateKey.from_ed25519_seed(b"k" * 32)
OTHER = PrivateKey.from_ed25519_seed(b"o" * 32)
NAME = KEY.peer_id()
NOW = UnixTime(1_700_000_000.0)
PATH = "/ipfs/bafkqaddwgevxmmraojswg33smq"
VALIDATOR = IpnsValidator()

KEYS = {
    "ed25519": KEY,
    "secp256k1": PrivateKey(ec.derive_private_key(7, ec.SECP256K1())),
    "ecdsa": PrivateKey(ec.derive_private_key(7, ec.SECP256R1())),
    "rsa": PrivateKey(rsa.generate_private_key(65_537, 2_048)),
}


def reason_of(key: bytes, value: bytes, now: UnixTime = NOW) -> str:
    with pytest.raises(InvalidValueError) as caught:
        VALIDATOR.validate_at(key, value, now)
    return caught.value.reason


@pytest.mark.parametrize("v1_fields", [True, False])
@pytest.mark.parametrize("kind", KEYS)
def test_a_record_of_every_key_is_valid_under_its_name_until_it_ends(kind, v1_fields) -> None:
    key = KEYS[kind]
    record = create_ipns_record(key, PATH, sequence=4, now=NOW, v1_fields=v1_fields)
    dht_key = ipns_key(key.peer_id())
    VALIDATOR.validate_at(dht_key, record.encoded, NOW)
    VALIDATOR.validate_at(dht_key, record.encoded, UnixTime(record.eol - 1))
    assert reason_of(dht_key, record.encoded, record.eol) == "expired"
    assert reason_of(ipns_key(OTHER.peer_id()), record.encoded) in (
        "the signature does not verify",
        "the public key is not the name's",
    )
    assert parse_ipns_record(record.encoded) == record
    assert (record.value, record.sequence, record.eol) == (
        PATH.encode(),
        4,
        NOW + IPNS_LIFETIME_S,
    )
    assert bool(record.public_key) == (kind in ("ecdsa", "rsa"))
    assert record.has_v1 == v1_fields


def test_the_v1_signature_is_over_value_validity_and_the_word_eol() -> None:
    record = create_ipns_record(KEY, PATH, sequence=0, now=NOW)
    fields = dict(read_fields(record.encoded, max_fields=16, layer="test"))
    assert sorted(fields) == [1, 2, 3, 4, 5, 6, 8, 9]
    signature = fields[2]
    assert isinstance(signature, bytes)
    signed = PATH.encode() + b"2023-11-16T22:13:20.000000000Z" + b"EOL"
    assert KEY.public_key().verify(signed, signature)


def test_metadata_is_signed_kept_and_returned() -> None:
    metadata: dict[str, CborValue] = {"_app": {"version": [1, 2]}, "_z": b"x"}
    record = create_ipns_record(KEY, PATH, sequence=1, now=NOW, metadata=metadata)
    VALIDATOR.validate_at(ipns_key(NAME), record.encoded, NOW)
    assert parse_ipns_record(record.encoded).metadata == metadata


def test_a_record_of_exactly_ten_kibibytes_is_valid_and_one_byte_more_is_not_parsed() -> None:
    bare = create_ipns_record(KEY, PATH, sequence=1, now=NOW, metadata={"_p": b"x" * 9_000})
    room = MAX_IPNS_RECORD_BYTES - len(bare.encoded)
    metadata = {"_p": b"x" * (9_000 + room)}
    record = create_ipns_record(KEY, PATH, sequence=1, now=NOW, metadata=metadata)
    assert len(record.encoded) == MAX_IPNS_RECORD_BYTES
    VALIDATOR.validate_at(ipns_key(NAME), record.encoded, NOW)
    with pytest.raises(UsageError, match="10 KiB"):
        create_ipns_record(KEY, PATH, sequence=1, now=NOW, metadata={"_p": b"x" * 10_000})
    assert reason_of(ipns_key(NAME), b"\xff" * (MAX_IPNS_RECORD_BYTES + 1)) == "larger than 10 KiB"
    assert reason_of(b"nonsense", b"\xff" * 10_000_000) == "larger than 10 KiB"


@given(st.data())
def test_a_record_with_any_byte_of_its_signed_part_changed_is_invalid(data) -> None:
    record = create_ipns_record(KEY, PATH, sequence=4, now=NOW, v1_fields=False)
    at = data.draw(st.integers(0, len(record.encoded) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(record.encoded)
    changed[at] ^= flip
    reason_of(ipns_key(NAME), bytes(changed))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_invalid_and_nothing_else_is_raised(key: bytes, value: bytes) -> None:
    reason_of(key, value)
    reason_of(ipns_key(NAME), value)
    reason_of(ipns_key(NAME), bytes_field(8, b"s") + bytes_field(9, value))


@pytest.mark.parametrize("field", [1, 3, 4, 5, 6])
def test_a_v1_copy_that_differs_from_the_document_makes_the_record_invalid(field: int) -> None:
    record = create_ipns_record(KEY, PATH, sequence=4, now=NOW)
    other = bytes_field(field, b"/x") if field in (1, 4) else uint_field(field, 99)
    changed = record.encoded + other  # of two the last counts
    assert reason_of(ipns_key(NAME), changed) == "the V1 fields differ from the signed document"


def test_a_broken_v1_signature_does_not_matter_and_alone_is_worth_nothing() -> None:
    record = create_ipns_record(KEY, PATH, sequence=4, now=NOW)
    VALIDATOR.validate_at(ipns_key(NAME), record.encoded + bytes_field(2, b"broken"), NOW)
    broken = record.encoded + bytes_field(8, b"broken")
    assert reason_of(ipns_key(NAME), broken) == "the signature does not verify"


def test_a_record_with_another_key_inside_is_invalid_even_if_that_key_signed_it() -> None:
    forged = create_ipns_record(OTHER, PATH, sequence=9, now=NOW)
    with_key = forged.encoded + bytes_field(7, OTHER.public_key().to_protobuf())
    assert reason_of(ipns_key(NAME), with_key) == "the public key is not the name's"
    with_right_key = forged.encoded + bytes_field(7, KEY.public_key().to_protobuf())
    assert reason_of(ipns_key(NAME), with_right_key) == "the signature does not verify"
    assert reason_of(ipns_key(NAME), forged.encoded + bytes_field(7, b"\x08")) == (
        "unusable public key"
    )


def test_a_name_that_is_a_digest_needs_the_key_in_the_record() -> None:
    name = KEYS["rsa"].peer_id()
    record = create_ipns_record(KEYS["rsa"], PATH, sequence=1, now=NOW)
    fields = read_fields(record.encoded, max_fields=16, layer="test")
    without = b"".join(
        bytes_field(number, value) if isinstance(value, bytes) else uint_field(number, value)
        for number, value in fields
        if number != 7
    )
    assert reason_of(ipns_key(name), without) == (
        "neither the record nor the name holds the public key"
    )


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"/ipns/",
        b"/pk/" + NAME.to_bytes(),
        b"/ipns/" + NAME.to_bytes() + b"x",
        NAME.to_bytes(),
    ],
)
def test_a_key_that_is_no_ipns_key_takes_no_record(key: bytes) -> None:
    record = create_ipns_record(KEY, PATH, sequence=1, now=NOW)
    assert reason_of(key, record.encoded) == "not an IPNS key"


def test_the_text_of_a_name_is_not_its_bytes() -> None:
    record = create_ipns_record(KEY, PATH, sequence=1, now=NOW)
    reason_of(b"/ipns/" + str(NAME).encode(), record.encoded)


def test_the_newest_has_the_higher_sequence_then_the_later_end_then_the_larger_bytes() -> None:
    def make(sequence: int, lifetime_s: float, **more) -> bytes:
        return create_ipns_record(
            KEY, PATH, sequence=sequence, now=NOW, lifetime_s=lifetime_s, **more
        ).encoded

    old, new = make(1, 900), make(2, 100)
    assert VALIDATOR.select(ipns_key(NAME), [old, new]) == 1
    assert VALIDATOR.select(ipns_key(NAME), [new, old]) == 0
    long, short = make(2, 100.000000001), make(2, 100)
    assert VALIDATOR.select(ipns_key(NAME), [short, long, old]) == 1
    lean = make(2, 100, v1_fields=False)
    larger = max(short, lean)
    assert VALIDATOR.select(ipns_key(NAME), [short, lean]) == [short, lean].index(larger)
    assert VALIDATOR.select(ipns_key(NAME), [lean, short]) == [lean, short].index(larger)
    assert VALIDATOR.select(ipns_key(NAME), [new, new]) == 0
    with pytest.raises(InvalidValueError):
        VALIDATOR.select(ipns_key(NAME), [])
    with pytest.raises(InvalidValueError):
        VALIDATOR.select(ipns_key(NAME), [old, b"x"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=5), st.data())
def test_the_choice_does_not_depend_on_the_order_of_the_values(versions, data) -> None:
    records = [
        create_ipns_record(KEY, PATH, sequence=sequence, now=NOW, lifetime_s=lifetime).encoded
        for sequence, lifetime in versions
    ]
    shuffled = data.draw(st.permutations(records))
    best = records[VALIDATOR.select(ipns_key(NAME), records)]
    assert shuffled[VALIDATOR.select(ipns_key(NAME), shuffled)] == best


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sequence": -1}, "sequence"),
        ({"sequence": MAX_SEQUENCE + 1}, "sequence"),
        ({"ttl_s": -1.0}, "ttl_s"),
        ({"ttl_s": 1e10}, "ttl_s"),
        ({"lifetime_s": 1e13}, "lifetime_s"),
        ({"metadata": {"TTL": 1}}, "metadata"),
        ({"metadata": {"": 1}}, "metadata"),
        ({"value": "ipfs/x"}, "value"),
        ({"value": "/"}, "value"),
        ({"value": ""}, "value"),
    ],
)
def test_a_wrong_argument_is_named(arguments, named: str) -> None:
    whole = {"value": PATH, "sequence": 1, "now": NOW} | arguments
    with pytest.raises(UsageError, match=f"^{named}: "):
        create_ipns_record(KEY, whole.pop("value"), **whole)


def test_the_largest_sequence_is_written_and_read() -> None:
    record = create_ipns_record(KEY, PATH, sequence=MAX_SEQUENCE, now=NOW)
    VALIDATOR.validate_at(ipns_key(NAME), record.encoded, NOW)
    assert parse_ipns_record(record.encoded).sequence == MAX_SEQUENCE


def test_a_name_is_the_peer_id_behind_the_prefix() -> None:
    assert ipns_key(NAME) == b"/ipns/" + NAME.to_bytes()
    assert PeerId(ipns_key(NAME)[6:]) == NAME
