"""The layers that read what a peer sends, each with what to feed it and what may come of that.

A run ends well when nothing but the layer's stated error comes out and its bounds hold; anything
else is a finding. Inputs are pieces of bytes, so that one can be kept in a file and fed again.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import strategies as st
from multiaddr import Multiaddr

from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.records import ProviderRecords, ProviderRow
from codio_dht.core.responder import Responder
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.steps import Load
from codio_dht.core.turns import Path
from codio_dht.core.unsaved import Flush
from codio_dht.core.validation import Check, Validators
from codio_dht.core.value_records import ValueRecords
from codio_dht.crypto.certificate import verify_certificate
from codio_dht.crypto.envelope import seal_envelope
from codio_dht.crypto.keys import PrivateKey, PublicKey
from codio_dht.crypto.peer_record import open_peer_record, seal_peer_record
from codio_dht.errors import (
    DeadlineError,
    FrameError,
    MessageError,
    NetworkError,
    PeerIdError,
    ProtocolError,
    StreamError,
)
from codio_dht.formats.protobuf import bytes_field
from codio_dht.formats.varint import encode_varint
from codio_dht.net.dnsaddr import MAX_RESOLVED, resolve
from codio_dht.net.handlers import Parked, Reset
from codio_dht.net.identify.known import merged
from codio_dht.net.identify.message import IdentifyMessage, MessageParts, encode_identify
from codio_dht.net.quic.strangers import Strangers
from codio_dht.net.quic.tokens import ResetTokens
from codio_dht.net.stack.connection import ConnectionEnded
from codio_dht.net.stack.multistream import Listener, Proposer, ProtocolTable
from codio_dht.net.stack.noise import Noise, NoiseIdentity
from codio_dht.net.stack.noise_xx import Handshake
from codio_dht.net.stack.tls import Tls, TlsIdentity
from codio_dht.net.stack.yamux import Yamux
from codio_dht.net.stack.yamux_stream import YamuxLimits
from codio_dht.net.targets import of_udp_socket
from codio_dht.node.assembly import BUILT_IN
from codio_dht.node.clock import Clock
from codio_dht.node.server import KadServer
from codio_dht.store.schema import unpack_addrs
from codio_dht.store.sqlite import SqliteStore
from codio_dht.wire.codec import decode_reply, decode_request, encode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from forged_certificates import IDENTITIES, Forged
from forged_certificates import NOW as CERTIFICATE_NOW
from fuzz_inputs import (
    KAD,
    PING,
    Pieces,
    addrs,
    cut,
    damaged,
    damaged_messages,
    edits,
    in_pieces,
    negotiation,
    replies,
    requests,
    stream_traffic,
    yamux_traffic,
)

NOW = Monotonic(100.0)
UNIX_NOW = UnixTime(1_800_000_000.0)
ALICE = PrivateKey.from_ed25519_seed(b"a" * 32)
BOB = PrivateKey.from_ed25519_seed(b"b" * 32)
YAMUX = "/yamux/1.0.0"


class FindingError(AssertionError):
    """A bound that does not hold, or an error that is not the stated one."""


@dataclass(frozen=True)
class Layer:
    """What is fed, and how it is run. ``run`` raises for whatever must not happen."""

    name: str
    inputs: st.SearchStrategy[Pieces]
    run: Callable[[Pieces], None]


def _only(error: ProtocolError, *layers: str) -> None:
    if error.layer not in layers:
        raise FindingError(f"an error of {error.layer}, not of {layers[0]}") from error


# --- multistream-select ---------------------------------------------------------------------------


def run_multistream(pieces: Pieces) -> None:
    for machine in (Listener(ProtocolTable([KAD, PING])), Proposer([KAD, PING])):
        try:
            for piece in pieces:
                if machine.receive(piece) is not None:
                    break
                machine.data_to_send()
        except ProtocolError as error:
            _only(error, "multistream")


# --- secure channels ------------------------------------------------------------------------------

_IDENTITIES = {
    "noise": (NoiseIdentity(ALICE), NoiseIdentity(BOB)),
    "tls": (
        TlsIdentity(ALICE, lambda: CERTIFICATE_NOW),
        TlsIdentity(BOB, lambda: CERTIFICATE_NOW),
    ),
}


def run_secure(name: str, pieces: Pieces) -> None:
    """The first piece: which flight is damaged. The second: what comes after all of them. The
    others: how it is damaged."""
    make: Any = {"noise": Noise, "tls": Tls}[name]
    ours, theirs = _IDENTITIES[name]
    sides = (
        make(ours, initiator=True, expected=None, muxers=(YAMUX,)),
        make(theirs, initiator=False, expected=None, muxers=(YAMUX,)),
    )
    which, after = pieces[0][0] if pieces and pieces[0] else 0, b"".join(pieces[1:2])
    try:
        for flight in range(5):
            here, there = sides[flight % 2], sides[1 - flight % 2]
            if here.authenticated is not None and flight > 1:
                data = here.data_to_send() + here.seal(b"hello")
            else:
                data = here.data_to_send()
            if flight == which:
                data = damaged(data, pieces[2:])
            for piece in cut(data, [7, len(data) // 2]):
                there.receive(piece)
        for side in sides:
            side.receive(after)
    except ProtocolError as error:
        _only(error, name, "certificate")


secure_inputs = st.builds(
    lambda which, after, ways: [bytes([which]), after, *ways],
    st.integers(0, 6),
    st.binary(max_size=60),
    st.lists(edits, min_size=1, max_size=4),
)


def run_noise_payload(pieces: Pieces) -> None:
    """A handshake message that is right but for what is in it; pieces: ways to damage that."""
    dialler = Noise(NoiseIdentity(ALICE), initiator=True, expected=None, muxers=(YAMUX,))
    static = X25519PrivateKey.generate()
    other = Handshake(initiator=False, static=static)
    other.read(dialler.data_to_send()[2:])
    signed = b"noise-libp2p-static-key:" + static.public_key().public_bytes_raw()
    payload = bytes_field(1, BOB.public_key().to_protobuf()) + bytes_field(2, BOB.sign(signed))
    payload += bytes_field(4, bytes_field(2, YAMUX.encode()))
    message = other.write(damaged(payload, pieces))
    try:
        dialler.receive(len(message).to_bytes(2, "big") + message)
    except ProtocolError as error:
        _only(error, "noise")


_CERTIFICATES = [
    Forged(identity).certificate().public_bytes(Encoding.DER) for identity in IDENTITIES.values()
]


def run_certificate(pieces: Pieces) -> None:
    for data in (b"".join(pieces), *(damaged(one, pieces) for one in _CERTIFICATES)):
        try:
            verify_certificate(data, CERTIFICATE_NOW)
        except ProtocolError as error:
            _only(error, "certificate")


_KEYS = [key.public_key().to_protobuf() for key in IDENTITIES.values()]


def run_keys(pieces: Pieces) -> None:
    for data in (b"".join(pieces), *(damaged(one, pieces) for one in _KEYS)):
        try:
            key = PublicKey.from_protobuf(data)
        except PeerIdError:
            continue
        key.peer_id()
        key.verify(b"data", b"".join(pieces)[:80])


# --- muxer and connection -------------------------------------------------------------------------


def run_yamux(pieces: Pieces) -> None:
    mux: Any = Yamux(client=False, now=NOW, limits=YamuxLimits())
    for piece in pieces:
        mux.receive(piece, NOW)
        mux.data_to_send()
    if mux.unread_bytes != sum(stream.unread for stream in mux.streams()):
        raise FindingError("unread bytes are not those of the streams")
    for stream in list(mux.streams()):
        mux.reset(stream)
    held = (mux.unread_bytes, mux.unsent_bytes, mux._inbound, mux._unacknowledged_inbound)
    if held != (0, 0, 0, 0):
        raise FindingError(f"something is held after all streams were reset: {held}")


def run_connection(pieces: Pieces) -> None:
    """The plaintext of an authenticated peer."""
    from test_stack_connection import connected

    pair = connected()
    for piece in pieces:
        pair.client._plain.append(piece)
        pair.to_server()
        pair.work()
        pair.server.data_to_send()
    pair.server.close()
    mux = pair.server._yamux
    if (mux.unread_bytes, mux.unsent_bytes, list(mux.streams())) != (0, 0, []):
        raise FindingError("something is held after the connection's end")
    if any(handler.closings != 1 for handler in pair.handlers):
        raise FindingError("a handler was not closed exactly once")


def run_bare_connection(pieces: Pieces) -> None:
    """Bytes before anybody is authenticated. The first piece: after how many flights, and where."""
    from test_stack_connection import Pair

    how = pieces[0][0] if pieces and pieces[0] else 0
    pair = Pair(early=bool(how & 8))
    for flight in range(how % 4):
        (pair.to_client if flight % 2 else pair.to_server)()
    side = pair.server if how & 4 else pair.client
    events = []
    for piece in pieces[1:]:
        events += side.receive(piece, NOW)
        side.data_to_send()
    ends = [event for event in events if isinstance(event, ConnectionEnded)]
    if len(ends) > 1 or (ends and not isinstance(ends[0].error, ProtocolError | None)):
        raise FindingError(f"ended as {ends}")


bare_inputs = st.builds(
    lambda how, data: [bytes([how]), *data],
    st.integers(0, 15),
    in_pieces(damaged_messages(negotiation) | st.binary(max_size=200)),
)


# --- QUIC -----------------------------------------------------------------------------------------


def _judge_as_strangers(data: bytes) -> None:
    """No answer is as long as what it answers."""
    where = ("203.0.113.9", 4_001)
    strangers = Strangers(ResetTokens(BOB), Counter(), listens=True, exempt_local=False)
    answer = strangers.judge(data, where, of_udp_socket(where).ip, NOW) if data else None
    if isinstance(answer, bytes) and len(answer) >= len(data):
        raise FindingError(f"{len(data)} bytes were answered with {len(answer)}")


def run_quic_datagrams(pieces: Pieces) -> None:
    """The first piece: which of the handshake's datagrams is damaged; the others: how."""
    from test_quic import HERE, THERE, Pair

    pair = Pair()
    which = pieces[0][0] if pieces and pieces[0] else 0
    count = 0
    for _ in range(3):
        for side, other, addr in (
            (pair.client, pair.server, HERE),
            (pair.server, pair.client, THERE),
        ):
            datagrams = side.datagrams_to_send(NOW)
            if side is pair.client:
                datagrams, pair.first = pair.first + datagrams, []
            for data, _ in datagrams:
                spoilt = damaged(data, pieces[1:]) if count == which else data
                _judge_as_strangers(spoilt)
                other.receive(spoilt, addr, NOW)
                count += 1


