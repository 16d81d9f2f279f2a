"""The client side of the control API on a plain blocking socket.

Decides how the daemon is reached and when waiting ends. The commands decide what is shown. It
imports neither trio nor libp2p, so that a command starts quickly.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from codio_dht.daemon.datadir import socket_path, start_command
from codio_dht.daemon.protocol import (
    MAX_ANSWER_BYTES,
    MAX_REQUESTS_PER_CONNECTION,
    Answer,
    ControlError,
    ErrorCode,
    Failure,
    Hello,
    Item,
    LineReader,
    LineTooLongError,
    Request,
    RequestId,
    Result,
    decode_answer,
    encode_request,
    version_fault,
)
from codio_dht.errors import CodioError

HELLO_TIMEOUT_S: Final = 5.0
"""A daemon that accepts but says nothing for this long is stuck, seconds."""

TICK_S: Final = 0.2
"""How often a waiting client looks up, to show progress, seconds."""

REQUESTS_IN_FLIGHT: Final = MAX_REQUESTS_PER_CONNECTION // 2
"""Requests sent ahead by :meth:`CommandConnection.call_many`."""

_READ_BYTES: Final = 64 * 1024


class DaemonDownError(CodioError):
    """No daemon answers in this data directory, or it went away."""


class DaemonError(CodioError):
    """What answers there is not a daemon that this client can talk to."""


class OutOfTimeError(CodioError):
    """``--timeout`` passed, or the daemon is stuck."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one of many calls ended: ``value`` if it succeeded, else ``error``."""

    subject: str
    value: Any = None
    error: ControlError | None = None


