from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from codio_dht.core.clock import UnixTime
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import CapacityError, ProtocolError
from codio_dht.net.stack.limits import MAX_TLS_EMPTY_BYTES, MAX_TLS_HANDSHAKE_BYTES
from codio_dht.net.stack.tls import TLS, Tls, TlsIdentity
from forged_certificates import IDENTITIES, NOW, Forged

YAMUX = "/yamux/1.0.0"
MPLEX = "/mplex/6.7.0"
ALICE = PrivateKey.from_ed25519_seed(b"a" * 32)
BOB = PrivateKey.from_ed25519_seed(b"b" * 32)
MALLORY = PrivateKey.from_ed25519_seed(b"m" * 32)


def unix_now() -> UnixTime:
    return NOW


ALICE_TLS = TlsIdentity(ALICE, unix_now)
BOB_TLS = TlsIdentity(BOB, unix_now)
TRAFFIC_BYTES = 16 * 1024
RECORD_EXTRA = 22


def dialler(expected=None, muxers=(YAMUX,), identity=ALICE_TLS) -> Tls:
    return Tls(identity, initiator=True, expected=expected, muxers=muxers)


def listener(muxers=(YAMUX,), identity=BOB_TLS, expected=None) -> Tls:
    return Tls(identity, initiator=False, muxers=muxers, expected=expected)


def shake(first: Any, second: Any) -> None:
    for _ in range(2):
        second.receive(first.data_to_send())
        first.receive(second.data_to_send())


def established() -> tuple[Any, Any]:
    first, second = dialler(), listener()
    shake(first, second)
    return first, second


class Raw:
    """A peer under the test's control: OpenSSL without any of our rules."""

    def __init__(
        self,
        *,
        initiator: bool,
        forged: Forged | None = None,
        extra: Forged | None = None,
        alpn: tuple[bytes, ...] = (b"libp2p",),
        version: int = SSL.TLS1_3_VERSION,
        session: Any = None,
        context: SSL.Context | None = None,
    ) -> None:
        self.secrets: dict[str, bytes] = {}
        self.context = context or self.make_context(forged, extra, version)
        self.connection = SSL.Connection(self.context, None)
        if initiator:
            if alpn:
                self.connection.set_alpn_protos(list(alpn))
            if session is not None:
                self.connection.set_session(session)
            self.connection.set_connect_state()
            self.step()
        else:
            self.connection.set_accept_state()

    def make_context(self, forged: Forged | None, extra: Forged | None, version: int):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(version)
        if forged is not None:
            context.use_certificate(forged.certificate())
            context.use_privatekey(forged.key)
        if extra is not None:
            context.add_extra_chain_cert(extra.certificate())
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        context.set_keylog_callback(self.on_secret)
        return context

    def on_secret(self, connection, line: bytes) -> None:
        label, _, secret = line.decode().split()
        self.secrets[label] = bytes.fromhex(secret)

    def step(self) -> bool:
        """Go on with the handshake; whether it is done."""
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error:
            return False
        return True

    def receive(self, data: bytes) -> bytes:
        if data:
            self.connection.bio_write(data)
        self.step()
        try:
            return self.connection.recv(TRAFFIC_BYTES)
        except SSL.Error:
            return b""

    def data_to_send(self) -> bytes:
        out = b""
        while True:
            try:
                out += self.connection.bio_read(TRAFFIC_BYTES)
            except SSL.Error:
                return out


