"""UDP sockets: bound, and sent from in as few system calls as the system allows.

Decides how datagrams go into system calls, and from which of this machine's addresses an answer
leaves: the one that was asked. A socket that is bound to all addresses has to be told so for every
datagram (``IP_PKTINFO``, ``IPV6_PKTINFO``; ip(7), RFC 3542); else a machine with several addresses
answers from one that the peer did not ask, and the peer ignores it.

Linux takes up to 64 datagrams of one size in one call and cuts them apart itself (generic
segmentation offload); a call costs as much as building a packet. A system that does not is found
out by its error, and gets them one by one.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from codio_dht.net.sockets import nonblocking_socket
from codio_dht.net.targets import SocketName

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
"""Linux, udp(7)."""
_IP_PKTINFO: Final = {"linux": 8, "darwin": 26}.get(sys.platform)
"""Not in the socket module of every supported Python. Other systems have other ways."""
_PACKET_INFO: Final[dict[int, tuple[int, int, int | None]]] = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_PKTINFO or 0, _IP_PKTINFO),
    socket.AF_INET6: (
        socket.IPPROTO_IPV6,
        getattr(socket, "IPV6_PKTINFO", 0),
        getattr(socket, "IPV6_RECVPKTINFO", None),
    ),
}
"""By family: level and type of what tells the own address, and the option that asks for it."""
_MAX_SEGMENTS: Final = 64
_MIN_BUFFER_BYTES: Final = 64 * 1024
"""Less than this is not asked for: every system gives as much."""
_MAX_BYTES: Final = 65_000
"""Of one call: an IP packet's 65,535 less its headers."""
_READ_BYTES: Final = 2_048
"""Longest datagram read; QUIC's stay under 1,500 here."""
_ANCILLARY_BYTES: Final = 64
"""Room for what the system tells with a datagram: 32 or 40 bytes, with its header."""
_IPV4_INFO_BYTES: Final = 12
_NOT_OURS: Final = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EPERM})
"""What a system answers that is to send from an address that it does not have (any more)."""
_UNSUPPORTED: Final = frozenset({errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT})
"""What a system answers that cannot cut (EIO: the device does not make checksums)."""


Path = tuple[Any, "bytes | None"]
"""Both ends of a datagram: the peer's address as sockets have it, and the own address, in the form
that the system takes it; None if the system is to choose."""

Datagram = tuple[bytes, Path]


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


def ip_of(sock: socket.socket) -> IPv4Address | IPv6Address:
    """The own address that the socket is bound to."""
    return ip_address(sock.getsockname()[0].partition("%")[0])


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


def learn_own_addresses(sock: socket.socket) -> bool:
    """Have the system tell, with each datagram, at which of this machine's addresses it arrived.
    False if the system cannot. Answers then leave from the address that the system chooses, which
    is not the one that was asked on some machines with several."""
    level, _, option = _PACKET_INFO[sock.family]
    if option is None:
        return False
    try:
        sock.setsockopt(level, option, 1)
    except OSError:
        return False
    return True


class Receiver:
    """Receives on one socket."""

    __slots__ = ("_learns", "_sock", "_type")

    def __init__(self, sock: socket.socket, *, learns: bool) -> None:
        """``learns``: the system tells the own address (``learn_own_addresses``)."""
        self._sock = sock
        self._learns = learns
        self._type = _PACKET_INFO[sock.family][1] if learns else None

    def receive(self) -> Datagram:
        """The next datagram.

        Raises:
            OSError: there is none, or an answer to one sent earlier says that it did not arrive.
        """
        if not self._learns:
            data, remote = self._sock.recvfrom(_READ_BYTES)
            return data, (_plain(remote), None)
        data, told, _, remote = self._sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
        remote = _plain(remote)
        for _, kind, content in told:
            if kind == self._type:
                return data, (remote, _answer_from(content))
        return data, (remote, None)


def _plain(remote: SocketName) -> SocketName:
    """The address as it is dialled: the zone of a link-local one is in its fourth part already."""
    if len(remote) == 2 or "%" not in remote[0]:
        return remote
    return remote[0].partition("%")[0], *remote[1:]


def _answer_from(info: bytes) -> bytes:
    """What the system has to be told to answer from the address that it told. The network interface
    is left to the route, but for link-local addresses, which mean nothing without one."""
    if len(info) == _IPV4_INFO_BYTES:  # interface, own address, address in the datagram
        return bytes(4) + info[4:8] + bytes(4)
    if info[0] == 0xFE and info[1] & 0xC0 == 0x80:
        return info
    return info[:16] + bytes(4)


class Sender:
    """Sends from one socket."""

    __slots__ = ("_cuts", "_level", "_sock", "_type")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._cuts = sys.platform == "linux"
        self._level, self._type, _ = _PACKET_INFO[sock.family]

    def send(self, datagrams: Sequence[Datagram]) -> int:
        """Send, in order; how many the system did not take, which are lost."""
        if len(datagrams) == 1 or not self._cuts:
            return self._send_each(datagrams)
        return sum(self._send_run(run) for run in _runs(datagrams))

    def _send_run(self, run: Sequence[Datagram]) -> int:
        if len(run) == 1 or not self._cuts:
            return self._send_each(run)
        remote, local = run[0][1]
        told = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(run[0][0])))]
        if local is not None:
            told.append((self._level, self._type, local))
        try:
            self._sock.sendmsg([data for data, _ in run], told, 0, remote)
        except OSError as error:
            if error.errno != errno.EMSGSIZE and error.errno not in _UNSUPPORTED:
                return len(run)
            lost = self._send_each(run)
            if error.errno in _UNSUPPORTED and local is None and not lost:
                self._cuts = False  # else it is the address that the system refuses
            return lost
        return 0

    def _send_each(self, datagrams: Sequence[Datagram]) -> int:
        lost = 0
        for data, (remote, local) in datagrams:
            try:
                if local is None or not self._send_from(local, data, remote):
                    self._sock.sendto(data, remote)
            except OSError:
                lost += 1
        return lost

    def _send_from(self, local: bytes, data: bytes, remote: SocketName) -> bool:
        """Send from the own address ``local``; False if this machine has it no longer.

        Raises:
            OSError: the datagram is lost.
        """
        try:
            self._sock.sendmsg([data], [(self._level, self._type, local)], 0, remote)
        except OSError as error:
            if error.errno in _NOT_OURS:
                return False
            raise
        return True


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
