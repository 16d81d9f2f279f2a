"""Server side of the control API: connections, running requests, bounds, cancellation.

Decides which clients are served and when a request is cancelled. :mod:`codio_dht.daemon.methods`
has the methods, and :mod:`codio_dht.daemon.protocol` has the format of the lines.

A connection is one reader task and one task per running request. It ends, and with it all of its
requests, when the client is gone, when a line is too long, or when the daemon stops::

    READING --client closed its socket--> GONE (requests cancelled)
    READING --client only finished sending--> FINISHING (requests run on, then closed)
    FINISHING --client closed its socket--> GONE

Bounds: :data:`MAX_CONNECTIONS`, :data:`MAX_REQUESTS_PER_CONNECTION`, :data:`MAX_LINE_BYTES`. A
client that passes one gets an error. A client that does not read delays only its own requests,
which wait in ``emit``. The socket is the user's own (mode 0600), so a slow client is not
disconnected.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Mapping
from typing import Final

import trio

from codio_dht.daemon.methods import Emit, Method, code_of
from codio_dht.daemon.parameters import Params
from codio_dht.daemon.protocol import (
    MAX_CONNECTIONS,
    MAX_LINE_BYTES,
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
    decode_request,
    encode_answer,
)
from codio_dht.errors import CodioError
from codio_dht.logger import get_logger

_READ_BYTES: Final = 64 * 1024

_GONE_CHECK_S: Final = 0.2
"""How often a client that finished sending is looked at: is it still there?"""

_LAST_WORDS_TIMEOUT_S: Final = 1.0
"""How long sending what is left may take when a connection ends or is refused."""

_OUTBOX_LINES: Final = 16
"""Answers that wait for a client that does not read; then its requests wait."""

log = get_logger(__name__)


class ControlServer:
    """Serves ``methods`` on a listening Unix socket until cancelled."""

    def __init__(self, methods: Mapping[str, Method], hello: Hello) -> None:
        self.methods = methods
        self.hello = hello
        self.counters: Counter[str] = Counter()
        self._connections = 0

    def stats(self) -> dict[str, int]:
        """Open connections and counters."""
        return {"connections": self._connections, **self.counters}

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections for ever. The caller closes ``listener``."""
        listener.setblocking(False)
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
        await trio.serve_listeners(self._accepted, [accepting])

    async def _accepted(self, stream: trio.SocketStream) -> None:
        self.counters["accepted"] += 1
        if self._connections >= MAX_CONNECTIONS:
            self.counters["refused_connections"] += 1
            await _refuse(stream)
            return
        self._connections += 1
        try:
            await _Connection(self, stream).run()
        except Exception:  # the outermost edge of this connection's task
            self.counters["internal_errors"] += 1
            log.exception("control_connection_failed")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)


async def _refuse(stream: trio.SocketStream) -> None:
    failure = Failure(
        None, ErrorCode.CAPACITY, f"{MAX_CONNECTIONS} control connections are open already"
    )
    with trio.move_on_after(_LAST_WORDS_TIMEOUT_S):
        async with stream:
            try:
                await stream.send_all(encode_answer(failure))
            except trio.BrokenResourceError:
                return