class Records:
    """Writes TLS 1.3 records of any kind, with one side's traffic secret."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.number = 0

    def expand(self, label: bytes, size: int) -> bytes:
        info = size.to_bytes(2, "big") + bytes([len(label) + 6]) + b"tls13 " + label + b"\0"
        return HKDFExpand(SHA256(), size, info).derive(self.secret)

    def record(self, kind: int, content: bytes) -> bytes:
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = int.from_bytes(self.expand(b"iv", 12), "big") ^ self.number
        self.number += 1
        sealed = AESGCM(self.expand(b"key", 16)).encrypt(
            nonce.to_bytes(12, "big"), content + bytes([kind]), header
        )
        return header + sealed

    def key_update(self) -> bytes:
        """Asks for one in return."""
        record = self.record(22, b"\x18\x00\x00\x01\x01")
        self.secret, self.number = self.expand(b"traffic upd", 32), 0
        return record


def assert_refused(layer: Tls, data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        layer.receive(data)
    assert reason == caught.value.reason
    assert layer.authenticated is None
    assert b"" == layer.receive(b"more")


# --- handshake ------------------------------------------------------------------------------------


def test_both_sides_learn_whom_they_talk_to():
    first, second = dialler(expected=BOB.peer_id()), listener()
    shake(first, second)
    assert first.authenticated is not None
    assert second.authenticated is not None
    assert BOB.peer_id() == first.authenticated.peer_id
    assert BOB.public_key() == first.authenticated.public_key
    assert ALICE.peer_id() == second.authenticated.peer_id


@pytest.mark.parametrize("kind", IDENTITIES)
def test_every_type_of_identity_is_proven_in_both_roles(kind):
    identity = IDENTITIES[kind]
    tls = TlsIdentity(identity, unix_now)
    for first, second in (
        (dialler(identity=tls), listener()),
        (dialler(expected=identity.peer_id()), listener(identity=tls)),
    ):
        shake(first, second)
        seen = {first.authenticated.peer_id, second.authenticated.peer_id}  # type: ignore[union-attr]
        assert identity.peer_id() in seen


def test_the_first_message_is_there_before_anything_arrives():
    message = dialler().data_to_send()
    assert b"\x16\x03\x01" == message[:3]
    assert len(message) < 4_096
    assert b"" == listener().data_to_send()


@pytest.mark.parametrize(
    ("of_dialler", "of_listener", "settled"),
    [
        ([YAMUX], [YAMUX], YAMUX),
        ([YAMUX, MPLEX], [MPLEX, YAMUX], YAMUX),
        ([MPLEX, YAMUX], [YAMUX], YAMUX),
        ([YAMUX], [MPLEX], None),
        ([YAMUX], [], None),
        ([], [YAMUX], None),
        ([], [], None),
    ],
)
def test_the_muxer_is_settled_by_the_diallers_preference_or_left_for_later(
    of_dialler, of_listener, settled
):
    first, second = dialler(muxers=of_dialler), listener(muxers=of_listener)
    shake(first, second)
    assert first.authenticated is not None
    assert second.authenticated is not None
    assert settled == first.authenticated.muxer == second.authenticated.muxer


def test_a_dialler_of_another_world_is_told_so():
    peer = Raw(initiator=True, forged=Forged(), alpn=(b"h2", b"http/1.1"))
    layer = listener()
    assert_refused(layer, peer.data_to_send(), "no muxer in common")
    assert b"\x15\x03\x03\x00\x02\x02\x78" == layer.data_to_send()  # no_application_protocol


@pytest.mark.parametrize("initiator", [True, False])
def test_a_peer_without_alpn_negotiates_its_muxer_later(initiator):
    layer = listener() if initiator else dialler()
    peer = Raw(initiator=initiator, forged=Forged(), alpn=())
    shake(*((peer, layer) if initiator else (layer, peer)))
    assert layer.authenticated is not None
    assert layer.authenticated.muxer is None


def test_another_peer_than_expected_is_refused_and_not_told_who_we_are():
    first, second = dialler(expected=MALLORY.peer_id()), listener()
    second.receive(first.data_to_send())
    assert_refused(first, second.data_to_send(), "another peer than expected")
    assert len(first.data_to_send()) < 64  # an alert; a certificate takes hundreds


def test_a_listener_that_expects_another_peer_refuses_too():
    first, second = dialler(), listener(expected=MALLORY.peer_id())
    second.receive(first.data_to_send())
    first.receive(second.data_to_send())
    assert_refused(second, first.data_to_send(), "another peer than expected")
    with pytest.raises(ProtocolError):
        first.receive(second.data_to_send())


BAD = [
    (Forged(end=-1.0), "expired"),
    (Forged(start=1.0), "not valid yet"),
    (Forged(identity=None), "no identity extension"),
    (Forged(signed_by=ec.derive_private_key(5, ec.SECP256R1())), "self-signature does not verify"),
    (Forged(issuer="someone else"), "malformed certificate"),
    (Forged(content=b"junk"), "malformed identity extension"),
]


@pytest.mark.parametrize(("forged", "reason"), BAD)
@pytest.mark.parametrize("initiator", [True, False])
def test_a_certificate_that_proves_nothing_ends_the_handshake(forged, reason, initiator):
    peer = Raw(initiator=initiator, forged=forged)
    layer = listener() if initiator else dialler()
    if initiator:
        layer.receive(peer.data_to_send())
        peer.receive(layer.data_to_send())
    else:
        peer.receive(layer.data_to_send())
    assert_refused(layer, peer.data_to_send(), reason)


@pytest.mark.parametrize("issuer", ["1234", "4321"])
@pytest.mark.parametrize("initiator", [True, False])
def test_a_second_certificate_ends_the_handshake(initiator, issuer):
    """Whether it could have issued the first or not."""
    key = ec.derive_private_key(5, ec.SECP256R1())
    peer = Raw(initiator=initiator, forged=Forged(), extra=Forged(key=key, issuer=issuer))
    layer = listener() if initiator else dialler()
    if initiator:
        layer.receive(peer.data_to_send())
        peer.receive(layer.data_to_send())
    else:
        peer.receive(layer.data_to_send())
    assert_refused(layer, peer.data_to_send(), "more than one certificate")
    if not initiator:
        assert len(layer.data_to_send()) < 64  # an alert, and not who we are


def test_a_dialler_without_a_certificate_is_refused():
    peer = Raw(initiator=True)
    layer = listener()
    layer.receive(peer.data_to_send())
    peer.receive(layer.data_to_send())
    assert_refused(layer, peer.data_to_send(), "handshake failed")


@pytest.mark.parametrize("initiator", [True, False])
def test_an_older_version_of_tls_is_refused(initiator):
    peer = Raw(initiator=initiator, forged=Forged(), version=SSL.TLS1_2_VERSION)
    layer = listener() if initiator else dialler()
    if not initiator:
        peer.receive(layer.data_to_send())
    assert_refused(layer, peer.data_to_send(), "handshake failed")


def test_a_session_is_never_resumed():
    first = Raw(initiator=True, forged=Forged())
    layer = listener()
    shake(first, layer)
    assert layer.authenticated is not None
    again = Raw(initiator=True, session=first.connection.get_session(), context=first.context)
    layer = listener()
    shake(again, layer)  # a full handshake, with a certificate
    assert layer.authenticated is not None
    assert again.connection._ssl is not None
    assert len(again.connection.get_peer_cert_chain() or ()) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",  # an alert
        b"\x17\x03\x03\x00\x20" + bytes(32),
        b"\x14\x03\x03\x00\x01\x01",
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01\x00\x02" + bytes(41),  # SSL 2
        bytes(64),
        b"\xff" * 64,
    ],
)
@pytest.mark.parametrize("make", [dialler, listener])
def test_garbage_instead_of_a_handshake_is_refused(make, data):
    assert_refused(make(), data, "handshake failed")


@pytest.mark.parametrize("make", [dialler, listener])
def test_an_endless_handshake_message_ends_at_its_bound(make):
    layer = make()
    kind = b"\x01" if make is listener else b"\x0b"
    first = b"\x16\x03\x01\x40\x00" + kind + b"\x01\x00\x00"
    pieces = [first, *(bytes(1_000),) * 40]
    sent = fed_until_refused(layer, pieces, "handshake too long", "handshake failed")
    assert sent <= MAX_TLS_HANDSHAKE_BYTES + 1_000


def test_a_dialler_that_meets_a_dialler_ends():
    assert_refused(dialler(), dialler().data_to_send(), "handshake failed")


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255), st.integers(0, 2))
def test_any_changed_byte_of_the_handshake_is_noticed(position, flip, turn):
    """Or changes nothing that counts (the version that a record claims to have)."""
    first, second = dialler(), listener()
    sides = (first, second)
    try:
        for index in range(3):
            message = bytearray(sides[index % 2].data_to_send())
            if not message:  # the other side still waits for the rest of a longer record
                break
            at = position % len(message)
            if index == turn:
                message[at] ^= flip
            sides[1 - index % 2].receive(bytes(message))
    except ProtocolError:
        return
    assert second.authenticated is None or at in {1, 2}


# --- traffic --------------------------------------------------------------------------------------


def test_plaintext_behind_the_last_handshake_message_is_read_in_the_same_piece():
    first, second = dialler(), listener()
    second.receive(first.data_to_send())
    first.receive(second.data_to_send())
    flight = first.data_to_send() + first.seal(b"hello")
    assert b"hello" == second.receive(flight)


def test_much_plaintext_behind_the_handshake_is_no_part_of_it():
    first, second = dialler(), listener()
    second.receive(first.data_to_send())
    first.receive(second.data_to_send())
    flight = first.data_to_send() + first.seal(bytes(3 * MAX_TLS_HANDSHAKE_BYTES))
    assert bytes(3 * MAX_TLS_HANDSHAKE_BYTES) == second.receive(flight)


def test_large_plaintext_takes_as_few_records_as_hold_it():
    first, second = established()
    sealed = first.seal(bytes(150_000))
    assert 150_000 + 10 * RECORD_EXTRA == len(sealed)
    assert bytes(150_000) == second.receive(sealed)


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 4 * 16_384])
def test_plaintext_of_any_size_arrives(size):
    first, second = established()
    assert bytes(size) == second.receive(first.seal(bytes(size)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a, b: b + a,  # reordered
        lambda a, b: a + a,  # replayed
        lambda a, b: a[:-1] + bytes([a[-1] ^ 1]),
        lambda a, b: a[:5] + bytes([a[5] ^ 1]) + a[6:],
        lambda a, b: b"\x17\x03\x03\x00\x10" + bytes(16),
        lambda a, b: b"\x17\x03\x03\xff\xff" + bytes(16),
        lambda a, b: b"\x16" + a[1:],
    ],
)
def test_records_that_do_not_authenticate_end_the_connection(spoil):
    first, second = established()
    with pytest.raises(ProtocolError, match="broken record"):
        second.receive(spoil(first.seal(b"one"), first.seal(b"two")))
    assert b"" == second.receive(b"more")
    assert second.data_to_send()  # the alert
    with pytest.raises(CapacityError):
        second.seal(b"nobody will read this")


def raw_dialler() -> tuple[Tls, Raw, Records]:
    """An established listener, its peer, and the peer's pen."""
    peer, layer = Raw(initiator=True, forged=Forged()), listener()
    shake(peer, layer)
    assert layer.authenticated is not None
    return layer, peer, Records(peer.secrets["CLIENT_TRAFFIC_SECRET_0"])


