"""Steps: what the machines of ``core``, and the responder, tell their caller to do.

Each machine says in its own module which of these it returns and how the caller reports back.
Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.validation import Check

# --- what a machine wants -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Send ``request`` to ``peer``, and report once how that ended, by ``deadline`` at the latest.

    ``began`` is when the step was returned. ``dials`` says that there was no connection to the peer
    then, so that the answer time will include a dial.
    """

    peer: PeerId
    request: Request
    began: Monotonic
    deadline: Monotonic
    dials: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to do until a report comes, or until ``until`` if that is earlier. Without a
    time, only a report moves the machine."""

    until: Monotonic | None


@dataclass(frozen=True, slots=True)
class Working:
    """A long computation is under way: let others run, then ask the machine for its next step."""


# --- how the responder takes a request ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoReply:
    """The request was taken and is not answered (ADD_PROVIDER)."""


class LoadKind(Enum):
    """What has to be read from the store: one member for each kind of record."""

    PROVIDERS = "providers"
    """The provider records of a key."""
    OWN_KEY = "own_key"
    """Whether this node provides a key itself."""
    VALUE = "value"
    """The value of a key."""


@dataclass(frozen=True, slots=True)
class Load:
    """Something of ``key`` must be read from the store first; then ask again."""

    kind: LoadKind
    key: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Reset the stream, as go does. ``reason`` is one short fixed phrase, for counters."""

    reason: str


Answer = Reply | NoReply | Load | Check | Refuse
