from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import CapacityError, ProtocolError
from codio_dht.formats.protobuf import bytes_field
from codio_dht.net.stack.limits import MAX_EARLY_MUXERS
from codio_dht.net.stack.noise import Noise, NoiseIdentity
from codio_dht.net.stack.noise_xx import MAX_NONCE, Handshake

YAMUX = "/yamux/1.0.0"
MPLEX = "/mplex/6.7.0"
MALLORY = PrivateKey.from_ed25519_seed(b"m" * 32)
ALICE = PrivateKey.from_ed25519_seed(b"a" * 32)
BOB = PrivateKey.from_ed25519_seed(b"b" * 32)
ALICE_IDENTITY = NoiseIdentity(ALICE)
BOB_IDENTITY = NoiseIdentity(BOB)


def dialler(expected=None, muxers=(YAMUX,), identity=ALICE_IDENTITY) -> Noise:
    return Noise(identity, initiator=True, expected=expected, muxers=muxers)


def listener(muxers=(YAMUX,), identity=BOB_IDENTITY, expected=None) -> Noise:
    return Noise(identity, initiator=False, muxers=muxers, expected=expected)


def shake(first: Noise, second: Noise) -> None:
    for _ in range(2):
        second.receive(first.data_to_send())
        first.receive(second.data_to_send())


def established() -> tuple[Any, Any]:
    first, second = dialler(), listener()
    shake(first, second)
    return first, second


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def assert_refused(layer: Noise, data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        layer.receive(data)
    assert ("noise", reason) == (caught.value.layer, caught.value.reason)
    assert layer.authenticated is None


# --- handshake ------------------------------------------------------------------------------------


def test_both_sides_learn_whom_they_talk_to():
    first, second = dialler(expected=BOB.peer_id()), listener()
    shake(first, second)
    assert first.authenticated is not None
    assert second.authenticated is not None
    assert BOB.peer_id() == first.authenticated.peer_id
    assert BOB.public_key() == first.authenticated.public_key
    assert ALICE.peer_id() == second.authenticated.peer_id


def test_the_first_message_is_there_before_anything_arrives():
    message = dialler().data_to_send()
    assert (34, b"\x00\x20") == (len(message), message[:2])
    assert b"" == listener().data_to_send()


def test_an_rsa_identity_fits_the_handshake():
    identity = NoiseIdentity(PrivateKey(generate_private_key(65537, 2048)))
    first, second = dialler(), listener(identity=identity)
    shake(first, second)
    assert first.authenticated is not None


@pytest.mark.parametrize(
    ("of_dialler", "of_listener", "settled"),
    [
        ([YAMUX], [YAMUX], YAMUX),
        ([YAMUX, MPLEX], [MPLEX, YAMUX], YAMUX),
        ([MPLEX, YAMUX], [YAMUX], YAMUX),
        ([YAMUX], [], None),
        ([], [YAMUX], None),
        ([], [], None),
    ],
)
def test_the_muxer_is_settled_early_if_both_sides_offer_some(of_dialler, of_listener, settled):
    first, second = dialler(muxers=of_dialler), listener(muxers=of_listener)
    shake(first, second)
    assert first.authenticated is not None
    assert second.authenticated is not None
    assert settled == first.authenticated.muxer == second.authenticated.muxer


def test_no_more_muxers_of_a_peer_are_read_than_the_bound():
    others = [f"/other/{number}" for number in range(MAX_EARLY_MUXERS)]
    for proposed, settled in (([*others[1:], YAMUX], True), ([*others, YAMUX], False)):
        first, second = dialler(muxers=[YAMUX]), listener(muxers=proposed)
        second.receive(first.data_to_send())
        if settled:
            first.receive(second.data_to_send())
            assert first.authenticated is not None
            assert YAMUX == first.authenticated.muxer
        else:
            assert_refused(first, second.data_to_send(), "no muxer in common")


def test_muxers_without_one_in_common_end_the_handshake():
    first, second = dialler(muxers=[YAMUX]), listener(muxers=[MPLEX])
    second.receive(first.data_to_send())
    assert_refused(first, second.data_to_send(), "no muxer in common")


def test_another_peer_than_expected_is_refused_and_not_told_who_we_are():
    first, second = dialler(expected=MALLORY.peer_id()), listener()
    second.receive(first.data_to_send())
    assert_refused(first, second.data_to_send(), "another peer than expected")
    assert b"" == first.data_to_send()


def handshake_with_payload(payload_of) -> tuple[Noise, bytes]:
    """A dialler, and a message 2 whose payload ``payload_of(static key)`` gives."""
    first = dialler()
    static = X25519PrivateKey.generate()
    other = Handshake(initiator=False, static=static)
    other.read(first.data_to_send()[2:])
    return first, framed(other.write(payload_of(static.public_key().public_bytes_raw())))


def payload(key: bytes, signature: bytes, extensions: bytes = b"") -> bytes:
    return bytes_field(1, key) + bytes_field(2, signature) + extensions


KEY = BOB.public_key().to_protobuf()
PREFIX = b"noise-libp2p-static-key:"


@pytest.mark.parametrize(
    ("payload_of", "reason"),
    [
        (lambda static: payload(KEY, BOB.sign(static)), "identity signature does not verify"),
        (
            lambda static: payload(KEY, MALLORY.sign(PREFIX + static)),
            "identity signature does not verify",
        ),
        (
            lambda static: payload(KEY, BOB.sign(PREFIX + bytes(32))),
            "identity signature does not verify",
        ),
        (lambda static: payload(KEY, b""), "identity signature does not verify"),
        (lambda static: payload(b"", BOB.sign(PREFIX + static)), "unusable identity key"),
        (lambda static: payload(KEY[:-1], BOB.sign(PREFIX + static)), "unusable identity key"),
        (lambda static: b"", "unusable identity key"),
        (lambda static: b"\xff" * 20, "truncated or overlong protobuf varint"),
        (lambda static: b"\x0a\x05abc", "truncated protobuf"),
        (lambda static: b"\x08\x01" * 40, "too many protobuf fields"),
        (
            lambda static: payload(
                KEY, BOB.sign(PREFIX + static), bytes_field(4, bytes_field(2, b"\xff"))
            ),
            "muxer name is not UTF-8",
        ),
    ],
)
def test_an_identity_that_is_not_proven_is_refused(payload_of, reason):
    first, message = handshake_with_payload(payload_of)
    assert_refused(first, message, reason)


def test_unknown_extensions_and_fields_are_ignored():
    extensions = bytes_field(4, bytes_field(1, b"certhash") + bytes_field(9, b"new"))
    first, message = handshake_with_payload(
        lambda static: payload(KEY, BOB.sign(PREFIX + static), extensions) + b"\x28\x01"
    )
    first.receive(message)
    assert first.authenticated is not None
    assert first.authenticated.muxer is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (framed(b""), "short handshake message"),
        (framed(bytes(31)), "short handshake message"),
        (framed(bytes(32)), "weak public key"),
        (framed(b"\x01" + bytes(31)), "weak public key"),
        (b"\x20\x01", "handshake message too long"),
        (b"GET / HTTP/1.1", "handshake message too long"),
    ],
)
def test_a_broken_first_message_is_refused(message, reason):
    assert_refused(listener(), message, reason)


