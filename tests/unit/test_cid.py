"""CIDs and multibase: read from bytes and from text in every base, written in base32."""

from __future__ import annotations

import base64

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.formats.cid import DAG_PB, LIBP2P_KEY, RAW, Cid, decode_cid, format_cid, parse_cid
from codio_dht.formats.multibase import decode_multibase, encode_base32
from codio_dht.formats.multihash import encode_multihash

SHA256 = b"\x12\x20" + bytes(range(32))
MULTIHASHES = [
    SHA256,
    b"\x1e\x20" + bytes(range(32)),  # blake3
    b"\x13\x40" + bytes(64),  # sha2-512
    b"\x00\x05hello",  # identity
    b"\xa0\xe4\x02\x20" + bytes(32),  # blake2b-256
    encode_multihash(0x3F_FF_FF, b"a hash function nobody has heard of"),
]


def digits(data: bytes, alphabet: str, bits: int) -> str:
    """``data`` as RFC 4648 writes it in a base of ``bits`` bits a digit, without padding."""
    text = "".join(f"{byte:08b}" for byte in data)
    text += "0" * (-len(text) % bits)
    return "".join(alphabet[int(text[at : at + bits], 2)] for at in range(0, len(text), bits))


def number(data: bytes, alphabet: str) -> str:
    """``data`` as one number, with a zero digit for each leading zero byte."""
    value, text = int.from_bytes(data, "big"), ""
    while value:
        value, digit = divmod(value, len(alphabet))
        text = alphabet[digit] + text
    return alphabet[0] * (len(data) - len(data.lstrip(b"\x00"))) + text


LETTERS = "abcdefghijklmnopqrstuvwxyz"
FLICKR = "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
HEX32 = "0123456789abcdefghijklmnopqrstuv"
SPELLINGS = {
    "base2": lambda data: "0" + digits(data, "01", 1),
    "base8": lambda data: "7" + digits(data, "01234567", 3),
    "base10": lambda data: "9" + number(data, "0123456789"),
    "base16": lambda data: "f" + data.hex(),
    "base16upper": lambda data: "F" + data.hex().upper(),
    "base32": lambda data: "b" + base64.b32encode(data).decode().lower().rstrip("="),
    "base32upper": lambda data: "B" + base64.b32encode(data).decode().rstrip("="),
    "base32pad": lambda data: "c" + base64.b32encode(data).decode().lower(),
    "base32padupper": lambda data: "C" + base64.b32encode(data).decode(),
    "base32hex": lambda data: "v" + digits(data, HEX32, 5),
    "base32hexupper": lambda data: "V" + digits(data, HEX32.upper(), 5),
    "base32hexpad": lambda data: "t" + base64.b32hexencode(data).decode().lower(),
    "base32z": lambda data: "h" + digits(data, "ybndrfg8ejkmcpqxot1uwisza345h769", 5),
    "base36": lambda data: "k" + number(data, "0123456789" + LETTERS),
    "base36upper": lambda data: "K" + number(data, "0123456789" + LETTERS.upper()),
    "base58btc": lambda data: "z" + base58.b58encode(data).decode(),
    "base58flickr": lambda data: "Z" + number(data, FLICKR),
    "base64": lambda data: "m" + base64.b64encode(data).decode().rstrip("="),
    "base64pad": lambda data: "M" + base64.b64encode(data).decode(),
    "base64url": lambda data: "u" + base64.urlsafe_b64encode(data).decode().rstrip("="),
    "base64urlpad": lambda data: "U" + base64.urlsafe_b64encode(data).decode(),
}


@pytest.mark.parametrize(
    "text",
    [
        "001111001011001010111001100100000011011010110000101101110011010010010000000100001",
        "7362625631006654133464440102",
        "9573277761329450583662625",
        "f796573206d616e692021",
        "F796573206D616E692021",
        "bpfsxgidnmfxgsibb",
        "BPFSXGIDNMFXGSIBB",
        "vf5in683dc5n6i811",
        "VF5IN683DC5N6I811",
        "cpfsxgidnmfxgsibb",
        "tf5in683dc5n6i811",
        "hxf1zgedpcfzg1ebb",
        "k2lcpzo5yikidynfl",
        "K2LCPZO5YIKIDYNFL",
        "z7paNL19xttacUY",
        "Z7Pznk19XTTzBtx",
        "meWVzIG1hbmkgIQ",
        "MeWVzIG1hbmkgIQ==",
        "ueWVzIG1hbmkgIQ",
        "UeWVzIG1hbmkgIQ==",
    ],
)
def test_the_vectors_of_the_multibase_specification_are_read(text: str) -> None:
    assert b"yes mani !" == decode_multibase(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?abc",
        "b!",
        "bc7",  # bits behind the last byte
        "f7",  # half a byte
        "zO0Il",
        "x7paNL19xttacUY",
        "Q7paNL19xttacUY",
    ],
)
def test_what_is_in_no_base_is_refused(text: str) -> None:
    assert decode_multibase(text) is None


@given(st.binary(max_size=100))
def test_base32_is_what_rfc_4648_says_in_small_letters(data: bytes) -> None:
    assert SPELLINGS["base32"](data) == encode_base32(data)


@pytest.mark.parametrize("multihash", MULTIHASHES)
@pytest.mark.parametrize("base", SPELLINGS)
def test_a_version_1_cid_is_read_in_every_base(base: str, multihash: bytes) -> None:
    data = b"\x01\x55" + multihash
    assert Cid(1, RAW, multihash) == parse_cid(SPELLINGS[base](data))


@given(st.binary(max_size=70), st.integers(0, 2**40), st.sampled_from(sorted(SPELLINGS)))
def test_any_digest_and_codec_survive_every_spelling(digest: bytes, codec: int, base: str) -> None:
    multihash = encode_multihash(0x1E, digest)
    data = decode_multibase(format_cid(codec, multihash))
    assert data is not None
    assert Cid(1, codec, multihash) == parse_cid(SPELLINGS[base](data)) == decode_cid(data)


def test_a_version_0_cid_is_46_digits_of_base58() -> None:
    text = base58.b58encode(SHA256).decode()
    assert Cid(0, DAG_PB, SHA256) == parse_cid(text)
    for bad in (text[:-1], text + "1", "z" + text, text[:-1] + "0", text.lower()):
        assert parse_cid(bad) is None


def test_bytes_are_a_version_1_cid_or_a_multihash_alone() -> None:
    assert Cid(1, LIBP2P_KEY, SHA256) == decode_cid(b"\x01\x72" + SHA256)
    assert Cid(0, DAG_PB, SHA256) == decode_cid(SHA256)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01\x55",
        b"\x01\x80",
        b"\x01\x80\x00" + SHA256,  # a codec longer than it has to be
        b"\x01" + b"\xff" * 9 + SHA256,
        b"\x01\x55" + SHA256[:-1],
        b"\x01\x55" + SHA256 + b"\x00",
        b"\x01\x55\x01\x02\xaa\xbb",  # no multihash begins with 1
        b"\x02\x55" + SHA256,
    ],
)
def test_any_other_bytes_are_none(data: bytes) -> None:
    assert decode_cid(data) is None


@given(st.text(max_size=60))
def test_any_text_is_a_cid_or_none(text: str) -> None:
    cid = parse_cid(text)
    assert cid is None or cid == parse_cid(format_cid(cid.codec, cid.multihash)) or not cid.version
