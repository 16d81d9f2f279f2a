"""Why an address did not lead to a peer."""

from __future__ import annotations

from enum import Enum, auto

from codio_dht.errors import CodioError


class DialFailure(Enum):
    """Why: decides how long the address is left alone."""

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
