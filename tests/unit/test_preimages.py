"""Preimages: their keys lie at the CPL asked for, and the search never holds others up."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.keyspace import Key, cpl, key_of
from codio_dht.core.peer import PeerId
from codio_dht.core.preimages import MAX_PREIMAGE_EFFORT, search_preimage
from codio_dht.core.refresh import MAX_REFRESH_CPL
from codio_dht.errors import UsageError
from codio_dht.params import KEY_BITS

KEYS = st.integers(0, 2**KEY_BITS - 1).map(Key)


@given(KEYS, st.integers(0, 9), st.integers(0, 2**32))
def test_the_key_shares_exactly_the_cpl_asked_for(local: Key, prefix: int, seed: int) -> None:
    *fruitless, found = search_preimage(local, prefix, random.Random(seed))
    assert found is not None
    assert cpl(key_of(found), local) == prefix
    assert fruitless == [None] * len(fruitless)
    assert PeerId(found).key == key_of(found)


@pytest.mark.parametrize("prefix", [10, 14, MAX_REFRESH_CPL])
def test_the_deepest_cpls_are_found_too(prefix: int) -> None:
    local = key_of(b"local")
    *fruitless, found = search_preimage(local, prefix, random.Random(prefix))
    assert found is not None
    assert cpl(key_of(found), local) == prefix
    assert len(fruitless) <= (MAX_PREIMAGE_EFFORT << (prefix + 1)) // 1_000


def test_the_same_rng_gives_the_same_preimage_and_another_one_another() -> None:
    first, again, other = (
        list(search_preimage(Key(0), 6, random.Random(seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first[-1] != other[-1]


def test_a_slice_is_as_many_tries_as_it_says() -> None:
    whole = list(search_preimage(Key(0), 10, random.Random(4), tries_per_slice=10**9))
    sliced = list(search_preimage(Key(0), 10, random.Random(4), tries_per_slice=1))
    assert len(whole) == 1
    assert sliced[-1] == whole[0]
    assert whole[0] is not None
    tries = int.from_bytes(whole[0][-4:], "big")
    assert sliced[:-1] == [None] * tries
    assert len(list(search_preimage(Key(0), 10, random.Random(4), tries_per_slice=100))) == (
        tries // 100 + 1
    )


def test_the_search_ends_without_a_result_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codio_dht.core.preimages.MAX_PREIMAGE_EFFORT", 0)
    assert list(search_preimage(Key(0), 3, random.Random(1))) == []


@pytest.mark.parametrize("prefix", [-1, MAX_REFRESH_CPL + 1])
def test_a_cpl_out_of_range_is_refused_at_once(prefix: int) -> None:
    with pytest.raises(UsageError, match="cpl"):
        search_preimage(Key(0), prefix, random.Random(1))