@pytest.mark.parametrize("updates", [1, 2, 5])
def test_key_updates_are_answered_before_the_next_plaintext(updates):
    layer, peer, records = raw_dialler()
    before = records.record(23, b"before")
    wire = before + b"".join(records.key_update() for _ in range(updates))
    assert b"before" == layer.receive(wire)
    assert b"after" == layer.receive(records.record(23, b"after"))
    answer = layer.data_to_send() + layer.seal(b"hello")
    assert updates * (RECORD_EXTRA + 5) + RECORD_EXTRA + 5 == len(answer)
    assert b"hello" == peer.receive(answer)


def test_records_that_carry_nothing_end_the_connection_in_the_long_run():
    layer, _, records = raw_dialler()
    flights = [b"".join(records.key_update() for _ in range(100)) for _ in range(50)]
    sent = fed_until_refused(layer, flights, "records that carry nothing")
    assert MAX_TLS_EMPTY_BYTES < sent <= MAX_TLS_EMPTY_BYTES + len(flights[0])
    assert len(layer.data_to_send()) <= sent + 100


def fed_until_refused(layer: Tls, pieces: list[bytes], *reasons: str) -> int:
    """How many bytes it took."""
    sent = 0
    for piece in pieces:
        sent += len(piece)
        try:
            layer.receive(piece)
        except ProtocolError as error:
            assert error.reason in reasons  # noqa: PT017 - where it is raised is what is asked
            return sent
    raise AssertionError("not refused")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (22, b"\x04\x00\x00\x00"),  # a session ticket, from the initiator
        (22, b"\x0d\x00\x00\x03\x00\x00\x00"),  # a certificate request
        (22, b"\x01\x00\x00\x00"),  # a hello
        (22, b"\x18\x00\x00\x01\x02"),  # a key update of no known kind
        (22, b"\x18\xff\xff\xff\x00"),
        (21, b"\x02\x28"),
        (21, b"\x01\x5a"),  # user_canceled and nothing else
        (20, b"\x01"),
        (99, b"x"),
        (0, b""),
    ],
)
def test_records_out_of_place_give_only_the_documented_error(kind, content):
    layer, _, records = raw_dialler()
    try:
        for _ in range(100):
            assert b"" == layer.receive(records.record(kind, content))
    except ProtocolError as error:
        assert "tls" == error.layer  # noqa: PT017 - any other error is the failure


