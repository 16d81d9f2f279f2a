"""Our node as a client of the swarm, driven by the lines of ``tests/interop/go-peer/protocol.go``.

Takes the flags of the other programs; heeds ``--bootstrap`` and ``--mode``. It is a ``DHTManager``
as any program would open it, with nothing set but where it listens and whom it joins through.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import structlog
import trio

from codio_dht import DHTManager

LISTEN = "/ip4/127.0.0.1/tcp/0"

_READ_BYTES = 1 << 16

Command = Callable[[DHTManager, dict[str, Any]], Awaitable[dict[str, Any]]]


async def get_closest(dht: DHTManager, args: dict[str, Any]) -> dict[str, Any]:
    found = await dht.find_closest_peers(bytes.fromhex(args["key_hex"]))
    standing = [getattr(info, "standing", None) for info in found]
    return {
        "peers": [str(info.peer_id) for info in found],
        "standing": [each.value for each in standing if each is not None],
    }


async def provide(dht: DHTManager, args: dict[str, Any]) -> dict[str, Any]:
    done = await dht.provide(args["cid"])
    return {"holders": done.holders}


async def find_providers(dht: DHTManager, args: dict[str, Any]) -> dict[str, Any]:
    found = await dht.find_providers(args["cid"], args["count"] or None)
    return {"providers": [{"peer_id": str(one.peer_id), "addrs": []} for one in found]}


async def put_value(dht: DHTManager, args: dict[str, Any]) -> dict[str, Any]:
    done = await dht.put_value(bytes.fromhex(args["key_hex"]), bytes.fromhex(args["value_hex"]))
    return {"holders": done.holders}


async def search_value(dht: DHTManager, args: dict[str, Any]) -> dict[str, Any]:
    started = trio.current_time()
    values = [
        {"value_hex": value.hex(), "s": trio.current_time() - started}
        async for value in dht.search_value(bytes.fromhex(args["key_hex"]))
    ]
    return {"values": values}


async def routing_table(dht: DHTManager, _: dict[str, Any]) -> dict[str, Any]:
    return {"peers": [str(peer) for peer in dht.routing_table_peers()]}


async def stats(dht: DHTManager, _: dict[str, Any]) -> dict[str, Any]:
    told = dht.stats()
    return {name: getattr(told, name) for name in ("lookups", "rpc", "host", "failures")}


COMMANDS: Mapping[str, Command] = {
    "get_closest": get_closest,
    "provide": provide,
    "find_providers": find_providers,
    "put_value": put_value,
    "search_value": search_value,
    "routing_table": routing_table,
    "stats": stats,
}


async def answer(dht: DHTManager, commands: Mapping[str, Command], request: dict[str, Any]) -> None:
    started = trio.current_time()
    line: dict[str, Any] = {"id": request["id"]}
    try:
        with trio.fail_after(request["timeout_s"]):
            line["result"] = await commands[request["command"]](dht, request["args"])
        line["ok"] = True
    except Exception as error:  # noqa: BLE001 - said to the one who asked
        line |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
    line["elapsed_ms"] = (trio.current_time() - started) * 1000
    print(json.dumps(line), flush=True)


async def serve(dht: DHTManager, implementation: str, commands: Mapping[str, Command]) -> None:
    """Do what the lines on stdin say until one says ``quit``, or they end."""
    async with dht, trio.open_nursery() as nursery:
        me = {"peer_id": str(dht.peer_id), "addrs": [str(addr) for addr in dht.addrs]}
        print(
            json.dumps({"ready": True, "implementation": implementation, "peers": [me]}),
            flush=True,
        )
        async for line in lines():
            request = json.loads(line)
            if request["command"] == "quit":
                break
            nursery.start_soon(answer, dht, commands, request)
        nursery.cancel_scope.cancel()


async def lines() -> AsyncGenerator[bytes]:
    """Of stdin, without a thread."""
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    rest = b""
    async for data in stdin:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", action="append", default=[])
    parser.add_argument("--mode", default="client")
    known, _ = parser.parse_known_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    return known


async def main(bootstrap: list[str], mode: str) -> None:
    node = DHTManager.open(listen=[LISTEN], bootstrap=bootstrap, mode=mode)
    await serve(node, "ours", COMMANDS)


if __name__ == "__main__":
    given = options()
    trio.run(main, given.bootstrap, given.mode)