def run_quic_payload(pieces: Pieces) -> None:
    """Frames that an authenticated peer sealed."""
    from test_quic import Crafted

    crafted = Crafted()
    for piece in pieces:
        for event in crafted.send(piece[:1_200]):
            stated = ProtocolError | StreamError | DeadlineError | None
            if isinstance(event, ConnectionEnded) and not isinstance(event.error, stated):
                raise FindingError(f"ended as {event.error!r}")
        crafted.pair.server.datagrams_to_send(crafted.pair.now)


_QUIC_NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 63, 64, 2**14, 2**30, 2**60, 2**62 - 1])


def _quic_number(value: int) -> bytes:
    for size, mark in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << (8 * size - 2):
            return (value | mark << (8 * size - 2)).to_bytes(size, "big")
    raise AssertionError(value)


quic_frames = st.builds(
    lambda kind, numbers, body: _quic_number(kind) + b"".join(map(_quic_number, numbers)) + body,
    st.integers(0, 0x1F) | st.sampled_from([0x30, 0x31, 0x40, 2**14]),
    st.lists(_QUIC_NUMBERS, max_size=5),
    st.binary(max_size=40) | st.sampled_from([b"", bytes(16)]),
)
quic_payloads = st.lists(st.lists(quic_frames, max_size=4).map(b"".join), min_size=1, max_size=4)


