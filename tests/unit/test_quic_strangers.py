from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.quic.headers import (
    LongKind,
    initial_header,
    read_long_header,
    retry_packet,
    retry_tag,
    versions_packet,
)
from codio_dht.net.quic.limits import (
    MAX_FORGED_INITIALS_PER_S,
    MAX_RESETS_PER_IP_PER_S,
    MAX_RESETS_PER_S,
    MAX_UNPROVEN_HANDSHAKES,
    MAX_UNPROVEN_PER_IP,
    RETRY_TOKEN_LIFETIME_S,
)
from codio_dht.net.quic.protection import dialler_initial_keys, listener_initial_keys
from codio_dht.net.quic.strangers import MIN_RESET_BYTES, Opening, Strangers
from codio_dht.net.quic.tokens import ResetTokens, RetryTokens
from codio_dht.net.quic.varints import MAX_VARINT, read_varint, varint
from codio_dht.net.targets import of_udp_socket

NOW = Monotonic(1_000.25)
RESETS = ResetTokens(PrivateKey.from_ed25519_seed(b"a" * 32))
FIRST_ID = bytes.fromhex("8394c8f03e515708")


def somebody(number: int = 0) -> tuple[str, int]:
    return f"203.{number // 250}.{number % 250}.9", 4_001


class Socket:
    """Strangers' datagrams at one socket."""

    def __init__(self, *, listens: bool = True) -> None:
        self.counters: Counter[str] = Counter()
        self.now = NOW
        self.strangers = Strangers(RESETS, self.counters, listens=listens, exempt_local=False)

    def judge(self, data: bytes, where: tuple[str, int] = somebody()) -> Opening | bytes | None:
        return self.strangers.judge(data, where, of_udp_socket(where).ip, self.now)

    def begin(self, where: tuple[str, int] = somebody()) -> None:
        assert isinstance(self.judge(initial(), where), Opening)
        self.strangers.begun(of_udp_socket(where).ip)


def initial(
    destination: bytes = FIRST_ID, token: bytes = b"", *, genuine: bool = True, size: int = 1_200
) -> bytes:
    """A dialler's first datagram."""
    payload = b"\x01".ljust(size - 200, b"\0")
    head = initial_header(
        source=b"dialler!",
        destination=destination,
        number=0,
        number_bytes=2,
        length=2 + len(payload) + 16,
    )
    at = 6 + len(destination) + 1 + 8
    assert 0 == head[at]
    head = head[:at] + varint(len(token)) + token + head[at + 1 :]
    packet = dialler_initial_keys(destination).seal(head, 0, payload)
    if not genuine:
        packet = packet[:-1] + bytes([packet[-1] ^ 1])
    return packet.ljust(size, b"\0")


# --- first packets --------------------------------------------------------------------------------


def test_a_genuine_first_packet_begins_a_connection():
    opening = Socket().judge(initial())
    assert isinstance(opening, Opening)
    assert (FIRST_ID, None) == (opening.original_id, opening.retry_id)


def test_a_first_packet_that_is_not_genuine_is_counted_and_gets_nothing():
    socket = Socket()
    assert socket.judge(initial(genuine=False)) is None
    assert {"quic_forged_initials": 1} == dict(socket.counters)


def test_many_forged_first_packets_make_every_dialler_prove_its_address_for_a_while():
    socket = Socket()
    for number in range(MAX_FORGED_INITIALS_PER_S):
        assert isinstance(socket.judge(initial()), Opening)
        socket.judge(initial(genuine=False), somebody(number))
    assert is_retry(socket.judge(initial()))
    socket.now = Monotonic(NOW + 1)
    assert is_retry(socket.judge(initial()))
    socket.now = Monotonic(NOW + 2)
    assert isinstance(socket.judge(initial()), Opening)
    socket.now = Monotonic(NOW + 2.5)
    assert isinstance(socket.judge(initial()), Opening)


def is_retry(answer: object) -> bool:
    return isinstance(answer, bytes) and answer[0] & 0xF0 == 0xF0


def test_past_some_unproven_handshakes_everybody_gets_a_retry_until_some_are_over():
    socket = Socket()
    for number in range(MAX_UNPROVEN_HANDSHAKES):
        socket.begin(somebody(number))
    assert is_retry(socket.judge(initial(), somebody(999)))
    socket.strangers.settled(of_udp_socket(somebody(0)).ip)
    assert isinstance(socket.judge(initial(), somebody(999)), Opening)


def test_past_some_unproven_handshakes_of_one_address_only_it_gets_a_retry():
    socket = Socket()
    for _ in range(MAX_UNPROVEN_PER_IP):
        socket.begin()
    assert is_retry(socket.judge(initial()))
    assert isinstance(socket.judge(initial(), somebody(1)), Opening)


