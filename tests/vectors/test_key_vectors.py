"""Keys, peer ids and signatures made by go-libp2p (go_keys.json says how), read and made the same.

The Ed25519 pair of the libp2p specification "Peer Ids and Keys" stands beside them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codio_dht.crypto.keys import KeyType, PrivateKey, PublicKey

GO = json.loads((Path(__file__).parent / "go_keys.json").read_text())
MESSAGE = GO["message"].encode()
NAMES = sorted(GO["keys"])
TYPES = {
    "ecdsa": KeyType.ECDSA,
    "ecdsa384": KeyType.ECDSA,
    "ed25519": KeyType.ED25519,
    "rsa": KeyType.RSA,
    "secp256k1": KeyType.SECP256K1,
}
SPEC_PRIVATE = (
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC = "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"


def vector(name: str, part: str) -> bytes:
    return bytes.fromhex(GO["keys"][name][part])


@pytest.mark.parametrize("name", NAMES)
def test_a_private_key_of_go_is_read_and_written_back_the_same(name: str) -> None:
    key = PrivateKey.from_protobuf(vector(name, "private"))
    assert key.type is TYPES[name]
    assert key.to_protobuf() == vector(name, "private")


@pytest.mark.parametrize("name", NAMES)
def test_the_public_key_and_peer_id_are_those_that_go_derives(name: str) -> None:
    key = PrivateKey.from_protobuf(vector(name, "private"))
    assert key.public_key().to_protobuf() == vector(name, "public")
    assert PublicKey.from_protobuf(vector(name, "public")) == key.public_key()
    assert str(key.peer_id()) == GO["keys"][name]["peer_id"]


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_of_go_verifies_and_no_other_does(name: str) -> None:
    key = PublicKey.from_protobuf(vector(name, "public"))
    signature = vector(name, "signature")
    assert key.verify(MESSAGE, signature)
    assert not key.verify(MESSAGE + b"!", signature)
    assert not key.verify(MESSAGE, signature[:-1])
    assert not key.verify(MESSAGE, signature[:-1] + bytes((signature[-1] ^ 1,)))


@pytest.mark.parametrize("name", ["ed25519", "rsa"])
def test_deterministic_signatures_are_those_that_go_makes(name: str) -> None:
    key = PrivateKey.from_protobuf(vector(name, "private"))
    assert key.sign(MESSAGE) == vector(name, "signature")


def test_the_specifications_ed25519_pair_belongs_together() -> None:
    key = PrivateKey.from_protobuf(bytes.fromhex(SPEC_PRIVATE))
    assert key.public_key().to_protobuf().hex() == SPEC_PUBLIC
    assert str(key.peer_id()) == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
