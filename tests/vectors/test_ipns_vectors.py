"""IPNS records of the specification and of boxo, judged here as they judge them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.ipns import IpnsValidator, ipns_key, parse_ipns_record
from codio_dht.errors import InvalidValueError

HERE = Path(__file__).parent
SPEC = json.loads((HERE / "ipns_spec.json").read_text())["records"]
BOXO = json.loads((HERE / "go_ipns.json").read_text())
NOW = UnixTime(1_800_000_000.0)
VALIDATOR = IpnsValidator()

STRICTER = {
    "empty value present": "the specification compares a field that is present",
    "without Value": "the specification demands it in every document",
    "without Sequence": "the specification demands it in every document; boxo cannot order it",
    "seq -1": "the specification has it unsigned; boxo takes it for 2**64 - 1",
    "seq float": "not a number of the specification; boxo cannot order it",
    "seq bool": "not a number of the specification; boxo cannot order it",
    "value text": "the specification has bytes; boxo cannot return it",
    "validity '2199-01-01T00:00:00,5Z'": "not RFC 3339",
    "validity '2199-01-01T00:00:00+24:00'": "not RFC 3339",
    "validity '2199-01-01T00:00:00+23:60'": "not RFC 3339",
    "x tag0": "DAG-CBOR has no tag but 42",
    "x tag42text": "a link is bytes (DAG-CBOR)",
    "x badutf8": "text is UTF-8 (CBOR)",
    "group": "protobuf groups are no part of proto3",
}
"""Records that boxo takes and this node does not, and why."""

LOOSER = {
    "seq v1 9223372036854775808": "the specification has 64 bits; boxo reads 63 of them",
}


def is_valid(key: bytes, value: bytes, now: UnixTime = NOW) -> bool:
    try:
        VALIDATOR.validate_at(key, value, now)
    except InvalidValueError:
        return False
    return True


@pytest.mark.parametrize("vector", SPEC)
def test_the_six_vectors_of_the_specification_are_judged_as_it_says(vector: str) -> None:
    entry = SPEC[vector]
    key = ipns_key(PeerId.from_string(entry["name"]))
    record = bytes.fromhex(entry["record"])
    assert is_valid(key, record) == entry["valid"]
    if entry["valid"]:
        assert parse_ipns_record(record).value == entry["value"].encode()


def test_a_vector_is_of_its_own_name_only() -> None:
    record = bytes.fromhex(SPEC["v1-v2"]["record"])
    assert not is_valid(ipns_key(PeerId.from_string(SPEC["v2"]["name"])), record)


@pytest.mark.parametrize("form", ["v1_v2", "v2"])
@pytest.mark.parametrize("kind", BOXO["records"])
def test_a_record_of_boxo_is_read_whatever_its_key(kind: str, form: str) -> None:
    entry = BOXO["records"][kind]
    name = PeerId.from_string(entry["name"])
    data = bytes.fromhex(entry[form])
    record = parse_ipns_record(data)
    assert ipns_key(name) == bytes.fromhex(entry["key"])
    assert name == PeerId.from_string(entry["peer_id"])
    assert is_valid(ipns_key(name), data)
    assert (record.value, record.sequence, record.eol_ns, record.ttl_ns) == (
        b"/ipfs/bafkqaddwgevxmmraojswg33smq",
        7,
        7_226_679_845_123_456_000,
        300_000_000_000,
    )
    assert record.has_v1 == (form == "v1_v2")
    assert bool(record.public_key) == (kind in ("rsa", "ecdsa"))


@pytest.mark.parametrize("label", BOXO["verdicts"])
def test_a_record_is_judged_as_boxo_judges_it_but_for_named_differences(label: str) -> None:
    entry = BOXO["verdicts"][label]
    expected = entry["valid"]
    if label in STRICTER or label in LOOSER:
        assert expected == (label in STRICTER)
        expected = label in LOOSER
    assert is_valid(bytes.fromhex(entry["key"]), bytes.fromhex(entry["value"])) == expected


def test_every_named_difference_is_among_the_vectors() -> None:
    assert BOXO["verdicts"].keys() >= STRICTER.keys() | LOOSER.keys()
