"""Deny lists: what their lines mean, and what is denied (Compact Denylist Format, IPIP-383)."""

from __future__ import annotations

import hashlib

import pytest

from codio_dht.core import denials
from codio_dht.core.denials import MAX_LINE_CHARS, Denials, DenyRules
from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId
from codio_dht.errors import DeniedError, FormatError
from codio_dht.formats.cid import DAG_CBOR, DAG_PB, LIBP2P_KEY, RAW, format_cid
from codio_dht.formats.multibase import encode_base58
from codio_dht.formats.multihash import encode_multihash
from codio_dht.formats.text import format_name

PEER = PeerId.from_string("12D3KooWNvSZnPi3RrhrTwEY4LuuBeB6K6facKUCJcyWG1aoDd2p")

# The examples of the specification: the rule, and what it blocks.
PLAIN = "/ipfs/bafybeihvvulpp4evxj7x7armbqcyg6uezzuig6jp3lktpbovlqfkuqeuoq"
DOUBLED = "//QmX9dhRcQcKUw3Ws8485T5a9dtjrSCQaUAHnG4iK9i4ceM"
DOUBLED_CIDS = (
    "QmVTF1yEejXd9iMgoRTFDxBv7HAz9kuZcQNBzHrceuK9HR",
    "bafybeidjwik6im54nrpfg7osdvmx7zojl5oaxqel5cmsz46iuelwf5acja",
)
OLD = "//d9d295bde21f422d471a90f2a37ec53049fdf3e5fa3ee2e8f20e10003da429e7"
OLD_CID = "bafybeiefwqslmf6zyyrxodaxx4vwqircuxpza5ri45ws3y5a62ypxti42e"
ELSE = multihash_of("QmecDgNqCRirkc3Cjz9eoRBNwXGckJ9WvTdmY16HP88768")


def rules(*lines: str) -> DenyRules:
    read = DenyRules()
    read.read("test", "\n".join(lines))
    assert read.faults == []
    return read


def key(number: int) -> bytes:
    return encode_multihash(0x12, hashlib.sha256(b"%d" % number).digest())


def test_a_rule_for_a_cid_denies_its_multihash_whatever_the_codec() -> None:
    found = rules(PLAIN)
    assert found.denies_key(multihash_of(PLAIN.removeprefix("/ipfs/")))
    assert found.denies_key(
        multihash_of("bafkreihvvulpp4evxj7x7armbqcyg6uezzuig6jp3lktpbovlqfkuqeuoq")
    )
    assert not found.denies_key(ELSE)
    assert rules(f"{PLAIN}/*").denies_key(multihash_of(PLAIN.removeprefix("/ipfs/")))
    assert rules(f"/ipfs/{encode_base58(ELSE)}").denies_key(ELSE)


def test_a_double_hash_of_the_specification_denies_its_example() -> None:
    found = rules(DOUBLED)
    assert [True, True] == [found.denies_key(multihash_of(cid)) for cid in DOUBLED_CIDS]
    assert not found.denies_key(ELSE)


def test_the_old_double_hash_of_the_specification_denies_its_example() -> None:
    found = rules(OLD)
    assert found.denies_key(multihash_of(OLD_CID))
    assert not found.denies_key(ELSE)


@pytest.mark.parametrize("codec", [DAG_PB, RAW, DAG_CBOR, LIBP2P_KEY])
def test_the_old_double_hash_is_found_under_every_codec_in_use(codec: int) -> None:
    cid = format_cid(codec, ELSE)
    assert rules(f"//{hashlib.sha256(f'{cid}/'.encode()).hexdigest()}").denies_key(ELSE)


@pytest.mark.parametrize(
    ("code", "function"), [(0x12, hashlib.sha256), (0x13, hashlib.sha512), (0x16, hashlib.sha3_256)]
)
def test_double_hashes_of_several_functions_are_known(code: int, function: object) -> None:
    assert callable(function)
    digest = function(encode_base58(ELSE).encode()).digest()
    found = rules(f"//{encode_base58(encode_multihash(code, digest))}", DOUBLED)
    assert found.denies_key(ELSE)
    assert found.denies_key(multihash_of(DOUBLED_CIDS[0]))


def test_a_rule_for_a_name_denies_the_value_under_it_and_the_key_of_the_peer() -> None:
    multihash = PEER.to_bytes()
    for name in (str(PEER), format_name(multihash)):
        found = rules(f"/ipns/{name}")
        assert found.denies_key(b"/ipns/" + multihash)
        assert found.denies_key(b"/pk/" + multihash)
        assert found.denies_key(multihash)
        assert not found.denies_key(b"/ipns/" + ELSE)
        assert not found.denies_key(b"/v/" + multihash)


