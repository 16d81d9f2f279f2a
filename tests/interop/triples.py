"""The matrix of triples: one node provides, one finds, and all that both know is a third.

A triple is three nodes of their own; a process of each implementation holds its nodes of all
triples. First the provider joins through the bootstrap node and hands out what the finder will look
for. Then the finder joins, so that nothing of it was given to the finder itself. Every operation is
a cell. A cell about a record holds only if the bootstrap node names that record itself when a node
of go that is in no triple asks it by hand; else the finder might have it from the provider.

``TRIPLES`` says which there are, ``FAULTS`` which cells fail by another implementation's fault.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count as counter
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import trio

import images
import peer_builds
from codio_dht import PeerId
from codio_dht.core.keyspace import distance, key_of
from codio_dht.core.messages import GetProviders, GetValue, Reply
from codio_dht.crypto.ipns import ipns_key, parse_ipns_record
from codio_dht.formats.cid import RAW, format_cid
from codio_dht.formats.multihash import SHA2_256, encode_multihash
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from peers import Peer, PeerError, PeerLauncher, until

FOREIGN: Final = ("go", "rust", "js")
OURS: Final = "ours"
MOUNTED: Final = "mounted"
"""Our DHT on a py-libp2p host."""
PY_LIBP2P: Final = "py-libp2p"
"""py-libp2p's own ``KadDHT``."""

PY_PEER: Final = Path(__file__).parent / "py-peer" / "py_peer.py"

OPERATIONS: Final = ("providers", "find_peer", "closest", "value", "name")

AT_ONCE: Final = 6
"""Triples under way at the same time."""

Mode = Literal["server", "client"]

JOIN_TIMEOUT_S: Final = 30.0
COMMAND_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Transport:
    name: str
    listen: str
    """The address behind the IP address, with the port left out."""
    security: str

    def listen_on(self, addr: str, port: int) -> str:
        return f"/ip4/{addr}{self.listen.format(port)}"


TCP_NOISE: Final = Transport("tcp-noise", "/tcp/{}", "noise")
TCP_TLS: Final = Transport("tcp-tls", "/tcp/{}", "tls")
QUIC: Final = Transport("quic", "/udp/{}/quic-v1", "noise")
TRANSPORTS: Final = (TCP_NOISE, TCP_TLS, QUIC)


@dataclass(frozen=True, slots=True)
class Triple:
    transport: Transport
    bootstrap: str
    provider: str
    finder: str

    def __str__(self) -> str:
        return f"{self.transport.name}-{self.bootstrap}-{self.provider}-{self.finder}"

    @property
    def members(self) -> tuple[str, str, str]:
        return self.bootstrap, self.provider, self.finder


@dataclass(frozen=True, slots=True)
class Cell:
    triple: Triple
    operation: str

    def __str__(self) -> str:
        return f"{self.triple}-{self.operation}"


def _triples() -> Iterator[Triple]:
    everybody = (OURS, *FOREIGN)
    for bootstrap in everybody:
        for provider in everybody:
            for finder in everybody:
                triple = Triple(TCP_NOISE, bootstrap, provider, finder)
                if OURS in triple.members:
                    yield triple
    for transport in (TCP_TLS, QUIC):
        for provider in everybody:
            for finder in everybody:
                yield Triple(transport, OURS, provider, finder)
    for other in FOREIGN:
        yield Triple(TCP_NOISE, MOUNTED, other, other)
        yield Triple(TCP_NOISE, other, MOUNTED, other)
        yield Triple(TCP_NOISE, other, other, MOUNTED)
    for kind in (MOUNTED, PY_LIBP2P):
        for members in ((kind, OURS, OURS), (OURS, kind, OURS), (OURS, OURS, kind)):
            yield Triple(TCP_NOISE, *members)


TRIPLES: Final = tuple(_triples())
CELLS: Final = tuple(Cell(triple, operation) for triple in TRIPLES for operation in OPERATIONS)