class _Connection:
    """One client. A writer task owns the sending side, so a cancelled request does not cut a
    line."""

    def __init__(self, server: ControlServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._outbox, self._outgoing = trio.open_memory_channel[bytes](_OUTBOX_LINES)
        self._running: dict[RequestId, trio.CancelScope] = {}
        self._unanswered = 0
        self._one_ended = trio.Event()

    async def run(self) -> None:
        """Serve until the client is gone."""
        async with trio.open_nursery() as connection:
            connection.start_soon(self._write, connection.cancel_scope)
            await self._send(self._server.hello)
            async with trio.open_nursery() as requests:
                await self._read(requests)
                requests.cancel_scope.cancel()
            connection.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_TIMEOUT_S
            await self._outbox.aclose()

    async def _write(self, connection: trio.CancelScope) -> None:
        async for line in self._outgoing:
            try:
                await self._stream.send_all(line)
            except trio.BrokenResourceError:
                connection.cancel()

    async def _read(self, requests: trio.Nursery) -> None:
        reader = LineReader(MAX_LINE_BYTES)
        while data := await self._receive():
            try:
                lines = reader.feed(data)
            except LineTooLongError as error:
                self._server.counters["bad_lines"] += 1
                await self._send(Failure(None, ErrorCode.PARSE, str(error)))
                return
            for line in lines:
                await self._take(line, requests)
        while self._unanswered and not _is_gone(self._stream.socket):
            with trio.move_on_after(_GONE_CHECK_S):
                await self._one_ended.wait()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            return b""

    async def _take(self, line: bytes, nursery: trio.Nursery) -> None:
        """Start the request on ``line``, or answer with an error."""
        try:
            request = decode_request(line)
            method = self._admit(request)
        except ControlError as error:
            self._server.counters[f"refused_{error.code}"] += 1
            await self._send(Failure(error.request_id, error.code, error.message))
            return
        self._server.counters["requests"] += 1
        if method is None:
            await self._send(self._cancel(request))
            return
        scope = trio.CancelScope()
        self._running[request.id] = scope
        self._unanswered += 1
        nursery.start_soon(self._run, request, method, scope)

    def _admit(self, request: Request) -> Method | None:
        """The method to run, or None for ``cancel``, which the connection handles itself."""
        if request.method == "cancel":
            return None
        if request.id in self._running:
            raise ControlError(
                ErrorCode.USAGE, "a request with this id is still running", request_id=request.id
            )
        method = self._server.methods.get(request.method)
        if method is None:
            raise ControlError(
                ErrorCode.UNKNOWN_METHOD,
                f"there is no method {request.method[:80]!r}",
                request_id=request.id,
            )
        if len(self._running) >= MAX_REQUESTS_PER_CONNECTION:
            raise ControlError(
                ErrorCode.CAPACITY,
                f"{MAX_REQUESTS_PER_CONNECTION} requests are running on this connection already",
                request_id=request.id,
            )
        return method

    def _cancel(self, request: Request) -> Answer:
        params = request.params
        if set(params) != {"id"} or not isinstance(params["id"], int | str):
            message = "cancel takes one parameter, id: the request to cancel"
            return Failure(request.id, ErrorCode.USAGE, message)
        scope = self._running.get(params["id"])
        if scope is not None:
            scope.cancel()
        return Result(request.id, {"cancelled": scope is not None})

    async def _run(self, request: Request, method: Method, scope: trio.CancelScope) -> None:
        async def emit(item: object) -> None:
            await self._send(Item(request.id, item))

        answer: Answer = Failure(request.id, ErrorCode.CANCELLED, "cancelled by the client")
        with scope:
            answer = await self._answer(request, method, emit)
        del self._running[request.id]
        await self._send(answer)
        self._unanswered -= 1
        self._one_ended.set()
        self._one_ended = trio.Event()

    async def _answer(self, request: Request, method: Method, emit: Emit) -> Answer:
        try:
            answer = Result(request.id, await method(Params(request.params), emit))
            encode_answer(answer)
        except ControlError as error:
            return Failure(request.id, error.code, error.message)
        except CodioError as error:
            return Failure(request.id, code_of(error), str(error))
        except Exception:  # the outermost edge of this request's task
            self._server.counters["internal_errors"] += 1
            log.exception("control_request_failed", method=request.method)
            return Failure(
                request.id, ErrorCode.INTERNAL, "internal error; the daemon's log has more"
            )
        return answer

    async def _send(self, answer: Answer) -> None:
        await self._outbox.send(encode_answer(answer))


def _is_gone(sock: trio.socket.SocketType) -> bool:
    """Whether the peer of a Unix socket, having finished sending, has closed it altogether."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLHUP)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
