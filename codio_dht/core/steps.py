"""What the responder tells its caller to do: a closed union."""

from __future__ import annotations

from dataclasses import dataclass

from codio_dht.core.messages import Reply


@dataclass(frozen=True, slots=True)
class NoReply:
    """The request was taken and is not answered (ADD_PROVIDER)."""


@dataclass(frozen=True, slots=True)
class Load:
    """The provider rows of ``key`` must come from the store first; then ask again."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Reset the stream, as go does. ``reason`` is one short fixed phrase, for counters."""

    reason: str


Answer = Reply | NoReply | Load | Refuse
