"""R5, R10, R11, R13, R14: a Yamux connection that survives its users and its peer.

Upstream: ``libp2p.stream_muxer.yamux.yamux.Yamux`` (0.8.1): ``_write_frame`` (R5), ``open_stream``
(R14: a cancelled open keeps its backlog slot, yamux.py:880, 911), ``handle_incoming`` (R10, R11,
R13: see ``frame_gate``), and ``_measure_rtt_loop``, which never gives up on a dead peer.

Guard: ``guard_connection`` turns an upstream ``Yamux`` into a ``GuardedYamux``, which differs in
those four only. A connection that is already running gets all but the frame gate, since its reader
may stand in the middle of a frame. QUIC connections are not Yamux and are left alone.
"""

# ruff: noqa: SLF001 - a guard works on what it guards

from __future__ import annotations

from typing import Any

import trio
from libp2p.abc import IMuxedConn
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.guards import frame_gate
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.frame_gate import FrameGate, FrameViolationError
from codio_dht.net.libp2p_host.guards.frame_writer import FrameWriter
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check
from codio_dht.net.libp2p_host.limits import (
    CLOSE_TIMEOUT_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_TIMEOUT_S,
    MAX_OUTBOX_BYTES,
    MAX_STREAMS_PER_CONNECTION,
)
from codio_dht.net.libp2p_host.shielding import shielded

_log = get_logger(__name__)

_YAMUX = "libp2p.stream_muxer.yamux.yamux"

SYMBOLS = (
    Symbol(_YAMUX, "Yamux._write_frame", ("self", "data")),
    Symbol(_YAMUX, "Yamux.open_stream", ("self",)),
    Symbol(_YAMUX, "Yamux.start", ("self",)),
    Symbol(_YAMUX, "Yamux._measure_rtt_loop", ("self",)),
    Symbol(_YAMUX, "Yamux.handle_incoming", ("self",)),
    Symbol(_YAMUX, "YamuxStream", ("stream_id", "conn", "is_initiator")),
    Symbol("libp2p.security.secure_session", "SecureSession.read", ("self", "n")),
)


