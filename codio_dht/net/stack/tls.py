"""libp2p's TLS: mutual TLS 1.3 on memory buffers, the identity in the certificate, early muxers.

Decides who the peer is and whether it is the peer expected; encrypts and decrypts from then on.
Records and handshake are OpenSSL's, certificates are :mod:`codio_dht.crypto.certificate`'s: no
authority is asked, and OpenSSL's own opinion of a self-signed certificate does not count. States::

    initiator:  sent hello -> read all of the peer's, checked it, sent own -> established
    responder:  read hello, sent all -> read the peer's, checked it -> established
    established -> over (the peer sends no more; what follows is dropped)

A certificate is checked while the handshake waits, so a wrong listener does not learn who dials;
a responder knows its peer only with the last message. The muxer is settled by ALPN: the initiator
lists what it offers and then ``libp2p``, the responder takes the first it knows; ``libp2p`` means
that it is still to be negotiated.

Bounds: the peer's part of the handshake; and records that carry nothing (tickets, key updates),
since the last that did. Resumed sessions, which would go without a certificate, are off; one that
came about all the same would end for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, X509, dump_certificate

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.certificate import make_certificate, verify_certificate
from codio_dht.crypto.keys import PrivateKey, PublicKey
from codio_dht.errors import CapacityError, ProtocolError
from codio_dht.net.stack.limits import MAX_TLS_EMPTY_BYTES, MAX_TLS_HANDSHAKE_BYTES
from codio_dht.net.stack.security import Authenticated, Security

TLS: Final = "/tls/1.0.0"
_LAYER: Final = "tls"
_NO_MUXER: Final = "libp2p"
"""The protocol of ALPN that leaves the muxer to be negotiated later."""
_CIPHER_SUITES: Final = (
    b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
)
"""GO's order."""
_RECORD_PLAINTEXT_BYTES: Final = 16 * 1024
_RECORD_EXTRA_BYTES: Final = 22
"""Header, content type and tag of a record."""
_READ_BYTES: Final = 4 * 1024
"""What is read from OpenSSL at a time where nothing tells how much there is."""


class TlsIdentity:
    """What this node proves to every peer; made once, shared by all of its connections."""

    __slots__ = ("context", "unix_now")

    def __init__(self, identity: PrivateKey, unix_now: Callable[[], UnixTime]) -> None:
        """A new certificate for ``identity``; ``unix_now`` tells whether others' are valid."""
        own = make_certificate(identity)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(_CIPHER_SUITES)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.use_certificate(own.certificate)
        context.use_privatekey(own.key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _on_certificate)
        context.set_alpn_select_callback(_on_alpn)
        self.context = context
        self.unix_now = unix_now

    def security(self) -> Security:
        """TLS under this identity, for a connection to use."""

        def factory(initiator: bool, expected: PeerId | None, muxers: Sequence[str]) -> Tls:
            return Tls(self, initiator=initiator, expected=expected, muxers=muxers)

        return Security(TLS, factory, opens_with_message=True)


class Tls:
    """One side of one TLS connection; a :class:`SecurityLayer`."""

    __slots__ = ("_connection", "_empty_bytes", "_handshake", "_handshake_left", "_out", "_over",
                 "authenticated")  # fmt: skip

    def __init__(
        self,
        identity: TlsIdentity,
        *,
        initiator: bool,
        expected: PeerId | None = None,
        muxers: Sequence[str] = (),
    ) -> None:
        self._out = b""
        self._over = False  # failed, or the peer said that it sends no more
        self._handshake_left = MAX_TLS_HANDSHAKE_BYTES
        self._empty_bytes = 0  # received since the last plaintext
        self._handshake: _Handshake | None = _Handshake(
            initiator=initiator, expected=expected, muxers=muxers, unix_now=identity.unix_now
        )
        self._connection = connection = SSL.Connection(identity.context, None)
        connection.set_app_data(self._handshake)
        self.authenticated: Authenticated | None = None
        if initiator:
            connection.set_alpn_protos([name.encode() for name in (*muxers, _NO_MUXER)])
            connection.set_connect_state()
            self._shake_hands(self._handshake)
        else:
            connection.set_accept_state()

    def receive(self, data: bytes) -> bytes:
        """Take what arrived; plaintext, once established. Silent once the peer sends no more.

        Raises:
            ProtocolError: see the module. The layer is then used up; its alert waits to be sent.
        """
        if self._over or not data:
            return b""
        try:
            if self._handshake is not None:
                return self._take_handshake(self._handshake, data)
            return self._take_records(data)
        except ProtocolError:
            self._fail()
            raise
        except SSL.Error as error:
            reason = "handshake failed" if self.authenticated is None else "broken record"
            self._fail()
            raise ProtocolError(_LAYER, reason) from error

    def seal(self, plaintext: bytes) -> bytes:
        """``plaintext`` as records, behind what OpenSSL has to say itself.

        Raises:
            CapacityError: nothing can be sent any more; the connection must end.
        """
        connection = self._connection
        try:
            connection.sendall(plaintext)
        except SSL.Error as error:
            raise CapacityError("TLS can send no more") from error
        size = len(plaintext)
        records = size // _RECORD_PLAINTEXT_BYTES + 1
        return _drain(connection, size + records * _RECORD_EXTRA_BYTES)

    def data_to_send(self) -> bytes:
        """Handshake messages and alerts since the last call."""
        out, self._out = self._out, b""
        return out

    # --- handshake --------------------------------------------------------------------------------

    def _take_handshake(self, handshake: _Handshake, data: bytes) -> bytes:
        piece = data[: self._handshake_left]
        self._handshake_left -= len(piece)
        self._connection.bio_write(piece)
        self._shake_hands(handshake)
        if self.authenticated is not None:
            return self._take_records(data[len(piece) :])
        if not self._handshake_left:
            raise ProtocolError(_LAYER, "handshake too long")
        return b""

    def _shake_hands(self, handshake: _Handshake) -> None:
        connection = self._connection
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        else:
            self.authenticated = handshake.outcome(connection)
            self._handshake = None
            connection.set_app_data(None)
        self._out += _drain(connection)

    def _fail(self) -> None:
        self._over = True
        self._out += _drain(self._connection)

    # --- records ----------------------------------------------------------------------------------

    def _take_records(self, data: bytes) -> bytes:
        connection = self._connection
        if data:
            connection.bio_write(data)
        plaintexts = []
        try:
            while True:
                plaintexts.append(connection.recv(_RECORD_PLAINTEXT_BYTES))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._over = True
        plain = plaintexts[0] if len(plaintexts) == 1 else b"".join(plaintexts)
        if len(plain) + len(plaintexts) * _RECORD_EXTRA_BYTES != len(data):
            # More than whole records of plaintext: OpenSSL may have answered a key update.
            self._out += _drain(connection)
        if plain:
            self._empty_bytes = 0
            return plain
        self._empty_bytes += len(data)
        if self._empty_bytes > MAX_TLS_EMPTY_BYTES:
            raise ProtocolError(_LAYER, "records that carry nothing")
        return b""


