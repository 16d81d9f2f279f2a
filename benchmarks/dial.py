"""How long a dial takes to its first kad reply, and what it costs: see README.md.

    benchmarks/dial.py                            all diallers, all listeners, TCP and QUIC
    benchmarks/dial.py --quick --dialers ours,go  once each, TCP

Round trips are counted from the moment the TCP connection is open (on QUIC, from the first
datagram) to the reply of the first FIND_NODE, over a proxy that delays each direction by 50 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio
from delaying_proxy import tcp_proxy, udp_proxy
from servers import HERE, Kind, Server, kinds, running

import peer_builds  # found through servers
from peers import Peer, PeerError, PeerLauncher

DELAY_S = 0.05
"""Of each direction."""

FIND_NODE = bytes([0x08, 0x04, 0x12, 34, 0x12, 0x20]) + bytes(range(32))

WARM_UP_DIALS = 5

TRANSPORTS = ("tcp", "quic")

Result = dict[str, Any]


def dialers() -> dict[str, tuple[str, ...]]:
    """The programs that dial, by name."""
    ours = (sys.executable, str(HERE / "our_dialer.py"), "--stack")
    found: dict[str, tuple[str, ...]] = {"ours": (*ours, "own"), "py-libp2p": (*ours, "py-libp2p")}
    for name in ("go", "rust", "js"):
        try:
            found[name] = peer_builds.ensure_built(name)
        except peer_builds.MissingToolError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
    return found


def port_of(addr: str) -> int:
    return int(addr.split("/")[4])


async def round_trips(dialer: Peer, server: Server, transport: str) -> float:
    """Of one dial by a peer that never met the server."""
    addr = server.addr(transport)
    make = tcp_proxy if transport == "tcp" else udp_proxy
    async with make(port_of(addr), DELAY_S) as proxy:
        peer_id = addr.rsplit("/", 1)[1]
        await dialer.connect(addr.replace(f"/{port_of(addr)}", f"/{proxy.port}", 1))
        answer = await dialer.raw_rpc(peer_id, FIND_NODE)
        took_s = trio.current_time() - proxy.arrivals[0]
        await dialer.disconnect(peer_id)
    if answer.outcome != "reply":
        raise PeerError(f"the request ended in {answer.outcome}")
    return took_s / (2 * DELAY_S)


async def cost(dialer: Peer, server: Server, transport: str, seconds: float) -> Result:
    """Processor time of both sides for connecting, identifying and one request, without delay."""
    addr = server.addr(transport)
    peer_id = addr.rsplit("/", 1)[1]

    async def dial() -> None:
        await dialer.connect(addr)
        await dialer.raw_rpc(peer_id, FIND_NODE)
        await dialer.disconnect(peer_id)

    for _ in range(WARM_UP_DIALS):
        await dial()
    before = dialer.process.cpu_seconds(), server.cpu_s()
    until, dials = trio.current_time() + seconds, 0
    while trio.current_time() < until:
        await dial()
        dials += 1
    return {
        "dials": dials,
        "dialer_cpu_ms": (dialer.process.cpu_seconds() - before[0]) * 1000 / dials,
        "listener_cpu_ms": (server.cpu_s() - before[1]) * 1000 / dials,
    }


async def measure(
    options: argparse.Namespace, name: str, program: tuple[str, ...], server: Server, transport: str
) -> Result:
    result: Result = {"dialer": name, "listener": server.name, "transport": transport}
    flags: dict[str, Any] = {"count": options.times, "mode": "client", "refresh": False}
    flags["security"] = options.security
    try:
        async with PeerLauncher(program, options.logs).start(**flags) as swarm:
            counted = [await round_trips(dialer, server, transport) for dialer in swarm]
            result["round_trips"] = statistics.median(counted)
            result["all"] = [round(one, 3) for one in counted]
            result |= await cost(swarm[0], server, transport, options.seconds)
    except* Exception as errors:  # noqa: BLE001 - one pair that fails is one cell of the table
        result["error"] = repr(errors.exceptions[0])[:200]
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


async def run(options: argparse.Namespace) -> list[Result]:
    listeners: dict[str, Kind] = kinds(options.ours.split())
    programs = dialers()
    results: list[Result] = []
    for listener in options.listeners:
        for transport in options.transports:
            if listener not in listeners:
                continue
            with running(listeners[listener], transport, None, options.logs) as server:
                pairs = [(name, programs[name]) for name in options.dialers if name in programs]
                for name, program in pairs:
                    results.append(await measure(options, name, program, server, transport))
    return results


def tables(results: Sequence[Result]) -> str:
    lines = []
    listeners = list(dict.fromkeys(result["listener"] for result in results))
    for transport in dict.fromkeys(result["transport"] for result in results):
        for name, title in (
            ("round_trips", "round trips to the first kad reply"),
            ("dialer_cpu_ms", "CPU of a dial, ms, at the dialler"),
            ("listener_cpu_ms", "CPU of a dial, ms, at the listener"),
        ):
            lines += ["", f"| {transport}: {title} | {' | '.join(listeners)} |"]
            lines.append("|---" * (len(listeners) + 1) + "|")
            for dialer in dict.fromkeys(result["dialer"] for result in results):
                row = {
                    result["listener"]: result.get(name)
                    for result in results
                    if (result["dialer"], result["transport"]) == (dialer, transport)
                }
                cells = [_cell(row.get(listener)) for listener in listeners]
                lines.append(f"| {dialer} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dialers", type=_words, default="ours,go,rust,js,py-libp2p")
    parser.add_argument("--listeners", type=_words, default="ours,go,rust,js,py-libp2p")
    parser.add_argument("--transports", type=_words, default=",".join(TRANSPORTS))
    parser.add_argument("--security", default="noise", help="that go, rust and js offer on TCP")
    parser.add_argument("--times", type=int, default=5, help="dials of each pair over the proxy")
    parser.add_argument("--seconds", type=float, default=2.0, help="of dialling for the CPU")
    parser.add_argument("--quick", action="store_true", help="TCP, once each")
    parser.add_argument("--ours", default="", help="further options of our daemon")
    parser.add_argument("--json", type=Path, help="write the results here")
    if "--quick" in sys.argv:
        parser.set_defaults(transports="tcp", times=1, seconds=0.5)
    options = parser.parse_args()
    options.logs = peer_builds.cache_dir() / "benchmarks" / f"dial-{os.getpid()}"
    options.logs.mkdir(parents=True, exist_ok=True)
    results = trio.run(run, options)
    print(tables(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