def test_a_dialler_that_answers_the_retry_is_where_it_says():
    socket = Socket()
    for _ in range(MAX_UNPROVEN_PER_IP):
        socket.begin()
    answer = socket.judge(initial())
    assert isinstance(answer, bytes)
    header = read_long_header(answer)
    assert header is not None
    token = answer[header.number_at : -16]
    assert (b"dialler!", LongKind.RETRY) == (header.destination, header.kind)
    assert retry_tag(FIRST_ID, answer[:-16]) == answer[-16:]
    opening = socket.judge(initial(header.source, token))
    assert isinstance(opening, Opening)
    assert (FIRST_ID, header.source) == (opening.original_id, opening.retry_id)
    assert is_retry(socket.judge(initial(b"other id", token)))
    socket.strangers.begun(of_udp_socket(somebody(1)).ip)
    socket.strangers.begun(of_udp_socket(somebody(1)).ip)
    assert is_retry(socket.judge(initial(header.source, token), somebody(1)))
    socket.now = Monotonic(NOW + RETRY_TOKEN_LIFETIME_S + 1)
    assert is_retry(socket.judge(initial(header.source, token)))


def test_who_is_refused_is_told_in_a_packet_that_it_can_open():
    opening = Socket().judge(initial())
    assert isinstance(opening, Opening)
    refusal = opening.refusal()
    header = read_long_header(refusal)
    assert header is not None
    assert (FIRST_ID, b"dialler!") == (header.source, header.destination)
    opened = listener_initial_keys(FIRST_ID).open(refusal, header.number_at, 0)
    assert opened is not None
    assert bytes.fromhex("1c020000") == opened.payload  # CONNECTION_CLOSE: CONNECTION_REFUSED
    assert len(refusal) < 60


def test_another_version_is_told_ours():
    other = bytearray(initial())
    other[1:5] = b"\x1a\x2a\x3a\x4a"
    answer = Socket().judge(bytes(other))
    assert isinstance(answer, bytes)
    assert b"\0\0\0\0\x08dialler!\x08" + FIRST_ID + b"\0\0\0\1" == answer[1:]
    assert answer[0] & 0x80


@pytest.mark.parametrize(
    "data",
    [
        initial()[:1_199],  # too short for a first datagram (RFC 9000, section 14.1)
        initial(b"7 bytes"),  # an id that is too short (RFC 9000, section 7.2)
        versions_packet(source=b"a" * 8, destination=b"b" * 8).ljust(1_200, b"\0"),
        retry_packet(original=b"", source=b"a" * 8, destination=b"b" * 8, token=bytes(1_200)),
        bytes([initial()[0] | 0x20]) + initial()[1:],  # a Handshake packet of nobody
        bytes([initial()[0] & ~0x40]) + initial()[1:],  # without the fixed bit
        b"\xc0" + bytes(5),
        b"\xc0\0\0\0\1\xff" + bytes(1_300),
    ],
)
def test_what_begins_no_connection_gets_nothing(data):
    assert Socket().judge(data) is None


def test_a_socket_that_nobody_may_dial_answers_no_first_packets():
    assert Socket(listens=False).judge(initial()) is None


@given(st.binary(min_size=1, max_size=1_500))
def test_an_answer_is_shorter_than_what_it_answers(data):
    answer = Socket().judge(data)
    assert answer is None or (isinstance(answer, bytes) and len(answer) < len(data))


def test_retries_and_refusals_are_much_shorter_than_first_packets():
    socket = Socket()
    socket.strangers.begun(of_udp_socket(somebody()).ip)
    socket.strangers.begun(of_udp_socket(somebody()).ip)
    answer = socket.judge(initial())
    assert isinstance(answer, bytes)
    assert len(answer) < 200


# --- stateless resets (RFC 9000, section 10.3) ----------------------------------------------------


def test_a_packet_of_a_connection_that_is_gone_is_answered_with_its_ids_token():
    answer = Socket().judge(b"\x5b" + b"our id 8" + bytes(100))
    assert isinstance(answer, bytes)
    assert (RESETS.of(b"our id 8"), 42) == (answer[-16:], len(answer))
    assert 0x40 == answer[0] & 0xC0  # as any short packet


@pytest.mark.parametrize("listens", [True, False])
def test_a_token_survives_everything_but_the_identity(listens):
    same = ResetTokens(PrivateKey.from_ed25519_seed(b"a" * 32))
    other = ResetTokens(PrivateKey.from_ed25519_seed(b"b" * 32))
    answer = Socket(listens=listens).judge(b"\x40" + b"our id 8" + bytes(60))
    assert isinstance(answer, bytes)
    assert same.of(b"our id 8") == answer[-16:] != other.of(b"our id 8")


