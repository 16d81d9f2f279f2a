"""aioquic's connection with libp2p's handshake, enforced windows and bounded reassembly.

The only place that touches what aioquic calls private. Decides nothing about libp2p's streams;
those are :mod:`quic_streams`'s. What it changes, and why:

- A server asks for the client's certificate (aioquic: a flag "for test purposes only"), and
  certificates of both sides go to ``judge`` while the handshake waits; aioquic would ask an
  authority, or nobody.
- Windows grow by what was taken (``grant``). aioquic doubles them as data arrives, so that a peer
  may send without end what nobody reads.
- Handshake data is bounded, and so are the gaps in any data, before anybody is authenticated:
  aioquic keeps half a megabyte, and looks through all gaps for every frame.
- No unidirectional streams, which libp2p has none of; no session tickets, no early data.
- It logs nothing: aioquic logs what peers write.

``check_engine`` compares the installed aioquic with what is expected here, and refuses loudly: a
flag that silently stops to work would let anybody in.
"""

# ruff: noqa: SLF001 - here, and nowhere else

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

from aioquic import tls
from aioquic._buffer import Buffer  # where it is typed
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    TRANSPORT_CLOSE_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from codio_dht.crypto.certificate import OwnCertificate
from codio_dht.errors import ProtocolError, UsageError
from codio_dht.params import (
    MAX_QUIC_CONNECTION_IDS,
    MAX_QUIC_GAPS,
    MAX_QUIC_LATE_CRYPTO_BYTES,
    MAX_QUIC_STREAMS,
    MAX_TLS_HANDSHAKE_BYTES,
    QUIC_ACK_DELAY_S,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_DATAGRAM_BYTES,
    QUIC_IDLE_TIMEOUT_S,
    QUIC_STREAM_WINDOW_BYTES,
)

AIOQUIC_VERSION: Final = "1.7.2"
"""The release whose source this was written against."""

ALPN: Final = "libp2p"
CONNECTION_ID_BYTES: Final = 8

_DATAGRAMS_PER_ACK: Final = 2
"""As RFC 9000, section 13.2.2 recommends."""

_EXPECTED: Final = {
    (QuicConnection, "_initialize"): ("self", "peer_cid"),
    (QuicConnection, "_handle_crypto_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_handle_stream_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_handle_new_connection_id_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_write_connection_limits"): ("self", "builder", "space"),
    (QuicConnection, "_write_stream_limits"): ("self", "builder", "space", "stream"),
    (QuicConnection, "_on_connection_limit_delivery"): ("self", "delivery", "limit"),
    (QuicConnection, "_on_max_stream_data_delivery"): ("self", "delivery", "stream"),
    (QuicConnection, "_idle_timeout"): ("self",),
    (QuicPacketBuilder, "start_frame"): (
        "self", "frame_type", "capacity", "handler", "handler_args",
    ),
    (tls.Context, "_set_peer_certificate"): ("self", "certificate"),
}  # fmt: skip
"""Methods that are called or replaced, and their parameters."""


class EngineMismatchError(UsageError):
    """The installed aioquic is not the one that this package was written for."""


@lru_cache(maxsize=1)
def check_engine() -> None:
    """Make sure that aioquic is as expected.

    Raises:
        EngineMismatchError: naming the difference.
    """
    found = version("aioquic")
    if found != AIOQUIC_VERSION:
        raise EngineMismatchError(f"aioquic {found} is installed, {AIOQUIC_VERSION} is needed")
    for (owner, name), expected in _EXPECTED.items():
        method = getattr(owner, name, None)
        parameters = () if method is None else tuple(inspect.signature(method).parameters)
        if parameters != expected:
            raise EngineMismatchError(
                f"aioquic's {owner.__name__}.{name} takes {parameters}, not {expected}"
            )
    check_request_flag(tls.Context(is_client=False))


def check_request_flag(context: tls.Context) -> None:
    """Make sure that the flag is there by which a server asks for the client's certificate.

    Raises:
        EngineMismatchError: it is not.
    """
    if getattr(context, "_request_client_certificate", None) is not False:
        raise EngineMismatchError("aioquic's TLS has no flag to ask for a client's certificate")


