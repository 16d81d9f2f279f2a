"""One or many nodes in Python in one process, driven by the JSON lines of ``go-peer/protocol.go``.

    python py_peer.py --kind ours --count 3

``--kind`` says what a node is: ``ours`` (this project's DHT on its own stack), ``mounted`` (the
same on a py-libp2p host, as a program brings one), or ``py-libp2p`` (that library's own
``KadDHT``). Its log is stderr. It ends when its stdin ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

import trio
from multiaddr import Multiaddr

from codio_dht import DHTManager, PeerId
from codio_dht.crypto.ipns import ipns_key, parse_ipns_record

DEFAULT_COMMAND_TIMEOUT_S = 30.0
_READ_BYTES = 1 << 16

Fields = dict[str, Any]
Result = TypeVar("Result")


class Node(Protocol):
    """What a node of any kind can be asked."""

    @property
    def peer_id(self) -> PeerId: ...
    @property
    def addrs(self) -> Sequence[str]:
        """Without ``/p2p``."""

    async def connect(self, addr: str) -> None: ...
    def routing_table(self) -> Sequence[str]: ...
    async def find_peer(self, peer_id: str) -> Sequence[str]:
        """Its addresses."""

    async def closest(self, key: bytes) -> Sequence[str]: ...
    async def provide(self, cid: str) -> None: ...
    async def find_providers(self, cid: str, count: int) -> Sequence[tuple[str, Sequence[str]]]: ...
    async def put_value(self, key: bytes, value: bytes) -> None: ...
    async def get_value(self, key: bytes) -> bytes | None: ...
    async def publish_name(self, path: str) -> None: ...
    async def resolve_name(self, peer_id: str) -> str | None: ...


class CodioNode:
    """This project's DHT."""

    def __init__(self, dht: DHTManager) -> None:
        self._dht = dht

    @property
    def peer_id(self) -> PeerId:
        return self._dht.peer_id

    @property
    def addrs(self) -> Sequence[str]:
        return [str(addr) for addr in self._dht.addrs]

    async def connect(self, addr: str) -> None:
        await self._dht.connect(addr)

    def routing_table(self) -> Sequence[str]:
        return [str(peer) for peer in self._dht.routing_table_peers()]

    async def find_peer(self, peer_id: str) -> Sequence[str]:
        return [str(addr) for addr in await self._dht.find_peer(peer_id)]

    async def closest(self, key: bytes) -> Sequence[str]:
        return [str(peer.peer_id) for peer in await self._dht.find_closest_peers(key)]

    async def provide(self, cid: str) -> None:
        await self._dht.provide(cid)

    async def find_providers(self, cid: str, count: int) -> Sequence[tuple[str, Sequence[str]]]:
        found = await self._dht.find_providers(cid, count or 20)
        return [(str(peer.peer_id), [str(addr) for addr in peer.addrs]) for peer in found]

    async def put_value(self, key: bytes, value: bytes) -> None:
        await self._dht.put_value(key, value)

    async def get_value(self, key: bytes) -> bytes | None:
        return await self._dht.get_value(key)

    async def publish_name(self, path: str) -> None:
        await self._dht.publish_name(path)

    async def resolve_name(self, peer_id: str) -> str | None:
        found = await self._dht.resolve_name(peer_id)
        return None if found is None else found.path


