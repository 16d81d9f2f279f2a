"""aioquic's connection with libp2p's handshake, enforced windows and bounded reassembly.

Decides nothing about libp2p's streams (:mod:`~codio_dht.net.quic.streams` does). What it changes,
and why:

- A server asks for the client's certificate (aioquic: a flag "for test purposes only"), and
  certificates of both sides go to ``judge`` while the handshake waits; aioquic would ask an
  authority, or nobody.
- Handshake data is bounded, and so are the gaps in any data, before anybody is authenticated:
  aioquic keeps half a megabyte, and looks through all gaps for every frame.
- No session tickets, no early data.
- Once there are keys, :mod:`~codio_dht.net.quic.sending`, :mod:`~codio_dht.net.quic.receiving` and
  :mod:`~codio_dht.net.quic.windows` send and receive. Together with this module they are the only
  places that touch what aioquic calls private.
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
from aioquic._crypto import HeaderProtection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicProtocolVersion,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream, QuicStreamReceiver

from codio_dht.crypto.certificate import OwnCertificate
from codio_dht.errors import ProtocolError, UsageError
from codio_dht.net.quic.limits import (
    CONNECTION_ID_BYTES,
    MAX_QUIC_CONNECTION_IDS,
    MAX_QUIC_GAPS,
    MAX_QUIC_LATE_CRYPTO_BYTES,
    QUIC_ACK_DELAY_S,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_DATAGRAM_BYTES,
    QUIC_IDLE_TIMEOUT_S,
    QUIC_STREAM_WINDOW_BYTES,
)
from codio_dht.net.quic.receiving import Receiving
from codio_dht.net.quic.tokens import ResetTokens
from codio_dht.net.stack.limits import MAX_TLS_HANDSHAKE_BYTES

AIOQUIC_VERSION: Final = "1.7.2"
"""The release whose source this was written against."""

ALPN: Final = "libp2p"
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
    (QuicConnection, "_payload_received"): ("self", "context", "plain", "crypto_frame_required"),
    (QuicConnection, "_handle_ack_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_handle_padding_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_handle_max_data_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_handle_max_stream_data_frame"): ("self", "context", "frame_type", "buf"),
    (QuicConnection, "_get_or_create_stream"): ("self", "frame_type", "stream_id"),
    (QuicConnection, "_get_or_create_stream_for_send"): ("self", "stream_id"),
    (QuicConnection, "_unblock_streams"): ("self", "is_unidirectional"),
    (QuicConnection, "_write_application"): ("self", "builder", "network_path", "now"),
    (QuicConnection, "_write_ack_frame"): ("self", "builder", "space", "now"),
    (QuicConnection, "_write_path_challenge_frame"): ("self", "builder", "network_path"),
    (QuicConnection, "_write_path_response_frame"): ("self", "builder", "challenge"),
    (QuicConnection, "_write_handshake_done_frame"): ("self", "builder"),
    (QuicConnection, "_write_new_connection_id_frame"): ("self", "builder", "connection_id"),
    (QuicConnection, "_write_retire_connection_id_frame"): ("self", "builder", "sequence_number"),
    (QuicConnection, "_write_streams_blocked_frame"): ("self", "builder", "frame_type", "limit"),
    (QuicConnection, "_write_ping_frame"): ("self", "builder", "uids", "comment"),
    (QuicConnection, "_write_crypto_frame"): ("self", "builder", "space", "stream"),
    (QuicConnection, "_write_stop_sending_frame"): ("self", "builder", "stream"),
    (QuicConnection, "_write_reset_stream_frame"): ("self", "builder", "stream"),
    (QuicConnection, "_replenish_connection_ids"): ("self",),
    (QuicConnection, "_on_new_connection_id_delivery"): ("self", "delivery", "connection_id"),
    (QuicConnection, "_on_ack_delivery"): ("self", "delivery", "space", "highest_acked"),
    (QuicPacketRecovery, "on_packet_sent"): ("self", "packet", "space"),
    (QuicPacketRecovery, "_detect_loss"): ("self", "now", "space"),
    (QuicStreamReceiver, "handle_frame"): ("self", "frame"),
    (QuicStreamReceiver, "handle_reset"): ("self", "final_size", "error_code"),
    (CryptoPair, "_update_key"): ("self", "trigger"),
    (HeaderProtection, "_mask"): ("self", "sample"),
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


class Engine(Receiving):
    """aioquic's connection with the handshake of libp2p, and with enforced bounds."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        judge: Callable[[list[bytes]], None],
        resets: ResetTokens,
        **options: Any,
    ) -> None:
        """A connection.

        Args:
            configuration: see ``configuration``.
            judge: gets the peer's certificates and raises ``ProtocolError`` unless they will do.
            resets: the stateless reset tokens of this node's connection ids.
            options: as a server, ``QuicConnection``'s for the client's first packet.
        """
        super().__init__(configuration=configuration, **options)
        self._judge = judge
        self._resets = resets
        self._promise_resets()
        self.fault: ProtocolError | None = None
        self._logger = _SILENT
        self._ack_delay = QUIC_ACK_DELAY_S

    # --- sending ----------------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """See ``QuicConnection``. An acknowledgement goes with data, or for every second datagram,
        or when its time has come; aioquic would send each on its own, a millisecond later."""
        if self._ledger.ready or self._unacknowledged >= _DATAGRAMS_PER_ACK:
            space = self._app_space
            if space.ack_at is not None and space.ack_at > now:
                space.ack_at = now
        return super().datagrams_to_send(now)

    def next_event(self) -> QuicEvent | None:
        """See ``QuicConnection``, which lets an exception tell that there is none."""
        return self._events.popleft() if self._events else None

    # --- what aioquic keeps to itself -------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether the peer's first packet was genuine (or this side dialled)."""
        return bool(self._spaces) and (
            self._is_client or self._state is not QuicConnectionState.FIRSTFLIGHT
        )

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

    @property
    def kept_bytes(self) -> int:
        """Bytes of all streams that are kept until the peer has them."""
        return self._ledger.kept

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

        if not self._is_client and self._peer_cid.sequence_number == 0:
            # A dialler's first id has no reset token (RFC 9000, section 18.2), its others have one.
            self.change_connection_id()

    # --- stateless resets -------------------------------------------------------------------------

    @property
    def peer_reset_token(self) -> bytes | None:
        """The peer's token for the id that its packets carry now; None if it gave none."""
        return self._peer_cid.stateless_reset_token or None

    def _promise_resets(self) -> None:
        """Have every own id's token follow from the identity; a dialler's first id has none."""
        for connection_id in self._host_cids:
            if connection_id.stateless_reset_token is not None:
                connection_id.stateless_reset_token = self._resets.of(connection_id.cid)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._promise_resets()

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


def _refusal(code: QuicErrorCode, frame_type: int, reason: str) -> QuicConnectionError:
    return QuicConnectionError(error_code=code, frame_type=frame_type, reason_phrase=reason)


class _Silent:
    """A logger that logs nothing."""

    def debug(self, *_: object) -> None:
        """Nothing."""

    info = warning = debug


_SILENT: Final[Any] = _Silent()