class CommandConnection:
    """A connection to the daemon of ``data_dir``, for use in a ``with`` block.

    ``deadline`` is of ``time.monotonic``; ``tick`` is called now and then while waiting.

    Raises (also from every method):
        DaemonDownError: nothing answers there, or the daemon went away.
        OutOfTimeError: the deadline passed.
        DaemonError: the daemon speaks another version of the API.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        deadline: float | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._data_dir = data_dir
        self._deadline = deadline
        self._tick = tick
        self._reader = LineReader(MAX_ANSWER_BYTES)
        self._lines: deque[bytes] = deque()
        self._sent = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        try:
            self._connect()
            self.hello = self._read_hello()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, method: str, params: Mapping[str, Any]) -> Iterator[Item | Result]:
        """The items of one request as they come, then its result.

        Raises:
            ControlError: the daemon says that it failed.
        """
        request_id = self.send(method, params)
        while True:
            match self._answer():
                case Item(answered, _) as item if answered == request_id:
                    yield item
                case Result(answered, _) as result if answered == request_id:
                    yield result
                    return
                case Failure(answered, _, _) as failure if answered in (request_id, None):
                    raise _error(failure)
                case _:
                    continue

    def call_many(
        self, method: str, subjects: Iterable[str], params: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[Outcome]:
        """Make one call for each subject, several at once. Gives outcomes in the order in which
        they come.

        ``subjects`` is read in another thread. So outcomes are given while it waits for the next
        one.
        """
        sender = _Sender(self, method, subjects, params)
        sender.start()
        while sender.wait_for_one(self._wait):
            match self._answer():
                case Result(request_id, value):
                    yield Outcome(sender.done(request_id), value)
                case Failure(None, _, _) as failure:
                    raise _error(failure)
                case Failure(request_id, _, _) as failure:
                    assert request_id is not None
                    yield Outcome(sender.done(request_id), error=_error(failure))
                case Item() | Hello():
                    continue
        sender.finish()

    # --- connection ---

    def _connect(self) -> None:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(socket_path(self._data_dir))
                self._socket.settimeout(min(HELLO_TIMEOUT_S, self._left()))
                self._socket.connect(path)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                raise DaemonDownError(
                    f"no daemon is running in {self._data_dir}; start one in another terminal:"
                    f" {start_command(self._data_dir)}"
                ) from error
            except TimeoutError as error:
                raise OutOfTimeError("the daemon does not accept connections") from error
            except OSError as error:
                raise DaemonError(
                    f"cannot talk to the daemon in {self._data_dir}: {error.strerror}"
                ) from error

    def _read_hello(self) -> Hello:
        limit = time.monotonic() + HELLO_TIMEOUT_S
        match self._answer(limit):
            case Hello() as hello:
                pass
            case Failure() as failure:
                raise _error(failure)
            case _:
                raise DaemonError("what answers there is not a codio-dht daemon")
        if fault := version_fault(hello, "this command"):
            raise DaemonError(fault)
        return hello

    def send(self, method: str, params: Mapping[str, Any]) -> int:
        """Send a request without waiting. Return the id that its answers will have."""
        self._sent += 1
        line = encode_request(Request(self._sent, method, params))
        try:
            self._socket.sendall(line)
        except TimeoutError as error:
            raise OutOfTimeError("the daemon does not read") from error
        except OSError as error:
            raise DaemonDownError("the daemon went away") from error
        return self._sent

    def _answer(self, limit: float | None = None) -> Answer:
        while not self._lines:
            self._receive(limit)
        try:
            return decode_answer(self._lines.popleft())
        except ControlError as error:
            raise DaemonError(str(error)) from error

    def _receive(self, limit: float | None) -> None:
        if limit is not None and time.monotonic() >= limit:
            raise OutOfTimeError("the daemon does not answer")
        self._socket.settimeout(max(0.001, min(TICK_S, self._left())))
        try:
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            self._tick()
            return
        except OSError as error:
            raise DaemonDownError("the daemon went away") from error
        if not data:
            raise DaemonDownError("the daemon went away")
        try:
            self._lines.extend(self._reader.feed(data))
        except LineTooLongError as error:
            raise DaemonError(str(error)) from error

    def _left(self) -> float:
        """The seconds that are left to wait. Raises when there are none."""
        if self._deadline is None:
            return float("inf")
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise OutOfTimeError("out of time")
        return left

    def _wait(self, condition: threading.Condition) -> None:
        """Wait one tick for another thread."""
        condition.wait(max(0.001, min(TICK_S, self._left())))
        self._tick()


class _Sender:
    """Sends one request per subject from its own thread, a bounded number ahead of the answers."""

    def __init__(
        self,
        client: CommandConnection,
        method: str,
        subjects: Iterable[str],
        params: Callable[[str], Mapping[str, Any]],
    ) -> None:
        self._client = client
        self._method = method
        self._subjects = subjects
        self._params = params
        self._waiting: dict[RequestId, str] = {}
        self._ended = False
        self._failed: BaseException | None = None
        self._changed = threading.Condition()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def wait_for_one(self, wait: Callable[[threading.Condition], None]) -> bool:
        """Wait until a request is under way; False when there will be no more."""
        with self._changed:
            while not self._waiting and not self._ended:
                wait(self._changed)
            return bool(self._waiting)

    def done(self, request_id: RequestId) -> str:
        """Note that a request was answered. Return its subject."""
        with self._changed:
            subject = self._waiting.pop(request_id, "")
            self._changed.notify_all()
        return subject

    def finish(self) -> None:
        """Raise the error that ended the sending too early, if there was one."""
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            for subject in self._subjects:
                with self._changed:
                    while len(self._waiting) >= REQUESTS_IN_FLIGHT:
                        self._changed.wait()
                    request_id = self._client.send(self._method, self._params(subject))
                    self._waiting[request_id] = subject
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - handed to the main thread by finish()
            self._failed = error
        finally:
            with self._changed, suppress(RuntimeError):
                self._ended = True
                self._changed.notify_all()


def _error(failure: Failure) -> ControlError:
    try:
        code = ErrorCode(failure.code)
    except ValueError:  # a newer daemon's code
        code = ErrorCode.INTERNAL
    return ControlError(code, failure.message)