_TEXT_KEYS: Final = (
    "py-libp2p 0.8.1 takes the key of a value as text, and the keys of `/pk` and `/ipns` are bytes"
    " that are no text (`kad_dht.py`: `put_value`, `get_value`)"
)
_UTF8_KEYS: Final = (
    "py-libp2p 0.8.1 resets a PUT_VALUE whose key is not UTF-8, and the keys of `/pk` and `/ipns`"
    ' are bytes (`kad_dht.py`: `key.decode("utf-8")`)'
)


def _faults() -> Iterator[tuple[Cell, str]]:
    for operation in ("value", "name"):
        yield Cell(Triple(TCP_NOISE, PY_LIBP2P, OURS, OURS), operation), _UTF8_KEYS
        for triple in (
            Triple(TCP_NOISE, OURS, PY_LIBP2P, OURS),
            Triple(TCP_NOISE, OURS, OURS, PY_LIBP2P),
        ):
            yield Cell(triple, operation), _TEXT_KEYS


FAULTS: Final = dict(_faults())
"""Cells that fail, and the fault of a foreign implementation that is the reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended."""

    seconds: float
    error: str = ""
    """Why it failed; empty if it holds."""


class MismatchError(Exception):
    """An answer is not what it must be."""


def launcher(name: str, log_dir: Path) -> PeerLauncher:
    """Starts nodes of an implementation that a triple names.

    Raises:
        MissingToolError: a tool that its build needs is not on PATH.
        BuildError: its build failed.
    """
    if name in FOREIGN:
        return PeerLauncher(peer_builds.ensure_built(name), log_dir)
    return PeerLauncher((sys.executable, str(PY_PEER), "--kind", name), log_dir)


class Place(Protocol):
    """Where nodes run."""

    def nodes(
        self, name: str, count: int, transport: Transport, mode: Mode = "server"
    ) -> AbstractAsyncContextManager[Sequence[Peer]]:
        """``count`` nodes of an implementation, strangers to each other, while the block runs."""
        ...


