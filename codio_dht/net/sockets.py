"""Sockets that never block, made as every system makes them.

Some systems take a flag for that when the socket is made (Linux, the BSDs), some do not (macOS): it
is set afterwards.
"""

from __future__ import annotations

import socket


def nonblocking_socket(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A new socket that never blocks.

    Raises:
        OSError: the system has none to give.
    """
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock
