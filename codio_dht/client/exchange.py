"""One request to the daemon on a connection of its own, without I/O.

    connect, send ``request``, then feed what comes in until ``over``

Each request has a connection of its own, so that requests know nothing of each other: one that is
cancelled or abandoned closes its connection, and with it ends at the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from codio_dht.daemon.datadir import start_command
from codio_dht.daemon.protocol import (
    MAX_ANSWER_BYTES,
    ControlError,
    ErrorCode,
    Failure,
    Hello,
    Item,
    LineReader,
    LineTooLongError,
    Request,
    Result,
    decode_answer,
    encode_request,
    version_fault,
)
from codio_dht.errors import (
    CapacityError,
    CodioError,
    DeadlineError,
    NetworkError,
    NoPeersError,
    NotRunningError,
    StorageError,
    UsageError,
)

READ_BYTES: Final = 64 * 1024
"""Read from a connection at once."""

MAX_CALLS_AT_ONCE: Final = 16
"""Requests of one client that run at the same time: a quarter of the connections that the daemon
takes from all programs. Further ones wait for their turn."""

_REQUEST_ID: Final = 1

_ERRORS: Final[Mapping[str, type[CodioError]]] = {
    ErrorCode.USAGE: UsageError,
    ErrorCode.NO_PEERS: NoPeersError,
    ErrorCode.NETWORK: NetworkError,
    ErrorCode.TIMEOUT: DeadlineError,
    ErrorCode.CAPACITY: CapacityError,
    ErrorCode.STORAGE: StorageError,
    ErrorCode.STOPPING: NotRunningError,
    ErrorCode.CANCELLED: NotRunningError,
}


class DaemonFaultError(CodioError):
    """The daemon failed for a fault of its own, or does not speak this release's control API."""


class NotFoundError(CodioError):
    """What was asked for is not there. Calls make a result of it."""


class Exchange:
    """One request: what to send, what came back, and whether that is all."""

    def __init__(self, method: str, params: Mapping[str, Any]) -> None:
        self.request = encode_request(Request(_REQUEST_ID, method, params))
        """To be sent once."""
        self.result: Any = None
        """The daemon's answer, when it is over."""
        self.over = False
        self._reader = LineReader(MAX_ANSWER_BYTES)

    def feed(self, data: bytes) -> list[Any]:
        """The items in ``data``; no bytes mean that the daemon closed the connection.

        Raises:
            CodioError: the request failed, as the daemon says, or the daemon went away.
        """
        if not data:
            raise NotRunningError("the daemon went away")
        items = []
        try:
            for answer in map(decode_answer, self._reader.feed(data)):
                match answer:
                    case Hello() as hello:
                        if fault := version_fault(hello, "this program"):
                            raise DaemonFaultError(fault)
                    case Item(_, item):
                        items.append(item)
                    case Result(_, result):
                        self.result, self.over = result, True
                    case Failure(_, code, message):
                        raise _error(code, message)
        except (ControlError, LineTooLongError) as error:
            raise DaemonFaultError(str(error)) from error
        return items


def connection_failure(error: OSError, data_dir: Path) -> CodioError:
    """What it means for a program that it could not connect."""
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return NotRunningError(
            f"no daemon is running in {data_dir}; start one: {start_command(data_dir)}"
        )
    return NotRunningError(f"cannot talk to the daemon in {data_dir}: {error.strerror}")


def _error(code: str, message: str) -> CodioError:
    if code == ErrorCode.NOT_FOUND:
        return NotFoundError(message)
    return _ERRORS.get(code, DaemonFaultError)(message)
