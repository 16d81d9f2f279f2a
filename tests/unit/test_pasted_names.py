"""IPNS names as people paste them, and as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.errors import FormatError
from codio_dht.formats.multibase import decode_multibase, encode_base36
from codio_dht.formats.text import format_name, read_name

ED25519 = bytes.fromhex(
    "0024080112209e3b433cbd31c2b8a6ebbdca998bd0f4c2141c9c9af5422e976051b1e63af14d"
)
RSA = bytes.fromhex("1220e7f5217e2aecdff5d5dcd0d61056d7d679eb4e09601d450f6ffc86c70d912731")
RSA_NAME = "k2k4r8p7530ucf9zvv4le9sr14t6mdwct1xyvl7p0xsgg1yth66oyjht"
RSA_BASE58 = "Qmdx7gYkt7MuiSBLrJzrrmjqac7otQwq9dAygA4n9gtG9W"


@given(st.binary(max_size=80))
def test_base36_is_read_back(data: bytes) -> None:
    assert decode_multibase(encode_base36(data)) == data


def test_a_name_is_written_as_boxo_writes_it() -> None:
    assert format_name(RSA) == RSA_NAME
    assert format_name(ED25519).startswith("k51qzi5uqu5d")
    assert len(format_name(ED25519)) == 62


@pytest.mark.parametrize("multihash", [ED25519, RSA])
@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("{}", ""),
        ("  {}\n", ""),
        ("/ipns/{}", ""),
        ("/ipns/{}/", ""),
        ("/ipns/{}/a/b", "/a/b"),
        ("{}/a/b", "/a/b"),
        ("ipns://{}", ""),
        ("ipns://{}/a", "/a"),
        ("IPNS:{}", ""),
        ("https://{}.ipns.dweb.link/", ""),
        ("https://{}.ipns.dweb.link/a/b?c#d", "/a/b"),
        ("http://127.0.0.1:8080/ipns/{}", ""),
        ("https://ipfs.io/ipns/{}/a#b", "/a"),
        ("/p2p/{}", ""),
        ("\ufeff{}", ""),
    ],
)
def test_a_name_is_read_in_every_form_that_people_paste(multihash, form: str, path: str) -> None:
    read = read_name(form.format(format_name(multihash)))
    assert (read.multihash, read.path) == (multihash, path)


def test_a_peer_id_is_a_name_in_base58_base32_and_capitals() -> None:
    name = format_name(RSA)
    assert read_name(RSA_BASE58).multihash == RSA
    assert read_name("/ipns/" + RSA_BASE58).multihash == RSA
    assert read_name("K" + name[1:].upper()).multihash == RSA


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/ipfs/bafkqaddwgevxmmraojswg33smq", "never changes"),
        ("bafkqaddwgevxmmraojswg33smq", "never changes"),
        ("/ipns/docs.ipfs.tech", "_dnslink.docs.ipfs.tech"),
        ("docs.ipfs.tech", "_dnslink.docs.ipfs.tech"),
        ("https://example.com/x", "web address"),
        ("/ipns/", "k51"),
        ("", "k51"),
        ("nonsense", "k51"),
        ("/ip4/1.2.3.4/tcp/1", "k51"),
    ],
)
def test_what_is_no_name_is_refused_with_what_it_is(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        read_name(text)


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_a_format_error(text: str) -> None:
    try:
        read_name(text)
    except FormatError:
        pass
