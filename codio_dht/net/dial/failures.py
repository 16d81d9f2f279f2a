"""Why an address did not lead to a peer, and whether the failure says anything about the peer.

An error of this machine (no file descriptors, no route, a limit of this node's own) is *local*: it
says nothing of the other end, is not remembered, and is never held against a peer.
"""

from __future__ import annotations

import errno
from enum import Enum, auto
from typing import Final

from codio_dht.errors import CapacityError, CodioError, DeadlineError, ProtocolError

_OF_THIS_MACHINE: Final = frozenset(
    {
        errno.EACCES,
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EPERM,
    }
)
"""Errors of this machine, whenever they come."""

_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
"""At once, this machine has no way to the address. Later, a router on the way or a neighbour that
does not answer says so, and it is about the address."""


class DialFailure(Enum):
    """Why a dial failed. Decides how long the address is left alone."""

    REFUSED = auto()
    """The machine said no, or there is no way to it."""
    SILENT = auto()
    """No answer in time."""
    STRANGER = auto()
    """Somebody answered, who is not this peer or speaks no libp2p."""
    LOCAL = auto()
    """This machine could not; nothing is said of the address."""


class DialFailedError(CodioError):
    """One address did not lead to the peer."""

    def __init__(self, kind: DialFailure, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def is_local(code: int, *, at_once: bool) -> bool:
    """Whether the system's error ``code`` of connecting is this machine's own trouble. ``at_once``:
    the system said it without asking the network."""
    return code in _OF_THIS_MACHINE or (at_once and code in _NO_ROUTE)


def of_handshake(error: CodioError | None) -> DialFailedError:
    """Why the handshake of a connection that was dialled failed, given its ``error``."""
    match error:
        case ProtocolError():
            kind = DialFailure.STRANGER
        case DeadlineError():
            kind = DialFailure.SILENT
        case CapacityError():
            kind = DialFailure.LOCAL
        case _:
            kind = DialFailure.REFUSED
    return DialFailedError(kind, str(error) if error else "the connection ended")