def test_a_peer_that_says_it_is_done_is_not_listened_to_any_more():
    layer, peer, records = raw_dialler()
    flight = records.record(23, b"last") + records.record(21, b"\x01\x00")
    assert b"last" == layer.receive(flight + records.record(23, b"more"))
    assert b"" == layer.receive(records.record(23, b"more"))
    assert b"still" == peer.receive(layer.seal(b"still"))


# --- anything -------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.lists(st.integers(min_value=0), max_size=12),
    st.booleans(),
)
def test_handshake_and_traffic_in_any_chunks_arrive_exactly(parts, cuts, from_dialler):
    first, second = dialler(), listener()
    deliver(first.data_to_send(), second, cuts)
    deliver(second.data_to_send(), first, cuts)
    sides: tuple[Any, Any] = (first, second)
    if not from_dialler:
        deliver(first.data_to_send(), second, cuts)
        sides = (second, first)
    wire = sides[0].data_to_send() + b"".join(sides[0].seal(part) for part in parts)
    assert b"".join(parts) == deliver(wire, sides[1], cuts)


def deliver(wire: bytes, layer: Tls, cuts: list[int]) -> bytes:
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    return b"".join(layer.receive(wire[a:b]) for a, b in pairwise(edges))


@given(st.integers(min_value=0, max_value=3), st.binary(max_size=300), st.booleans())
def test_any_bytes_at_any_point_give_only_the_documented_error(good, data, initiator):
    sides = (dialler(), listener())
    try:
        for index in range(good):
            sides[1 - index % 2].receive(sides[index % 2].data_to_send())
        layer = sides[0] if initiator else sides[1]
        for at in range(0, len(data), 7):
            layer.receive(data[at : at + 7])
    except ProtocolError as error:
        if error.layer != "tls":
            raise


