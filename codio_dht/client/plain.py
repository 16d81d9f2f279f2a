"""The daemon's node for plain code, which waits on its own thread."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

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
from codio_dht.errors import DeadlineError
from codio_dht.node.results import FoundPeer, ProvideResult

T = TypeVar("T")


class Client:
    """The node of a running daemon, for plain code. Threads may share it.

    Every call has a connection of its own to the daemon, and may raise what the same call of
    ``DHTManager`` raises, and besides:

    - ``NotRunningError``: no daemon answers in the data directory, or it went away.
    - ``DeadlineError``: ``timeout`` passed.
    - ``DaemonFaultError``: a fault of the daemon, or one of another release.

    Args:
        data_dir: the daemon's data directory; None: the default one.
        timeout: how long a call may take, seconds; for the calls that give results one by one, how
            long the next one may take. None: no limit.
    """

    def __init__(self, data_dir: str | Path | None = None, *, timeout: float | None = None) -> None:
        self.data_dir = default_data_dir(os.environ) if data_dir is None else Path(data_dir)
        self._timeout = timeout
        self._turns = threading.BoundedSemaphore(MAX_CALLS_AT_ONCE)

    def __repr__(self) -> str:
        return f"Client({str(self.data_dir)!r})"

    def __enter__(self) -> Self:
        """Make sure that the daemon answers. ``with`` is not needed otherwise."""
        self.identity()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # --- the node ---------------------------------------------------------------------------------

    def identity(self) -> NodeIdentity:
        """Who the node is: peer id, addresses, mode, release."""
        return self._run(calls.identity())

    def stats(self) -> dict[str, Any]:
        """The fields of ``DHTStats``, and ``daemon``: what the daemon counts."""
        return self._run(calls.stats())

    def connections(self) -> list[ConnectedPeer]:
        """Every open connection of the node."""
        return self._run(calls.connections())

    def bootstrap(self, addrs: Sequence[AddressLike] = ()) -> int:
        """Join the network through ``addrs`` (none: the daemon's own bootstrap peers); how many of
        them answered."""
        return self._run(calls.bootstrap(addrs))

    def connect(self, addr: AddressLike) -> PeerId:
        """Connect to the peer at an address that ends in ``/p2p/<id>``."""
        return self._run(calls.connect(addr))

    def ping(self, peer_id: PeerLike) -> float:
        """Measure one round trip to a peer, in seconds."""
        return self._run(calls.ping(peer_id))

    # --- content ----------------------------------------------------------------------------------

    def provide(self, cid: CidLike) -> ProvideResult:
        """Provide ``cid`` now, and again before the records expire, until ``stop_providing``."""
        return self._run(calls.provide(cid))

    def provide_once(self, cid: CidLike) -> ProvideResult:
        """Provide ``cid`` now only."""
        return self._run(calls.provide_once(cid))

    def stop_providing(self, cid: CidLike) -> bool:
        """Provide ``cid`` no more; False if it was not provided."""
        return self._run(calls.stop_providing(cid))

    def own_keys(self) -> list[OwnKey]:
        """The keys that the node keeps provided."""
        return self._run(calls.own_keys())

    def find_providers(self, cid: CidLike, count: int | None = None) -> list[PeerInfo]:
        """Find up to ``count`` providers of ``cid``; None looks until the lookup is complete."""
        found = {info.peer_id: info for info in self.iter_providers(cid, count)}
        return list(found.values())

    def iter_providers(self, cid: CidLike, count: int | None = None) -> Iterator[PeerInfo]:
        """Find providers of ``cid``, and give each as it is found. Closing the iterator ends the
        lookup. A provider may come twice: first without an address, then with one."""
        return self._stream(calls.find_providers(cid, count))

    def find_peer(self, peer_id: PeerLike) -> list[Multiaddr]:
        """Find the addresses of a peer; none if nobody knows it."""
        return self._run(calls.find_peer(peer_id))

    def find_closest_peers(self, key: bytes | PeerId) -> list[FoundPeer]:
        """Find the peers of the network that are closest to ``key``, nearest first."""
        return self._run(calls.find_closest_peers(key))

    # --- values and names -------------------------------------------------------------------------

    def put_value(self, key: str, value: bytes, *, keep: bool = False) -> ProvideResult:
        """Put ``value`` under ``key``; with ``keep``, again before it expires."""
        return self._run(calls.put_value(key, value, keep=keep))

    def get_value(self, key: str, quorum: int | None = None) -> bytes | None:
        """The best value of ``key``; None if the network has none. ``quorum`` is as in
        ``DHTManager.get_value``."""
        return self._run(calls.get_value(key, quorum))

    def search_value(self, key: str, quorum: int = 0) -> Iterator[bytes]:
        """The values of ``key`` as they are found, each better than all before."""
        return self._stream(calls.search_value(key, quorum))

    def publish_name(
        self,
        path: str,
        *,
        key: str = "self",
        lifetime: float | None = None,
        ttl: float | None = None,
    ) -> PublishedRecord:
        """Let the name of ``key`` stand for ``path``, and keep it published."""
        return self._run(calls.publish_name(path, key, lifetime, ttl))

    def unpublish_name(self, key: str = "self") -> bool:
        """Keep the name of ``key`` published no more; False if it was not."""
        return self._run(calls.unpublish_name(key))

    def resolve_name(self, name: PeerLike, *, recursive: bool = True) -> NameRecord | None:
        """What an IPNS name stands for; None if nobody has a record of it."""
        return self._run(calls.resolve_name(name, recursive=recursive))

    def name_keys(self) -> dict[str, str]:
        """The names that the node can publish, by the label of their keys."""
        return self._run(calls.name_keys())

    def generate_name_key(self, label: str) -> str:
        """Make a new key called ``label``; its name."""
        return self._run(calls.generate_name_key(label))

    def remove_name_key(self, label: str) -> bool:
        """Forget a key for good; False if there is none."""
        return self._run(calls.remove_name_key(label))

    # --- how a call is made -----------------------------------------------------------------------

    def _run(self, call: Call[T]) -> T:
        exchange = Exchange(call.method, call.params)
        try:
            items = list(self._items(exchange, whole=True))
        except NotFoundError:
            if call.missing is None:
                raise
            return call.missing()
        return call.read(items, exchange.result)

    def _stream(self, stream: StreamCall[T]) -> Iterator[T]:
        try:
            for item in self._items(Exchange(stream.method, stream.params), whole=False):
                yield stream.read(item)
        except NotFoundError:  # the search for a value ended without one
            return

    def _items(self, exchange: Exchange, *, whole: bool) -> Iterator[Any]:
        """The items of a request as they come. ``whole``: the timeout is that of all of them."""
        deadline = self._deadline()
        with self._turn(), self._connected(deadline) as connection:
            self._do(partial(connection.sendall, exchange.request), connection, deadline)
            while not exchange.over:
                data = self._do(partial(connection.recv, READ_BYTES), connection, deadline)
                for item in exchange.feed(data):
                    yield item
                    deadline = deadline if whole else self._deadline()

    def _do(
        self, operation: Callable[[], T], connection: socket.socket, deadline: float | None
    ) -> T:
        """The result of an operation on ``connection``, which may wait until ``deadline``."""
        try:
            connection.settimeout(_left(deadline))
            return operation()
        except TimeoutError as error:
            raise DeadlineError(f"no answer within {self._timeout:g} s") from error
        except OSError as error:
            raise connection_failure(error, self.data_dir) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One of the calls that may run at once."""
        if not self._turns.acquire(timeout=self._timeout):
            raise DeadlineError(
                f"no turn within {self._timeout:g} s: {MAX_CALLS_AT_ONCE} calls are under way"
            )
        try:
            yield
        finally:
            self._turns.release()

    @contextmanager
    def _connected(self, deadline: float | None) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                with socket_path(self.data_dir) as path:
                    connection.settimeout(_left(deadline))
                    connection.connect(path)
            except TimeoutError as error:
                raise DeadlineError("the daemon does not accept connections") from error
            except OSError as error:
                raise connection_failure(error, self.data_dir) from error
            yield connection

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout


def _left(deadline: float | None) -> float | None:
    """How many seconds there are until ``deadline``; None: it is never.

    Raises:
        TimeoutError: there are none.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
