"""Which multihash is meant by what a caller passes as a CID."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.multihash import multihash_of
from codio_dht.errors import UsageError
from codio_dht.formats.cid import RAW, format_cid
from codio_dht.formats.multihash import is_multihash

SHA256 = b"\x12\x20" + bytes(range(32))
INLINE = b"\x00\x05hello"
V0 = base58.b58encode(SHA256).decode()
V1 = format_cid(RAW, SHA256)


@dataclass
class CidLike:
    """A CID as py-cid has it."""

    multihash: object


@dataclass
class CidWithBuffer:
    buffer: object


@dataclass
class CidAsBytes:
    """A CID as the library multiformats has it."""

    data: bytes

    def __bytes__(self) -> bytes:
        return self.data


# --- one key, many names --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cid",
    [
        V0,
        V1,
        V1.upper(),
        f" {V1}\n",
        f"ipfs://{V1}",
        f"ipfs://{V1}/",
        f"/ipfs/{V0}",
        f"https://example.org/ipfs/{V1}",
        SHA256,
        bytearray(SHA256),
        memoryview(SHA256),
        b"\x01\x55" + SHA256,
        b"\x01\x70" + SHA256,
        CidLike(SHA256),
        CidWithBuffer(b"\x01\x55" + SHA256),
        CidAsBytes(b"\x01\x55" + SHA256),
        CidAsBytes(SHA256),
    ],
)
def test_every_name_of_a_content_gives_its_multihash(cid: Any) -> None:
    assert SHA256 == multihash_of(cid)


def test_a_codec_nobody_has_heard_of_is_no_obstacle() -> None:
    assert SHA256 == multihash_of(b"\x01\xff\xff\x03" + SHA256)


# --- what bytes mean ------------------------------------------------------------------------------


def test_bytes_that_begin_with_1_are_a_cid_and_never_a_multihash() -> None:
    assert INLINE == multihash_of(b"\x01\x55" + INLINE)
    # Read as a multihash this would be hash function 1 with 2 bytes of digest; as a CID it is
    # codec 2 with a broken multihash.
    assert is_multihash(b"\x01\x02\xaa\xbb")
    with pytest.raises(UsageError):
        multihash_of(b"\x01\x02\xaa\xbb")


def test_bytes_that_are_a_cid_within_a_cid_mean_only_the_outer_one() -> None:
    # The inner bytes are no multihash, for none begins with 1.
    with pytest.raises(UsageError):
        multihash_of(b"\x01\x55" + b"\x01\x02\xaa\xbb")


def test_text_as_bytes_is_refused_not_guessed_at() -> None:
    for text in (V0, V1):
        with pytest.raises(UsageError):
            multihash_of(text.encode())


@given(st.binary(max_size=90))
def test_any_bytes_give_a_multihash_or_a_usage_error(data: bytes) -> None:
    try:
        multihash = multihash_of(data)
    except UsageError:
        return
    assert is_multihash(multihash)
    assert data.endswith(multihash)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        1.5,
        [],
        object(),
        CidLike("text"),
        CidLike(b"\x12\x20short"),
        CidWithBuffer(V1),
        CidAsBytes(b"\x01\x55short"),
        "",
        "Qm",
        "hello",
        V0[:-1],
        V0[:-1] + "0",
        V0 + "1",
        "z" + V0,
        V1[:-1],
        V1 + "!",
        V1[:-1] + "7",  # bits behind the last byte
        V1.replace("b", "m", 1),
        "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        f"/ipns/{V1}",
        f"https://example.org/{V1}",
        "b" * 100_000,
        "\N{ROCKET}" + V1,
        b"",
        b"\x01",
        b"\x12\x20short",
        SHA256 + b"\x00",
        b"\x92\x00\x20" + bytes(32),
    ],
)
def test_anything_else_is_a_usage_error_that_names_the_argument(bad: Any) -> None:
    with pytest.raises(UsageError, match=r"^content: ") as caught:
        multihash_of(bad, "content")
    assert len(str(caught.value)) < 200


def test_a_path_inside_of_some_content_is_refused_and_says_why() -> None:
    with pytest.raises(UsageError, match="path"):
        multihash_of(f"/ipfs/{V0}/readme")


@pytest.mark.conformance("c18")
def test_a_multihash_that_no_server_takes_is_refused_and_80_bytes_are_not() -> None:
    longest = b"\x00\x4e" + bytes(78)

    assert longest == multihash_of(longest)
    with pytest.raises(UsageError, match="81 bytes"):
        multihash_of(b"\x00\x4f" + bytes(79))
