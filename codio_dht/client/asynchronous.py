"""The daemon's node for programs on asyncio or trio.

Decides which of the two runs, and how a call waits on it. A call that is cancelled closes its
connection, and the daemon ends the request.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from multiaddr import Multiaddr

from codio_dht.client import calls
from codio_dht.client.calls import AddressLike, Call, StreamCall
from codio_dht.client.exchange import (
    MAX_CALLS_AT_ONCE,
    READ_BYTES,
    Exchange,
    NotFoundError,
    connection_failure,
)
from codio_dht.client.results import ConnectedPeer, NameRecord, NodeIdentity, PublishedRecord
from codio_dht.core.multihash import CidLike
from codio_dht.core.own_keys import OwnKey
from codio_dht.core.peer import PeerId, PeerInfo, PeerLike
from codio_dht.daemon.datadir import default_data_dir, socket_path
from codio_dht.node.results import FoundPeer, ProvideResult

if TYPE_CHECKING:
    import asyncio  # noqa: TID251 - this is the way in for programs on asyncio

T = TypeVar("T")


class AsyncClient:
    """The node of a running daemon, for programs on asyncio or trio.

    Every call has a connection of its own to the daemon, so any number of tasks may share a client.
    A call that is cancelled ends at the daemon too; use ``asyncio.timeout`` or ``trio.fail_after``
    to limit its time. Calls may raise what the same call of ``DHTManager`` raises, and besides:

    - ``NotRunningError``: no daemon answers in the data directory, or it went away.
    - ``DaemonFaultError``: a fault of the daemon, or one of another release.

    Args:
        data_dir: the daemon's data directory; None: the default one.
    """

    def __init__(self, data_dir: str | Path | None = None) -> None:
        self.data_dir = default_data_dir(os.environ) if data_dir is None else Path(data_dir)
        self._turns: _Turns | None = None

    def __repr__(self) -> str:
        return f"AsyncClient({str(self.data_dir)!r})"

    async def __aenter__(self) -> Self:
        """Make sure that the daemon answers. ``async with`` is not needed otherwise."""
        await self.identity()
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    # --- the node ---------------------------------------------------------------------------------

    async def identity(self) -> NodeIdentity:
        """Who the node is: peer id, addresses, mode, release."""
        return await self._run(calls.identity())

    async def stats(self) -> dict[str, Any]:
        """The fields of ``DHTStats``, and ``daemon``: what the daemon counts."""
        return await self._run(calls.stats())

    async def connections(self) -> list[ConnectedPeer]:
        """Every open connection of the node."""
        return await self._run(calls.connections())

    async def bootstrap(self, addrs: Sequence[AddressLike] = ()) -> int:
        """Join the network through ``addrs`` (none: the daemon's own bootstrap peers); how many of
        them answered."""
        return await self._run(calls.bootstrap(addrs))

    async def connect(self, addr: AddressLike) -> PeerId:
        """Connect to the peer at an address that ends in ``/p2p/<id>``."""
        return await self._run(calls.connect(addr))

    async def ping(self, peer_id: PeerLike) -> float:
        """Measure one round trip to a peer, in seconds."""
        return await self._run(calls.ping(peer_id))

    # --- content ----------------------------------------------------------------------------------

    async def provide(self, cid: CidLike) -> ProvideResult:
        """Provide ``cid`` now, and again before the records expire, until ``stop_providing``."""
        return await self._run(calls.provide(cid))

    async def provide_once(self, cid: CidLike) -> ProvideResult:
        """Provide ``cid`` now only."""
        return await self._run(calls.provide_once(cid))

    async def stop_providing(self, cid: CidLike) -> bool:
        """Provide ``cid`` no more; False if it was not provided."""
        return await self._run(calls.stop_providing(cid))

    async def own_keys(self) -> list[OwnKey]:
        """The keys that the node keeps provided."""
        return await self._run(calls.own_keys())

    async def find_providers(self, cid: CidLike, count: int | None = None) -> list[PeerInfo]:
        """Find up to ``count`` providers of ``cid``; None looks until the lookup is complete."""
        found = {info.peer_id: info async for info in self.iter_providers(cid, count)}
        return list(found.values())

    def iter_providers(
        self, cid: CidLike, count: int | None = None
    ) -> AsyncGenerator[PeerInfo, None]:
        """Find providers of ``cid``, and give each as it is found. To leave the loop early, put the
        iterator into ``contextlib.aclosing``: that ends the lookup. A provider may come twice:
        first without an address, then with one."""
        return self._stream(calls.find_providers(cid, count))

    async def find_peer(self, peer_id: PeerLike) -> list[Multiaddr]:
        """Find the addresses of a peer; none if nobody knows it."""
        return await self._run(calls.find_peer(peer_id))

    async def find_closest_peers(self, key: bytes | PeerId) -> list[FoundPeer]:
        """Find the peers of the network that are closest to ``key``, nearest first."""
        return await self._run(calls.find_closest_peers(key))

    # --- values and names -------------------------------------------------------------------------

    async def put_value(self, key: str, value: bytes, *, keep: bool = False) -> ProvideResult:
        """Put ``value`` under ``key``; with ``keep``, again before it expires."""
        return await self._run(calls.put_value(key, value, keep=keep))

    async def get_value(self, key: str, quorum: int | None = None) -> bytes | None:
        """The best value of ``key``; None if the network has none. ``quorum`` is as in
        ``DHTManager.get_value``."""
        return await self._run(calls.get_value(key, quorum))

    def search_value(self, key: str, quorum: int = 0) -> AsyncGenerator[bytes, None]:
        """The values of ``key`` as they are found, each better than all before."""
        return self._stream(calls.search_value(key, quorum))

    async def publish_name(
        self,
        path: str,
        *,
        key: str = "self",
        lifetime: float | None = None,
        ttl: float | None = None,
    ) -> PublishedRecord:
        """Let the name of ``key`` stand for ``path``, and keep it published."""
        return await self._run(calls.publish_name(path, key, lifetime, ttl))

    async def unpublish_name(self, key: str = "self") -> bool:
        """Keep the name of ``key`` published no more; False if it was not."""
        return await self._run(calls.unpublish_name(key))

    async def resolve_name(self, name: PeerLike, *, recursive: bool = True) -> NameRecord | None:
        """What an IPNS name stands for; None if nobody has a record of it."""
        return await self._run(calls.resolve_name(name, recursive=recursive))

    async def name_keys(self) -> dict[str, str]:
        """The names that the node can publish, by the label of their keys."""
        return await self._run(calls.name_keys())

    async def generate_name_key(self, label: str) -> str:
        """Make a new key called ``label``; its name."""
        return await self._run(calls.generate_name_key(label))

    async def remove_name_key(self, label: str) -> bool:
        """Forget a key for good; False if there is none."""
        return await self._run(calls.remove_name_key(label))

    # --- how a call is made -----------------------------------------------------------------------

    async def _run(self, call: Call[T]) -> T:
        exchange = Exchange(call.method, call.params)
        try:
            async with aclosing(self._items(exchange)) as coming:
                items = [item async for item in coming]
        except NotFoundError:
            if call.missing is None:
                raise
            return call.missing()
        return call.read(items, exchange.result)

    async def _stream(self, stream: StreamCall[T]) -> AsyncGenerator[T, None]:
        try:
            async with aclosing(self._items(Exchange(stream.method, stream.params))) as coming:
                async for item in coming:
                    yield stream.read(item)
        except NotFoundError:  # the search for a value ended without one
            return

    async def _items(self, exchange: Exchange) -> AsyncGenerator[Any, None]:
        async with self._turn(), self._connected() as connection:
            await self._done(connection.send_all(exchange.request))
            while not exchange.over:
                for item in exchange.feed(await self._done(connection.receive_some(READ_BYTES))):
                    yield item

    async def _done(self, operation: Awaitable[T]) -> T:
        """The result of an operation on a connection."""
        try:
            return await operation
        except OSError as error:
            raise connection_failure(error, self.data_dir) from error

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the calls that may run at once."""
        if self._turns is None:
            self._turns = _new_turns()
        await self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Connection]:
        try:
            with socket_path(self.data_dir) as path:
                connection = await _connect(path)
        except OSError as error:
            raise connection_failure(error, self.data_dir) from error
        try:
            yield connection
        finally:
            connection.close()


