"""QUIC v1 as a transport: a UDP socket per address listened on, and dials from the same sockets.

Decides which socket a dial leaves from: one that is listened on, if the route to the target begins
at its address, so that a peer sees the port at which we can be reached, and a NAT learns it; else
one socket of the family that is kept for that. On an address where TCP listens on a port chosen by
the system, QUIC takes the same number if it is free.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError
from codio_dht.logger import get_logger
from codio_dht.net.dial.failures import DialFailedError, DialFailure, is_local, of_handshake
from codio_dht.net.dial.limits import UPGRADE_TIMEOUT_S
from codio_dht.net.inbound_links import InboundLinks
from codio_dht.net.link import Link, LinkContext, LinkState
from codio_dht.net.quic.connection import QuicIdentity
from codio_dht.net.quic.endpoint import Accept, Endpoint
from codio_dht.net.quic.link import QuicLink
from codio_dht.net.quic.udp_socket import bind, ip_of
from codio_dht.net.targets import Carrier, SocketName, Target, of_udp_socket

_log = get_logger(__name__)

_IpAddress = IPv4Address | IPv6Address

_WILDCARDS: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - dials only


class QuicTransport:
    """QUIC as a :class:`~codio_dht.net.link.Transport`."""

    def __init__(
        self,
        context: LinkContext,
        admission: InboundLinks,
        has_room: Callable[[], bool],
        identity: QuicIdentity,
        wanted_ports: Mapping[str, int],
    ) -> None:
        """QUIC under ``identity``. ``wanted_ports``, by host: what to take where any port will do
        (TCP's, as soon as it has one)."""
        self._context = context
        self._admission = admission
        self._has_room = has_room
        self._identity = identity
        self._listening: list[Endpoint] = []
        self._dialling: dict[socket.AddressFamily, Endpoint] = {}
        self._wanted_ports = wanted_ports
        self._warned = False  # that answers may leave from another address than was asked

    # --- listening --------------------------------------------------------------------------------

    def can_listen(self, target: Target) -> bool:
        """See ``Transport``."""
        return target.carrier is Carrier.QUIC

    def listen(self, target: Target) -> Multiaddr:
        """See ``Transport``."""
        sock = self._bind(target)
        endpoint = self._endpoint(sock, self._accept)
        self._listening.append(endpoint)
        if not (endpoint.answers_from_asked or self._warned):
            self._warned = True
            _log.warning("QUIC may answer from another address than was asked", addr=str(target))
        return Multiaddr(of_udp_socket(sock.getsockname()).addr)

    def _bind(self, target: Target) -> socket.socket:
        wanted = self._wanted_ports.get(target.host, 0)
        if not target.port and wanted:
            try:
                return bind(target.family, replace(target, port=wanted).socket_name())
            except OSError:
                pass  # somebody has it; any will do
        return bind(target.family, target.socket_name())

    def start(self) -> None:
        """See ``Transport``."""
        for endpoint in self._listening:
            endpoint.start()

    def close(self) -> None:
        """See ``Transport``. Its connections end, since their socket does."""
        for endpoint in (*self._listening, *self._dialling.values()):
            endpoint.close()

    def _endpoint(self, sock: socket.socket, accept: Accept | None) -> Endpoint:
        return Endpoint(self._context, sock, accept, self._identity)

    def _accept(
        self, endpoint: Endpoint, target: Target, original_id: bytes, retry_id: bytes | None
    ) -> QuicLink | None:
        refusal = self._admission.refusal(target.ip)
        if refusal is None and not self._has_room():
            refusal = "too many connections"
        if refusal is not None:
            self._context.counters[f"inbound_refused:{refusal}"] += 1
            return None
        link = QuicLink(
            self._context,
            endpoint,
            endpoint.identity,
            target,
            inbound=True,
            original_id=original_id,
            retry_id=retry_id,
        )
        self._admission.admit(link)
        return link

    # --- dialling ---------------------------------------------------------------------------------

    def can_dial(self, target: Target) -> bool:
        """See ``Transport``."""
        return target.carrier is Carrier.QUIC

    async def dial(self, target: Target, peer_id: PeerId, reached: Callable[[], None]) -> Link:
        """See ``Transport``. The first sign of life opens the link already."""
        try:
            name = _as_received(target)
        except OSError as error:
            raise DialFailedError(DialFailure.LOCAL, error.strerror or str(error)) from error
        endpoint = self._endpoint_for(target, _route(target.family, name))
        link = QuicLink(
            self._context,
            endpoint,
            endpoint.identity,
            target,
            inbound=False,
            expected=peer_id,
        )
        settled = link.settled = trio.Event()
        try:
            with trio.move_on_after(UPGRADE_TIMEOUT_S) as scope:
                link.dial((name, None))
                await settled.wait()
        except BaseException:
            if link.state is LinkState.PENDING:
                link.end()
            raise
        if scope.cancelled_caught:
            link.end(DeadlineError("the handshake took too long"))
        if link.state is not LinkState.OPEN:
            raise of_handshake(link.error)
        return link

    def _endpoint_for(self, target: Target, source: _IpAddress | None) -> Endpoint:
        """The socket to dial from; ``source`` is the own address that the route begins at, if it is
        known.

        Raises:
            DialFailedError: the system gave none.
        """
        suiting = [each for each in self._listening if _reaches(each, target, source)]
        if suiting:
            return max(suiting, key=lambda each: each.own_ip == source)
        if target.family not in self._dialling:
            try:
                sock = bind(target.family, (_WILDCARDS[target.family], 0))
            except OSError as error:
                raise DialFailedError(DialFailure.LOCAL, error.strerror or str(error)) from error
            endpoint = self._dialling[target.family] = self._endpoint(sock, None)
            endpoint.start()
        return self._dialling[target.family]


def _as_received(target: Target) -> SocketName:
    """The target's address in the form in which sockets give it, as answers come from there.

    Raises:
        OSError: the machine has no such network interface.
    """
    _, *rest = target.socket_name()
    return socket.inet_ntop(target.family, target.ip.packed), *rest  # type: ignore[return-value]


def _route(family: socket.AddressFamily, name: SocketName) -> _IpAddress | None:
    """The own address that a datagram to ``name`` would leave from; None if the system does not
    say. A datagram without a way is lost without a word, and the dial would look as if the peer
    were silent.

    Raises:
        DialFailedError: this machine has no way there, or cannot make a socket.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(name)  # of UDP, this sends nothing
            return ip_of(sock)
    except OSError as error:
        if is_local(error.errno or 0, at_once=True):
            raise DialFailedError(DialFailure.LOCAL, error.strerror or str(error)) from error
        return None


def _reaches(endpoint: Endpoint, target: Target, source: _IpAddress | None) -> bool:
    """Whether datagrams from the socket get to the target: it is bound to the address at which the
    route begins, or to all. Every loopback address reaches every other."""
    if endpoint.sock.family != target.family:
        return False
    own = endpoint.own_ip
    if own.is_unspecified:
        return True
    if own.is_loopback or source is None:
        return own.is_loopback == ip_address(target.host).is_loopback
    return own == source
