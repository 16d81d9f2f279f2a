"""TCP as a transport: listening sockets, dials, and the sockets' options.

Decides how a socket is made, what a system error means, and what happens when the system has no
more sockets to give (accepting pauses; it never ends). What is done with a connection, the pump and
the host decide.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import trio
from multiaddr import Multiaddr
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from codio_dht.core.peer import PeerId
from codio_dht.errors import DeadlineError
from codio_dht.logger import get_logger
from codio_dht.net.dial.failures import DialFailedError, DialFailure, is_local, of_handshake
from codio_dht.net.dial.limits import CONNECT_TIMEOUT_S, UPGRADE_TIMEOUT_S
from codio_dht.net.dial.memory import RefusedPipelining
from codio_dht.net.inbound_links import InboundLinks
from codio_dht.net.link import Link, LinkContext, LinkState
from codio_dht.net.sockets import nonblocking_socket
from codio_dht.net.stack_host.limits import ACCEPT_BATCH, ACCEPT_PAUSE_S, LISTEN_BACKLOG
from codio_dht.net.stack_host.pump import Pump
from codio_dht.net.targets import Carrier, Target, of_socket

_log = get_logger(__name__)

_IN_PROGRESS: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})


class TcpTransport:
    """TCP as a :class:`~codio_dht.net.link.Transport`: listening sockets and dials."""

    def __init__(
        self, context: LinkContext, admission: InboundLinks, has_room: Callable[[], bool]
    ) -> None:
        self._context = context
        self._admission = admission
        self._has_room = has_room
        self._refused_pipelining = RefusedPipelining()
        self._listening = ExitStack()
        self._sockets: list[socket.socket] = []

    # --- listening --------------------------------------------------------------------------------

    def can_listen(self, target: Target) -> bool:
        """See ``Transport``."""
        return target.carrier is Carrier.TCP

    def listen(self, target: Target) -> Multiaddr:
        """See ``Transport``."""
        sock = nonblocking_socket(target.family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if target.family == socket.AF_INET6:  # beside the same port on IPv4
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(target.socket_name())
            sock.listen(LISTEN_BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._listening.callback(sock.close)
        self._listening.callback(notify_closing, sock.fileno())
        self._sockets.append(sock)
        return Multiaddr(of_socket(sock.getsockname()).addr)

    def start(self) -> None:
        """See ``Transport``."""
        for sock in self._sockets:
            self._context.nursery.start_soon(self._accept_all, sock)

    def close(self) -> None:
        """See ``Transport``."""
        self._listening.close()

    async def _accept_all(self, sock: socket.socket) -> None:
        """For ever. Waiting lets the others run, also where somebody waits to be accepted."""
        while sock.fileno() >= 0:  # else closed while others ran
            try:
                await wait_readable(sock.fileno())
                self._accept_some(sock)
            except trio.ClosedResourceError:
                return
            except OSError as error:
                self._context.counters["accept_failed"] += 1
                _log.warning("cannot accept connections", error=error.strerror)
                await trio.sleep(ACCEPT_PAUSE_S)

    def _accept_some(self, sock: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                client, name = sock.accept()
            except (BlockingIOError, ConnectionError, InterruptedError):
                return
            self._accept(client, name)

    def _accept(self, client: socket.socket, name: tuple[Any, ...]) -> None:
        target = of_socket(name)
        refusal = self._admission.refusal(target.ip)
        if refusal is None and not self._has_room():
            refusal = "too many connections"
        if refusal is not None:
            self._context.counters[f"inbound_refused:{refusal}"] += 1
            client.close()
            return
        _set_options(client)
        pump = Pump(self._context, client, target, inbound=True)
        self._admission.admit(pump)
        self._context.nursery.start_soon(pump.run)

    # --- dialling ---------------------------------------------------------------------------------

    def can_dial(self, target: Target) -> bool:
        """See ``Transport``."""
        return target.carrier is Carrier.TCP

    async def dial(self, target: Target, peer_id: PeerId, reached: Callable[[], None]) -> Link:
        """See ``Transport``. A listener that refuses to be sent ahead of its answers is dialled
        once more without that, and remembered."""
        pipeline = target.addr not in self._refused_pipelining
        link = await self._dial(target, peer_id, reached, pipeline=pipeline)
        if link.pipelining_refused and pipeline:
            self._refused_pipelining.add(target.addr)
            self._context.counters["dials_without_pipelining"] += 1
            link = await self._dial(target, peer_id, reached, pipeline=False)
        if link.state is not LinkState.OPEN:
            raise of_handshake(link.error)
        return link

    async def _dial(
        self, target: Target, peer_id: PeerId, reached: Callable[[], None], *, pipeline: bool
    ) -> Link:
        """A link that is open or, its handshake having failed, ended."""
        sock = await _connect(target)
        reached()
        pump = Pump(self._context, sock, target, inbound=False, expected=peer_id, pipeline=pipeline)
        settled = pump.settled = trio.Event()
        self._context.nursery.start_soon(pump.run)
        try:
            with trio.move_on_after(UPGRADE_TIMEOUT_S) as scope:
                await settled.wait()
        except BaseException:
            if pump.state is LinkState.PENDING:
                pump.end()
            raise
        if scope.cancelled_caught:
            pump.end(DeadlineError("the handshake took too long"))
        return pump


def _set_options(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _connect(target: Target) -> socket.socket:
    """A connected socket.

    Raises:
        DialFailedError: there was none to be had.
    """
    try:
        name = target.socket_name()
        sock = nonblocking_socket(target.family, socket.SOCK_STREAM)
    except OSError as error:
        raise DialFailedError(DialFailure.LOCAL, error.strerror or str(error)) from error
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            code = sock.connect_ex(name)
            at_once = code not in _IN_PROGRESS
            if not at_once:
                await wait_writable(sock.fileno())
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            kind = DialFailure.SILENT if code == errno.ETIMEDOUT else DialFailure.REFUSED
            if is_local(code, at_once=at_once):
                kind = DialFailure.LOCAL
            raise DialFailedError(kind, os.strerror(code))
        if sock.getsockname() == sock.getpeername():  # met itself on an ephemeral port
            raise DialFailedError(DialFailure.REFUSED, "nobody listens there")
        _set_options(sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, trio.TooSlowError):
            raise DialFailedError(DialFailure.SILENT, "no answer") from error
        if isinstance(error, OSError):
            raise DialFailedError(DialFailure.REFUSED, error.strerror or str(error)) from error
        raise
    return sock