class GatedConnection:
    """The secured connection as upstream's reader sees it: through the frame gate."""

    def __init__(self, secured_conn: SecureSession, gate: FrameGate, owner: GuardedYamux) -> None:
        self._secured_conn = secured_conn
        self._gate = gate
        self._owner = owner
        self._ready = bytearray()
        self._violation: FrameViolationError | None = None
        self.heard_at = trio.current_time()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secured_conn, name)

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes that passed the gate, or fewer at the end of the connection."""
        wanted = 1 if n is None else n
        while len(self._ready) < wanted:
            if self._pass_next():
                await self._answer_refused()
                continue
            data = await self._secured_conn.read(None)
            if not data:
                break
            self.heard_at = trio.current_time()
            self._gate.receive(data)
        taken = bytes(self._ready if n is None else self._ready[:n])
        del self._ready[: len(taken)]
        return taken

    def _pass_next(self) -> bool:
        """Whether there was a frame to look at; what passed is ready to be read."""
        if self._violation is not None:
            raise self._violation
        try:
            frame = self._gate.next_frame()
        except FrameViolationError as error:
            self._violation = error
            self._owner.violated(error)
            raise
        if frame is None:
            return False
        self._ready += frame
        return True

    async def _answer_refused(self) -> None:
        """Reset what the peer may not open; who does not read the resets is not read either."""
        while self._gate.refused:
            await self._owner.refuse(self._gate.refused.pop())


class GuardedYamux(Yamux):
    """``Yamux`` with one writer, a gate in front of its reader, and openings that cannot leak."""

    _outbox: FrameWriter
    _counters: Counters
    _gate: FrameGate | None

    def install(self, counters: Counters, *, with_gate: bool) -> None:
        """Add what upstream's constructor did not."""
        self._counters = counters
        secured_conn: Any = self.secured_conn
        self._outbox = FrameWriter(secured_conn.write, self._abandon, counters)
        self._gate = None
        if with_gate and isinstance(secured_conn, SecureSession):
            self._gate = FrameGate(
                peer_ids_are_odd=not self.is_initiator_value,
                may_open=lambda: len(self.streams) < MAX_STREAMS_PER_CONNECTION,
                is_open=self.streams.__contains__,
            )
            self.secured_conn = GatedConnection(secured_conn, self._gate, self)  # type: ignore[assignment]

    async def start(self) -> None:
        """Run the connection together with its writer."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._outbox.run)
            try:
                await super().start()
            finally:
                self._outbox.kill()
                self._wake_readers()
                nursery.cancel_scope.cancel()

    def _wake_readers(self) -> None:
        """Upstream forgets those who wait on a stream when its reader ends in some of its ways."""
        for stream in self.streams.values():
            stream.closed = stream.send_closed = stream.recv_closed = True
            stream.reset_received = True
        for event in self.stream_events.values():
            event.set()
        self.streams.clear()
        self.stream_buffers.clear()
        self.stream_events.clear()

    # --- writing ----------------------------------------------------------------------------------

    async def _write_frame(self, data: bytes) -> None:
        kind, stream_id = data[1], int.from_bytes(data[4:8], "big")
        if kind == frame_gate.GO_AWAY:
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                await self._outbox.write(data)
                await self._outbox.flush()
            return
        if kind == frame_gate.WINDOW_UPDATE and data[8:12] != b"\0\0\0\0" and self._gate:
            await trio.lowlevel.checkpoint()
            self._give_credit(self._gate, stream_id)
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._outbox.write(data)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _give_credit(self, gate: FrameGate, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        unread = len(self.stream_buffers.get(stream_id, b""))
        credit = gate.grant(stream_id, stream.target_recv_window, unread)
        if credit:
            self._outbox.put(frame_gate.header(frame_gate.WINDOW_UPDATE, 0, stream_id, credit))

    async def open_stream(self) -> YamuxStream:
        """Open a stream; cancelled, it leaves nothing behind."""
        await self.stream_backlog_semaphore.acquire()
        # No await from here on: the slot is either the stream's or given back.
        if self.event_shutting_down.is_set() or self._outbox.is_dead:
            self.stream_backlog_semaphore.release()
            raise MuxedStreamError("the connection is closing")
        stream_id = self.next_stream_id
        self.next_stream_id += 2
        stream = YamuxStream(stream_id, self, True)
        stream._owns_backlog_slot = True
        self.streams[stream_id] = stream
        self.stream_buffers[stream_id] = bytearray()
        self.stream_events[stream_id] = trio.Event()
        if self._gate is not None:
            self._gate.opened(stream_id)
        self._outbox.put(frame_gate.header(frame_gate.WINDOW_UPDATE, frame_gate.SYN, stream_id, 0))
        return stream

    # --- the peer ---------------------------------------------------------------------------------

    def violated(self, error: FrameViolationError) -> None:
        """The peer broke the protocol; upstream's reader ends the connection."""
        self._counters.add("yamux_violations")
        _log.info("yamux violation", peer=str(self.peer_id), error=str(error))

    async def refuse(self, stream_id: int) -> None:
        """Reset a stream that the peer may not open."""
        self._counters.add("yamux_streams_refused")
        await self._outbox.write(
            frame_gate.header(frame_gate.WINDOW_UPDATE, frame_gate.RST, stream_id, 0)
        )

    async def _measure_rtt_loop(self) -> None:
        """Upstream's ping loop, which also notices a peer that is gone."""
        with trio.move_on_after(0.5):  # upstream's first ping, which its windows are tuned by
            await self.event_shutting_down.wait()
        while not self.event_shutting_down.is_set():
            if not await self._ping():
                self._counters.add("connections_timed_out")
                await self._abandon()
                return
            with trio.move_on_after(KEEPALIVE_INTERVAL_S):
                await self.event_shutting_down.wait()

    async def _ping(self) -> bool:
        """Whether the peer answered a ping, or sent anything since."""
        self._ping_id = (self._ping_id + 1) % 2**32
        self._ping_event = trio.Event()
        sent_at = self._ping_sent_time = trio.current_time()
        if self._outbox.is_dead:
            return False
        self._outbox.put(frame_gate.header(frame_gate.PING, frame_gate.SYN, 0, self._ping_id))
        with trio.move_on_after(KEEPALIVE_TIMEOUT_S):
            await self._ping_event.wait()
        heard_at: float = getattr(self.secured_conn, "heard_at", 0.0)
        return self._ping_event.is_set() or heard_at > sent_at

    async def _abandon(self) -> None:
        """Drop the socket; upstream's reader then fails and cleans up."""
        with shielded(CLOSE_TIMEOUT_S):
            try:
                await self.secured_conn.close()
            except Exception as error:  # noqa: BLE001 - the connection is over in any case
                _log.debug("close failed", error=repr(error))


def guard_connection(muxed_conn: IMuxedConn, counters: Counters) -> None:
    """Turn ``muxed_conn`` into a ``GuardedYamux``, if it is a plain ``Yamux``. Idempotent."""
    if type(muxed_conn) is not Yamux:
        return
    check(SYMBOLS)
    running = muxed_conn.event_started.is_set()
    muxed_conn.__class__ = GuardedYamux
    assert isinstance(muxed_conn, GuardedYamux)
    muxed_conn.install(counters, with_gate=not running)
    if running and muxed_conn._nursery is not None:
        muxed_conn._nursery.start_soon(_write_live, muxed_conn)


async def _write_live(connection: GuardedYamux) -> None:
    """The writer of a connection that was running before it was guarded."""
    async with connection._write_lock:  # whoever is writing in upstream's way finishes first
        await connection._outbox.run()


__all__ = ["MAX_OUTBOX_BYTES", "GatedConnection", "GuardedYamux", "guard_connection"]