class KadDHTNode:
    """py-libp2p's own DHT, with the calls that it has. Its keys of values are text: bytes that are
    no text cannot be said to it."""

    def __init__(self, host: Any, kad: Any) -> None:
        self._host = host
        self._kad = kad

    @property
    def peer_id(self) -> PeerId:
        return PeerId(self._host.get_id().to_bytes())

    @property
    def addrs(self) -> Sequence[str]:
        return [str(addr) for addr in self._host.get_transport_addrs()]

    async def connect(self, addr: str) -> None:
        from libp2p.peer.peerinfo import info_from_p2p_addr

        info = info_from_p2p_addr(Multiaddr(addr))
        await self._host.connect(info)
        await self._kad.add_peer(info.peer_id)

    def routing_table(self) -> Sequence[str]:
        return [str(peer) for peer in self._kad.routing_table.get_peer_ids()]

    async def find_peer(self, peer_id: str) -> Sequence[str]:
        found = await self._kad.find_peer(_libp2p_id(peer_id))
        return [] if found is None else [str(addr) for addr in found.addrs]

    async def closest(self, key: bytes) -> Sequence[str]:
        return [str(p) for p in await self._kad.peer_routing.find_closest_peers_network(key)]

    async def provide(self, cid: str) -> None:
        if not await self._kad.provide(cid):
            raise RuntimeError("no peer took it")

    async def find_providers(self, cid: str, count: int) -> Sequence[tuple[str, Sequence[str]]]:
        found = await self._kad.find_providers(cid, count or 20)
        return [(str(info.peer_id), [str(addr) for addr in info.addrs]) for info in found]

    async def put_value(self, key: bytes, value: bytes) -> None:
        await self._kad.put_value(key.decode(), value)

    async def get_value(self, key: bytes) -> bytes | None:
        value: bytes | None = await self._kad.get_value(key.decode())
        return value

    async def publish_name(self, path: str) -> None:
        raise NotImplementedError("py-libp2p publishes no names")

    async def resolve_name(self, peer_id: str) -> str | None:
        value = await self.get_value(ipns_key(PeerId.from_string(peer_id)))
        return None if value is None else parse_ipns_record(value).value.decode()


def _libp2p_id(peer_id: str) -> Any:
    from libp2p.peer.id import ID

    return ID.from_string(peer_id)


@asynccontextmanager
async def ours(options: argparse.Namespace) -> AsyncGenerator[Node]:
    """A node as ``DHTManager.open`` makes it."""
    async with DHTManager.open(listen=options.listen, mode=options.mode) as dht:
        yield CodioNode(dht)


@asynccontextmanager
async def mounted(options: argparse.Namespace) -> AsyncGenerator[Node]:
    """Our DHT on a host that a program of py-libp2p runs."""
    async with _libp2p_host(options) as host, DHTManager(host, mode=options.mode) as dht:
        yield CodioNode(dht)


@asynccontextmanager
async def kad_dht(options: argparse.Namespace) -> AsyncGenerator[Node]:
    """py-libp2p's own DHT, as its documentation runs it."""
    from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
    from libp2p.tools.anyio_service import background_trio_service

    async with _libp2p_host(options) as host:
        kad = KadDHT(host, DHTMode(options.mode.upper()))
        async with background_trio_service(kad):
            yield KadDHTNode(host, kad)


@asynccontextmanager
async def _libp2p_host(options: argparse.Namespace) -> AsyncGenerator[Any]:
    from libp2p import new_host

    host = new_host()
    async with host.run(listen_addrs=[Multiaddr(addr) for addr in options.listen]):
        yield host


KINDS: Mapping[str, Callable[[argparse.Namespace], AbstractAsyncContextManager[Node]]] = {
    "ours": ours,
    "mounted": mounted,
    "py-libp2p": kad_dht,
}


async def _connect(node: Node, args: Fields) -> Fields:
    await node.connect(args["addr"])
    return {}


async def _routing_table(node: Node, _args: Fields) -> Fields:
    return {"peers": list(node.routing_table())}


async def _find_peer(node: Node, args: Fields) -> Fields:
    addrs = list(await node.find_peer(args["peer_id"]))
    return {"peer_id": args["peer_id"], "addrs": _found(addrs)}


async def _get_closest(node: Node, args: Fields) -> Fields:
    return {"peers": list(await node.closest(bytes.fromhex(args["key_hex"])))}


async def _provide(node: Node, args: Fields) -> Fields:
    await node.provide(args["cid"])
    return {}


