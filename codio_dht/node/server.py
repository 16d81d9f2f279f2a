"""The RPC server: one inbound kad stream, bytes in, replies out, no task and no await.

Decides how much of one stream's work is done before others run; what a request means only the
responder decides, what bytes mean only the codec.

    READING --request--> answered at once, many per feed
    READING --request whose records are on disk--> PARKED --loaded--> READING
    READING --value for an application's validator--> PARKED --judged--> READING
    READING --32 requests or 2 ms--> PARKED for a turn of the event loop --> READING
    any --bad bytes or a refusal--> RESET
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Final, Protocol

from codio_dht.core.clock import Monotonic, Now
from codio_dht.core.messages import Reply
from codio_dht.core.peer import PeerId
from codio_dht.core.responder import MAX_LOADS_PER_REQUEST, Responder
from codio_dht.core.steps import Load, NoReply, Refuse
from codio_dht.core.turns import Path
from codio_dht.core.validation import Check
from codio_dht.core.value_records import MAX_VALUE_BYTES
from codio_dht.errors import RemoteError
from codio_dht.net.handlers import Parked, Reset
from codio_dht.node.clock import Clock
from codio_dht.wire.codec import decode_request, encode_reply
from codio_dht.wire.framing import FrameReader

MAX_REQUEST_BYTES: Final = MAX_VALUE_BYTES + 4 * 1024
"""Longest request that is read, bytes: the largest value with its key, which nothing else comes
near. A longer one resets its stream."""

MAX_REQUESTS_PER_TURN: Final = 32
"""Requests answered from one stream before others run."""

MAX_SECONDS_PER_TURN: Final = 0.002
"""Time spent on one stream's requests before others run, seconds."""

Wake = Callable[[], None]


class Loader(Protocol):
    """What is needed of the storage."""

    def load(self, load: Load, done: Wake, owner: Path) -> None:
        """Bring what ``load`` names into memory when the ``owner`` has its turn, then call ``done``
        (always)."""
        ...

    def stop_waiting(self, load: Load, done: Wake) -> None:
        """Nobody waits for this load any more; ``done`` is not called. A no-op if it was."""
        ...


class Judges(Protocol):
    """What is needed of whoever asks applications' validators."""

    def begin(self, check: Check, done: Wake) -> None:
        """Have ``check`` judged, then call ``done`` (always)."""
        ...

    def stop_waiting(self, check: Check, done: Wake) -> None:
        """Nobody waits for this verdict any more; ``done`` is not called. A no-op if it was."""
        ...


class KadServer:
    """Makes a :class:`KadStream` per inbound stream and counts what they do."""

    def __init__(
        self,
        responder: Responder,
        loader: Loader,
        judges: Judges,
        clock: Clock,
        owner_of: Callable[[PeerId], Path] = lambda peer: ("", b"", peer.to_bytes()),
    ) -> None:
        """``owner_of`` says by which owner the loads of a peer take turns."""
        self.owner_of = owner_of
        self.responder = responder
        self.loader = loader
        self.judges = judges
        self.clock = clock
        self.counters: Counter[str] = Counter()

    def __call__(self, peer: PeerId) -> KadStream:
        self.counters["streams"] += 1
        return KadStream(self, peer)


class KadStream:
    """A ``StreamHandler`` (:mod:`codio_dht.net.host`) for ``/ipfs/kad/1.0.0``."""

    __slots__ = ("_head", "_loads", "_peer", "_reader", "_server", "_waiting", "held_bytes")

    def __init__(self, server: KadServer, peer: PeerId) -> None:
        self._server = server
        self._peer = peer
        self._reader = FrameReader(MAX_REQUEST_BYTES)
        self.held_bytes = 0
        """Bytes of a request that is not whole; see ``StreamHandler``."""
        self._head: bytes | None = None
        self._loads = 0
        self._waiting: tuple[Load | Check, Wake] | None = None

    def feed(self, data: bytes, now: Monotonic) -> bytes | Parked | Reset:
        """Answer every whole request in ``data``, in order."""
        reader = self._reader
        try:
            reader.feed(data)
            answer = self._answer(now)
            self.held_bytes = reader.buffered
            return answer
        except RemoteError as error:
            return self._reset(type(error).__name__)

    def eof(self, now: Monotonic) -> bytes | Parked | Reset:
        """The peer half-closed: what it asked before is still answered."""
        if self._head is None and self._reader.at_boundary:
            return b""  # everything has been
        answer = self.feed(b"", now)
        if isinstance(answer, bytes) and not self._reader.at_boundary:
            return self._reset("truncated frame")
        return answer

    def closed(self) -> None:
        """Nothing is held beyond this object: no place in a queue, which a peer could fill with
        streams that it opens and resets."""
        match self._waiting:
            case (Load() as load, wake):
                self._server.loader.stop_waiting(load, wake)
            case (Check() as check, wake):
                self._server.judges.stop_waiting(check, wake)
            case None:
                pass
        self._waiting = None

    def _answer(self, monotonic: Monotonic) -> bytes | Parked | Reset:
        server = self._server
        now = Now(monotonic, server.clock.unix())
        out: list[bytes] = []
        next_frame = self._reader.next_frame
        stop_at = perf_counter() + MAX_SECONDS_PER_TURN
        while (payload := self._head or next_frame()) is not None:
            self._head = payload  # until it is answered
            if len(out) >= MAX_REQUESTS_PER_TURN or perf_counter() > stop_at:
                return Parked(b"".join(out), _at_once)
            request = decode_request(payload)
            answer = server.responder.respond(self._peer, request, now)
            match answer:
                case Reply():
                    out.append(encode_reply(answer))
                case NoReply():
                    pass
                case Load() | Check():
                    self._loads += 1
                    if self._loads > MAX_LOADS_PER_REQUEST:
                        return self._reset("store unavailable")
                    return Parked(b"".join(out), partial(self._park, answer))
                case Refuse(reason):
                    return self._reset(reason)
            server.counters[type(request).__name__] += 1
            self._head = None
            self._loads = 0
        return b"".join(out)

    def _park(self, wanted: Load | Check, wake: Wake) -> None:
        self._waiting = wanted, wake
        match wanted:
            case Load():
                self._server.loader.load(wanted, wake, self._server.owner_of(self._peer))
            case Check():
                self._server.judges.begin(wanted, wake)

    def _reset(self, reason: str) -> Reset:
        self._server.counters[f"reset:{reason}"] += 1
        return Reset(reason)


def _at_once(wake: Callable[[], None]) -> None:
    """Park for no longer than the host needs to let others run."""
    wake()
