"""TLS 1.3 for QUIC (RFC 9001, section 4), from aioquic's ``tls``; the only module that touches it.

Decides what of the handshake is libp2p's: a listener asks for the dialler's certificate, and the
certificates of both sides go to ``judge`` while the handshake waits, so that a wrong listener does
not learn who dials. No session tickets, no early data, one group for the key exchange, and
``libp2p`` as the only protocol.

Messages go in and out by level; secrets come out as they are made. States are the library's::

    hello (INITIAL) --> certificates, finished (HANDSHAKE) --> complete (ONE_RTT)

Three things are private in the library: the flag by which a listener asks for a certificate, the
list of groups, and the method that takes the peer's certificate. ``check_tls`` looks at them, and
at what is public, before a node listens: a flag that silently stops to work would let anybody in.
It is not tied to a release.
"""

# ruff: noqa: SLF001 - here, and nowhere else

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from aioquic import tls
from aioquic._buffer import Buffer  # where it is typed

from codio_dht.crypto.certificate import OwnCertificate
from codio_dht.errors import ProtocolError, UsageError
from codio_dht.net.quic.machine.errors import CRYPTO_ERRORS, Code, QuicError
from codio_dht.net.quic.machine.frames import CRYPTO, PacketLevel
from codio_dht.net.quic.protection import AES_128, AES_256, CHACHA20, Suite

ALPN: Final = "libp2p"

_FLIGHT_BYTES: Final = 16_384
"""Room for what one level sends in the handshake: a certificate of the largest identity fits."""
_UNEXPECTED_MESSAGE: Final = CRYPTO_ERRORS.start + 10
_NO_PROTOCOL: Final = CRYPTO_ERRORS.start + 120
_MISSING_EXTENSION: Final = CRYPTO_ERRORS.start + 109
"""TLS alerts (RFC 8446, section 6)."""
_NEW_SESSION_TICKET: Final = 4
_MESSAGE_HEADER_BYTES: Final = 4

_LEVELS: Final = {
    tls.Epoch.INITIAL: PacketLevel.INITIAL,
    tls.Epoch.HANDSHAKE: PacketLevel.HANDSHAKE,
    tls.Epoch.ONE_RTT: PacketLevel.ONE_RTT,
}
_SUITES: Final[dict[tls.CipherSuite, Suite]] = {
    tls.CipherSuite.AES_128_GCM_SHA256: AES_128,
    tls.CipherSuite.AES_256_GCM_SHA384: AES_256,
    tls.CipherSuite.CHACHA20_POLY1305_SHA256: CHACHA20,
}
_HELLOS: Final = (tls.State.CLIENT_EXPECT_SERVER_HELLO, tls.State.SERVER_EXPECT_CLIENT_HELLO)
_COMPLETE: Final = (tls.State.CLIENT_POST_HANDSHAKE, tls.State.SERVER_POST_HANDSHAKE)
_EXPECTED: Final = {
    "handle_message": ("self", "input_data", "output_buf"),
    "_set_peer_certificate": ("self", "certificate"),
}
_ATTRIBUTES: Final[dict[str, object]] = {
    "_request_client_certificate": False,
    "alpn_negotiated": None,
    "received_extensions": None,
    "handshake_extensions": [],
}


class TlsMismatchError(UsageError):
    """The installed aioquic does not have the TLS that this module was written for."""


@lru_cache(maxsize=1)
def check_tls() -> None:
    """Make sure that the library is as expected.

    Raises:
        TlsMismatchError: naming the difference.
    """
    for name, expected in _EXPECTED.items():
        method = getattr(tls.Context, name, None)
        parameters = () if method is None else tuple(inspect.signature(method).parameters)
        if parameters != expected:
            raise TlsMismatchError(f"aioquic's tls.Context.{name} takes {parameters}")
    check_context(tls.Context(is_client=False))


def check_context(context: tls.Context) -> None:
    """Make sure that a context has what is set and read here.

    Raises:
        TlsMismatchError: it has not.
    """
    for name, expected in _ATTRIBUTES.items():
        if getattr(context, name, ...) != expected:
            raise TlsMismatchError(f"aioquic's tls.Context has no {name} of {expected}")
    if not isinstance(getattr(context, "_supported_groups", None), list):
        raise TlsMismatchError("aioquic's tls.Context has no list of groups")


class Secret(NamedTuple):
    """A secret that the handshake made."""

    level: PacketLevel
    sends: bool
    """It is for what this side sends."""
    suite: Suite
    secret: bytes


Judge = Callable[[Sequence[bytes]], None]
"""Gets the peer's certificates, and raises ``ProtocolError`` unless they will do."""