def test_of_the_rules_for_a_key_the_last_one_counts_whatever_its_form() -> None:
    cid = DOUBLED_CIDS[0]
    multihash = multihash_of(cid)
    assert not rules(DOUBLED, f"!/ipfs/{cid}").denies_key(multihash)
    assert rules(f"!/ipfs/{cid}", DOUBLED).denies_key(multihash)
    assert rules(f"/ipfs/{cid}", f"!/ipfs/{cid}", f"/ipfs/{cid}").denies_key(multihash)
    assert rules(DOUBLED, f"!/ipfs/{cid}").counts().keys == 1


def test_header_comments_hints_and_empty_lines_are_no_rules() -> None:
    found = rules(
        "version: 1",
        "name: a list",
        "hints:",
        "  gateway_status: 410",
        "---",
        "# comment",
        "",
        f"{PLAIN} reason=copyright other=thing",
        "   ",
    )
    assert (1, 0) == (found.counts().keys, found.counts().faults)
    assert found.denies_key(multihash_of(PLAIN.removeprefix("/ipfs/")))


def test_a_list_of_another_version_is_refused() -> None:
    with pytest.raises(FormatError, match="test is a deny list of version 2"):
        rules("version: 2", "---", PLAIN)


def test_rules_for_paths_and_domains_have_no_effect_and_are_counted() -> None:
    found = rules(f"{PLAIN}/path", f"{PLAIN}/path*", "/ipns/domain.example", f"/ipns/{PEER}/path")
    assert (0, 4) == (found.counts().keys, found.counts().without_effect)
    assert not found.denies_key(multihash_of(PLAIN.removeprefix("/ipfs/")))


def test_a_line_that_is_none_is_reported_and_hides_no_other() -> None:
    found = DenyRules()
    bad = ["nonsense", "//zzz", "/ipfs/nonsense", "/p2p/x", "1.2.3.4/99", "x" * MAX_LINE_CHARS * 2]
    bad.append("//gW813G35CnLsy7gRYYHuf63hrz71U1xoLFDVeV7actx6oX")  # blake3
    found.read("list", "\n".join([*bad, PLAIN]))
    assert len(bad) == found.counts().faults
    assert list(range(1, len(bad) + 1)) == [fault.line for fault in found.faults]
    assert found.denies_key(multihash_of(PLAIN.removeprefix("/ipfs/")))


def test_peers_and_networks_are_denied_by_lines_of_this_nodes_own() -> None:
    found = rules(
        f"/p2p/{PEER}",
        "192.0.2.7",
        "198.51.100.0/24",
        "2001:db8::/32",
        "/ip4/203.0.113.0/ipcidr/24",
    )
    assert (1, 4) == (found.counts().peers, found.counts().networks)
    assert {PEER} == found.peers
    assert ["192.0.2.7/32", "198.51.100.0/24", "2001:db8::/32", "203.0.113.0/24"] == [
        str(network) for network in found.networks
    ]
    assert rules(
        "198.51.100.0/24", "!198.51.100.0/24", f"/p2p/{PEER}", f"!/p2p/{PEER}"
    ).counts() == (DenyRules().counts())


def test_whether_something_is_covered() -> None:
    found = rules(PLAIN, DOUBLED, f"/p2p/{PEER}", "198.51.100.0/24")
    for subject in (
        PLAIN,
        f"/ipfs/{DOUBLED_CIDS[1]}",
        DOUBLED,
        f"/p2p/{PEER}",
        "198.51.100.7",
        "198.51.100.128/25",
    ):
        assert found.covers(rules(subject)), subject
    for subject in (f"/ipfs/{encode_base58(ELSE)}", OLD, "198.51.0.0/16", "2001:db8::1"):
        assert not found.covers(rules(subject)), subject


def test_rules_and_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denials, "MAX_RULES", 3)
    monkeypatch.setattr(denials, "MAX_NETWORKS", 2)
    monkeypatch.setattr(denials, "_REMEMBERED", 10)
    found = DenyRules()
    keys = [f"/ipfs/{encode_base58(key(number))}" for number in range(5)]
    found.read("list", "\n".join([*keys, "10.0.0.1", "10.0.0.2", "10.0.0.3"]))
    assert (3, 2, 3) == (found.counts().keys, found.counts().networks, found.counts().faults)
    for number in range(100):
        assert found.denies_key(key(number)) is (number < 3)
    assert 10 == len(found._answers)


def test_whoever_asks_follows_the_rules_that_hold_now() -> None:
    held = Denials()
    held.check_key(ELSE)
    held.rules = rules(f"/ipfs/{encode_base58(ELSE)}", f"/p2p/{PEER}")
    with pytest.raises(DeniedError, match="deny list"):
        held.check_key(ELSE)
    assert held.denies_peer(PEER)
    held.rules = DenyRules()
    assert not held.denies_key(ELSE)
