"""The frame reader: cuts whatever pieces arrive, refuses what no conforming peer sends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.errors import FrameError
from codio_dht.formats.varint import encode_varint, length_prefixed
from codio_dht.params import MAX_FRAME_BYTES, MAX_SMALL_FRAME_BYTES
from codio_dht.wire.framing import FrameReader, LargeFrames


def drain(reader: FrameReader) -> list[bytes]:
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    return frames


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_frames_come_out_whole_and_in_order_however_the_bytes_are_cut(
    payloads: list[bytes], places: list[int]
) -> None:
    reader = FrameReader()
    seen = []
    for piece in cut(b"".join(map(length_prefixed, payloads)), places):
        reader.feed(piece)
        seen += drain(reader)
    assert seen == payloads
    assert reader.at_boundary
    assert reader.buffered == 0


@given(
    payloads=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_frames_that_are_pulled_late_are_not_lost(payloads: list[bytes], places: list[int]) -> None:
    reader = FrameReader()
    seen: list[bytes | None] = []
    for piece in cut(b"".join(map(length_prefixed, payloads)), places):
        reader.feed(piece)
        frame = reader.next_frame()
        if frame is not None:
            seen.append(frame)
    assert seen + drain(reader) == payloads


def test_one_byte_at_a_time_is_read_like_one_piece() -> None:
    reader = FrameReader()
    seen = []
    for byte in length_prefixed(b"a" * 200) + length_prefixed(b"b"):
        reader.feed(bytes((byte,)))
        seen += drain(reader)
    assert seen == [b"a" * 200, b"b"]


def test_a_frame_of_four_mebibytes_in_small_pieces_is_read_in_linear_time() -> None:
    reader = FrameReader()
    data = length_prefixed(b"x" * MAX_FRAME_BYTES)
    frames = []
    for start in range(0, len(data), 100):
        reader.feed(data[start : start + 100])
        frames += drain(reader)
    assert [len(frame) for frame in frames] == [MAX_FRAME_BYTES]


@pytest.mark.conformance("c02")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b"\x00", "empty frame", id="zero length"),
        pytest.param(encode_varint(MAX_FRAME_BYTES + 1), "4194305 bytes", id="over 4 MiB"),
        pytest.param(b"\xff" * 9 + b"\x01", "18446744073709551615 bytes", id="over 63 bits"),
        pytest.param(b"\x80" * 10, "more than 10 bytes", id="varint of 11 bytes"),
        pytest.param(b"\x81\x00", "shortest form", id="length 1 in two bytes"),
        pytest.param(b"\x80\x00", "shortest form", id="length 0 in two bytes"),
    ],
)
def test_a_length_that_no_peer_sends_is_an_error_for_good(data: bytes, why: str) -> None:
    reader = FrameReader()
    reader.feed(length_prefixed(b"good") + data)
    assert reader.next_frame() == b"good"
    for _ in range(2):
        with pytest.raises(FrameError, match=why):
            reader.next_frame()
        reader.feed(length_prefixed(b"later"))
    assert reader.buffered == 0
    assert not reader.at_boundary


@pytest.mark.conformance("c02")
def test_the_largest_frame_is_read_and_one_byte_more_is_refused_before_it_arrives() -> None:
    reader = FrameReader(max_frame_bytes=300)
    reader.feed(length_prefixed(b"x" * 300))
    assert reader.next_frame() == b"x" * 300
    reader.feed(encode_varint(301))
    with pytest.raises(FrameError):
        reader.next_frame()


@pytest.mark.conformance("c02")
@pytest.mark.parametrize("arrived", [b"\x81", b"\x05", b"\x05abcd"])
def test_an_end_inside_a_prefix_or_a_body_is_no_boundary(arrived: bytes) -> None:
    reader = FrameReader()
    reader.feed(arrived)
    assert reader.next_frame() is None
    assert not reader.at_boundary


def test_a_fresh_reader_stands_at_a_boundary() -> None:
    assert FrameReader().at_boundary


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_give_frames_or_the_documented_error_and_bounded_memory(
    data: bytes, places: list[int]
) -> None:
    reader = FrameReader(max_frame_bytes=100)
    try:
        for piece in cut(data, places):
            reader.feed(piece)
            assert all(0 < len(frame) <= 100 for frame in drain(reader))
            assert reader.buffered <= 100
    except FrameError:
        assert reader.buffered == 0


def test_an_announced_length_sets_no_memory_aside() -> None:
    reader = FrameReader()
    reader.feed(encode_varint(MAX_FRAME_BYTES))
    assert reader.next_frame() is None
    assert reader.buffered == 0


def test_a_short_frame_past_a_shorter_limit_is_refused_too() -> None:
    reader = FrameReader(max_frame_bytes=10)
    reader.feed(length_prefixed(b"x" * 10) + length_prefixed(b"x" * 11))
    assert reader.next_frame() == b"x" * 10
    with pytest.raises(FrameError):
        reader.next_frame()


# --- what large frames hold -----------------------------------------------------------------------


def test_small_frames_count_nothing_whatever_large_ones_hold() -> None:
    frames = LargeFrames(100_000)
    held = frames.count(0, 100_000)
    assert (100_000, 0) == (held, frames.count(0, MAX_SMALL_FRAME_BYTES))
    assert 100_000 == frames.held


def test_large_frames_of_all_streams_together_are_bounded_to_the_byte() -> None:
    frames = LargeFrames(100_000)
    one = frames.count(0, 40_000)
    other = frames.count(0, 60_000)
    with pytest.raises(FrameError, match="more than 100000 bytes in large frames"):
        frames.count(other, 60_001)
    assert (40_000, 60_000, 100_000) == (one, other, frames.held)


def test_a_stream_counts_what_it_has_now_and_nothing_when_it_is_over() -> None:
    frames = LargeFrames(100_000)
    counted = frames.count(0, 30_000)
    counted = frames.count(counted, 90_000)
    assert (90_000, 90_000) == (counted, frames.held)
    counted = frames.count(counted, MAX_SMALL_FRAME_BYTES)
    assert (0, 0) == (counted, frames.held)
    frames.count(frames.count(0, 90_000), 0)
    assert 0 == frames.held
