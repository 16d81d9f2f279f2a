"""Messages of the control API: the lines that may be sent, and their meaning. Does no I/O.

Decides the syntax (newline-delimited JSON), the bounds and the error codes; it knows no method and
no socket, and imports neither trio nor libp2p, because every command of the CLI imports it.

    daemon                          client
    {"hello": {...}}          ->
                              <-    {"id": 1, "method": "findprovs", "params": {...}}
    {"id": 1, "item": {...}}  ->          (any number)
    {"id": 1, "result": ...}  ->          (exactly one of these two ends the request)
    {"id": 1, "error": {...}} ->

Described for users in docs/control-api.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeGuard

from codio_dht.errors import CodioError

API_VERSION: Final = 1
"""Raised when an existing client would misread an answer; additions do not raise it."""

MAX_LINE_BYTES: Final = 128 * 1024
"""Longest request line, bytes; the largest value takes 88 KiB in base64. A longer line is answered
with ``parse`` and ends the connection."""

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Longest line a client takes from the daemon, bytes."""

MAX_REQUESTS_PER_CONNECTION: Final = 32
"""Requests running at once on one connection; one more is answered with ``capacity``."""

MAX_CONNECTIONS: Final = 64
"""Control connections open at once; one more is answered with ``capacity`` and closed."""

MAX_TEXT_CHARS: Final = 4096
"""Longest single text parameter, characters."""

MAX_REQUEST_ID_CHARS: Final = 64
"""Longest textual request id, characters."""

_MAX_REQUEST_ID: Final = 2**53
"""Integer ids stay below what every JSON reader keeps exactly."""

RequestId = int | str


class ErrorCode(StrEnum):
    """Why a request failed."""

    PARSE = "parse"
    """The line is not a request of this protocol."""
    UNKNOWN_METHOD = "unknown_method"
    USAGE = "usage"
    """A wrong, missing or unknown parameter; the message names it."""
    NOT_FOUND = "not_found"
    NO_PEERS = "no_peers"
    """The routing table is empty: there is nobody to ask yet."""
    NETWORK = "network"
    """A peer could not be reached or talked to."""
    TIMEOUT = "timeout"
    CAPACITY = "capacity"
    """A named bound is reached."""
    STORAGE = "storage"
    CANCELLED = "cancelled"
    """The client asked for it with ``cancel``."""
    STOPPING = "stopping"
    """The daemon is on its way down."""
    INTERNAL = "internal"
    """A fault of the daemon; its log has the traceback."""


class ControlError(CodioError):
    """The answer to a request that failed: a code for programs, a sentence for people."""

    def __init__(
        self, code: ErrorCode, message: str, *, request_id: RequestId | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    id: RequestId
    method: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hello:
    """The daemon's first line."""

    api: int
    version: str
    peer_id: str


def version_fault(hello: Hello, speaker: str) -> str | None:
    """Why ``speaker``, as in "this command", cannot talk to the daemon; None if it can."""
    if hello.api == API_VERSION:
        return None
    return (
        f"the daemon (codio-dht {hello.version}) speaks version {hello.api} of the control API,"
        f" {speaker} version {API_VERSION}; use the same release for both"
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One of several results, as it was found."""

    id: RequestId
    item: Any


@dataclass(frozen=True, slots=True)
class Result:
    """The request succeeded and is over."""

    id: RequestId
    result: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """The request failed and is over. Without an id, the line or the connection was refused."""

    id: RequestId | None
    code: str
    message: str


Answer = Hello | Item | Result | Failure


# --- lines ----------------------------------------------------------------------------------------


class LineTooLongError(CodioError):
    """A line passed the reader's bound; nothing after it can be understood."""


class LineReader:
    """Cuts a byte stream into lines, keeping at most ``max_bytes`` of an unfinished one."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their newline; blank ones are left out.

        Raises:
            LineTooLongError: a line is longer than the bound. Complete lines before it are lost.
        """
        searched = len(self._pending)
        self._pending += data
        lines: list[bytes] = []
        start = 0
        while (end := self._pending.find(b"\n", max(start, searched))) >= 0:
            self._check(end - start)
            line = bytes(self._pending[start:end]).strip()
            if line:
                lines.append(line)
            start = end + 1
        del self._pending[:start]
        self._check(len(self._pending))
        return lines

    def _check(self, length: int) -> None:
        if length > self._max_bytes:
            msg = f"line over {self._max_bytes} bytes"
            raise LineTooLongError(msg)


# --- codec ----------------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """The line that asks for ``request``."""
    return _line({"id": request.id, "method": request.method, "params": dict(request.params)})


def encode_answer(answer: Answer) -> bytes:
    """The line that says ``answer``.

    Raises:
        ValueError, TypeError: its value is not JSON.
    """
    match answer:
        case Hello(api, version, peer_id):
            return _line({"hello": {"api": api, "version": version, "peer_id": peer_id}})
        case Item(request_id, item):
            return _line({"id": request_id, "item": item})
        case Result(request_id, result):
            return _line({"id": request_id, "result": result})
        case Failure(request_id, code, message):
            return _line({"id": request_id, "error": {"code": code, "message": message}})


def decode_request(line: bytes) -> Request:
    """The request on ``line``.

    Raises:
        ControlError: it is none (``parse``); ``request_id`` is set if at least that was readable.
    """
    fields = _object(line)
    request_id = fields.get("id")
    if not _is_request_id(request_id):
        msg = (
            'each request is {"id": ..., "method": ..., "params": {...}}; "id" is a whole number'
            f" below 2**53 or a text of at most {MAX_REQUEST_ID_CHARS} characters"
        )
        raise ControlError(ErrorCode.PARSE, msg)
    method = fields.get("method")
    params = fields.get("params", {})
    if not isinstance(method, str):
        raise ControlError(ErrorCode.PARSE, '"method" must be a text', request_id=request_id)
    if not isinstance(params, dict):
        raise ControlError(ErrorCode.PARSE, '"params" must be an object', request_id=request_id)
    return Request(request_id, method, params)


def decode_answer(line: bytes) -> Answer:
    """The answer on ``line``. Unknown fields are skipped.

    Raises:
        ControlError: it is none (``parse``).
    """
    match _object(line):
        case {"hello": {"api": int(api), "version": str(version), "peer_id": str(peer_id)}}:
            return Hello(api, version, peer_id)
        case {"id": int() | str() as request_id, "item": item}:
            return Item(request_id, item)
        case {"id": int() | str() as request_id, "result": result}:
            return Result(request_id, result)
        case {
            "id": int() | str() | None as failed_id,
            "error": {"code": str(code), "message": str(message)},
        }:
            return Failure(failed_id, code, message)
        case _:
            raise ControlError(ErrorCode.PARSE, "the daemon's answer makes no sense")


def _line(fields: Mapping[str, Any]) -> bytes:
    # ASCII only: what a remote peer called itself cannot smuggle control characters through.
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ControlError(ErrorCode.PARSE, "the line is not JSON") from error
    if not isinstance(value, dict):
        raise ControlError(ErrorCode.PARSE, "the line is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _is_request_id(value: object) -> TypeGuard[RequestId]:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) < _MAX_REQUEST_ID
    return isinstance(value, str) and 0 < len(value) <= MAX_REQUEST_ID_CHARS
