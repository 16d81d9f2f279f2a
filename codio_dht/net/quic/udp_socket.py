"""UDP sockets: bound, and sent from in as few system calls as the system allows.

Decides how datagrams go into system calls. Linux takes up to 64 of one size in one call and
cuts them apart itself (generic segmentation offload); a call costs as much as building a packet. A
system that does not is found out by its error, and gets them one by one.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from codio_dht.net.quic.connection import Datagram
from codio_dht.net.sockets import nonblocking_socket
from codio_dht.net.targets import SocketName

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
"""Linux, udp(7)."""
_MAX_SEGMENTS: Final = 64
_MIN_BUFFER_BYTES: Final = 64 * 1024
"""Less than this is not asked for: every system gives as much."""
_MAX_BYTES: Final = 65_000
"""Of one call: an IP packet's 65,535 less its headers."""
_UNSUPPORTED: Final = frozenset({errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT})
"""What a system answers that cannot cut (EIO: the device does not make checksums)."""


def bind(family: socket.AddressFamily, name: SocketName) -> socket.socket:
    """A UDP socket bound to the address ``name``.

    Raises:
        OSError: the system refused.
    """
    sock = nonblocking_socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:  # beside the same port on IPv4
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def ask_for_buffer(sock: socket.socket, option: int, size: int) -> None:
    """Ask the system for ``size`` bytes of the buffer ``option``, or for what it allows. Linux cuts
    what is too much; macOS refuses it.
    """
    while size >= _MIN_BUFFER_BYTES:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            size //= 2
        else:
            return


class Sender:
    """Sends from one socket."""

    __slots__ = ("_cuts", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._cuts = sys.platform == "linux"

    def send(self, datagrams: Sequence[Datagram]) -> int:
        """Send, in order; how many the system did not take, which are lost."""
        if len(datagrams) == 1 or not self._cuts:
            return self._send_each(datagrams)
        return sum(self._send_run(run) for run in _runs(datagrams))

    def _send_run(self, run: Sequence[Datagram]) -> int:
        if len(run) == 1 or not self._cuts:
            return self._send_each(run)
        size = struct.pack("=H", len(run[0][0]))
        try:
            self._sock.sendmsg(
                [data for data, _ in run], [(_SOL_UDP, _UDP_SEGMENT, size)], 0, run[0][1]
            )
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self._cuts = False
            elif error.errno != errno.EMSGSIZE:  # too large for this path in one piece
                return len(run)
            return self._send_each(run)
        return 0

    def _send_each(self, datagrams: Sequence[Datagram]) -> int:
        lost = 0
        for data, addr in datagrams:
            try:
                self._sock.sendto(data, addr)
            except OSError:
                lost += 1
        return lost


def _runs(datagrams: Sequence[Datagram]) -> Iterator[Sequence[Datagram]]:
    """What one call each can take: to one address, of one size, but the last may be shorter."""
    begin = 0
    for at in range(1, len(datagrams) + 1):
        if at < len(datagrams):
            (first, addr), (before, _), (data, other) = (
                datagrams[begin], datagrams[at - 1], datagrams[at],
            )  # fmt: skip
            size = len(first)
            if (
                other == addr
                and len(before) == size
                and len(data) <= size
                and at - begin < _MAX_SEGMENTS
                and (at - begin + 1) * size <= _MAX_BYTES
            ):
                continue
        yield datagrams[begin:at]
        begin = at
