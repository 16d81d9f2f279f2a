"""Replies fit 16 KiB, so that rust peers read every one, and lose as little as possible for it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codio_dht.core.messages import ConnectionType, MessageType, PeerEntry, Record, Reply
from codio_dht.core.peer import PeerId
from codio_dht.formats.varint import encode_varint
from codio_dht.params import MAX_ADDRS_PER_PEER, MAX_PROVIDERS_PER_KEY, REPLY_BUDGET_BYTES
from codio_dht.wire import shaping
from codio_dht.wire.codec import decode_reply, encode_reply
from codio_dht.wire.entries import address_bytes, encode_entry
from codio_dht.wire.framing import FrameReader
from codio_dht.wire.shaping import shape

RUST_LIMIT = 16 * 1024
KEY = b"\x12\x20" + b"k" * 32


def address(number: int, size: int) -> bytes:
    """A valid address of about ``size`` bytes, at least 8."""
    if size <= 8:
        return b"\x04" + number.to_bytes(4, "big") + b"\x06\x0f\xa1"
    name = f"{number:x}".rjust(size - 8, "a").encode()
    return b"\x36" + encode_varint(len(name)) + name + b"\x06\x01\xbb"


def peer(number: int, sizes: list[int] | tuple[int, ...], *, connected: bool = False) -> PeerEntry:
    return PeerEntry(
        PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big")),
        tuple(address(number * 1_000 + place, size) for place, size in enumerate(sizes)),
        ConnectionType.CONNECTED if connected else ConnectionType.NOT_CONNECTED,
    )


def reply_of(closer: list[PeerEntry], providers: list[PeerEntry], key: bytes = KEY) -> Reply:
    return Reply(
        MessageType.GET_PROVIDERS,
        key,
        closer_peers=tuple(closer),
        provider_peers=tuple(providers),
    )


def read_strictly(frame: bytes) -> Reply:
    """As a peer with rust's limit reads it."""
    reader = FrameReader(max_frame_bytes=RUST_LIMIT)
    reader.feed(frame)
    payload = reader.next_frame()
    assert payload is not None
    assert reader.at_boundary
    return decode_reply(payload)


@given(st.integers(8, 600))
def test_an_address_takes_what_it_adds_to_an_entry(size: int) -> None:
    """The entry is so long without it that its own length takes no byte more."""
    others = tuple(address(number, 100) for number in range(3))
    addr = address(9, size)
    identity = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(32))
    with_it = encode_entry(PeerEntry(identity, (*others, addr)))
    without = encode_entry(PeerEntry(identity, others))
    assert address_bytes(addr) == len(with_it) - len(without)


