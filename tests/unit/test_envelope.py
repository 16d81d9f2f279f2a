from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.crypto.envelope import MAX_ENVELOPE_BYTES, open_envelope, seal_envelope
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import (
    PeerRecord,
    open_peer_record,
    seal_peer_record,
)
from codio_dht.errors import ProtocolError
from codio_dht.formats.protobuf import bytes_field, read_fields, uint_field
from codio_dht.formats.varint import encode_varint
from codio_dht.params import MAX_ADDRS_PER_PEER

KEY = PrivateKey.from_ed25519_seed(b"k" * 32)
OTHER = PrivateKey.from_ed25519_seed(b"o" * 32)
TYPE = b"\x03\x01"
ADDRS = (b"\x04\x7f\x00\x00\x01\x06\x0f\xa1", b"\x04\x01\x02\x03\x04\x06\x0f\xa1")


def test_an_envelope_opens_to_what_was_sealed():
    sealed = seal_envelope(KEY, domain="test", payload_type=TYPE, payload=b"payload")
    envelope = open_envelope(sealed, domain="test", payload_type=TYPE)
    assert (KEY.public_key(), TYPE, b"payload") == (
        envelope.public_key,
        envelope.payload_type,
        envelope.payload,
    )


def test_the_signature_covers_domain_type_and_payload_with_their_lengths():
    sealed = seal_envelope(KEY, domain="test", payload_type=TYPE, payload=b"payload")
    fields = dict(read_fields(sealed, max_fields=8, layer="test"))
    assert {1, 2, 3, 5} == set(fields)
    signature = fields[5]
    assert isinstance(signature, bytes)
    assert KEY.public_key().verify(b"\x04test\x02\x03\x01\x07payload", signature)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data + b"\x08", "truncated or overlong protobuf varint"),
        (lambda data: data[:-1], "truncated protobuf"),
        (lambda data: data.replace(b"payload", b"Payload"), "signature does not verify"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "signature does not verify"),
        (lambda data: data + bytes_field(2, b"\x01"), "another payload type"),
        (lambda data: data + bytes_field(1, b"\x08\x09"), "unusable key"),
        (
            lambda data: data + bytes_field(1, OTHER.public_key().to_protobuf()),
            "signature does not verify",
        ),
        (lambda data: data + bytes_field(9, bytes(MAX_ENVELOPE_BYTES)), "too large"),
        (lambda data: b"", "another payload type"),
        (lambda data: b"\x02\x01x", "protobuf field number zero"),
        (lambda data: b"\x0b\x01x", "unknown protobuf wire type"),
    ],
)
def test_an_envelope_that_is_not_whole_is_refused(spoil, reason):
    sealed = seal_envelope(KEY, domain="test", payload_type=TYPE, payload=b"payload")
    with pytest.raises(ProtocolError) as caught:
        open_envelope(spoil(sealed), domain="test", payload_type=TYPE)
    assert reason == caught.value.reason


def test_an_envelope_of_another_domain_is_refused():
    sealed = seal_envelope(KEY, domain="test", payload_type=TYPE, payload=b"payload")
    with pytest.raises(ProtocolError, match="does not verify"):
        open_envelope(sealed, domain="other", payload_type=TYPE)


def test_a_peer_record_opens_to_what_was_sealed():
    sealed = seal_peer_record(KEY, sequence=1_700_000_000, addrs=ADDRS)
    assert PeerRecord(KEY.peer_id(), 1_700_000_000, ADDRS) == open_peer_record(sealed)


def sealed_record(payload: bytes, key: PrivateKey = KEY) -> bytes:
    return seal_envelope(key, domain="libp2p-peer-record", payload_type=TYPE, payload=payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (bytes_field(1, OTHER.peer_id().to_bytes()), "of another peer than its signer"),
        (b"", "no peer id"),
        (bytes_field(1, b"\x01\x02"), "no peer id"),
        (b"\xff", "truncated or overlong protobuf varint"),
        (bytes_field(3, b"\xff"), "truncated or overlong protobuf varint"),
    ],
)
def test_a_peer_record_of_somebody_else_or_nobody_is_refused(payload, reason):
    with pytest.raises(ProtocolError) as caught:
        open_peer_record(sealed_record(payload))
    assert reason == caught.value.reason


def test_unreadable_addresses_and_repetitions_do_not_count_against_the_bound():
    junk = [b"", b"\xff" * 8, b"\x04\x01"]
    private = [b"\x04\x0a\x00\x00" + bytes([i]) + b"\x06\x0f\xa1" for i in range(200)]
    public = b"\x04\x01\x02\x03\x04\x06\x0f\xa1"
    addrs = [bytes(2_000), *junk * 20, *[ADDRS[0]] * 100, *private, public]
    record = open_peer_record(seal_peer_record(KEY, sequence=1, addrs=addrs))

    kept = record.addrs
    assert (public, *private[:MAX_ADDRS_PER_PEER], ADDRS[0]) == kept


@given(st.integers(min_value=0, max_value=2**64 - 1), st.binary(max_size=40), st.integers(1, 99))
def test_fields_come_back_as_they_were_written(number, value, field):
    data = uint_field(field, number) + bytes_field(field, value)
    assert [(field, number), (field, value)] == list(read_fields(data, max_fields=2, layer="x"))
    assert [(1, number)] == list(
        read_fields(b"\x08" + encode_varint(number), max_fields=1, layer="x")
    )


@given(st.binary(max_size=120))
def test_any_bytes_give_fields_or_the_documented_error(data):
    for reader in (
        lambda: list(read_fields(data, max_fields=10, layer="x")),
        lambda: open_peer_record(data),
        lambda: open_peer_record(sealed_record(data)),
    ):
        try:
            reader()
        except ProtocolError:
            pass


def test_a_varint_past_64_bits_is_refused():
    with pytest.raises(ProtocolError, match="64 bits"):
        list(read_fields(b"\x08" + b"\xff" * 9 + b"\x7f", max_fields=1, layer="x"))


def test_fixed_width_fields_are_skipped_over():
    data = b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18\x05"
    fields = list(read_fields(data, max_fields=3, layer="x"))
    assert [(1, bytes(8)), (2, bytes(4)), (3, 5)] == fields
