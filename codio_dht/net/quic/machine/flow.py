"""Which streams there are, and how much either side may send on them (RFC 9000, section 4).

Decides when the peer is told of more room, whether it keeps to it, and which streams of ours wait
for its windows. Windows grow by what was taken (``grant``), so nobody can send what nobody reads.
There are no unidirectional streams, which libp2p has none of. A stream that has something to write
is in the :class:`~codio_dht.net.quic.machine.buffers.Ledger`; one that a window stops leaves it
until the peer opens the window::

    ready --its own window--> (MAX_STREAM_DATA) --> ready
      +----the connection's--> starved (MAX_DATA) --> ready

Bounds: ``MAX_QUIC_STREAMS`` for the peer's streams, :mod:`~codio_dht.net.quic.streams` for ours,
and the windows for bytes received and not taken.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from codio_dht.net.quic.limits import (
    MAX_QUIC_STREAMS,
    QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_STREAM_WINDOW_BYTES,
)
from codio_dht.net.quic.machine.buffers import Ledger, StreamState
from codio_dht.net.quic.machine.errors import Code, QuicError
from codio_dht.net.quic.machine.frames import MAX_STREAMS_EVER
from codio_dht.net.quic.machine.parameters import Parameters

_BY_LISTENER: Final = 0x1
_UNIDIRECTIONAL: Final = 0x2
_STEP: Final = 4
"""From one stream's id to the next of its kind (RFC 9000, section 2.1)."""


class Limit:
    """Something that the peer may use up: what it may, what it was told, and what it used."""

    __slots__ = ("told", "used", "value")

    def __init__(self, value: int) -> None:
        self.value = self.told = value
        self.used = 0

    def on_fate(self, acknowledged: bool) -> None:
        """The peer knows, or has to be told again."""
        if not acknowledged:
            self.told = 0