class TlsHandshake:
    """One handshake. After every call ``secrets`` and ``output`` hold what it made."""

    __slots__ = ("_buffers", "_context", "_judge", "fault", "is_complete", "output", "secrets")

    def __init__(
        self,
        own: OwnCertificate,
        judge: Judge,
        *,
        dialled: bool,
        parameters: bytes,
    ) -> None:
        """A handshake; ``parameters`` are the transport parameters of this side."""
        context = self._context = tls.Context(
            is_client=dialled,
            alpn_protocols=[ALPN],
            cipher_suites=list(_SUITES),
            verify_mode=ssl.CERT_NONE,  # ``judge`` decides
        )
        context.certificate = own.certificate
        context.certificate_private_key = own.key
        context.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, parameters)]
        context.update_traffic_key_cb = self._on_secret
        context._request_client_certificate = not dialled
        groups = [tls.Group.X25519]  # one key share is made for each; every implementation has it
        context._supported_groups = groups if dialled else [*groups, tls.Group.SECP256R1]
        self._judge = judge
        take = context._set_peer_certificate

        def judge_first(certificate: tls.Certificate) -> None:
            self._judge_certificates([data for data, _ in certificate.certificates])
            take(certificate)

        vars(context)["_set_peer_certificate"] = judge_first  # of this one object
        self._buffers = {epoch: Buffer(capacity=_FLIGHT_BYTES) for epoch in _LEVELS}
        self.fault: ProtocolError | None = None
        """What ``judge`` said against the peer."""
        self.is_complete = False
        self.secrets: list[Secret] = []
        self.output: list[tuple[PacketLevel, bytes]] = []

    def start(self) -> None:
        """Say hello, as a dialler."""
        self._run(b"")

    @property
    def reads_at(self) -> PacketLevel:
        """The level at which the peer's next message has to come (RFC 9001, section 4.1.3)."""
        if self._context.state in _HELLOS:
            return PacketLevel.INITIAL
        return PacketLevel.HANDSHAKE

    @property
    def peer_parameters(self) -> bytes | None:
        """The peer's transport parameters, once they came.

        Raises:
            QuicError: it sent none.
        """
        extensions = self._context.received_extensions
        if extensions is None:
            return None
        for kind, content in extensions:
            if kind == tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS:
                return content
        raise QuicError(_MISSING_EXTENSION, "no transport parameters", CRYPTO)

    def feed(self, level: PacketLevel, data: bytes) -> None:
        """Take the peer's bytes, in order.

        Raises:
            QuicError: they are not to be had.
        """
        if level is not self.reads_at:
            raise QuicError(Code.PROTOCOL_VIOLATION, "a message at the wrong level", CRYPTO)
        self._run(data)
        if self._context.state in _COMPLETE:
            if self._context.alpn_negotiated != ALPN:
                raise QuicError(_NO_PROTOCOL, "another protocol", CRYPTO)
            self.is_complete = True

    def _run(self, data: bytes) -> None:
        try:
            self._context.handle_message(data, self._buffers)
        except tls.Alert as alert:
            code = CRYPTO_ERRORS.start + int(alert.description)
            raise QuicError(code, "handshake failed", CRYPTO) from alert
        except Exception as error:  # the library's parsers meet a peer's bytes here
            raise QuicError(Code.PROTOCOL_VIOLATION, "malformed handshake", CRYPTO) from error
        for epoch, buffer in self._buffers.items():
            if buffer.tell():
                self.output.append((_LEVELS[epoch], buffer.data))
                buffer.seek(0)

    def _on_secret(
        self, direction: tls.Direction, epoch: tls.Epoch, suite: tls.CipherSuite, secret: bytes
    ) -> None:
        if epoch in _LEVELS:
            sends = direction is tls.Direction.ENCRYPT
            self.secrets.append(Secret(_LEVELS[epoch], sends, _SUITES[suite], secret))

    def _judge_certificates(self, certificates: Sequence[bytes]) -> None:
        try:
            self._judge(certificates)
        except ProtocolError as error:
            self.fault = error
            raise tls.AlertBadCertificate("bad certificate") from error


class LateMessages:
    """What a listener may say after the handshake: session tickets, which are passed over
    (RFC 9001, sections 4.4 and 6)."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def feed(self, data: bytes, *, dialled: bool) -> None:
        """Take bytes, in order.

        Raises:
            QuicError: there is something else among them.
        """
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            need = _MESSAGE_HEADER_BYTES - len(self._header)
            self._header += data[at : at + need]
            at += need
            if self._header[0] != _NEW_SESSION_TICKET or not dialled:
                raise QuicError(_UNEXPECTED_MESSAGE, "an unexpected message", CRYPTO)
            if len(self._header) == _MESSAGE_HEADER_BYTES:
                self._left = int.from_bytes(self._header[1:], "big")
                self._header = b""
