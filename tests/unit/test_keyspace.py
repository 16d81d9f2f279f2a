"""The keyspace: the XOR metric's laws, and keys as every implementation computes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.keyspace import Key, cpl, distance, key_of
from codio_dht.params import KEY_BITS

KEYS = st.integers(min_value=0, max_value=2**KEY_BITS - 1).map(Key)
PEER_ID = bytes.fromhex(
    "0024080112209e3b433cbd31c2b8a6ebbdca998bd0f4c2141c9c9af5422e976051b1e63af14d"
)
MULTIHASH = bytes.fromhex("1220e536c7f88d731f374dccb568aff6f56e838a19382e488039b1ca8ad2599e82fe")


@pytest.mark.conformance("c46")
@given(KEYS, KEYS)
def test_only_a_key_itself_is_at_distance_zero(a: Key, b: Key) -> None:
    assert distance(a, a) == 0
    assert (distance(a, b) == 0) == (a == b)


@pytest.mark.conformance("c46")
@given(KEYS, KEYS)
def test_distance_is_symmetric(a: Key, b: Key) -> None:
    assert distance(a, b) == distance(b, a)


@pytest.mark.conformance("c46")
@given(KEYS, KEYS, KEYS)
def test_a_detour_is_never_shorter(a: Key, b: Key, c: Key) -> None:
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@pytest.mark.conformance("c46")
@given(KEYS, KEYS)
def test_for_a_key_and_a_distance_there_is_exactly_one_other_key(a: Key, away: Key) -> None:
    b = Key(distance(a, away))
    assert distance(a, b) == away
    assert distance(a, Key(b ^ 1)) != away


@given(KEYS, KEYS)
def test_the_cpl_is_the_length_of_the_common_prefix_written_in_bits(a: Key, b: Key) -> None:
    left, right = f"{a:0256b}", f"{b:0256b}"
    common = next((i for i in range(KEY_BITS) if left[i] != right[i]), KEY_BITS)
    assert cpl(a, b) == common


@given(KEYS, KEYS, KEYS)
def test_a_longer_common_prefix_is_a_shorter_distance(key: Key, a: Key, b: Key) -> None:
    if cpl(key, a) > cpl(key, b):
        assert distance(key, a) < distance(key, b)


@pytest.mark.parametrize(
    ("preimage", "expected"),
    [
        (PEER_ID, "e43d28f0996557c0d5571d75c62a57a59d7ac1d30a51ecedcdb9d5e4afa56100"),
        (MULTIHASH, "d623250f3f660ab4c3a53d3c97b3f6a0194c548053488d093520206248253bcb"),
        (
            b"/ipns/" + PEER_ID,
            "94559ab791d1325f6577832302ca0fea289590c4c836bf1c28d009549dfbe528",
        ),
    ],
    ids=["peer id", "multihash", "ipns name"],
)
def test_the_key_of_a_preimage_is_its_sha_256_read_big_endian(
    preimage: bytes, expected: str
) -> None:
    assert f"{key_of(preimage):064x}" == expected