async def _find_providers(node: Node, args: Fields) -> Fields:
    found = await node.find_providers(args["cid"], args["count"])
    return {"providers": [{"peer_id": peer, "addrs": list(addrs)} for peer, addrs in found]}


async def _put_value(node: Node, args: Fields) -> Fields:
    await node.put_value(bytes.fromhex(args["key_hex"]), bytes.fromhex(args["value_hex"]))
    return {}


async def _get_value(node: Node, args: Fields) -> Fields:
    return {"value_hex": _found(await node.get_value(bytes.fromhex(args["key_hex"]))).hex()}


async def _publish_name(node: Node, args: Fields) -> Fields:
    await node.publish_name(args["path"])
    return {}


async def _resolve_name(node: Node, args: Fields) -> Fields:
    return {"path": _found(await node.resolve_name(args["peer_id"]))}


def _found(result: Result | None) -> Result:
    if not result:
        raise LookupError("not found")
    return result


COMMANDS: Mapping[str, Callable[[Node, Fields], Awaitable[Fields]]] = {
    "connect": _connect,
    "routing_table": _routing_table,
    "find_peer": _find_peer,
    "get_closest": _get_closest,
    "provide": _provide,
    "find_providers": _find_providers,
    "put_value": _put_value,
    "get_value": _get_value,
    "publish_name": _publish_name,
    "resolve_name": _resolve_name,
}
"""Arguments and answers are those of ``go-peer/commands.go``."""


async def answer(nodes: Sequence[Node], request: Fields) -> None:
    began = trio.current_time()
    line: Fields = {"id": request["id"], "ok": False}
    try:
        with trio.fail_after(request.get("timeout_s") or DEFAULT_COMMAND_TIMEOUT_S):
            node = nodes[request.get("peer", 0)]
            line["result"] = await COMMANDS[request["command"]](node, request.get("args") or {})
        line["ok"] = True
    except Exception as error:  # noqa: BLE001 - whatever it was, the answer says it
        line["error"] = f"{type(error).__name__}: {error}"
    line["elapsed_ms"] = round((trio.current_time() - began) * 1000, 3)
    say(line)


def say(line: Fields) -> None:
    print(json.dumps(line), flush=True)


async def serve(nodes: Sequence[Node]) -> None:
    """Answer what comes in until it ends, or says ``quit``."""
    unread = b""
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stdin, trio.open_nursery() as nursery:
        while data := await stdin.receive_some(_READ_BYTES):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if request["command"] == "quit":
                    say({"id": request["id"], "ok": True, "elapsed_ms": 0, "result": {}})
                    nursery.cancel_scope.cancel()
                    return
                nursery.start_soon(answer, nodes, request)
        nursery.cancel_scope.cancel()


def full_addrs(node: Node) -> list[str]:
    return [f"{addr}/p2p/{node.peer_id}" for addr in node.addrs]


async def main(options: argparse.Namespace) -> None:
    make = KINDS[options.kind]
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(make(options)) for _ in range(options.count)]
        for number, node in enumerate(nodes):
            through = options.bootstrap
            if not through and number and not options.apart:
                through = full_addrs(nodes[0])
            for addr in through:
                await node.connect(addr)
        peers = [{"peer_id": str(node.peer_id), "addrs": full_addrs(node)} for node in nodes]
        say({"ready": True, "implementation": options.kind, "peers": peers})
        await serve(nodes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--listen", action="append", default=[])
    parser.add_argument("--bootstrap", action="append", default=[])
    parser.add_argument("--mode", choices=("server", "client"), default="server")
    parser.add_argument("--apart", action="store_true", help="the nodes do not join each other")
    # What the other programs are told besides, and what has no counterpart here: both securities
    # are always offered, values are judged as on the public network.
    for name in ("security", "values", "limits", "seed"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    options.listen = options.listen or ["/ip4/127.0.0.1/tcp/0"]
    return options


if __name__ == "__main__":
    trio.run(main, arguments())