class Windows:
    """The streams of one connection, and all windows."""

    __slots__ = (
        "_blocked",
        "_dialled",
        "_ungranted",
        "data",
        "ledger",
        "next_id",
        "peer",
        "peer_data_used",
        "peer_streams",
        "starved",
        "streams",
        "streams_limit",
    )

    def __init__(self, *, dialled: bool) -> None:
        self._dialled = dialled
        self._blocked: deque[StreamState] = deque()  # ours, by their ids
        self.ledger = Ledger()
        self.streams: dict[int, StreamState] = {}
        self.data = Limit(QUIC_CONNECTION_WINDOW_BYTES)
        self.streams_limit = Limit(MAX_QUIC_STREAMS)
        self.peer = Parameters()
        """The peer's, whose ``max_data`` grows."""
        self.peer_data_used = 0
        self.peer_streams = 0
        self.next_id = 0 if dialled else _BY_LISTENER
        self.starved: dict[int, None] = {}
        self._ungranted = 0

    def on_parameters(self, peer: Parameters) -> None:
        """The peer's limits became known."""
        self.peer = peer
        self.peer_streams = peer.max_streams_bidi

    # --- streams ----------------------------------------------------------------------------------

    def find(self, stream_id: int, frame_type: int) -> StreamState | None:
        """The stream that a frame of the peer is about, opened now if need be; None if it is over.

        Raises:
            QuicError: there is no such stream, and may be none.
        """
        stream = self.streams.get(stream_id)
        if stream is not None:
            return stream
        ours = bool(stream_id & _BY_LISTENER) != self._dialled
        if stream_id & _UNIDIRECTIONAL and not ours:
            raise QuicError(Code.STREAM_LIMIT_ERROR, "a unidirectional stream", frame_type)
        if ours:
            if stream_id & _UNIDIRECTIONAL or stream_id >= self.next_id:
                raise QuicError(Code.STREAM_STATE_ERROR, "no such stream of ours", frame_type)
            return None
        limit = self.streams_limit
        count = stream_id // _STEP + 1
        if count > limit.value:
            raise QuicError(Code.STREAM_LIMIT_ERROR, "too many streams", frame_type)
        if count <= limit.used:
            return None
        for number in range(limit.used, count):  # those below are open, too
            each = number * _STEP + stream_id % _STEP
            stream = self.streams[each] = StreamState(
                each,
                self.ledger,
                QUIC_STREAM_WINDOW_BYTES,
                self.peer.max_stream_data_bidi_local,
            )
        limit.used = count
        return stream

    def open(self) -> StreamState:
        """A new stream of ours."""
        stream = self.streams[self.next_id] = StreamState(
            self.next_id,
            self.ledger,
            QUIC_STREAM_WINDOW_BYTES,
            self.peer.max_stream_data_bidi_remote,
        )
        if self.next_id // _STEP >= self.peer_streams:
            stream.is_blocked = True
            self._blocked.append(stream)
        self.next_id += _STEP
        return stream

    @property
    def streams_allowed(self) -> int:
        """Own streams that the peer lets us open now."""
        return self.peer_streams - self.next_id // _STEP

    def drop_ended(self) -> None:
        """Forget streams that are over on both sides; the peer may open others for its own."""
        for stream_id in self.ledger.ended:
            stream = self.streams.get(stream_id)
            if stream is not None and stream.is_over:
                del self.streams[stream_id]
                self.starved.pop(stream_id, None)
                if bool(stream_id & _BY_LISTENER) == self._dialled:
                    self.streams_limit.value += 1
        self.ledger.ended.clear()

    # --- the peer's room --------------------------------------------------------------------------

    def check_room(self, stream: StreamState, stop: int, frame_type: int) -> None:
        """Count bytes of a stream up to ``stop`` against the windows.

        Raises:
            QuicError: the peer sent more than it may.
        """
        more = stop - stream.receiver.highest_offset
        if more <= 0:
            return
        data = self.data
        if stop > stream.limit or data.used + more > data.value:
            raise QuicError(Code.FLOW_CONTROL_ERROR, "past the window", frame_type)
        data.used += more

    def grant(self, count: int) -> None:
        """The peer may send ``count`` more bytes on the connection."""
        self._ungranted += count
        if 2 * self._ungranted >= QUIC_CONNECTION_WINDOW_BYTES:
            self.data.value += self._ungranted
            self._ungranted = 0

    def grant_stream(self, stream_id: int, count: int) -> None:
        """The peer may send ``count`` more bytes on a stream."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.limit += count
            self.ledger.ready[stream_id] = None

    @property
    def received_bytes(self) -> int:
        """Bytes of the connection's window in use: what nobody took yet, and what waits behind
        gaps."""
        return self.data.used - (self.data.value + self._ungranted - QUIC_CONNECTION_WINDOW_BYTES)

    @property
    def has_limits_to_tell(self) -> bool:
        """Whether the peer has to hear of new limits. Streams one by one are not worth telling,
        while the peer has many left."""
        data, streams = self.data, self.streams_limit
        return data.value != data.told or (
            streams.value != streams.told
            and streams.value - streams.told > streams.told - streams.used
        )

    # --- our room ---------------------------------------------------------------------------------

    def on_max_data(self, value: int) -> None:
        """The peer's window of the connection ends at ``value``."""
        if value > self.peer.max_data:
            self.peer.max_data = value
            self.ledger.ready.update(self.starved)
            self.starved.clear()

    def on_max_stream_data(self, stream: StreamState, value: int) -> None:
        """The peer's window of a stream ends at ``value``."""
        if value > stream.peer_limit:
            stream.peer_limit = value
            self.ledger.ready[stream.id] = None

    def on_max_streams(self, value: int, frame_type: int) -> None:
        """The peer lets us open ``value`` streams in all.

        Raises:
            QuicError: so many there cannot be.
        """
        if value > MAX_STREAMS_EVER:
            raise QuicError(Code.FRAME_ENCODING_ERROR, "too many streams to name", frame_type)
        self.peer_streams = max(self.peer_streams, value)
        blocked = self._blocked
        while blocked and blocked[0].id // _STEP < self.peer_streams:
            stream = blocked.popleft()
            stream.is_blocked = False
            self.ledger.ready[stream.id] = None
