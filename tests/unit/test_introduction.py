"""What we say of ourselves: parts that every implementation reads."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.peer_record import open_peer_record
from codio_dht.formats.varint import split_length_prefixed
from codio_dht.net.identify.introduction import Introduction
from codio_dht.net.identify.limits import MAX_TOLD_PART_BYTES, MAX_TOLD_PROTOCOL_BYTES
from codio_dht.net.identify.message import IdentifyMessage, MessageParts, decode_identify

ED25519 = PrivateKey.from_ed25519_seed(bytes(32))
RSA = PrivateKey(rsa.generate_private_key(65_537, 4_096))
SEEN = Multiaddr("/ip6/2606:4700::1111/udp/4001/quic-v1").to_bytes()
PUBLIC = Multiaddr("/ip4/93.184.216.34/tcp/4001")
KAD = "/ipfs/kad/1.0.0"

READ_BY_RUST = 4_096
"""Only the first part, and no longer one."""


def bridges(count: int) -> list[Multiaddr]:
    """What a machine with many container networks listens on."""
    return [
        Multiaddr(f"/ip4/10.{i // 250}.{i % 250}.1/{what}")
        for i in range(count)
        for what in ("tcp/4001", "udp/4001/quic-v1")
    ]


def parts_of(data: bytes) -> list[bytes]:
    return [bytes(part) for part in split_length_prefixed(data, 0, 3, shortest=False)]


def told(key: PrivateKey, addrs: list[Multiaddr], protocols: list[str]) -> bytes:
    said = Introduction.of(key, addrs=addrs, protocols=protocols, agent="case", sequence=1)
    return said.to(SEEN)


@pytest.mark.parametrize("key", [ED25519, RSA], ids=["ed25519", "rsa"])
@pytest.mark.parametrize("machines", [1, 10, 60, 100, 200, 2_000])
def test_however_many_addresses_we_have_the_first_part_says_what_matters(
    key: PrivateKey, machines: int
) -> None:
    data = told(key, [*bridges(machines), PUBLIC], [KAD])
    parts = parts_of(data)
    first = decode_identify(parts[0])

    assert max(map(len, parts)) <= READ_BY_RUST
    assert len(parts) <= 2
    assert first.protocols == (KAD,)
    assert first.public_key == key.public_key().to_protobuf()
    assert first.observed_addr == SEEN
    assert PUBLIC.to_bytes() in first.listen_addrs
    whole = MessageParts()
    whole.feed(data)
    record = whole.message().signed_peer_record
    assert record is not None
    kept = open_peer_record(record).addrs
    assert set(kept) <= set(first.listen_addrs)
    assert PUBLIC.to_bytes() in kept


def test_few_addresses_are_told_in_their_order_and_in_one_part() -> None:
    addrs = [*bridges(3), PUBLIC]
    (part,) = parts_of(told(ED25519, addrs, [KAD]))
    said = decode_identify(part)

    assert said.listen_addrs == tuple(addr.to_bytes() for addr in addrs)
    assert said.signed_peer_record is not None
    assert open_peer_record(said.signed_peer_record).addrs == said.listen_addrs


def test_many_protocols_leave_room_for_addresses() -> None:
    names = [f"/program/{number:04}" for number in range(500)]
    first = decode_identify(parts_of(told(ED25519, [PUBLIC], names))[0])

    assert first.listen_addrs == (PUBLIC.to_bytes(),)
    assert first.protocols == tuple(names[: len(first.protocols)])
    size = 2 + len(names[0])
    assert len(first.protocols) == MAX_TOLD_PROTOCOL_BYTES // size


@given(
    st.lists(st.integers(1, 120), max_size=60),
    st.lists(st.text(max_size=60), max_size=80, unique=True),
    st.booleans(),
    st.text(max_size=400),
)
def test_no_part_is_ever_longer_than_the_bound(
    sizes: list[int], protocols: list[str], seen: bool, agent: str
) -> None:
    names = [".".join(["a" * 9] * (1 + size // 10)) for size in sizes]
    addrs = [Multiaddr(f"/dns4/{name}/tcp/{n + 1}") for n, name in enumerate(names)]
    said = Introduction.of(ED25519, addrs=addrs, protocols=protocols, agent=agent, sequence=1)
    parts = parts_of(said.to(SEEN if seen else None))

    assert all(0 < len(part) <= MAX_TOLD_PART_BYTES for part in parts)
    assert decode_identify(parts[0]) != IdentifyMessage()
