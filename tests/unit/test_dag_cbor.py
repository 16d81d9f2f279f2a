"""DAG-CBOR: one encoding of every value, and nothing else read than what the codec allows."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.errors import ProtocolError
from codio_dht.formats.dag_cbor import MAX_DEPTH, CidLink, decode_dag_cbor, encode_dag_cbor

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=300)
    | st.text(max_size=30)
    | st.binary(min_size=1, max_size=40).map(CidLink)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_back_the_same(value) -> None:
    data = encode_dag_cbor(value)
    assert decode_dag_cbor(data) == value
    assert encode_dag_cbor(decode_dag_cbor(data)) == data


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_dag_cbor(data)
    except ProtocolError:
        pass


@given(VALUES, st.data())
def test_a_document_cut_short_is_refused(value, data) -> None:
    encoded = encode_dag_cbor(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ProtocolError):
        decode_dag_cbor(encoded[:cut])


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (256, "190100"),
        (65_536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-(2**64), "3bffffffffffffffff"),
        (1.5, "fb3ff8000000000000"),
        (True, "f5"),
        (None, "f6"),
        (b"ab", "426162"),
        ("ab", "626162"),
        ([1, [2]], "82018102"),
        ({"bb": 1, "c": 2, "a": 3}, "a3616103616302626262 01".replace(" ", "")),
        (CidLink(b"\x01\x55"), "d82a43000155"),
    ],
)
def test_a_value_has_the_encoding_of_the_codec(value, encoded: str) -> None:
    assert encode_dag_cbor(value).hex() == encoded


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "truncated"),
        ("0000", "bytes after the document"),
        ("1817", "a number longer than needed"),
        ("1900ff", "a number longer than needed"),
        ("1a0000ffff", "a number longer than needed"),
        ("1b00000000ffffffff", "a number longer than needed"),
        ("580161", "a number longer than needed"),
        ("5f4161ff", "an indefinite or reserved length"),
        ("9f00ff", "an indefinite or reserved length"),
        ("bfff", "an indefinite or reserved length"),
        ("1c", "an indefinite or reserved length"),
        ("a10000", "a map key that is not text"),
        ("a2616100616100", "a map key that stands twice"),
        ("61ff", "text that is not UTF-8"),
        ("c000", "a tag that is not a link"),
        ("d82a00", "a link that is not bytes"),
        ("d82a40", "a link without a CID"),
        ("d82a4100", "a link without a CID"),
        ("d82a420155", "a link without a CID"),
        ("e0", "an unknown simple value"),
        ("f800", "an unknown simple value"),
        ("ff", "an unknown simple value"),
        ("f97e00", "a number that is not finite"),
        ("fa7f800000", "a number that is not finite"),
        ("fb7ff0000000000000", "a number that is not finite"),
        ("9bffffffffffffffff", "truncated"),
        ("bbffffffffffffffff", "truncated"),
        ("5bffffffffffffffff", "truncated"),
        ("81" * (MAX_DEPTH + 1) + "00", "nested too deeply"),
    ],
)
def test_what_the_codec_forbids_is_refused(data: str, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_dag_cbor(bytes.fromhex(data))
    assert caught.value.reason == reason


def test_keys_in_another_order_undefined_and_short_floats_are_read_as_go_reads_them() -> None:
    assert decode_dag_cbor(bytes.fromhex("a2626262f7616101")) == {"bb": None, "a": 1}
    assert decode_dag_cbor(bytes.fromhex("82f93e00fa3fc00000")) == [1.5, 1.5]


def test_the_deepest_document_that_is_read() -> None:
    value = decode_dag_cbor(bytes.fromhex("81" * MAX_DEPTH + "07"))
    for _ in range(MAX_DEPTH):
        assert isinstance(value, list)
        (value,) = value
    assert value == 7


@pytest.mark.parametrize("value", [nan, inf, -inf, 2**64, -(2**64) - 1])
def test_a_value_that_the_codec_does_not_have_is_not_written(value) -> None:
    with pytest.raises(ValueError, match="DAG-CBOR"):
        encode_dag_cbor(value)