headers = st.tuples(
    st.sampled_from([20, 21, 22, 23, 24]), st.sampled_from([b"\x03\x01", b"\x03\x03"])
)


@given(st.integers(0, 3), st.lists(st.tuples(headers, st.binary(max_size=80)), max_size=8))
def test_any_records_at_any_point_give_only_the_documented_error(good, records):
    sides = (dialler(), listener())
    data = b"".join(
        bytes([kind]) + version + len(content).to_bytes(2, "big") + content
        for (kind, version), content in records
    )
    for layer in sides:
        try:
            for index in range(good):
                sides[1 - index % 2].receive(sides[index % 2].data_to_send())
            layer.receive(data)
        except ProtocolError as error:
            if error.layer not in {"tls", "certificate"}:
                raise


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=12))
def test_any_authentic_records_give_only_the_documented_error(contents):
    layer, _, records = raw_dialler()
    received = b""
    sent = b""
    try:
        for kind, content in contents:
            if kind == 23:
                sent += content
            received += layer.receive(records.record(kind, content))
    except ProtocolError as error:
        if error.layer != "tls":
            raise
    assert sent.startswith(received)


def test_the_layer_is_found_under_its_protocol():
    security = ALICE_TLS.security()
    layer = security.factory(True, None, (YAMUX,))
    assert (TLS, True, True) == (
        security.protocol,
        security.opens_with_message,
        bool(layer.data_to_send()),
    )
