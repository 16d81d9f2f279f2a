r"""Frames of a kad stream: an unsigned varint length, then that many bytes.

Decides where a frame ends, and which length prefixes no conforming peer sends. Never looks into a
frame, and never sets memory aside on the word of a prefix: what is buffered has arrived.

:class:`FrameReader` is pulled, so that a handler that has to stop in the middle of what arrived (a
load from the store) leaves the rest where it is::

    LENGTH --prefix complete--> BODY --body complete--> LENGTH
       \--prefix impossible--> FAILED   (every later call raises the same FrameError)

An empty frame is impossible too: it would be a PUT_VALUE without a key, which nobody can answer.
GO resets the stream on all of these, and reads a prefix only in its shortest form.
"""

from __future__ import annotations

from typing import Final

from codio_dht.errors import FormatError, FrameError
from codio_dht.formats.varint import ONE_BYTE_END, read_varint
from codio_dht.params import MAX_FRAME_BYTES, MAX_SMALL_FRAME_BYTES, MAX_VARINT_BYTES

MAX_LARGE_FRAMES_BYTES: Final = 64 * 1024 * 1024
"""What frames larger than ``MAX_SMALL_FRAME_BYTES`` may hold while they arrive, bytes, over all
streams of one direction. The stream that goes past it is reset. 512 streams of one connection could
hold 2 GiB otherwise."""


class LargeFrames:
    """What frames of more than ``MAX_SMALL_FRAME_BYTES`` hold while they arrive, over the streams
    of one direction together: a bound on memory that leaves no small frame out."""

    __slots__ = ("_max", "held")

    def __init__(self, max_bytes: int = MAX_LARGE_FRAMES_BYTES) -> None:
        self._max = max_bytes
        self.held = 0

    def count(self, counted: int, buffered: int) -> int:
        """A stream that was ``counted`` so far has ``buffered`` bytes now (0: it is over); what it
        is counted from here on.

        Raises:
            FrameError: that is past the bound; the stream stays ``counted``.
        """
        counts = buffered if buffered > MAX_SMALL_FRAME_BYTES else 0
        held = self.held + counts - counted
        if held > self._max:  # never of a stream that has less than before
            raise FrameError(f"more than {self._max} bytes in large frames under way")
        self.held = held
        return counts


class FrameReader:
    """Cuts what arrives on a stream into frames. See the module for its states.

    Holds at most one unfinished frame (``max_frame_bytes`` and its prefix) beside what the last
    ``feed`` brought, provided that the caller pulls frames until None before it feeds again.
    """

    __slots__ = ("_buffer", "_end", "_failure", "_max", "_max_short", "_start")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._max_short = min(max_frame_bytes, ONE_BYTE_END - 1)
        self._buffer: bytes | bytearray = b""
        self._start = 0
        """Where the next frame's prefix begins (LENGTH) or its body (BODY)."""
        self._end = -1
        """Where the body ends, or -1 while the length is not known (LENGTH)."""
        self._failure: str | None = None

    @property
    def buffered(self) -> int:
        """Bytes held that no returned frame contains, a prefix that was read not counted."""
        return len(self._buffer) - self._start

    @property
    def at_boundary(self) -> bool:
        """Whether the stream stands between two frames: an end of stream here is a clean one."""
        return self._end < 0 and self._start == len(self._buffer) and self._failure is None

    def feed(self, data: bytes) -> None:
        """Take what arrived, in order; it is kept, not copied, where that is possible.

        After a failure it is dropped.
        """
        buffer = self._buffer
        if not data or self._failure is not None:
            return
        if self._start == len(buffer) and self._end < 0:
            self._buffer = data
            self._start = 0
            return
        if isinstance(buffer, bytearray):
            del buffer[: self._start]  # cheap: a bytearray drops a head without moving the rest
        else:
            buffer = self._buffer = bytearray(memoryview(buffer)[self._start :])
        if self._end >= 0:
            self._end -= self._start
        self._start = 0
        buffer += data

    def next_frame(self) -> bytes | None:
        """The next whole frame's payload, or None until more has arrived.

        Raises:
            FrameError: the length is too large, empty, longer than a varint may be, or not in its
                shortest form. There is no way to go on with this stream.
        """
        buffer = self._buffer
        start = self._start
        if self._end < 0:
            left = len(buffer) - start
            if left == 0 and self._failure is None:
                return None
            if left and 0 < (length := buffer[start]) < left and length <= self._max_short:
                self._start = end = start + 1 + length  # a short frame, whole: nearly all requests
                return bytes(buffer[start + 1 : end])
            if not self._read_length():
                return None
        end = self._end
        if len(buffer) < end:
            return None
        start = self._start
        self._start = end
        self._end = -1
        if isinstance(buffer, bytes):
            return buffer[start:end]
        return bytes(memoryview(buffer)[start:end])

    def _read_length(self) -> bool:
        """LENGTH -> BODY: whether the prefix was complete."""
        if self._failure is not None:
            raise FrameError(self._failure)
        buffer = self._buffer
        start = self._start
        try:
            found = read_varint(buffer, start, MAX_VARINT_BYTES)
        except FormatError as error:
            raise self._fail(f"frame length {error}") from error
        if found is None:
            return False
        length, self._start = found
        if length == 0:
            raise self._fail("empty frame")
        if length > self._max:
            raise self._fail(f"frame of {length} bytes, more than {self._max}")
        self._end = self._start + length
        return True

    def _fail(self, why: str) -> FrameError:
        """-> FAILED: drops what is buffered."""
        self._failure = why
        self._buffer = b""
        self._start = 0
        return FrameError(why)