def configuration(own: OwnCertificate, *, initiator: bool) -> QuicConfiguration:
    """What all connections of one role share."""
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        certificate=own.certificate,
        cipher_suites=[
            tls.CipherSuite.AES_128_GCM_SHA256,
            tls.CipherSuite.AES_256_GCM_SHA384,
            tls.CipherSuite.CHACHA20_POLY1305_SHA256,
        ],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=QUIC_IDLE_TIMEOUT_S,
        is_client=initiator,
        max_data=QUIC_CONNECTION_WINDOW_BYTES,
        max_datagram_size=QUIC_DATAGRAM_BYTES,
        max_stream_data=QUIC_STREAM_WINDOW_BYTES,
        private_key=own.key,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=ssl.CERT_NONE,  # ``judge`` decides
    )


class Engine(QuicConnection):
    """See the module."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        judge: Callable[[list[bytes]], None],
        **options: Any,
    ) -> None:
        """A connection.

        Args:
            configuration: see ``configuration``.
            judge: gets the peer's certificates and raises ``ProtocolError`` unless they will do.
            options: as a server, ``QuicConnection``'s for the client's first packet.
        """
        check_engine()
        super().__init__(configuration=configuration, **options)
        self._judge = judge
        self.fault: ProtocolError | None = None
        self._logger = self._loss._logger = _SILENT
        for limit, value in (
            (self._local_max_streams_bidi, MAX_QUIC_STREAMS),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = value
        self._ungranted = 0
        self._ack_delay = QUIC_ACK_DELAY_S
        self._unacknowledged = 0
        self._has_news = False

    # --- sending ----------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """See ``QuicConnection``."""
        self._unacknowledged += 1
        super().receive_datagram(data, addr, now)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """See ``QuicConnection``."""
        self._has_news = True
        super().send_stream_data(stream_id, data, end_stream)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """See ``QuicConnection``. An acknowledgement goes with data, or for every second datagram,
        or when its time has come; aioquic would send each on its own, a millisecond later."""
        if self._has_news or self._unacknowledged >= _DATAGRAMS_PER_ACK:
            space = self._spaces.get(tls.Epoch.ONE_RTT)
            if space is not None and space.ack_at is not None and space.ack_at > now:
                space.ack_at = now
            self._has_news = False
            self._unacknowledged = 0
        return super().datagrams_to_send(now)

    def get_timer(self) -> float | None:
        """See ``QuicConnection``, which fails before anything was sent or received."""
        return None if self._close_at is None else super().get_timer()

    # --- what aioquic keeps to itself -------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether the peer's first packet was one (or this side dialled)."""
        return bool(self._network_paths) and bool(self._spaces)

    @property
    def close_event(self) -> ConnectionTerminated | None:
        """Why either side closed it; nothing is received any more. None: open."""
        return self._close_event

    @property
    def negotiated_idle_timeout_s(self) -> float:
        """Silence after which the connection ends, by what both sides said, seconds."""
        return self._idle_timeout()

    @property
    def rtt_s(self) -> float | None:
        """The smoothed round trip, seconds."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    @property
    def streams_allowed(self) -> int:
        """Own streams that the peer lets us open now."""
        opened = self._local_next_stream_id_bidi // 4
        return self._remote_max_streams_bidi - opened

    @property
    def streams_kept(self) -> int:
        """Streams whose ends are not settled with the peer yet, those that are over here too."""
        return len(self._streams)

    def stream(self, stream_id: int) -> QuicStream | None:
        """Aioquic's state of a stream, until it is settled."""
        return self._streams.get(stream_id)

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that have not left yet."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return stream.sender._buffer_stop - stream.sender.highest_offset

    def kept(self, stream_id: int) -> int:
        """Bytes of a stream that are kept until the peer has them."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender._reset_error_code is not None:
            return 0
        return len(stream.sender._buffer)

    def can_send(self, stream_id: int) -> bool:
        """Whether the stream takes data: neither finished nor reset, by us or by the peer."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return False
        sender = stream.sender
        return sender._buffer_fin is None and sender._reset_error_code is None

    def received(self, stream_id: int) -> int:
        """Bytes of a stream that count against the connection's window so far."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    def abort(self, stream_id: int) -> None:
        """End both directions of a stream, as far as they have not ended."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.sender.reset(0)
        if not stream.receiver.is_finished:
            stream.receiver.stop(0)

    # --- windows ----------------------------------------------------------------------------------

    def grant(self, count: int) -> None:
        """The peer may send ``count`` more bytes on the connection."""
        self._ungranted += count
        if 2 * self._ungranted >= QUIC_CONNECTION_WINDOW_BYTES:
            self._local_max_data.value += self._ungranted
            self._ungranted = 0

    def grant_stream(self, stream_id: int, count: int) -> None:
        """The peer may send ``count`` more bytes on a stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.max_stream_data_local += count

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        for limit in (self._local_max_data, self._local_max_streams_bidi):
            if limit.value != limit.sent and self._is_worth_telling(limit):
                buf = builder.start_frame(
                    limit.frame_type,
                    capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                    handler=self._on_connection_limit_delivery,
                    handler_args=(limit,),
                )
                buf.push_uint_var(limit.value)
                limit.sent = limit.value

    def _is_worth_telling(self, limit: Limit) -> bool:
        """Streams one by one are not, while the peer has many left."""
        if limit is self._local_max_data:
            return True
        left = limit.sent - limit.used
        return bool(limit.value - limit.sent > left)

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        assert stream.stream_id is not None
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    # --- bounds -----------------------------------------------------------------------------------

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        late = context.epoch is tls.Epoch.ONE_RTT
        if end > (MAX_QUIC_LATE_CRYPTO_BYTES if late else MAX_TLS_HANDSHAKE_BYTES):
            raise _refusal(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "handshake too long")
        super()._handle_crypto_frame(context, frame_type, buf)
        self._check_gaps(self._crypto_streams[context.epoch], frame_type)

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._check_gaps(stream, frame_type)

    def _check_gaps(self, stream: QuicStream, frame_type: int) -> None:
        if len(stream.receiver._ranges) > MAX_QUIC_GAPS:
            raise _refusal(QuicErrorCode.INTERNAL_ERROR, frame_type, "too many gaps")

    def _handle_new_connection_id_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_new_connection_id_frame(context, frame_type, buf)
        if len(self._peer_cid_sequence_numbers) > MAX_QUIC_CONNECTION_IDS:
            raise _refusal(
                QuicErrorCode.CONNECTION_ID_LIMIT_ERROR, frame_type, "too many connection ids"
            )

    # --- the handshake ----------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        check_request_flag(self.tls)
        groups = [tls.Group.X25519]  # one key share is made for each; every implementation has it
        self.tls._supported_groups = groups if self._is_client else [*groups, tls.Group.SECP256R1]
        self.tls._request_client_certificate = not self._is_client
        take = self.tls._set_peer_certificate

        def judge_first(certificate: tls.Certificate) -> None:
            try:
                self._judge([data for data, _ in certificate.certificates])
            except ProtocolError as error:
                self.fault = error
                raise tls.AlertBadCertificate("bad certificate") from error
            take(certificate)

        vars(self.tls)["_set_peer_certificate"] = judge_first  # of this one object


def read_header(data: bytes) -> QuicHeader | None:
    """The first packet's header of a datagram; None if it is not one."""
    try:
        return pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
    except ValueError:
        return None


def refusal_packet(*, version: int, source_id: bytes, destination_id: bytes) -> bytes:
    """A listener's answer to a dialler's first packet that it will not have: the connection is
    refused. ``source_id`` is the connection id that the dialler chose for us."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=source_id, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=source_id,
        is_client=False,
        max_datagram_size=QUIC_DATAGRAM_BYTES,
        peer_cid=destination_id,
        version=version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buf = builder.start_frame(
        QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY
    )
    buf.push_uint_var(QuicErrorCode.CONNECTION_REFUSED)
    buf.push_uint_var(QuicFrameType.PADDING)
    buf.push_uint_var(0)
    datagrams, _ = builder.flush()
    return datagrams[0]


def _refusal(code: QuicErrorCode, frame_type: int, reason: str) -> QuicConnectionError:
    return QuicConnectionError(error_code=code, frame_type=frame_type, reason_phrase=reason)


class _Silent:
    """A logger that is none."""

    def debug(self, *_: object) -> None:
        """Nothing."""

    info = warning = debug


_SILENT: Final[Any] = _Silent()
