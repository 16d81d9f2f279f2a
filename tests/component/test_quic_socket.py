"""Datagrams into system calls: on loopback, and with systems that refuse."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from codio_dht.net.quic.udp_socket import Sender, bind

Addr = tuple[str, int]


class FakeSocket:
    """Takes what it is told to take."""

    family = socket.AF_INET

    def __init__(self, refusal: int | None = None, each: int | None = None) -> None:
        self.refusal, self.each = refusal, each
        self.joined: list[list[bytes]] = []
        self.single: list[bytes] = []

    def sendmsg(self, buffers, ancillary, flags, addr) -> None:
        if self.refusal is not None:
            raise OSError(self.refusal, "no")
        self.joined.append(list(buffers))

    def sendto(self, data: bytes, addr: Addr) -> None:
        if self.each is not None:
            raise OSError(self.each, "no")
        self.single.append(data)


def sender_on(sock: Any) -> Sender:
    return Sender(sock)


HERE, THERE = (("127.0.0.1", 1), None), (("127.0.0.1", 2), None)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="one call for many is Linux's")


@contextmanager
def receiver(family: socket.AddressFamily, host: str) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(30.0)
        yield sock


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_datagrams_arrive_as_they_were_handed_over(family, host):
    datagrams = [bytes([n]) * size for n, size in enumerate([1_200] * 70 + [90, 1_200, 7, 8])]
    with receiver(family, host) as sock, bind(family, (host, 0)) as own:
        sender = Sender(own)
        for begin in range(0, len(datagrams), 20):  # what a small receive buffer holds
            part = datagrams[begin : begin + 20]
            assert 0 == sender.send([(data, (sock.getsockname(), None)) for data in part])
            assert part == [sock.recv(2_000) for _ in part]


@LINUX
def test_one_call_takes_what_goes_to_one_place_in_one_size_and_a_shorter_last():
    sock = FakeSocket()
    a, b, short = b"a" * 10, b"b" * 10, b"c" * 3
    datagrams = [(a, HERE), (b, HERE), (short, HERE), (a, HERE), (a, THERE), (b, THERE)]
    assert 0 == sender_on(sock).send(datagrams)
    assert ([[a, b, short], [a, b]], [a]) == (sock.joined, sock.single)


@LINUX
def test_a_call_takes_no_more_than_the_system_does():
    sock = FakeSocket()
    sender_on(sock).send([(b"x", HERE)] * 150)
    sender_on(sock).send([(bytes(1_232), HERE)] * 60)
    assert [64, 64, 22, 52, 8] == [len(joined) for joined in sock.joined]


@LINUX
@pytest.mark.parametrize(("refusal", "again"), [(errno.EIO, False), (errno.EMSGSIZE, True)])
def test_what_the_system_cannot_cut_is_sent_one_by_one(refusal, again):
    sock = FakeSocket(refusal)
    sender = sender_on(sock)
    assert 0 == sender.send([(b"x", HERE)] * 3)
    assert [b"x"] * 3 == sock.single
    sock.refusal = None
    sender.send([(b"y", HERE)] * 3)
    assert again == bool(sock.joined)


@LINUX
def test_an_address_that_nothing_can_be_sent_to_does_not_end_cutting():
    sock = FakeSocket(errno.EINVAL, errno.EINVAL)  # as for port 0, which anybody may claim
    sender = sender_on(sock)
    assert 3 == sender.send([(b"x", HERE)] * 3)
    sock.refusal = sock.each = None
    assert 0 == sender.send([(b"y", HERE)] * 3)
    assert [[b"y"] * 3] == sock.joined


def test_what_the_system_does_not_take_is_counted():
    full = errno.EAGAIN
    assert 3 == sender_on(FakeSocket(full, full)).send([(b"x", HERE)] * 3)
    assert 1 == sender_on(FakeSocket(full, full)).send([(b"x", HERE)])
