"""Unsigned varints, and what stands behind its length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.errors import FormatError
from codio_dht.formats.varint import (
    encode_varint,
    length_prefixed,
    read_varint,
    split_length_prefixed,
)

NUMBERS = st.integers(min_value=0, max_value=2**63 - 1)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (2**63 - 1, b"\xff" * 8 + b"\x7f"),
    ],
)
def test_a_number_is_written_seven_bits_a_byte_the_lowest_first(value: int, data: bytes) -> None:
    assert data == encode_varint(value)
    assert (value, len(data)) == read_varint(data)


@given(NUMBERS, st.binary(max_size=4), st.binary(max_size=4))
def test_a_number_is_read_back_from_where_it_stands(value: int, head: bytes, tail: bytes) -> None:
    data = encode_varint(value)
    assert (value, len(head + data)) == read_varint(head + data + tail, len(head))
    assert (value, len(head + data)) == read_varint(bytearray(head + data + tail), len(head))


@given(NUMBERS)
def test_a_number_that_has_not_all_arrived_is_no_fault_yet(value: int) -> None:
    data = encode_varint(value)
    assert [None] * len(data) == [read_varint(data[:end]) for end in range(len(data))]


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xac\x82\x00", b"\x81\x80\x00"])
def test_a_longer_form_than_need_be_is_refused_unless_the_caller_takes_it(data: bytes) -> None:
    with pytest.raises(FormatError, match="shortest form"):
        read_varint(data)
    found = read_varint(data, shortest=False)
    assert found is not None
    assert len(data) == found[1]


def test_a_number_ends_within_the_bytes_that_the_caller_allows() -> None:
    assert (2**63 - 1, 9) == read_varint(b"\xff" * 8 + b"\x7f")
    assert (16_383, 2) == read_varint(b"\xff\x7f", 0, 2)
    assert read_varint(b"\xff" * 8) is None
    with pytest.raises(FormatError, match="more than 9 bytes"):
        read_varint(b"\xff" * 9)
    with pytest.raises(FormatError, match="more than 2 bytes"):
        read_varint(b"\xff\xff", 0, 2)


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_byte_strings_behind_their_lengths_are_told_apart(parts: list[bytes]) -> None:
    assert parts == split_length_prefixed(b"".join(map(length_prefixed, parts)))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384])
def test_the_length_before_bytes_is_the_varint_of_their_number(size: int) -> None:
    assert encode_varint(size) + bytes(size) == length_prefixed(bytes(size))


@pytest.mark.parametrize("data", [b"\x01", b"\x00\x02a", b"\x80", b"\x81\x00a", b"\xff" * 9])
def test_byte_strings_that_are_cut_off_or_of_a_bad_length_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        split_length_prefixed(data)


def test_a_reader_may_allow_long_forms_of_the_lengths_too() -> None:
    assert [b"a"] == split_length_prefixed(b"\x81\x00a", shortest=False)
    with pytest.raises(FormatError):
        split_length_prefixed(b"\x81\x80\x00a", 0, 2, shortest=False)
