from __future__ import annotations

import os

import pytest
from aioquic import tls
from aioquic.quic.crypto import CryptoError, CryptoPair
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    decode_packet_number,
)
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.net.quic.packets import PacketBuilder, open_packet
from codio_dht.net.quic.protection import whole_number

PEER_ID = bytes(range(8))
SUITES = pytest.mark.parametrize(
    "suite",
    [
        tls.CipherSuite.AES_128_GCM_SHA256,
        tls.CipherSuite.AES_256_GCM_SHA384,
        tls.CipherSuite.CHACHA20_POLY1305_SHA256,
    ],
)


def keys(
    suite: tls.CipherSuite = tls.CipherSuite.AES_128_GCM_SHA256,
) -> tuple[CryptoPair, CryptoPair]:
    """Both ends'."""
    pair = CryptoPair(), CryptoPair()
    size = 48 if suite is tls.CipherSuite.AES_256_GCM_SHA384 else 32
    for sender, receiver in (pair, pair[::-1]):
        secret = os.urandom(size)
        for side in (sender.send, receiver.recv):
            side.setup(cipher_suite=suite, secret=secret, version=QuicProtocolVersion.VERSION_1)
    return pair


def builder(
    own: CryptoPair, number: int = 0, room: int = 200, flight: int = 10_000
) -> PacketBuilder:
    return PacketBuilder(
        keys=own, peer_id=PEER_ID, number=number, room=room, flight=flight, spin=False
    )


def packet(own: CryptoPair, payload: bytes, number: int = 0) -> bytes:
    """One packet with a frame of this content."""
    made = builder(own, number)
    made.start_packet(QuicPacketType.ONE_RTT, own)
    made.start_frame(QuicFrameType.PING).push_bytes(payload)
    (datagram,), _ = made.flush()
    return datagram


@SUITES
def test_what_is_built_aioquic_opens_and_so_do_we(suite):
    ours, theirs = keys(suite)
    for number in (0, 1, 255, 70_000, 1 << 40):
        datagram = packet(ours, b"hello", number)
        _, payload, found = theirs.decrypt_packet(datagram, 9, number)
        assert (b"\x01hello", number) == (payload, found)
        opened = open_packet(datagram, 8, theirs.recv, number)
        assert opened is not None
        assert (number, b"\x01hello") == (opened.number, opened.payload)


@SUITES
def test_what_aioquic_builds_is_opened(suite):
    ours, theirs = keys(suite)
    made = QuicPacketBuilder(
        host_cid=b"",
        peer_cid=PEER_ID,
        version=QuicProtocolVersion.VERSION_1,
        is_client=True,
        max_datagram_size=1_200,
        packet_number=77,
        spin_bit=True,
    )
    made.start_packet(QuicPacketType.ONE_RTT, theirs)
    made.start_frame(QuicFrameType.PING).push_bytes(b"hello")
    (datagram,), _ = made.flush()
    opened = open_packet(datagram, 8, ours.recv, 70)
    assert opened is not None
    assert (0x20, 77, b"\x01hello") == (opened.first & 0x38, opened.number, opened.payload)


@given(st.integers(0), st.integers(1, 255))
def test_a_packet_changed_anywhere_is_not_opened(position, flip):
    ours, theirs = KEYS
    spoilt = bytearray(packet(ours, b"some frame or other"))
    spoilt[position % len(spoilt)] ^= flip
    assert open_packet(bytes(spoilt), 8, theirs.recv, 0) is None


@given(st.binary(max_size=60))
def test_bytes_that_are_no_packet_are_not_opened(data):
    if data:
        assert open_packet(data, 8, KEYS[1].recv, 0) is None


KEYS = keys()


def test_a_packet_of_the_next_keys_is_left_to_aioquic():
    ours, theirs = keys()
    ours.update_key()
    datagram = packet(ours, b"new keys")
    assert open_packet(datagram, 8, theirs.recv, 0) is None
    assert b"\x01new keys" == theirs.decrypt_packet(datagram, 9, 0)[1]
    assert open_packet(packet(ours, b"the same", 1), 8, theirs.recv, 1) is not None


def test_keys_that_are_not_there_open_nothing():
    ours, _ = keys()
    assert open_packet(packet(ours, b"early"), 8, CryptoPair().recv, 0) is None
    with pytest.raises(CryptoError):
        CryptoPair().decrypt_packet(packet(ours, b"early"), 9, 0)


@given(
    st.integers(0, (1 << 62) - 1), st.integers(0, (1 << 32) - 1), st.sampled_from([8, 16, 24, 32])
)
def test_a_packets_number_is_found_as_aioquic_finds_it(expected, truncated, bits):
    truncated &= (1 << bits) - 1
    assert decode_packet_number(truncated, bits, expected) == whole_number(
        truncated, bits, expected
    )


def test_packets_are_no_larger_than_allowed_and_an_empty_one_is_none():
    ours, _ = keys()
    made = builder(ours, room=100)
    for _ in range(3):
        made.start_packet(QuicPacketType.ONE_RTT, ours)
        space = made.remaining_buffer_space
        made.start_frame(QuicFrameType.PING, capacity=space).push_bytes(bytes(space - 1))
        assert 0 == made.remaining_buffer_space
        with pytest.raises(QuicPacketBuilderStop):
            made.start_frame(QuicFrameType.PING)
    made.start_packet(QuicPacketType.ONE_RTT, ours)
    datagrams, packets = made.flush()
    assert [100] * 3 == [len(datagram) for datagram in datagrams]
    assert [100] * 3 == [each.sent_bytes for each in packets]
    assert 3 == made.packet_number


def test_acknowledgements_leave_when_congestion_control_allows_nothing_else():
    ours, _ = keys()
    made = builder(ours, flight=0)
    made.start_packet(QuicPacketType.ONE_RTT, ours)
    with pytest.raises(QuicPacketBuilderStop):
        made.start_frame(QuicFrameType.PING)
    made.start_frame(QuicFrameType.ACK, capacity=33).push_bytes(bytes(4))
    _, (sent,) = made.flush()
    assert (False, False) == (sent.in_flight, sent.is_ack_eliciting)


def test_what_is_in_flight_counts_against_the_next_packets():
    ours, _ = keys()
    made = builder(ours, room=100, flight=150)
    made.start_packet(QuicPacketType.ONE_RTT, ours)
    made.start_frame(QuicFrameType.PING).push_bytes(bytes(60))
    made.start_packet(QuicPacketType.ONE_RTT, ours)
    first = made._packets[0].sent_bytes
    assert 150 - first - (100 - made.remaining_buffer_space) == made.remaining_flight_space


def test_a_packet_too_short_for_header_protection_is_padded():
    ours, theirs = keys()
    (datagram,), _ = _ping_alone(ours)
    opened = open_packet(datagram, 8, theirs.recv, 0)
    assert opened is not None
    assert b"\x01\x00" == opened.payload


def _ping_alone(own: CryptoPair):
    made = builder(own)
    made.start_packet(QuicPacketType.ONE_RTT, own)
    made.start_frame(QuicFrameType.PING)
    return made.flush()
