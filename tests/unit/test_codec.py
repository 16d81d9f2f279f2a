"""The codec: lenient in, strict out, and the same bytes as the protobuf runtime's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.core.addresses import PUBLIC_ONLY
from codio_dht.core.messages import (
    AddProvider,
    ConnectionType,
    FindNode,
    MessageType,
    PeerEntry,
    Ping,
    Record,
    Reply,
    Request,
)
from codio_dht.core.peer import PeerId
from codio_dht.errors import FrameError, MessageError
from codio_dht.formats.protobuf import bytes_field, uint_field
from codio_dht.formats.varint import encode_varint
from codio_dht.wire import dht_pb2
from codio_dht.wire.codec import (
    MAX_REPLY_CLOSER_ENTRIES,
    MAX_REPLY_PROVIDER_ENTRIES,
    MAX_REQUEST_PROVIDER_ENTRIES,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    expected_reply,
)
from codio_dht.wire.entries import MAX_MESSAGE_ADDRS_EXAMINED
from codio_dht.wire.framing import FrameReader
from fuzz_inputs import replies, requests

ME = PeerId(b"\x12\x20" + b"\x01" * 32)
OTHER = PeerId(b"\x12\x20" + b"\x02" * 32)
TCP = Multiaddr("/ip4/192.0.2.1/tcp/4001").to_bytes()
PUBLIC = Multiaddr("/ip4/93.184.216.34/tcp/4001").to_bytes()
QUIC = Multiaddr("/ip6/2001:db8::1/udp/4001/quic-v1").to_bytes()


def p2p(peer: PeerId) -> bytes:
    data: bytes = Multiaddr(f"/p2p/{peer}").to_bytes()
    return data


def payload_of(frame: bytes) -> bytes:
    reader = FrameReader()
    reader.feed(frame)
    payload = reader.next_frame()
    assert payload is not None
    return payload


def peer_bytes(peer_id: bytes, *addrs: bytes, rest: bytes = b"") -> bytes:
    return bytes_field(1, peer_id) + b"".join(bytes_field(2, addr) for addr in addrs) + rest


def read_closer(*entries: bytes) -> tuple[PeerEntry, ...]:
    payload = uint_field(1, 4) + b"".join(bytes_field(8, entry) for entry in entries)
    return decode_reply(payload).closer_peers


# --- both ways ------------------------------------------------------------------------------------


@given(requests)
def test_a_request_survives_the_wire(request: Request) -> None:
    assert decode_request(payload_of(encode_request(request))) == request


@given(replies)
def test_a_reply_survives_the_wire(reply: Reply) -> None:
    assert decode_reply(payload_of(encode_reply(reply))) == reply


@given(replies)
def test_joined_bytes_are_what_the_protobuf_runtime_writes(reply: Reply) -> None:
    message = dht_pb2.Message(
        type=reply.type.name,
        key=reply.key,
        clusterLevelRaw=reply.cluster_level + 1,
        closerPeers=map(as_protobuf, reply.closer_peers),
        providerPeers=map(as_protobuf, reply.provider_peers),
    )
    if reply.record is not None:
        message.record.key = reply.record.key
        message.record.value = reply.record.value
        message.record.timeReceived = reply.record.time_received
        message.record.SetInParent()
    for _ in range(2):  # made, then remembered
        assert payload_of(encode_reply(reply)) == message.SerializeToString()


def as_protobuf(entry: PeerEntry) -> dht_pb2.Peer:
    return dht_pb2.Peer(
        id=entry.peer_id.to_bytes(), addrs=entry.addrs, connection=entry.connection.name
    )


@given(requests)
def test_the_expected_reply_has_the_type_of_the_request(request: Request) -> None:
    assert expected_reply(request) == decode_reply(payload_of(encode_request(request))).type


# --- lenient in -----------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decode(data)
        except MessageError:
            pass


@given(requests, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4))
def test_a_damaged_message_is_a_message_or_a_message_error(
    request: Request, damage: list[tuple[int, int]]
) -> None:
    payload = bytearray(payload_of(encode_request(request)))
    for place, byte in damage:
        payload[place % len(payload)] = byte
    for decode in (decode_request, decode_reply):
        try:
            decode(bytes(payload))
        except MessageError:
            pass


@pytest.mark.conformance("c03")
@pytest.mark.parametrize("kind", [6, 16, 17, 99, 2**31 - 1, 2**64 - 1])
def test_an_unknown_type_is_a_message_error(kind: int) -> None:
    payload = uint_field(1, kind) + bytes_field(2, b"key")
    for decode in (decode_request, decode_reply):
        with pytest.raises(MessageError, match="unknown message type"):
            decode(payload)


@pytest.mark.conformance("c02")
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x08", id="cut off in a varint"),
        pytest.param(b"\x12\x05abc", id="cut off in a key"),
        pytest.param(b"\xff\xff\xff\xff", id="no tag"),
        pytest.param(b"\x0b\x0c\x0f", id="impossible wire type"),
        pytest.param(bytes_field(3, bytes_field(5, b"\xff")), id="a time that is no text"),
    ],
)
def test_bytes_that_are_no_message_are_a_message_error(payload: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with pytest.raises(MessageError, match="not a DHT message"):
            decode(payload)


PRIVATE_MESSAGE_FIELDS = (
    bytes_field(11, b"an envelope (py-libp2p)")
    + bytes_field(21, b"service")
    + bytes_field(22, b"discovery (nim)")
    + uint_field(1000, 5)
    + b"\xd9\x3e12345678"  # field 1003, 64 bits
)
PRIVATE_PEER_FIELDS = bytes_field(4, b"a signed record (py-libp2p)") + uint_field(9, 1)
PRIVATE_RECORD_FIELDS = (
    bytes_field(3, b"author")
    + bytes_field(4, b"signature")
    + bytes_field(666, b"publisher (rust)")
    + uint_field(777, 3600)
)


@pytest.mark.conformance("c01")
def test_unknown_fields_are_skipped_and_never_sent_on() -> None:
    known_record = bytes_field(1, b"/k") + bytes_field(2, b"v")
    known_peer = peer_bytes(ME.to_bytes(), TCP)
    payload = (
        uint_field(1, 5)
        + bytes_field(2, b"/k")
        + bytes_field(3, PRIVATE_RECORD_FIELDS + known_record)
        + bytes_field(9, PRIVATE_PEER_FIELDS + known_peer)
        + uint_field(10, 1)
    )
    reply = decode_reply(PRIVATE_MESSAGE_FIELDS + payload + PRIVATE_MESSAGE_FIELDS)
    assert reply == Reply(
        MessageType.PING, b"/k", Record(b"/k", b"v"), provider_peers=(PeerEntry(ME, (TCP,)),)
    )
    assert payload_of(encode_reply(reply)) == (
        uint_field(1, 5)
        + bytes_field(2, b"/k")
        + bytes_field(3, known_record)
        + bytes_field(9, known_peer)
        + uint_field(10, 1)
    )


@pytest.mark.conformance("c01")
def test_fields_are_read_in_any_order() -> None:
    payload = uint_field(10, 3) + bytes_field(2, b"key") + uint_field(1, 4)
    assert decode_request(payload) == FindNode(b"key", cluster_level=2)


@pytest.mark.conformance("c01")
@pytest.mark.parametrize(
    ("raw", "level", "answered"), [(0, 0, 1), (1, 0, 1), (2, 1, 2), (10, 9, 10), (2**64 - 5, 0, 1)]
)
def test_the_raw_cluster_level_is_one_more_than_the_level_and_at_least_one(
    raw: int, level: int, answered: int
) -> None:
    request = decode_request(uint_field(1, 4) + uint_field(10, raw))
    assert request == FindNode(b"", cluster_level=level)
    reply = encode_reply(Reply(MessageType.FIND_NODE, cluster_level=request.cluster_level))
    assert payload_of(reply) == uint_field(1, 4) + uint_field(10, answered)


@pytest.mark.conformance("c10")
def test_a_broken_entry_costs_that_entry_and_a_broken_address_that_address() -> None:
    good = PeerEntry(ME, (TCP, QUIC))
    assert read_closer(
        peer_bytes(b"not a multihash", TCP),
        peer_bytes(b"", TCP),
        b"\xff\xff\xff",
        peer_bytes(ME.to_bytes(), b"", TCP, b"\x04\x01", b"\xff\xff\xff\xff\xff", QUIC, TCP[:-1]),
        peer_bytes(OTHER.to_bytes(), b"\x06"),
    ) == (good, PeerEntry(OTHER, ()))


@pytest.mark.conformance("c10")
def test_addresses_past_eight_kibibytes_of_an_entry_are_dropped() -> None:
    names = [b"\x36\xf4\x03" + bytes((97 + index,)) * 500 for index in range(20)]
    (entry,) = read_closer(peer_bytes(ME.to_bytes(), *names))
    one = len(bytes_field(2, names[0]))
    fitting = (params.MAX_PEER_ENTRY_BYTES - len(bytes_field(1, ME.to_bytes())) - 2) // one
    assert entry == PeerEntry(ME, tuple(names[:fitting]))
    assert fitting == 16


@pytest.mark.conformance("c10")
def test_a_huge_address_ends_an_entrys_list_and_leaves_the_next_entry_alone() -> None:
    huge = b"\x36" + encode_varint(9_000) + b"a" * 9_000
    assert read_closer(
        peer_bytes(ME.to_bytes(), TCP, huge, QUIC), peer_bytes(OTHER.to_bytes(), TCP)
    ) == (PeerEntry(ME, (TCP,)), PeerEntry(OTHER, (TCP,)))


def test_no_number_of_private_addresses_hides_the_public_one_of_an_entry() -> None:
    private = [b"\x04\x0a\x00\x00\x01\x06" + port.to_bytes(2, "big") for port in range(600)]
    (entry,) = read_closer(peer_bytes(ME.to_bytes(), *[TCP] * 40, *private, PUBLIC))
    kept = (PUBLIC, *private[: params.MAX_ADDRS_PER_PEER], TCP)  # TCP is documentation
    assert entry.addrs == kept
    assert PUBLIC_ONLY(entry.addrs) == (PUBLIC,)


@pytest.mark.conformance("c10")
def test_no_more_addresses_than_the_bound_are_kept_for_a_peer() -> None:
    many = [b"\x04\x01\x02\x03\x04\x06" + port.to_bytes(2, "big") for port in range(500)]
    (entry,) = read_closer(peer_bytes(ME.to_bytes(), *many))
    assert entry.addrs == tuple(many[: params.MAX_ADDRS_PER_PEER])


def test_no_more_entries_than_the_bounds_are_looked_at() -> None:
    numbered = [PeerId(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(1_100)]
    data = [peer_bytes(peer.to_bytes(), TCP) for peer in numbered]
    payload = b"".join(bytes_field(8, one) + bytes_field(9, one) for one in data)
    reply = decode_reply(uint_field(1, 3) + payload)
    assert [entry.peer_id for entry in reply.closer_peers] == (numbered[:MAX_REPLY_CLOSER_ENTRIES])
    assert [entry.peer_id for entry in reply.provider_peers] == (
        numbered[:MAX_REPLY_PROVIDER_ENTRIES]
    )
    request: Any = decode_request(uint_field(1, 2) + payload)
    assert len(request.providers) == MAX_REQUEST_PROVIDER_ENTRIES


def test_past_the_bound_of_addresses_in_a_message_peers_are_kept_without_theirs() -> None:
    per_entry = 100
    full = MAX_MESSAGE_ADDRS_EXAMINED // per_entry
    peers = [PeerId(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(full + 2)]
    many = [b"\x04\x01\x02\x03\x04\x06" + port.to_bytes(2, "big") for port in range(per_entry)]
    payload = b"".join(bytes_field(9, peer_bytes(peer.to_bytes(), *many)) for peer in peers)
    kept = decode_reply(uint_field(1, 3) + payload).provider_peers
    assert [bool(entry.addrs) for entry in kept] == [True] * full + [False] * 2


@pytest.mark.conformance("c11")
def test_a_trailing_own_peer_id_is_stripped_and_another_drops_the_address() -> None:
    relayed = TCP + p2p(OTHER) + Multiaddr("/p2p-circuit").to_bytes()
    assert read_closer(
        peer_bytes(
            ME.to_bytes(),
            TCP + p2p(ME),
            QUIC + p2p(OTHER),
            QUIC + p2p(ME),
            p2p(ME),
            relayed + p2p(ME),
            relayed + p2p(OTHER),
            relayed,
        )
    ) == (PeerEntry(ME, (TCP, QUIC, relayed)),)


@pytest.mark.parametrize(
    ("value", "connection"),
    [
        (0, ConnectionType.NOT_CONNECTED),
        (1, ConnectionType.CONNECTED),
        (2, ConnectionType.CAN_CONNECT),
        (3, ConnectionType.CANNOT_CONNECT),
        (4, ConnectionType.NOT_CONNECTED),
        (2**31, ConnectionType.NOT_CONNECTED),
        (2**64 - 1, ConnectionType.NOT_CONNECTED),
    ],
)
def test_an_unknown_connection_counts_as_not_connected(
    value: int, connection: ConnectionType
) -> None:
    assert read_closer(peer_bytes(ME.to_bytes(), TCP, rest=uint_field(3, value))) == (
        PeerEntry(ME, (TCP,), connection),
    )


# --- strict out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "field"),
    [
        (ConnectionType.NOT_CONNECTED, b""),
        (ConnectionType.CONNECTED, uint_field(3, 1)),
        (ConnectionType.CAN_CONNECT, b""),
        (ConnectionType.CANNOT_CONNECT, b""),
    ],
)
def test_a_connection_is_written_as_go_does_connected_or_not(
    connection: ConnectionType, field: bytes
) -> None:
    reply = Reply(MessageType.FIND_NODE, closer_peers=(PeerEntry(ME, (TCP,), connection),))
    entry = bytes_field(8, peer_bytes(ME.to_bytes(), TCP, rest=field))
    assert payload_of(encode_reply(reply)) == uint_field(1, 4) + entry + uint_field(10, 1)


def test_a_written_entry_keeps_the_leading_addresses_that_fit_eight_kibibytes() -> None:
    names = tuple(b"\x36\xf4\x03" + bytes((97 + index,)) * 500 for index in range(20))
    frame = encode_request(AddProvider(b"key", (PeerEntry(ME, names),)))
    request = decode_request(payload_of(frame))
    assert request == AddProvider(b"key", (PeerEntry(ME, names[:16]),))


def test_a_record_over_the_budget_is_sent_whole_with_its_peers() -> None:
    record = Record(b"/k", b"v" * 40_000)
    reply = Reply(MessageType.GET_VALUE, b"/k", record, closer_peers=(PeerEntry(ME, (TCP,)),))
    assert decode_reply(payload_of(encode_reply(reply))) == reply


@pytest.mark.parametrize("budget", [2_000, 16_384])
def test_key_and_record_that_exactly_fill_the_budget_leave_no_room_for_peers(budget: int) -> None:
    def frame(size: int, *closer: PeerEntry) -> bytes:
        record = Record(b"/k", b"v" * size)
        reply = Reply(MessageType.GET_VALUE, b"/k", record, closer_peers=closer)
        return encode_reply(reply, budget)

    size = next(n for n in range(budget, 0, -1) if len(frame(n)) == budget)
    assert frame(size, PeerEntry(ME, (TCP,))) == frame(size)
    assert len(frame(size + 1, PeerEntry(ME, (TCP,)))) > len(frame(size + 1))


def test_the_largest_reply_is_sent_and_one_byte_more_is_refused() -> None:
    def frame(size: int) -> bytes:
        return encode_reply(Reply(MessageType.PING, b"k" * size))

    fits = params.MAX_FRAME_BYTES - 10
    over = next(n for n in range(fits, fits + 20) if not _is_sent(frame, n))
    reader = FrameReader()
    reader.feed(frame(over - 1))
    payload = reader.next_frame()
    assert payload is not None
    assert len(payload) == params.MAX_FRAME_BYTES


def _is_sent(frame: Callable[[int], bytes], size: int) -> bool:
    try:
        frame(size)
    except MessageError:
        return False
    return True


def test_an_echo_over_the_frame_limit_cannot_be_answered() -> None:
    key = b"k" * params.MAX_FRAME_BYTES
    with pytest.raises(MessageError, match="bytes"):
        encode_reply(Reply(MessageType.PING, key))
    with pytest.raises(MessageError, match="bytes"):
        encode_request(Ping(key))


def test_a_frame_that_was_written_is_never_over_the_limit_of_the_reader() -> None:
    reader = FrameReader()
    reader.feed(encode_reply(Reply(MessageType.PING, b"k" * (params.MAX_FRAME_BYTES - 20))))
    try:
        assert reader.next_frame() is not None
    except FrameError as error:
        pytest.fail(str(error))


def test_an_address_that_comes_twice_is_one_address() -> None:
    """rust and js send one twice, rust with and without /p2p."""
    peer = PeerId(b"\x12\x20" + bytes(32))
    addr = b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"
    own = b"\xa5\x03\x22" + peer.to_bytes()
    message = dht_pb2.Message(type="FIND_NODE")
    message.closerPeers.add(id=peer.to_bytes(), addrs=[addr, addr + own, addr])
    [entry] = decode_reply(message.SerializeToString()).closer_peers
    assert entry.addrs == (addr,)


def test_no_budget_is_passed_by_a_byte_also_where_the_length_takes_three() -> None:
    names = tuple(b"\x36\xf4\x03" + bytes((97 + index,)) * 500 for index in range(15))
    closer = tuple(PeerEntry(PeerId(b"\x12\x20" + bytes((n,)) * 32), names) for n in range(4))
    reply = Reply(MessageType.FIND_NODE, b"k" * 32, closer_peers=closer)
    size = len(encode_reply(reply, params.MAX_FRAME_BYTES))
    assert size > 1 << 14
    for budget in range(size - 8, size + 8):
        assert len(encode_reply(reply, budget)) <= budget
    assert size == len(encode_reply(reply, size + 1))  # room for a length of four bytes is kept
