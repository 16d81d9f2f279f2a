"""Nothing that only Linux has is needed: hosts run where it is absent.

Simulated here by taking away what macOS does not have. What is tested on a Mac itself, the README
says.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codio_dht.net.limits import Limits
from codio_dht.net.quic.udp_socket import ask_for_buffer
from stack_hosts import made_host

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_LINUX = """
import select, socket, sys
import aioquic.quic.connection, cryptography.hazmat.primitives, dns.asyncresolver
import multiaddr.utils, trio
import trio.socket

# Of the modules that the package uses, what macOS has not (Python's documentation of each).
for name in [name for name in vars(socket) if name.startswith((
    "SOCK_NONBLOCK", "SOCK_CLOEXEC", "SO_BINDTODEVICE", "SO_MARK", "SO_PEERCRED", "AF_NETLINK",
    "AF_PACKET", "AF_VSOCK", "TCP_USER_TIMEOUT", "TCP_QUICKACK", "IP_MTU_DISCOVER", "MSG_NOSIGNAL",
))]:
    delattr(socket, name)
sys.platform = "darwin"
del select  # trio has what it needs of it

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.stack_host import make_stack_host
from multiaddr import Multiaddr

TCP, QUIC = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"

async def main():
    for carrier in (TCP, QUIC):
        listen = [Multiaddr(carrier)]
        async with (
            make_stack_host(PrivateKey.generate_ed25519(), listen) as server,
            make_stack_host(PrivateKey.generate_ed25519(), listen) as client,
        ):
            deadline = Monotonic(trio.current_time() + 20)
            await client.connect(server.peer_id, server.addrs, deadline)
            assert await client.ping(server.peer_id, deadline) > 0
    print("pinged")

trio.run(main)
"""


def test_hosts_run_without_what_only_linux_has() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert ("pinged\n", 0) == (done.stdout, done.returncode), done.stderr


class _Stingy:
    """A socket whose system refuses a large buffer, as macOS does."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.given: list[int] = []

    def setsockopt(self, level: int, option: int, size: int) -> None:
        if size > self.most:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        self.given.append(size)


@pytest.mark.parametrize(
    ("most", "given"), [(8 << 20, [4 << 20]), (1 << 20, [1 << 20]), (1_000, [])]
)
def test_a_system_that_refuses_a_large_buffer_is_asked_for_less(
    most: int, given: list[int]
) -> None:
    sock: Any = _Stingy(most)
    ask_for_buffer(sock, socket.SO_RCVBUF, 4 << 20)
    assert given == sock.given


async def test_a_process_without_a_limit_on_open_files_has_the_usual_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (resource.RLIM_INFINITY,) * 2)
    async with made_host() as host:
        assert Limits().max_connections == host._connections._limits.max_connections