def is_subsequence(part: tuple[bytes, ...], whole: tuple[bytes, ...]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


sizes = st.lists(
    st.one_of(st.just(8), st.integers(9, 60), st.integers(61, 600)), max_size=MAX_ADDRS_PER_PEER
)
few_peers = st.lists(st.tuples(sizes, st.booleans()), max_size=21)
crowds = st.one_of(
    st.lists(st.tuples(sizes, st.booleans()), max_size=6),
    st.tuples(st.integers(0, MAX_PROVIDERS_PER_KEY), sizes, st.booleans()).map(
        lambda crowd: [crowd[1:]] * crowd[0]
    ),
)


@pytest.mark.conformance("c12", "c13")
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(few_peers, crowds, st.binary(max_size=80))
def test_any_reply_fits_and_keeps_what_the_rule_says(
    near: list[tuple[list[int], bool]], far: list[tuple[list[int], bool]], key: bytes
) -> None:
    closer = [peer(n, addrs, connected=flag) for n, (addrs, flag) in enumerate(near)]
    providers = [peer(5_000 + n, addrs, connected=flag) for n, (addrs, flag) in enumerate(far)]
    given_ = reply_of(closer, providers, key)
    frame = encode_reply(given_)

    assert len(frame) <= REPLY_BUDGET_BYTES == RUST_LIMIT
    reply = read_strictly(frame)
    assert (reply.type, reply.key) == (given_.type, given_.key)

    for kept, offered in ((reply.closer_peers, closer), (reply.provider_peers, providers)):
        order = {entry.peer_id: place for place, entry in enumerate(offered)}
        places = [order[entry.peer_id] for entry in kept]
        assert places == sorted(set(places))
        for entry in kept:
            whole = offered[order[entry.peer_id]]
            assert is_subsequence(entry.addrs, whole.addrs)
            assert bool(entry.addrs) == bool(whole.addrs)
            assert entry.connection == whole.connection

    least = sum(len(encode_entry(PeerEntry(e.peer_id, shortest(e), e.connection))) for e in closer)
    if least + len(closer) + len(key) + 16 <= REPLY_BUDGET_BYTES:
        assert [entry.peer_id for entry in reply.closer_peers] == [e.peer_id for e in closer]

    everything = sum(len(encode_entry(entry)) + 1 for entry in closer + providers)
    if everything + len(key) + 16 <= REPLY_BUDGET_BYTES:
        assert reply == given_


def shortest(entry: PeerEntry) -> tuple[bytes, ...]:
    return (min(entry.addrs, key=len),) if entry.addrs else ()


@pytest.mark.conformance("c13")
def test_twenty_one_peers_with_the_most_and_largest_addresses_are_all_there() -> None:
    closer = [peer(n, [600] * MAX_ADDRS_PER_PEER) for n in range(21)]
    reply = read_strictly(encode_reply(reply_of(closer, [])))
    assert [entry.peer_id for entry in reply.closer_peers] == [entry.peer_id for entry in closer]
    assert all(entry.addrs for entry in reply.closer_peers)


@pytest.mark.conformance("c13")
def test_addresses_are_given_in_rounds_so_that_all_peers_lose_alike() -> None:
    closer = [peer(n, [60] * 30) for n in range(21)]
    reply = read_strictly(encode_reply(reply_of(closer, [])))
    counts = [len(entry.addrs) for entry in reply.closer_peers]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 10


@pytest.mark.conformance("c13")
def test_a_peer_with_many_addresses_does_not_take_them_from_one_with_few() -> None:
    closer = [peer(n, [8, 11, 23]) for n in range(20)] + [peer(20, [400] * 32)]
    reply = read_strictly(encode_reply(reply_of(closer, [peer(99, [500] * 20)])))
    assert list(reply.closer_peers[:20]) == closer[:20]


def test_the_address_that_a_crowded_peer_keeps_is_its_shortest() -> None:
    closer = [peer(n, [700, 600, 20, 500, 20]) for n in range(21)]
    alone = [PeerEntry(entry.peer_id, entry.addrs[2:3]) for entry in closer]
    kept = shape(closer, [], sum(len(encode_entry(entry)) + 1 for entry in alone) + 10)
    assert kept.closer == [encode_entry(entry) for entry in alone]


def test_peers_go_from_the_far_end_when_even_one_address_each_does_not_fit() -> None:
    closer = [peer(n, [600]) for n in range(21)]
    kept = shape(closer, [], 5 * len(encode_entry(closer[0])) + 5)
    assert kept.closer == [encode_entry(entry) for entry in closer[:5]]


@pytest.mark.conformance("c12")
def test_closer_peers_count_in_the_budget_of_providers() -> None:
    closer = [peer(n, [8, 11, 23, 26]) for n in range(20)]
    providers = [peer(5_000 + n, [8, 11]) for n in range(MAX_PROVIDERS_PER_KEY)]
    reply = read_strictly(encode_reply(reply_of(closer, providers)))
    assert list(reply.closer_peers) == closer
    assert len(reply.provider_peers) > 200
    assert all(len(entry.addrs) == 1 for entry in reply.provider_peers)


@pytest.mark.conformance("c12")
def test_closer_peers_with_many_addresses_leave_providers_their_half() -> None:
    closer = [peer(n, [100] * 32) for n in range(20)]
    providers = [peer(5_000 + n, [8]) for n in range(MAX_PROVIDERS_PER_KEY)]
    frame = encode_reply(reply_of(closer, providers))
    reply = read_strictly(frame)
    assert len(reply.closer_peers) == 20
    spent = sum(len(encode_entry(entry)) + 1 for entry in reply.provider_peers)
    assert spent > 0.45 * REPLY_BUDGET_BYTES
    assert len(frame) > 0.95 * REPLY_BUDGET_BYTES


def test_providers_that_need_less_than_half_leave_the_rest_to_closer_peers() -> None:
    closer = [peer(n, [100] * 32) for n in range(20)]
    providers = [peer(5_000 + n, [8, 11, 23]) for n in range(5)]
    frame = encode_reply(reply_of(closer, providers))
    reply = read_strictly(frame)
    assert list(reply.provider_peers) == providers
    assert len(frame) > 0.95 * REPLY_BUDGET_BYTES


def test_providers_share_what_is_left_in_rounds_when_each_has_a_place() -> None:
    providers = [peer(5_000 + n, [8] + [40] * 20) for n in range(60)]
    reply = read_strictly(encode_reply(reply_of([], providers)))
    counts = [len(entry.addrs) for entry in reply.provider_peers]
    assert len(counts) == 60
    assert max(counts) - min(counts) <= 1
    assert min(counts) > 3


def test_a_peer_whose_next_address_does_not_fit_gets_no_more_and_the_others_go_on() -> None:
    long, short = peer(1, [8, 9, 600, 10]), peer(2, [8, 9, 10, 11])
    kept = PeerEntry(long.peer_id, long.addrs[:2])
    room = len(encode_entry(kept)) + len(encode_entry(short)) + 40
    assert shape([long, short], [], room).closer == [encode_entry(kept), encode_entry(short)]


@pytest.mark.parametrize("crowd", [30, 100, 200])
def test_the_work_for_a_popular_key_is_bounded_by_what_is_told_and_not_by_what_is_known(
    crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[bytes] = []

    def counting(addr: bytes) -> int:
        looked_at.append(addr)
        return address_bytes(addr)

    monkeypatch.setattr(shaping, "address_bytes", counting)
    providers = [peer(5_000 + n, [8 + n % 40] * 30) for n in range(crowd)]
    reply = read_strictly(encode_reply(reply_of([], providers)))
    assert len(reply.provider_peers) == crowd
    told = sum(len(entry.addrs) for entry in reply.provider_peers)
    assert len(looked_at) <= told  # which has the address that each starts with


def test_one_provider_that_does_not_fit_does_not_end_the_list() -> None:
    providers = [peer(1, [600] * 30), *(peer(n, [8]) for n in range(2, 6))]
    room = sum(len(encode_entry(entry)) + 1 for entry in providers[1:]) + 10
    assert shape([], providers, room).providers == [encode_entry(e) for e in providers[1:]]


@pytest.mark.parametrize("providers", [0, 3])
def test_a_reply_that_exactly_fills_the_budget_loses_nothing(providers: int) -> None:
    closer = [peer(n, [100] * 7) for n in range(21 - providers)]
    told = [peer(100 + n, [100] * 7) for n in range(providers)]
    without_key = len(encode_reply(reply_of(closer, told, b"")))
    key = b"k" * (REPLY_BUDGET_BYTES - without_key - 3)  # its tag, and a length of two bytes
    whole = reply_of(closer, told, key)
    frame = encode_reply(whole)
    assert len(frame) == REPLY_BUDGET_BYTES
    assert read_strictly(frame) == whole
    over = read_strictly(encode_reply(reply_of(closer, told, key + b"k")))
    kept = (*over.closer_peers, *over.provider_peers)
    assert sum(len(entry.addrs) for entry in kept) == 21 * 7 - 1


def test_a_record_is_never_left_out_for_peers() -> None:
    record = Record(KEY, b"v" * 10_000)
    closer = tuple(peer(n, [100] * 10) for n in range(20))
    reply = Reply(MessageType.GET_VALUE, KEY, record, closer)
    frame = encode_reply(reply)
    assert len(frame) <= REPLY_BUDGET_BYTES
    assert read_strictly(frame).record == record
    assert len(read_strictly(frame).closer_peers) == 20