def test_two_nodes_that_both_lost_a_connection_do_not_answer_each_other_for_ever():
    here, there = Socket(), Socket()
    data: object = b"\x40" + bytes(60)
    rounds = 0
    while isinstance(data, bytes):
        size = len(data)
        data = (here, there)[rounds % 2].judge(data)
        assert data is None or (isinstance(data, bytes) and MIN_RESET_BYTES <= len(data) < size)
        rounds += 1
    assert rounds <= 23


@pytest.mark.parametrize("data", [b"\x40" + bytes(20), b"\x00" + bytes(60), b"\x40"])
def test_a_packet_that_is_none_or_too_short_for_a_reset_gets_none(data):
    assert Socket().judge(data) is None


def test_resets_are_limited_for_each_address_and_for_all():
    socket = Socket()

    def sent(where: tuple[str, int]) -> bool:
        return socket.judge(b"\x40" + bytes(60), where) is not None

    of_one = [sent(somebody()) for _ in range(MAX_RESETS_PER_IP_PER_S + 5)]
    assert MAX_RESETS_PER_IP_PER_S == sum(of_one)
    of_all = [sent(somebody(1 + number)) for number in range(MAX_RESETS_PER_S)]
    assert MAX_RESETS_PER_S - MAX_RESETS_PER_IP_PER_S == sum(of_all)
    assert 5 + MAX_RESETS_PER_IP_PER_S == socket.counters["quic_resets_withheld"]
    socket.now = Monotonic(NOW + 1)
    assert sent(somebody())


# --- RFC 9001, appendix A -------------------------------------------------------------------------


def test_rfc_9001_a_2_a_dialler_s_first_packet_is_opened():
    crypto = bytes.fromhex(
        "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868"
        "04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578"
        "616d706c652e636f6dff01000100000a00080006001d00170018001000070005"
        "04616c706e000500050100000000003300260024001d00209370b2c9caa47fba"
        "baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400"
        "0d0010000e0403050306030203080408050806002d00020101001c0002400100"
        "3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
        "75300901100f088394c8f03e51570806048000ffff"
    )
    head = bytes.fromhex("c300000001088394c8f03e5157080000449e00000002")
    packet = dialler_initial_keys(FIRST_ID).seal(head, 2, crypto.ljust(1_162, b"\0"))
    assert bytes.fromhex("c000000001088394c8f03e5157080000449e7b9aec34") == packet[:22]
    assert bytes.fromhex("e221af44860018ab0856972e194cd934") == packet[-16:]
    header = read_long_header(packet)
    assert header is not None
    assert (18, 1_200, b"", b"") == (header.number_at, header.end, header.source, header.token)
    opened = dialler_initial_keys(FIRST_ID).open(packet, header.number_at, 0)
    assert opened is not None
    assert (2, crypto.ljust(1_162, b"\0")) == (opened.number, opened.payload)


def test_rfc_9001_a_3_a_listener_s_first_packet_is_opened():
    packet = bytes.fromhex(
        "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a"
        "5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3"
        "dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
        "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4"
        "2158407dd074ee"
    )
    header = read_long_header(packet)
    assert header is not None
    assert (b"", bytes.fromhex("f067a5502a4262b5")) == (header.destination, header.source)
    opened = listener_initial_keys(FIRST_ID).open(packet, header.number_at, 0)
    assert opened is not None
    assert (1, "02000000000600405a") == (opened.number, opened.payload[:9].hex())


def test_rfc_9001_a_4_a_retry_has_its_tag():
    packet = bytes.fromhex(
        "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba"
    )
    assert retry_tag(FIRST_ID, packet[:-16]) == packet[-16:]


# --- integers (RFC 9000, appendix A.1) ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("c2197c5eff14e88c", 151_288_809_941_952_652),
        ("9d7f3e7d", 494_878_333),
        ("7bbd", 15_293),
        ("25", 37),
    ],
)
def test_rfc_9000_a_1_integers_of_variable_length(text, value):
    data = bytes.fromhex(text)
    assert (data, (value, len(data))) == (varint(value), read_varint(data, 0))
    for cut in range(len(data)):
        with pytest.raises(IndexError):
            read_varint(data[:cut], 0)


@given(st.integers(0, MAX_VARINT), st.binary(max_size=3))
def test_an_integer_is_read_as_it_was_written(value, before):
    data = before + varint(value) + b"more"
    assert (value, len(data) - 4) == read_varint(data, len(before))


# --- retry tokens ---------------------------------------------------------------------------------


@given(st.binary(max_size=120))
def test_bytes_that_are_no_token_prove_nothing(data):
    assert RetryTokens().check(data, ("::1", 4_001, 0, 0), b"retry id", NOW) is None