# --- identify and envelopes -----------------------------------------------------------------------

_RECORD = seal_peer_record(ALICE, sequence=7, addrs=[b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"])
identify_messages = st.builds(
    IdentifyMessage,
    public_key=st.none() | st.just(ALICE.public_key().to_protobuf()),
    listen_addrs=st.lists(addrs | st.binary(max_size=20), max_size=4).map(tuple),
    protocols=st.lists(st.text(max_size=30), max_size=6).map(tuple),
    observed_addr=st.none() | addrs | st.binary(max_size=20),
    protocol_version=st.none() | st.text(max_size=20),
    agent=st.none() | st.text(max_size=20),
    signed_peer_record=st.none() | st.just(_RECORD) | st.binary(max_size=60),
).map(encode_identify)


def run_identify(pieces: Pieces) -> None:
    parts = MessageParts()
    try:
        for piece in pieces:
            parts.feed(piece)
        message = parts.message()
    except ProtocolError as error:
        _only(error, "identify")
        return
    once = merged(message, ALICE.peer_id(), None)
    merged(message, ALICE.peer_id(), once)


def run_envelope(pieces: Pieces) -> None:
    payload = bytes_field(1, ALICE.peer_id().to_bytes()) + b"\x10\x07"
    payload += bytes_field(3, bytes_field(1, b"\x04\x7f\x00\x00\x01\x06\x0f\xa1"))
    resealed = partial(seal_envelope, ALICE, domain="libp2p-peer-record", payload_type=b"\x03\x01")
    for data in (
        b"".join(pieces),
        damaged(_RECORD, pieces),
        resealed(payload=damaged(payload, pieces)),
    ):
        try:
            open_peer_record(data)
        except ProtocolError as error:
            _only(error, "envelope", "peer record")


# --- kad ------------------------------------------------------------------------------------------

kad_messages = st.one_of(requests.map(encode_request), replies.map(encode_reply))


def run_kad_codec(pieces: Pieces) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            reader.feed(piece)
            while (payload := reader.next_frame()) is not None:
                for decode in (decode_request, decode_reply):
                    try:
                        decode(payload)
                    except MessageError:
                        pass
    except FrameError:
        pass


class _Loads:
    """A store whose reads wait until they are let go."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Load, Callable[[], None]]] = []

    def load(self, load: Load, done: Callable[[], None], owner: Path) -> None:
        self.waiting.append((load, done))

    def stop_waiting(self, load: Load, done: Callable[[], None]) -> None:
        if (load, done) in self.waiting:
            self.waiting.remove((load, done))


class _NoJudges:
    """There is no application, hence no validator of one."""

    def begin(self, check: Check, done: Callable[[], None]) -> None:
        raise AssertionError(check)

    def stop_waiting(self, check: Check, done: Callable[[], None]) -> None:
        raise AssertionError(check)


def run_kad_stream(pieces: Pieces) -> None:
    """A stream from its first byte to its end, the records of some keys being on disk."""
    local = BOB.peer_id()
    table, book = RoutingTable(local.key), PeerBook(local)
    stored = ProviderRecords(ttl_s=3_600.0)
    stored.opened(3)
    rebuilt = stored.begin_rebuild()
    rebuilt.add(key_of(bytes(1)), 1)
    rebuilt.add(key_of(b"\x12\x20" + bytes(32)), 2)
    stored.finish_rebuild(rebuilt)
    for number in range(30):
        peer = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
        book.heard(peer, [b"\x04\x01\x02\x03\x04\x06\x0f\xa1"], NOW)
        table.add(peer, NOW)
    responder = Responder(
        local,
        table=table,
        book=book,
        records=stored,
        rng=random.Random(7),
        address_filter=KEEP_ALL,
        values=ValueRecords(local.key, Validators(BUILT_IN)),
    )
    loads = _Loads()
    server = KadServer(responder, loads, _NoJudges(), Clock(lambda: UNIX_NOW))
    stream = server(ALICE.peer_id())
    turns: list[bytes | None] = [*pieces, None]
    for turn in turns:
        answer = stream.eof(NOW) if turn is None else stream.feed(turn, NOW)
        while isinstance(answer, Parked):
            ready: list[bool] = []
            answer.on_ready(lambda ready=ready: ready.append(True))  # type: ignore[misc]
            for load, done in loads.waiting[:]:
                loads.waiting.remove((load, done))
                stored.loaded(load.key, [], UNIX_NOW)
                done()
            if ready != [True]:
                raise FindingError(f"a parked stream was woken {len(ready)} times")
            answer = stream.feed(b"", NOW)
        if isinstance(answer, Reset):
            break
    stream.closed()
    if loads.waiting:
        raise FindingError("the stream is over and still held something")


# --- names ----------------------------------------------------------------------------------------

_NAMES = ["a.test", "b.test", "c.test"]
_ID = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
name_texts = st.one_of(
    st.text(max_size=60),
    st.builds(
        "dnsaddr={}{}".format,
        st.sampled_from(
            [
                "/ip4/192.0.2.1/tcp/1",
                "/ip6/::1/udp/1/quic-v1",
                "/dnsaddr/b.test",
                "/dnsaddr/c.test",
                "/dns4/a.test/tcp/1",
                "/dns/b.test",
                "/unix/a/b",
                "",
                "/",
                "//",
            ]
        )
        | st.text(max_size=30),
        st.sampled_from(["", f"/p2p/{_ID}", "/p2p/x", "/p2p-circuit", "/http-path/%ff", "/ws/"])
        | st.text(max_size=20),
    ),
)
name_inputs = st.lists(
    name_texts.map(lambda text: text.encode("utf-8", "surrogatepass")), max_size=9
)


class _FuzzedServers:
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    async def texts(self, name: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        start = len(name) % 3
        return [*self._texts[start:], *self._texts[:start]]

    async def ips(self, name: str, ip_version: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["192.0.2.7"] if ip_version == 4 else ["2001:db8::7"]


def run_dnsaddr(pieces: Pieces) -> None:
    texts = [piece.decode("utf-8", "replace") for piece in pieces]

    async def main() -> None:
        for suffix in ("", f"/p2p/{_ID}"):
            deadline = Monotonic(trio.current_time() + 60)
            try:
                found = await resolve(
                    [Multiaddr(f"/dnsaddr/{name}{suffix}") for name in _NAMES],
                    deadline,
                    peer_id=PeerId.from_base58(_ID) if suffix else None,
                    servers=_FuzzedServers(texts),
                )
            except NetworkError:
                continue
            if not 0 < len(found) <= MAX_RESOLVED:
                raise FindingError(f"{len(found)} addresses")

    trio.run(main)


# --- the store ------------------------------------------------------------------------------------

_ROW = ProviderRow(
    b"key",
    ALICE.peer_id(),
    (b"\x04\x7f\x00\x00\x01\x06\x0f\xa1", bytes(200)),
    UnixTime(1.0),
    UnixTime(2.0),
    UnixTime(3.0),
)


def run_store(pieces: Pieces) -> None:
    """Rows that changed on disk; pieces: what they changed to."""
    store = SqliteStore()
    try:
        store.records.flush(Flush((_ROW,), 10))
        records: sqlite3.Connection = store.records.database.connection
        good, provider = records.execute("SELECT record, provider FROM providers").fetchone()
        spoilt = [damaged(good, pieces), b"".join(pieces)]
        for number, record in enumerate(spoilt):
            records.execute(
                "INSERT OR REPLACE INTO providers (key, provider, record, expires)"
                " VALUES (?, ?, ?, ?)",
                (b"key", damaged(provider, pieces) if number else provider, record, 3.0),
            )
        for row in store.records.load_providers(b"key"):
            row.provider.to_base58()
        records.execute(
            "INSERT INTO snapshot VALUES (0, ?, ?)", (damaged(provider, pieces), spoilt[1])
        )
        store.snapshot.load()
        store.records.delete_expired(UNIX_NOW, UNIX_NOW, 100)
        for data in spoilt:
            try:
                unpack_addrs(data)
            except ValueError:
                pass
    finally:
        store.close()


# --- all of them ----------------------------------------------------------------------------------

only_edits = st.lists(edits, max_size=6)

LAYERS = {
    layer.name: layer
    for layer in (
        Layer("multistream", in_pieces(damaged_messages(negotiation)), run_multistream),
        Layer("noise", secure_inputs, partial(run_secure, "noise")),
        Layer("noise-payload", only_edits, run_noise_payload),
        Layer("tls", secure_inputs, partial(run_secure, "tls")),
        Layer("certificate", only_edits, run_certificate),
        Layer("keys", only_edits, run_keys),
        Layer("yamux", in_pieces(damaged_messages(yamux_traffic)), run_yamux),
        Layer("connection", in_pieces(damaged_messages(stream_traffic)), run_connection),
        Layer("bare-connection", bare_inputs, run_bare_connection),
        Layer("quic", secure_inputs, run_quic_datagrams),
        Layer("quic-payload", quic_payloads, run_quic_payload),
        Layer(
            "identify",
            in_pieces(
                damaged_messages(
                    st.lists(
                        identify_messages.map(lambda data: encode_varint(len(data)) + data),
                        max_size=3,
                    ).map(b"".join)
                )
            ),
            run_identify,
        ),
        Layer("envelope", only_edits, run_envelope),
        Layer(
            "kad-codec",
            in_pieces(damaged_messages(st.lists(kad_messages, max_size=4).map(b"".join))),
            run_kad_codec,
        ),
        Layer(
            "kad-stream",
            in_pieces(
                damaged_messages(
                    st.lists(requests.map(encode_request), max_size=6).map(b"".join), most=2
                )
            ),
            run_kad_stream,
        ),
        Layer("dnsaddr", name_inputs, run_dnsaddr),
        Layer("store", only_edits, run_store),
    )
}
"""By name, in the order of the layers."""

__all__ = ["LAYERS", "FindingError", "Layer"]
