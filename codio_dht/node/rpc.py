"""The RPC client: one request to one peer, over a stream that is kept and reused.

Decides when a stream is reused and when a request is tried again; knows nothing of lookups, nor
what an outcome says of the peer.

One request is outstanding on a stream at a time; answers match by order (SPEC). A request that
fails on a stream is tried once more on a new one (go), within the same deadline. Before that the
host is asked for a connection, also where there is one: if nothing came back on it, the host makes
a new one, and where it cannot, the request is not sent into the old one again.

ADD_PROVIDER is never answered (go, rust, js), so it travels on a stream of its own: the sender
finishes sending and waits for the peer's end. A normal end says that the peer has read the record
and not refused it; a peer that echoes it (py-libp2p) is read and ignored. js resets such a stream
although it takes the record: ``core.delivery`` knows. Many records for one peer go one after
another on one stream, which a server must take (SPEC): the normal end then speaks for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import trio
from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.core.addresses import AddressFilter
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import (
    PROVIDE_CONFIRM_TIMEOUT_S,
    PROVIDE_RPC_TIMEOUT_S,
    RECORD_ALONE_TIME_S,
    Receipt,
)
from codio_dht.core.messages import AddProvider, FailureReason, MessageType, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.errors import (
    DeadlineError,
    DialError,
    MessageError,
    NetworkError,
    RemoteError,
    StreamError,
    UnsupportedProtocolError,
)
from codio_dht.net.host import Host, Stream
from codio_dht.node.protection import RequestProtection
from codio_dht.node.stream_pool import StreamPool
from codio_dht.wire.codec import decode_reply, encode_request, expected_reply
from codio_dht.wire.framing import FrameReader, LargeFrames

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 16 * 1024


class RpcClient:
    """Requests to peers over ``host`` on one protocol id. ``addrs_of`` says where to dial, and what
    ``stranger_filter`` gives says where the names among these may lead."""

    def __init__(
        self,
        host: Host,
        protocol: str,
        addrs_of: Callable[[PeerId], Sequence[Multiaddr]],
        stranger_filter: Callable[[], AddressFilter],
        *,
        dial_timeout_s: float,
        request_timeout_s: float,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._addrs_of = addrs_of
        self._stranger_filter = stranger_filter
        self._dial_timeout_s = dial_timeout_s
        self._request_timeout_s = request_timeout_s
        self._protection = RequestProtection(host, protocol)
        self._pool = StreamPool()
        self._large_replies = LargeFrames()
        self.pending = 0
        self.counters: Counter[str] = Counter()

    async def request(
        self,
        peer: PeerId,
        request: Request,
        deadline: Monotonic,
        *,
        addrs: Sequence[Multiaddr] | None = None,
    ) -> Reply:
        """The peer's answer. A peer that there is no connection to is dialled at ``addrs`` if they
        are given, and nowhere else; otherwise wherever it may be.

        Raises:
            NetworkError: not reached, no kad, the stream ended, or the deadline passed.
            RemoteError: the answer is not one.
        """
        frame, kind = encode_request(request), expected_reply(request)
        self.pending += 1
        try:
            with self._protection.of(peer):
                if not self._host.is_connected(peer):
                    await self._connect(peer, deadline, addrs)
                reply = await self._exchange(peer, frame, kind, deadline)
                if reply is None:
                    self.counters["retries"] += 1
                    # If it is there, the host may doubt it.
                    await self._connect(peer, deadline, addrs)
                    reply = await self._exchange(peer, frame, kind, deadline, last=True)
            assert reply is not None
        except (NetworkError, RemoteError) as error:
            self.counters[f"failed:{type(error).__name__}"] += 1
            raise
        finally:
            self.pending -= 1
        self.counters["answered"] += 1
        return reply

    async def give(self, peer: PeerId, request: Request, deadline: Monotonic) -> Receipt | Reply:
        """Hand ``request`` to a peer and wait for its word: its answer or, to a request that has
        none, the end of the stream.

        Raises:
            NetworkError: not reached, no kad, refused (the stream was reset), or out of time
                before the request was sent.
            RemoteError: the answer, where there is one, is not one.
        """
        if isinstance(request, AddProvider):
            return await self._give_unanswered(peer, request, deadline)
        return await self.request(peer, request, deadline)

    async def _give_unanswered(
        self, peer: PeerId, request: AddProvider, deadline: Monotonic
    ) -> Receipt:
        self.pending += 1
        try:
            with self._protection.of(peer):
                if not self._host.is_connected(peer):
                    await self._connect(peer, deadline)
                return await self._give_one(peer, encode_request(request), deadline)
        finally:
            self.pending -= 1

    async def _give_one(self, peer: PeerId, frame: bytes, deadline: Monotonic) -> Receipt:
        """Send a request that has no answer, on a stream of its own."""
        stream = await self._host.open_stream(peer, self._protocol, deadline)
        try:
            with _failing_at(deadline, "sending a provider record"):
                await stream.write(frame)
                await stream.close_write()
            return await self._await_end(stream, deadline)
        except BaseException:
            await stream.reset()
            raise

    async def give_all(
        self, peer: PeerId, records: Callable[[], Iterator[bytes]], deadline: Monotonic
    ) -> None:
        """Hand provider records to a peer, all on one stream, and wait until it has ended the
        stream, or for ``PROVIDE_CONFIRM_TIMEOUT_S``. ``records`` gives the ADD_PROVIDER requests as
        frames; it is called again if the peer takes only one request on a stream (py-libp2p, which
        answers it and closes). Then each record has a stream of its own, and ``deadline`` is put
        off for them as far as ``RECORD_ALONE_TIME_S`` says.

        Raises:
            NetworkError: not reached, no kad, the stream was reset, or the deadline passed.
        """
        self.pending += 1
        try:
            with self._protection.of(peer):
                if not self._host.is_connected(peer):
                    await self._connect(peer, deadline)
                if not await self._give_on_one_stream(peer, records, deadline):
                    self.counters["records_one_by_one"] += 1
                    by = trio.current_time() + PROVIDE_RPC_TIMEOUT_S
                    for count, frame in enumerate(records()):
                        until = Monotonic(by + RECORD_ALONE_TIME_S * count)
                        await self._give_one(peer, frame, until)
        finally:
            self.pending -= 1

    async def _give_on_one_stream(
        self, peer: PeerId, records: Callable[[], Iterator[bytes]], deadline: Monotonic
    ) -> bool:
        """Whether the peer took everything, as far as can be told."""
        stream = await self._host.open_stream(peer, self._protocol, deadline)
        failure: StreamError | None = None
        finished = is_single = False

        async def listen() -> None:
            """Nothing is to come but the end, and only after ours."""
            nonlocal failure, is_single
            try:
                is_single = bool(await stream.read(_READ_BYTES)) or not finished
            except StreamError as error:
                failure = error
            nursery.cancel_scope.cancel()

        try:
            with _failing_at(deadline, "sending provider records"):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listen)
                    try:
                        for chunk in _chunks(records()):
                            await stream.write(chunk)
                        finished = True
                        await stream.close_write()
                    except StreamError as error:
                        failure = error
                        nursery.cancel_scope.cancel()
                    by = trio.current_time() + PROVIDE_CONFIRM_TIMEOUT_S
                    nursery.cancel_scope.deadline = min(deadline, by)
            if failure is not None and not is_single:
                raise failure
        except BaseException:
            await stream.reset()
            raise
        await stream.close()
        return not is_single

    async def forget(self, peer: PeerId) -> None:
        """The peer is gone: drop what is kept of it."""
        stream = self._pool.forget(peer)
        if stream is not None:
            await stream.reset()

    async def aclose(self) -> None:
        """Drop every kept stream."""
        for stream in self._pool.drain():
            await stream.reset()

    async def _connect(
        self, peer: PeerId, deadline: Monotonic, addrs: Sequence[Multiaddr] | None = None
    ) -> None:
        by = min(deadline, trio.current_time() + self._dial_timeout_s)
        await self._host.connect(
            peer,
            self._addrs_of(peer) if addrs is None else addrs,
            Monotonic(by),
            stranger_filter=self._stranger_filter(),
            later=None if addrs is not None else lambda: self._addrs_of(peer),
        )

    async def _exchange(
        self,
        peer: PeerId,
        frame: bytes,
        kind: MessageType,
        deadline: Monotonic,
        *,
        last: bool = False,
    ) -> Reply | None:
        """One try. None: the stream failed and a second try is worth it."""
        stream = None if last else await self._take_kept(peer)
        reused = stream is not None
        if stream is None:
            stream = await self._host.open_stream(peer, self._protocol, deadline)
        by = Monotonic(min(deadline, trio.current_time() + self._request_timeout_s))
        clean = False
        try:
            with _failing_at(by, "waiting for an answer"):
                await stream.write(frame)
                payload, at_end = await self._read_frame(stream)
            reply = decode_reply(payload)
            if reply.type is not kind:
                raise MessageError(f"asked {kind.name}, was told {reply.type.name}")
            clean = at_end
            return reply
        except UnsupportedProtocolError:
            raise
        except StreamError:
            if reused:
                self._pool.reuse_failed(peer)
            if last:
                raise
            return None
        except DeadlineError:
            if last or trio.current_time() >= deadline:
                raise
            return None
        finally:
            if clean:
                await self._give_back(peer, stream)
            else:
                await stream.reset()

    async def _read_frame(self, stream: Stream) -> tuple[bytes, bool]:
        """One frame's payload, and whether nothing came after it."""
        reader, counted = FrameReader(), 0
        try:
            while True:
                data = await stream.read(_READ_BYTES)
                if not data:
                    raise StreamError("the peer ended the stream without an answer")
                reader.feed(data)
                payload = reader.next_frame()
                if payload is not None:
                    return payload, reader.at_boundary
                counted = self._large_replies.count(counted, reader.buffered)
        finally:
            self._large_replies.count(counted, 0)

    async def _take_kept(self, peer: PeerId) -> Stream | None:
        stream, stale = self._pool.take(peer, Monotonic(trio.current_time()))
        if stale is not None:
            await stale.reset()
        self.counters["streams_reused" if stream else "streams_opened"] += 1
        return stream

    async def _give_back(self, peer: PeerId, stream: Stream) -> None:
        surplus = self._pool.give_back(peer, stream, Monotonic(trio.current_time()))
        if surplus is not None:
            await surplus.close()

    async def _await_end(self, stream: Stream, deadline: Monotonic) -> Receipt:
        by = min(deadline, trio.current_time() + PROVIDE_CONFIRM_TIMEOUT_S)
        drained = 0
        with trio.move_on_at(by):
            while data := await stream.read(_READ_BYTES):
                drained += len(data)
                if drained > params.REPLY_BUDGET_BYTES:
                    break
            else:
                await stream.close()
                return Receipt.CONFIRMED
        await stream.reset()
        return Receipt.SENT


def _chunks(frames: Iterable[bytes]) -> Iterator[bytes]:
    """``frames`` joined, about ``_WRITE_BYTES`` at a time."""
    chunk, size = [], 0
    for frame in frames:
        chunk.append(frame)
        size += len(frame)
        if size >= _WRITE_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)


def failure_reason(error: NetworkError | RemoteError) -> FailureReason:
    """What an error of the RPC client means to a lookup and to the routing table."""
    match error:
        case NetworkError(local=True):
            return FailureReason.CAPACITY
        case DialError():
            return FailureReason.UNREACHABLE
        case DeadlineError():
            return FailureReason.TIMEOUT
        case UnsupportedProtocolError():
            return FailureReason.UNSUPPORTED
        case _:
            return FailureReason.BROKEN


class _failing_at:  # noqa: N801 - reads as the context manager that it is
    """``trio.fail_at`` that raises this package's ``DeadlineError``."""

    def __init__(self, deadline: float, doing: str) -> None:
        self._scope = trio.CancelScope(deadline=deadline)
        self._doing = doing

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        handled = self._scope.__exit__(kind, error, trace)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise DeadlineError(f"out of time {self._doing}")
        return bool(handled)
