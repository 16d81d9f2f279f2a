"""Which multihash is meant by what a caller passes as a CID."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from cid import CIDv1, make_cid
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.multihash import multihash_of
from codio_dht.errors import UsageError
from codio_dht.formats.multihash import is_multihash

SHA256 = b"\x12\x20" + bytes(range(32))
BLAKE3 = b"\x1e\x20" + bytes(range(32))
SHA512 = b"\x13\x40" + bytes(64)
INLINE = b"\x00\x05hello"
MULTIHASHES = [SHA256, BLAKE3, SHA512, INLINE, b"\xa0\xe4\x02\x20" + bytes(32)]
V0 = str(make_cid(0, "dag-pb", SHA256))


def v1(base: str, multihash: bytes) -> str:
    """The CIDv1 of some raw content in ``base``, as py-cid writes it."""
    return str(CIDv1("raw", multihash).encode(base), "ascii")


V1 = v1("base32", SHA256)


@dataclass
class CidLike:
    multihash: object


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
        CIDv1("raw", SHA256).buffer,
        CIDv1("dag-pb", SHA256).buffer,
        make_cid(V0),
        make_cid(V1),
        CidLike(SHA256),
    ],
)
def test_every_name_of_a_content_gives_its_multihash(cid: object) -> None:
    assert SHA256 == multihash_of(cid)


@pytest.mark.parametrize("multihash", MULTIHASHES)
@pytest.mark.parametrize(
    "base",
    [
        "base10",
        "base16",
        "base16upper",
        "base32",
        "base32upper",
        "base32hex",
        "base32hexupper",
        "base32pad",
        "base32hexpad",
        "base36",
        "base36upper",
        "base58btc",
        "base64",
        "base64pad",
        "base64url",
        "base64urlpad",
    ],
)
def test_a_version_1_cid_is_read_in_every_usual_base(base: str, multihash: bytes) -> None:
    assert multihash == multihash_of(v1(base, multihash))


@given(st.binary(max_size=70))
def test_any_digest_survives_every_spelling(digest: bytes) -> None:
    multihash = b"\x00" + bytes([len(digest)]) + digest
    for base in ("base16", "base32", "base36", "base58btc", "base64url"):
        assert multihash == multihash_of(v1(base, multihash))


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
def test_anything_else_is_a_usage_error_that_names_the_argument(bad: object) -> None:
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
