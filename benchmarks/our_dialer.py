"""Our hosts without a DHT, driven by the lines of ``tests/interop/go-peer/protocol.go``.

Knows what a dial needs: ``connect``, ``disconnect``, ``raw_rpc``. Takes the flags of the other
programs and heeds ``--count``; ``--stack`` says what carries the hosts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import structlog
import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.net.host import Host
from codio_dht.node.hosting import Stack, open_host
from codio_dht.params import KAD_PROTOCOL

_READ_BYTES = 1 << 16


async def connect(host: Host, args: dict[str, Any], deadline: Monotonic) -> dict[str, Any]:
    addr, _, peer_id = args["addr"].rpartition("/p2p/")
    await host.connect(PeerId.from_string(peer_id), [Multiaddr(addr)], deadline)
    return {}


async def disconnect(host: Host, args: dict[str, Any], _: Monotonic) -> dict[str, Any]:
    await host.disconnect(PeerId.from_string(args["peer_id"]))
    return {}


async def raw_rpc(host: Host, args: dict[str, Any], deadline: Monotonic) -> dict[str, Any]:
    message = bytes.fromhex(args["request_hex"])
    stream = await host.open_stream(PeerId.from_string(args["peer_id"]), KAD_PROTOCOL, deadline)
    assert len(message) < 0x80
    await stream.write(bytes([len(message)]) + message)
    reply = b""
    while not _is_whole(reply):
        data = await stream.read(_READ_BYTES)
        if not data:
            return {"outcome": "eof"}
        reply += data
    await stream.close()
    return {"outcome": "reply", "reply_hex": reply.hex()}


def _is_whole(reply: bytes) -> bool:
    length = shift = 0
    for at, byte in enumerate(reply):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return len(reply) > at + length
    return False


COMMANDS = {"connect": connect, "disconnect": disconnect, "raw_rpc": raw_rpc}


async def answer(hosts: list[Host], request: dict[str, Any]) -> None:
    started = trio.current_time()
    line: dict[str, Any] = {"id": request["id"]}
    try:
        deadline = Monotonic(started + request["timeout_s"])
        with trio.fail_at(deadline):
            command = COMMANDS[request["command"]]
            line["result"] = await command(hosts[request["peer"]], request["args"], deadline)
        line["ok"] = True
    except Exception as error:  # noqa: BLE001 - said to the one who asked
        line |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
    line["elapsed_ms"] = (trio.current_time() - started) * 1000
    print(json.dumps(line), flush=True)


async def main(count: int, libp2p_stack: Stack) -> None:
    async with AsyncExitStack() as stack:
        opening = [open_host(None, [], [], libp2p_stack) for _ in range(count)]
        hosts = [await stack.enter_async_context(each) for each in opening]
        peers = [{"peer_id": str(host.peer_id), "addrs": []} for host in hosts]
        print(json.dumps({"ready": True, "implementation": "ours", "peers": peers}), flush=True)
        nursery = await stack.enter_async_context(trio.open_nursery())
        async for line in lines():
            request = json.loads(line)
            if request["command"] == "quit":
                break
            nursery.start_soon(answer, hosts, request)
        nursery.cancel_scope.cancel()


async def lines() -> AsyncGenerator[bytes]:
    """Of stdin, without a thread: its hops would cost more than a dial."""
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    rest = b""
    async for data in stdin:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--stack", choices=["own", "py-libp2p"], default="own")
    options, _ = parser.parse_known_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, options.count, options.stack)
