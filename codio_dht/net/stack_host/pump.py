"""The pump: one task that carries one connection over one TCP socket.

``recv -> receive -> act on events -> one coalesced send``, again and again. It never stops reading
in order to finish a write: what the socket does not take goes to a backlog, which a second task
empties, with a deadline; the peer gets no more answers while much waits (``HOLD_BYTES``), and loses
the connection when too much does (``MAX_BACKLOG_BYTES``). Work that its turn's ration did not
cover is done after others had theirs.

Tasks: one for reading; one for the backlog while there is one; one for work that became ready while
the first waits for the socket. No others, whatever the number of streams.

A pump may be used from any task between two awaits (``streams``, then ``flush``). All of its
methods are safe after its end.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import trio
from trio.lowlevel import checkpoint, current_clock, notify_closing, wait_readable, wait_writable

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CapacityError, CodioError, DeadlineError
from codio_dht.net.link import Link, LinkContext, LinkState, now
from codio_dht.net.stack.connection import Connection
from codio_dht.net.stack.security import Authenticated
from codio_dht.net.stack.streams import Streams
from codio_dht.net.stack_host.limits import (
    HOLD_BYTES,
    KEEP_ALIVE_BYTES,
    MAX_BACKLOG_BYTES,
    READ_BYTES,
    WRITE_TIMEOUT_S,
)
from codio_dht.net.targets import Target

_RELEASE_BYTES: Final = HOLD_BYTES // 2
_PIECE_BYTES: Final = 4 * 1024
"""Pieces of the backlog are joined up to this size, so that small ones do not add up."""


class Pump(Link):
    """Carries one connection over one TCP socket. Start ``run`` once, in a nursery of the
    context."""

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_connection",
        "_drained",
        "_fd",
        "_held",
        "_sock",
        "_waiting",
        "_working",
        "_writing",
    )

    def __init__(
        self,
        context: LinkContext,
        sock: socket.socket,
        target: Target,
        *,
        inbound: bool,
        expected: PeerId | None = None,
        pipeline: bool = True,
    ) -> None:
        super().__init__(context, target, inbound=inbound)
        self._sock = sock
        self._fd = sock.fileno()  # never awaited after the end: the system uses it again
        self._connection = Connection(
            initiator=not inbound,
            securities=context.securities,
            served=context.served,
            now=self.opened_at,
            expected=expected,
            pipeline=pipeline,
            wake=self._wake,
            admit=self._admit,
        )
        self._backlog: deque[memoryview] | None = None
        self._backlog_bytes = 0
        self._held = False
        self._writing = False  # the backlog's task runs
        self._waiting = False  # the reading task waits for the socket
        self._working = False  # the working task runs
        self._drained: trio.Event | None = None

    # --- the reading task -------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry the connection to its end."""
        try:
            self.flush()
            await self._run()
        except trio.ClosedResourceError:
            pass  # ended by another task
        except Exception as error:  # noqa: BLE001 - a connection's outermost edge
            self.context.bugs.report("connection failed", error, now())
        finally:
            self.end()

    async def _run(self) -> None:
        sock, fd, connection = self._sock, self._fd, self._connection
        # What trio.current_time asks, without the way to it: one look for each time data comes.
        current_time = cast("Callable[[], Monotonic]", current_clock().current_time)
        while self.state is not LinkState.ENDED:
            self._waiting = True
            await wait_readable(fd)
            self._waiting = False
            try:
                data = sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            moment, meter = current_time(), self.meter()
            if data:
                self.heard_at = moment
                if len(data) > KEEP_ALIVE_BYTES:
                    self.last_active = moment
                events = connection.receive(data, moment)
            else:
                events = connection.peer_closed()
            if events or self._capacity_freed is not None:
                self.handle(events)
            self.flush()
            pause_s = self.settle(meter)
            if pause_s > 0:
                await self._pause(pause_s)
            if connection.work_left:
                await self._work_off()

    async def _pause(self, seconds: float) -> None:
        """Leave the socket unread: the origin of this connection has not paid yet."""
        self.context.counters["turns_delayed"] += 1
        await trio.sleep(seconds)

    async def _work_off(self) -> None:
        """Do what is left, a ration at a time, others running in between."""
        connection = self._connection
        while connection.work_left:
            await checkpoint()
            meter = self.meter()
            events = connection.work(now())
            if events:
                self.handle(events)
            self.flush()
            pause_s = self.settle(meter)
            if pause_s > 0:
                await self._pause(pause_s)

    # --- work that becomes ready ------------------------------------------------------------------

    def _wake(self) -> None:
        """Parked work became ready, perhaps inside a method of the connection: do it soon."""
        if self._waiting and not self._working and self.state is LinkState.OPEN:
            self._working = True
            self.context.nursery.start_soon(self._work)

    async def _work(self) -> None:
        try:
            await self._work_off()
        except Exception as error:  # noqa: BLE001 - as in run
            self.context.bugs.report("connection failed", error, now())
            self.end()
        finally:
            self._working = False

    # --- sending ----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is ready; what the socket does not take now is sent later."""
        data = self._connection.data_to_send()
        if not data:
            return
        sent = 0
        if not self._backlog_bytes:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return  # the reading task will learn of it
        if sent < len(data) and self.state is not LinkState.ENDED:
            self._keep(memoryview(data)[sent:])

    def _keep(self, rest: memoryview) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog_bytes += len(rest)
        if self._backlog and len(self._backlog[-1]) + len(rest) <= _PIECE_BYTES:
            rest = memoryview(b"".join((self._backlog.pop(), rest)))
        self._backlog.append(rest)
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            self.context.counters["connections_backlog_full"] += 1
            self.end(CapacityError("the peer does not read"))
            return
        if self._backlog_bytes > HOLD_BYTES and not self._held:
            self._held = True
            self._connection.hold()
        if not self._writing:
            self._writing = True
            self.context.nursery.start_soon(self._write)

    async def _write(self) -> None:
        """Empty the backlog. What waits when a period begins must have left when it ends."""
        try:
            while self._backlog_bytes:
                with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
                    await self._send_backlog(self._backlog_bytes)
                if scope.cancelled_caught:
                    self.context.counters["connections_write_timeout"] += 1
                    self.end(DeadlineError("the peer does not read"))
        except (trio.ClosedResourceError, OSError):
            pass  # ended, or about to be: the reading task sees it too
        finally:
            self._writing = False

    async def _send_backlog(self, count: int) -> None:
        """Send the first ``count`` bytes."""
        while count > 0 and self._backlog:
            await wait_writable(self._fd)
            if not self._backlog:  # ended meanwhile
                return
            piece = self._backlog[0]
            try:
                sent = self._sock.send(piece)
            except (BlockingIOError, InterruptedError):
                continue
            if sent < len(piece):
                self._backlog[0] = piece[sent:]
            else:
                self._backlog.popleft()
            count -= sent
            self._backlog_bytes -= sent
            if self._backlog_bytes <= _RELEASE_BYTES:
                self._release()

    def _release(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None
        if self._held:
            self._held = False
            self._connection.release()
            if self._connection.work_left:
                self._wake()

    # --- Link -------------------------------------------------------------------------------------

    @property
    def streams(self) -> Streams:
        """See :class:`Link`."""
        return self._connection.streams

    @property
    def stream_count(self) -> int:
        """See :class:`Link`."""
        return self._connection.stream_count

    @property
    def held_bytes(self) -> int:
        """See :class:`Link`."""
        return self._backlog_bytes + self._connection.held_bytes

    @property
    def congested(self) -> bool:
        """See :class:`Link`."""
        return self._backlog_bytes > _RELEASE_BYTES

    async def drained(self) -> None:
        """See :class:`Link`."""
        while self.congested:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def on_timeout(self, moment: Monotonic) -> None:
        """See :class:`Link`."""
        due = self._connection.next_timeout()
        if due is not None and moment >= due:
            self.handle(self._connection.on_timeout(moment))
            self.flush()

    def reset_protocol(self, protocol: str) -> None:
        """See :class:`Link`."""
        if self.state is LinkState.OPEN:
            self._connection.streams.reset_protocol(protocol)
            self.handle(self._connection.work(now()))
            self.flush()

    def end(self, reason: CodioError | None = None) -> None:
        """See :class:`Link`."""
        if self.state is not LinkState.ENDED:
            self.error = self.error or reason
            self.handle(self._connection.close())

    def _admit(self, authenticated: Authenticated) -> bool:
        return self.context.owner.admit(self, authenticated)

    def _closed(self) -> None:
        """Send the last bytes as far as the socket takes them now, and close it."""
        if self._backlog:
            try:
                self._sock.send(b"".join(self._backlog))
            except OSError:
                pass
        else:
            self.flush()
        self._backlog = None
        self._backlog_bytes = 0
        self._release()
        notify_closing(self._fd)
        self._sock.close()