class _Handshake:
    """What a handshake expects and learns: OpenSSL's callbacks know this, and no layer."""

    __slots__ = ("_expected", "_initiator", "_key", "_muxers", "_unix_now")

    def __init__(
        self,
        *,
        initiator: bool,
        expected: PeerId | None,
        muxers: Sequence[str],
        unix_now: Callable[[], UnixTime],
    ) -> None:
        self._initiator = initiator
        self._expected = expected
        self._muxers = {name.encode(): name for name in muxers}
        self._unix_now = unix_now
        self._key: PublicKey | None = None

    def check(self, connection: SSL.Connection, certificate: X509, depth: int) -> None:
        """Take the peer's certificate; OpenSSL asks several times about the same one.

        Raises:
            ProtocolError: it is not one, proves nothing, or proves another peer.
        """
        if depth or (self._initiator and self._sent_more_than_one(connection)):
            raise ProtocolError(_LAYER, "more than one certificate")
        if self._key is not None:
            return
        key = verify_certificate(dump_certificate(FILETYPE_ASN1, certificate), self._unix_now())
        if self._expected is not None and key.peer_id() != self._expected:
            raise ProtocolError(_LAYER, "another peer than expected")
        self._key = key

    def choose(self, offered: Sequence[bytes]) -> bytes:
        """The responder's choice among the initiator's protocols.

        Raises:
            ProtocolError: there is nothing to choose.
        """
        for name in offered:
            if name in self._muxers or name == _NO_MUXER.encode():
                return name
        raise ProtocolError(_LAYER, "no muxer in common")

    def outcome(self, connection: SSL.Connection) -> Authenticated:
        """What the finished handshake proved and settled.

        Raises:
            ProtocolError: it proved nothing.
        """
        if self._key is None:
            raise ProtocolError(_LAYER, "no certificate")
        if self._sent_more_than_one(connection):  # the responder's first look at all of them
            raise ProtocolError(_LAYER, "more than one certificate")
        muxer = self._muxers.get(connection.get_alpn_proto_negotiated())
        return Authenticated(self._key.peer_id(), self._key, muxer)

    def _sent_more_than_one(self, connection: SSL.Connection) -> bool:
        """OpenSSL's list has the peer's own certificate in it on the initiator's side only."""
        return len(connection.get_peer_cert_chain() or ()) > self._initiator


def _on_certificate(
    connection: SSL.Connection, certificate: X509, _error: int, depth: int, _ok: int
) -> bool:
    """Replaces OpenSSL's verdict. What it raises comes out of ``do_handshake``."""
    handshake = connection.get_app_data()
    assert isinstance(handshake, _Handshake)
    handshake.check(connection, certificate, depth)
    return True


def _on_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Choose the muxer for OpenSSL. What it raises comes out of ``do_handshake``."""
    handshake = connection.get_app_data()
    assert isinstance(handshake, _Handshake)
    return handshake.choose(offered)


def _drain(connection: SSL.Connection, size: int = _READ_BYTES) -> bytes:
    """All that OpenSSL has to send; ``size`` is what it will probably be."""
    out = b""
    try:
        while True:
            piece = connection.bio_read(size)
            if len(piece) < size and not out:
                return piece
            out += piece
    except SSL.WantReadError:
        return out
