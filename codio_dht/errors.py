"""Every error this package raises on purpose, by who is at fault.

Foreign exceptions (libp2p, sqlite3, protobuf, sockets) are translated once, at the adapter that
meets them, with ``from``; past it only these are seen.
"""

from __future__ import annotations


class CodioError(Exception):
    """Base of all errors of this package."""


# --- local misuse: the caller's mistake, raised at once, naming the argument ----------------------


class UsageError(CodioError, ValueError):
    """A wrong argument or call; the message names the argument and what would be right."""


class ConfigError(UsageError):
    """An impossible configuration value; the message names the field."""


class NotRunningError(CodioError, RuntimeError):
    """The node is not open (not yet entered, or already closed)."""


# --- remote misbehaviour --------------------------------------------------------------------------


class RemoteError(CodioError):
    """A peer broke the protocol."""


class ProtocolError(RemoteError):
    """A peer's bytes break a protocol of the libp2p stack, or prove nothing they should prove.

    ``layer`` (``"multistream"``, ``"noise"``, ``"yamux"``, ...) and ``reason`` are short fixed
    phrases, fit for counters; nothing of the peer's bytes is in them.
    """

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer = layer
        self.reason = reason


class FrameError(RemoteError):
    """A length prefix or frame that no conforming peer sends."""


class MessageError(RemoteError):
    """A frame whose bytes are not a DHT message, or one that cannot be answered."""


class FormatError(RemoteError, ValueError):
    """Bytes or text that are not of the format they should be of; the message says how."""


class AddressError(RemoteError, ValueError):
    """Bytes or text that are not a usable multiaddr."""


class PeerIdError(RemoteError, ValueError):
    """Bytes or text that are not a peer id."""


class InvalidValueError(RemoteError, ValueError):
    """A value that must not be stored or returned under its key, by its namespace's validator.

    ``reason`` is one short phrase, fit for counters where it comes from a built-in validator.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- the network ----------------------------------------------------------------------------------


class NetworkError(CodioError):
    """A peer could not be reached or talked to.

    ``local`` says that the cause is this node's own: one of its limits, its operating system or its
    network. Such an error says nothing of the peer, and is never held against it.
    """

    def __init__(self, message: str = "", *, local: bool = False) -> None:
        super().__init__(message)
        self.local = local


class DialError(NetworkError):
    """No address of the peer led to an authenticated connection."""


class StreamError(NetworkError):
    """A stream or its connection ended, or the peer does not speak the protocol."""


class UnsupportedProtocolError(StreamError):
    """The peer answered that it does not speak the protocol."""


class DeadlineError(NetworkError, TimeoutError):
    """The deadline passed first."""


class NoPeersError(NetworkError):
    """The routing table is empty: there is nobody to ask."""


class DeniedError(NetworkError):
    """The operator's deny list names what was asked for."""


# --- capacity and storage -------------------------------------------------------------------------


class CapacityError(CodioError):
    """A named bound is reached; the message names it."""


class StorageError(CodioError):
    """The store could not read or write; what was promised durable before stays so."""


class BegunAnewError(StorageError):
    """A database of what can be lost was found damaged in this call. It was set aside, and an empty
    one took its place: the same call works now."""


class IdentityError(CodioError):
    """A key file that is missing, unreadable, not a libp2p key, or not this node's."""
