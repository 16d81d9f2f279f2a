"""Peer types: every spelling of a peer id, and equality with py-libp2p's own types."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo as Libp2pPeerInfo
from multiaddr import Multiaddr

from codio_dht.core.keyspace import key_of
from codio_dht.core.peer import MAX_PEER_ID_BYTES, PeerId, PeerInfo
from codio_dht.errors import PeerIdError

ED25519 = bytes.fromhex(
    "0024080112209e3b433cbd31c2b8a6ebbdca998bd0f4c2141c9c9af5422e976051b1e63af14d"
)
RSA = bytes.fromhex("1220e536c7f88d731f374dccb568aff6f56e838a19382e488039b1ca8ad2599e82fe")
BOTH = pytest.mark.parametrize("data", [ED25519, RSA], ids=["ed25519", "rsa"])
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda digest: b"\x12\x20" + digest)

LIBP2P_KEY = b"\x01\x72"
DAG_PB = b"\x01\x70"


def base32_cid(prefix: bytes, multihash: bytes) -> str:
    return "b" + base64.b32encode(prefix + multihash).decode().rstrip("=").lower()


def base36_cid(prefix: bytes, multihash: bytes) -> str:
    digits, number = "", int.from_bytes(prefix + multihash, "big")
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return "k" + digits


def base58_cid(prefix: bytes, multihash: bytes) -> str:
    return "z" + base58.b58encode(prefix + multihash).decode()


@BOTH
@pytest.mark.parametrize("spelling", [base32_cid, base36_cid, base58_cid])
def test_a_peer_id_is_read_from_a_cid_of_a_libp2p_key(
    data: bytes, spelling: Callable[[bytes, bytes], str]
) -> None:
    assert PeerId.from_string(spelling(LIBP2P_KEY, data)) == PeerId(data)


@BOTH
def test_a_peer_id_is_read_from_base58(data: bytes) -> None:
    text = base58.b58encode(data).decode()
    assert PeerId.from_string(text) == PeerId(data)
    assert PeerId.from_base58(text) == PeerId(data)


@given(DIGESTS)
def test_base58_text_and_back_is_the_same_peer(data: bytes) -> None:
    peer = PeerId(data)
    assert PeerId.from_string(str(peer)) == peer
    assert peer.to_base58() == peer.pretty() == peer.to_string() == base58.b58encode(data).decode()


@BOTH
def test_a_peer_id_equals_py_libp2ps_and_hashes_like_it_both_ways(data: bytes) -> None:
    ours, theirs = PeerId(data), ID(data)
    assert ours == theirs
    assert theirs == ours
    assert hash(ours) == hash(theirs)
    by_ours: dict[Any, str] = {ours: "found"}
    by_theirs: dict[Any, str] = {theirs: "found"}
    assert by_ours[theirs] == by_theirs[ours] == "found"
    assert ours.to_libp2p() == theirs
    assert isinstance(ours.to_libp2p(), ID)
    assert PeerId.coerce(theirs) == ours


def test_different_peers_are_unequal_to_each_other_and_to_other_things() -> None:
    assert PeerId(ED25519) != PeerId(RSA)
    assert PeerId(ED25519) != ID(RSA)
    assert ID(RSA) != PeerId(ED25519)
    assert PeerId(ED25519) != ED25519
    assert PeerId(ED25519) != "peer"


@BOTH
def test_coerce_takes_text_bytes_and_either_type(data: bytes) -> None:
    peer = PeerId(data)
    spellings: list[Any] = [peer, data, str(peer), base36_cid(LIBP2P_KEY, data), ID(data)]
    assert [PeerId.coerce(each) for each in spellings] == [peer] * len(spellings)
    assert PeerId.coerce(peer) is peer


@pytest.mark.parametrize("value", [None, 7, True, 1.5, [], object()])
def test_coerce_refuses_what_is_no_peer_id(value: Any) -> None:
    with pytest.raises(PeerIdError, match="not a peer id"):
        PeerId.coerce(value)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x12", b"\x12\x20", RSA[:-1], RSA + b"\x00", b"\x80" * 12, b"\x12\xff\xff"],
)
def test_bytes_that_are_not_one_whole_multihash_are_refused(data: bytes) -> None:
    with pytest.raises(PeerIdError):
        PeerId(data)


def test_a_multihash_longer_than_any_peer_id_is_refused() -> None:
    digest = bytes(MAX_PEER_ID_BYTES - 2)
    longest = b"\x00" + bytes([len(digest)]) + digest
    assert PeerId(longest).to_bytes() == longest
    with pytest.raises(PeerIdError):
        PeerId(b"\x00" + bytes([len(digest) + 1]) + digest + b"\x00")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "Qm",
        "Qm0OIl",
        "12D3KooW",
        "hello",
        "k",
        "b",
        "bafz",
        "k51notacid!",
        "\N{SNOWMAN}",
        "Qm\N{SNOWMAN}",
        base32_cid(DAG_PB, RSA),
    ],
)
def test_text_that_is_no_peer_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(PeerIdError, match="peer id"):
        PeerId.from_string(text)


@given(st.text(max_size=60))
def test_no_text_raises_anything_but_the_documented_error(text: str) -> None:
    try:
        PeerId.from_string(text)
    except PeerIdError:
        pass


@given(st.binary(max_size=120))
def test_no_bytes_raise_anything_but_the_documented_error(data: bytes) -> None:
    try:
        assert PeerId(data).to_bytes() == data
    except PeerIdError:
        pass


def test_the_key_is_the_sha_256_of_the_bytes() -> None:
    assert PeerId(ED25519).key == key_of(ED25519)


def test_peers_sort_by_their_bytes() -> None:
    assert sorted([PeerId(RSA), PeerId(ED25519)]) == [PeerId(ED25519), PeerId(RSA)]


def test_a_peer_id_does_not_change_with_the_buffer_it_was_read_from() -> None:
    buffer = bytearray(RSA)
    peer = PeerId(cast("bytes", buffer))
    buffer[5] ^= 0xFF
    assert peer == PeerId(RSA)


ADDRS = [Multiaddr("/ip4/127.0.0.1/tcp/4001"), Multiaddr("/ip4/127.0.0.1/udp/4001/quic-v1")]


def test_a_peer_info_equals_py_libp2ps() -> None:
    """Only from our side: py-libp2p's ``PeerInfo.__eq__`` says False, rather than
    NotImplemented, to every foreign type, so that Python never asks ours."""
    ours, theirs = PeerInfo(RSA, ADDRS), Libp2pPeerInfo(ID(RSA), ADDRS)
    assert ours == theirs
    assert hash(ours) == hash(theirs)
    assert (theirs == ours) is False


def test_a_peer_info_is_converted_from_and_to_py_libp2ps() -> None:
    theirs = Libp2pPeerInfo(ID(RSA), ADDRS)
    ours = PeerInfo.from_libp2p(theirs)
    assert ours == PeerInfo(PeerId(RSA), ADDRS)
    assert ours.to_libp2p() == theirs
    assert isinstance(ours.to_libp2p(), Libp2pPeerInfo)


def test_peer_infos_differ_by_peer_addresses_and_their_order() -> None:
    info = PeerInfo(RSA, ADDRS)
    assert info == PeerInfo(str(PeerId(RSA)), tuple(ADDRS))
    assert info != PeerInfo(ED25519, ADDRS)
    assert info != PeerInfo(RSA, ADDRS[:1])
    assert info != PeerInfo(RSA, ADDRS[::-1])
    assert info != "peer"


def test_a_peer_info_of_a_bad_id_is_refused() -> None:
    with pytest.raises(PeerIdError):
        PeerInfo("nobody")


def test_peer_types_load_neither_libp2p_nor_trio() -> None:
    code = (
        "import sys; from codio_dht.core.peer import PeerId, PeerInfo;"
        f"PeerId.from_string({str(PeerId(RSA))!r});"
        "print(sorted({'libp2p', 'trio'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