class Here:
    """On this machine's loopback, all nodes of an implementation in one process."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir

    @asynccontextmanager
    async def nodes(
        self, name: str, count: int, transport: Transport, mode: Mode = "server"
    ) -> AsyncGenerator[Sequence[Peer]]:
        listen = transport.listen_on("127.0.0.1", 0)
        options = _options(name, listen, transport, mode)
        async with launcher(name, self._log_dir).start(count=count, **options) as process:
            yield process.peers


class Containers:
    """On a bridge network, each node in a container of its own."""

    def __init__(self, log_dir: Path, network: str, prefix: str, images: Mapping[str, str]) -> None:
        """``prefix`` is the first three numbers of the network's addresses; ``images`` has a
        reference for each name."""
        self._log_dir = log_dir
        self._network = network
        self._prefix = prefix
        self._images = images
        self._hosts = counter(10)

    @asynccontextmanager
    async def nodes(
        self, name: str, count: int, transport: Transport, mode: Mode = "server"
    ) -> AsyncGenerator[Sequence[Peer]]:
        async with AsyncExitStack() as stack:
            started: list[Peer] = []
            for _ in range(count):
                addr = f"{self._prefix}.{next(self._hosts)}"
                flags = ("--network", self._network, "--ip", addr, *CONTAINER_FLAGS)
                program = images.podman("run", *flags, self._images[name])
                launch = PeerLauncher(program, self._log_dir, images.environment())
                options = _options(name, transport.listen_on(addr, CONTAINER_PORT), transport, mode)
                started += (await stack.enter_async_context(launch.start(**options))).peers
            yield started


CONTAINER_PORT: Final = 4001
CONTAINER_FLAGS: Final = (
    *("--rm", "--interactive", "--cgroups=disabled", "--timeout=600"),
    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),
)
"""A container ends with its stdin, and at the latest after ten minutes."""


def _options(name: str, listen: str, transport: Transport, mode: Mode) -> dict[str, Any]:
    amino = {} if name == "rust" else {"values": "amino"}
    return {
        "listen": [listen],
        "security": transport.security,
        "mode": mode,
        "apart": True,
        **amino,
    }


async def run_triples(triples: Iterable[Triple], place: Place) -> dict[Cell, Outcome]:
    """Run every cell of the triples, one transport after the other."""
    wanted = tuple(triples)
    outcomes: dict[Cell, Outcome] = {}
    for transport in TRANSPORTS:
        of_transport = [triple for triple in wanted if triple.transport is transport]
        if of_transport:
            await _run_transport(transport, of_transport, place, outcomes)
    return outcomes


async def _run_transport(
    transport: Transport,
    triples: Sequence[Triple],
    place: Place,
    outcomes: dict[Cell, Outcome],
) -> None:
    """Start all nodes of each implementation, and form the triples of them."""
    counts = Counter(member for triple in triples for member in triple.members)
    async with AsyncExitStack() as stack:
        idle: dict[str, list[Peer]] = {}
        for name, count in counts.items():
            idle[name] = list(await stack.enter_async_context(place.nodes(name, count, transport)))
        client = place.nodes("go", 1, transport, "client")
        [witness] = await stack.enter_async_context(client)
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for triple in triples:
                nodes = [idle[member].pop() for member in triple.members]
                nursery.start_soon(_run_triple, limit, triple, nodes, witness, outcomes)


async def _run_triple(
    limit: trio.CapacityLimiter,
    triple: Triple,
    nodes: Sequence[Peer],
    witness: Peer,
    outcomes: dict[Cell, Outcome],
) -> None:
    bootstrap, provider, finder = nodes
    story = Story(triple, bootstrap, provider, finder, witness)
    async with limit:
        for operation, outcome in (await story.run()).items():
            outcomes[Cell(triple, operation)] = outcome


class Story:
    """What the three nodes of a triple do."""

    def __init__(
        self, triple: Triple, bootstrap: Peer, provider: Peer, finder: Peer, witness: Peer
    ) -> None:
        self._bootstrap = bootstrap
        self._provider = provider
        self._finder = finder
        self._witness = witness
        self._seconds = dict.fromkeys(OPERATIONS, 0.0)
        self._errors: dict[str, str] = {}
        self._multihash = encode_multihash(SHA2_256, hashlib.sha256(str(triple).encode()).digest())
        self._cid = format_cid(RAW, self._multihash)
        self._provider_id = PeerId.from_string(provider.peer_id)

    async def run(self) -> Mapping[str, Outcome]:
        both = self._bootstrap, self._provider
        before: Mapping[str, Callable[[], Awaitable[None]]] = {
            "providers": partial(self._provider.provide, self._cid, COMMAND_TIMEOUT_S),
            "closest": partial(self._sees, self._provider, self._bootstrap),
            "value": partial(self._provider.put_value, *self._public_key),
            "name": partial(self._provider.publish_name, self._path),
        }
        after: Mapping[str, Callable[[], Awaitable[None]]] = {
            "providers": self._provider_is_found,
            "find_peer": self._peer_is_found,
            "value": self._value_is_got,
            "name": self._name_is_resolved,
        }
        try:
            await self._join(self._provider)
            for operation, step in before.items():
                await self._step(operation, step)
            await self._join(self._finder)
            await self._step("closest", partial(self._sees, self._finder, *both))
            # Now only: py-libp2p takes whoever asks it, clients too, for one of its closest.
            await self._witness.connect(self._bootstrap.addr)
        except (PeerError, TimeoutError) as error:
            return {each: Outcome(0, f"joining: {error}") for each in OPERATIONS}
        for operation, step in after.items():
            await self._step(operation, step)
        return {
            each: Outcome(self._seconds[each], self._errors.get(each, "")) for each in OPERATIONS
        }

    @property
    def _path(self) -> str:
        return f"/ipfs/{self._cid}"

    @property
    def _public_key(self) -> tuple[bytes, bytes]:
        """The provider's public key as a value, and the value's key: valid everywhere, and of this
        triple alone. An Ed25519 id holds its key, behind two bytes that say so."""
        peer_id = self._provider_id.to_bytes()
        return b"/pk/" + peer_id, peer_id[2:]

    async def _step(self, operation: str, step: Callable[[], Awaitable[None]]) -> None:
        """Nothing more of an operation that failed."""
        if operation in self._errors:
            return
        began = trio.current_time()
        try:
            await step()
        except (PeerError, MismatchError, TimeoutError) as error:
            self._errors[operation] = str(error)
        self._seconds[operation] += trio.current_time() - began

    async def _join(self, peer: Peer) -> None:
        await peer.connect(self._bootstrap.addr)
        await peer.until_it_knows(self._bootstrap.peer_id, JOIN_TIMEOUT_S)
        await self._bootstrap.until_it_knows(peer.peer_id, JOIN_TIMEOUT_S)

    async def _provider_is_found(self) -> None:
        async def named() -> bool:
            reply = await self._asked(GetProviders(self._multihash))
            entries = {entry.peer_id: entry for entry in reply.provider_peers}
            return self._provider_id in entries and bool(entries[self._provider_id].addrs)

        # js, py-libp2p and we return from provide before every peer has handled it.
        await until(named, COMMAND_TIMEOUT_S, "the bootstrap node names the provider")
        found = await self._finder.find_providers(self._cid, 1, COMMAND_TIMEOUT_S)
        _must_equal([self._provider.peer_id], [provider.peer_id for provider in found])

    async def _peer_is_found(self) -> None:
        found = await self._finder.find_peer(self._provider.peer_id, COMMAND_TIMEOUT_S)
        _must_equal(self._provider.peer_id, found.peer_id)
        addrs = [addr.partition("/p2p/")[0] for addr in found.addrs]
        if self._provider.addr.partition("/p2p/")[0] not in addrs:
            raise MismatchError(f"{self._provider.addr} is not among {addrs}")

    async def _sees(self, peer: Peer, *others: Peer) -> None:
        """``peer`` finds exactly the others; a node may count itself among the closest."""
        ids = [PeerId.from_string(each.peer_id) for each in others]
        key = _key_nearest_to(ids[-1], ids)
        found = await peer.get_closest(key, COMMAND_TIMEOUT_S)
        nearest = [str(each) for each in sorted(ids, key=_by_distance_to(key))]
        _must_equal(nearest, [each for each in found if each != peer.peer_id])

    async def _value_is_got(self) -> None:
        key, value = self._public_key
        record = (await self._asked(GetValue(key))).record
        _must_equal(value, None if record is None else record.value)
        _must_equal(value, await self._finder.get_value(key))

    async def _name_is_resolved(self) -> None:
        record = (await self._asked(GetValue(ipns_key(self._provider_id)))).record
        if record is None:
            raise MismatchError("the bootstrap node has no record of the name")
        _must_equal(self._path, parse_ipns_record(record.value).value.decode())
        _must_equal(self._path, await self._finder.resolve_name(self._provider.peer_id))

    async def _asked(self, request: GetProviders | GetValue) -> Reply:
        """The bootstrap node's own answer to a request by hand."""
        answer = await self._witness.raw_rpc(self._bootstrap.peer_id, _payload(request))
        if answer.outcome != "reply":
            raise MismatchError(
                f"the bootstrap node's answer to {type(request).__name__}: {answer}"
            )
        return decode_reply(answer.reply)


def _by_distance_to(preimage: bytes) -> Callable[[PeerId], int]:
    return lambda peer_id: distance(key_of(preimage), peer_id.key)


def _key_nearest_to(wanted: PeerId, peers: Sequence[PeerId]) -> bytes:
    """A key to which ``wanted`` is nearer than the other peers: js asks nobody who is farther from
    the key than the peer that named him (its ``query-path.js``)."""
    for number in counter():
        key = f"closest {number}".encode()
        if wanted == min(peers, key=_by_distance_to(key)):
            return key
    raise AssertionError("counter ended")


def _payload(request: GetProviders | GetValue) -> bytes:
    """As ``raw_rpc`` wants it: without its length prefix."""
    reader = FrameReader()
    reader.feed(encode_request(request))
    payload = reader.next_frame()
    assert payload is not None
    return payload


def _must_equal(expected: object, actual: object) -> None:
    if expected != actual:
        raise MismatchError(f"expected {expected!r}, got {actual!r}")