# --- asyncio or trio ------------------------------------------------------------------------------


class _Turns(Protocol):
    """A semaphore of either."""

    async def acquire(self) -> Any: ...
    def release(self) -> None: ...


class _Connection(Protocol):
    """A connection of either. No bytes are its end; ``close`` waits for nothing."""

    async def send_all(self, data: bytes) -> None: ...
    async def receive_some(self, most: int) -> bytes: ...
    def close(self) -> None: ...


class _OnAsyncio:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send_all(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive_some(self, most: int) -> bytes:
        return await self._reader.read(most)

    def close(self) -> None:
        self._writer.close()


class _OnTrio:
    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def send_all(self, data: bytes) -> None:
        while data:
            data = data[await self._socket.send(data) :]

    async def receive_some(self, most: int) -> bytes:
        received: bytes = await self._socket.recv(most)
        return received

    def close(self) -> None:
        self._socket.close()


def _runs_trio() -> bool:
    """Whether this task is trio's. A program on asyncio need not have it."""
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def _new_turns() -> _Turns:
    if _runs_trio():
        import trio  # noqa: PLC0415 - is there

        return trio.Semaphore(MAX_CALLS_AT_ONCE)
    import asyncio  # noqa: PLC0415, TID251 - as above

    return asyncio.Semaphore(MAX_CALLS_AT_ONCE)


async def _connect(path: str) -> _Connection:
    if _runs_trio():
        import trio  # noqa: PLC0415 - is there

        socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            await socket.connect(path)
        except BaseException:
            socket.close()
            raise
        return _OnTrio(socket)
    import asyncio  # noqa: PLC0415, TID251 - as above

    return _OnAsyncio(*await asyncio.open_unix_connection(path))