def test_a_dialler_that_meets_a_dialler_ends():
    assert_refused(dialler(), dialler().data_to_send(), "short handshake message")


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255), st.sampled_from([1, 2]))
def test_any_changed_byte_of_a_handshake_message_is_noticed(position, flip, turn):
    """A changed byte shows at once, or (in a bare ephemeral key) in the next message."""
    sides = (dialler(), listener())
    try:
        for index in range(3):
            message = bytearray(sides[index % 2].data_to_send())
            if index == turn:
                message[2 + position % (len(message) - 2)] ^= flip
            sides[1 - index % 2].receive(bytes(message))
    except ProtocolError:
        return
    raise AssertionError("the handshake went through")


# --- transport ------------------------------------------------------------------------------------


def test_plaintext_behind_the_last_handshake_message_is_read_in_the_same_piece():
    first, second = dialler(), listener()
    second.receive(first.data_to_send())
    first.receive(second.data_to_send())
    flight = first.data_to_send() + first.seal(b"hello")
    assert b"hello" == second.receive(flight)


def test_large_plaintext_takes_as_few_frames_as_hold_it():
    first, second = established()
    sealed = first.seal(bytes(150_000))
    assert 150_000 + 3 * 18 == len(sealed)
    assert bytes(150_000) == second.receive(sealed)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a, b: b + a,  # reordered
        lambda a, b: a + a,  # replayed
        lambda a, b: a[:-1] + bytes([a[-1] ^ 1]),
        lambda a, b: a[:2] + bytes([a[2] ^ 1]) + a[3:],
        lambda a, b: bytes([0, 16]) + bytes(16),
    ],
)
def test_frames_that_do_not_authenticate_end_the_connection(spoil):
    first, second = established()
    with pytest.raises(ProtocolError, match="does not authenticate"):
        second.receive(spoil(first.seal(b"one"), first.seal(b"two")))


def test_a_frame_without_room_for_a_tag_ends_the_connection():
    _, second = established()
    with pytest.raises(ProtocolError, match="frame without a tag"):
        second.receive(framed(bytes(15)))


def test_used_up_nonces_end_the_connection_on_either_side():
    first, second = established()
    first._sending.nonce = second._receiving.nonce = MAX_NONCE
    assert b"last" == second.receive(first.seal(b"last"))
    with pytest.raises(CapacityError):
        first.seal(b"one more")
    with pytest.raises(ProtocolError, match="used up"):
        second.receive(framed(bytes(16)))


@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.lists(st.integers(min_value=0), max_size=12),
)
def test_traffic_in_any_chunks_arrives_exactly(parts, cuts):
    first, second = established()
    wire = b"".join(first.seal(part) for part in parts)
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    received = b"".join(second.receive(wire[a:b]) for a, b in pairwise(edges))
    assert b"".join(parts) == received
    assert b"" == bytes(second._buffer)


@given(st.integers(min_value=0, max_value=3), st.binary(max_size=300), st.booleans())
def test_any_bytes_at_any_point_give_only_the_documented_error(good, data, initiator):
    first, second = dialler(), listener()
    sides = (first, second)
    try:
        for index in range(good):
            sides[1 - index % 2].receive(sides[index % 2].data_to_send())
        layer = first if initiator else second
        for at in range(0, len(data), 7):
            layer.receive(data[at : at + 7])
            assert len(layer._buffer) <= 65_537
    except ProtocolError as error:
        if error.layer != "noise":
            raise
