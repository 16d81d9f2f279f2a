"""Attacks on a daemon that runs as shipped, with an honest client beside each: the laboratory.

Run as a program in a network namespace of its own, in which public addresses are local, so that
every limit per IP, subnet and group applies (:func:`enter_namespace`). It starts the daemon in a
process of its own, the honest client in another, and prints its figures as one line of JSON::

    {"attack": ..., "quiet": {...}, "attacked": {...}, ...}

Tests run it for seconds (``test_laboratory.py``), ``scripts/laboratory`` for as long as you want.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

TREE: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE), str(TREE / "tests" / "component")]

from codio_dht.core.messages import (  # noqa: E402 - the path is set above
    AddProvider,
    FindNode,
    GetProviders,
    PeerEntry,
)
from codio_dht.errors import CapacityError, StreamError  # noqa: E402
from codio_dht.net.identify.message import IDENTIFY_PUSH  # noqa: E402
from codio_dht.net.link import now  # noqa: E402
from codio_dht.net.stack.channel import ChannelData, ChannelEof, ChannelReset  # noqa: E402
from codio_dht.params import KAD_PROTOCOL  # noqa: E402
from codio_dht.wire.codec import decode_reply, encode_request  # noqa: E402
from codio_dht.wire.framing import FrameReader  # noqa: E402
from stack_hosts import RawPeer  # noqa: E402

VICTIM: Final = ("5.0.0.1", 4001)
HONEST: Final = "7.7.0.1"
ADDR: Final = b"\x04\x07\x07\x00\x01\x06\x0f\xa1"
CONNECTIONS: Final = 8
"""Connections of one address: as many as the daemon admits."""

_PUBLIC_NETWORKS: Final = (5, 7, *range(20, 40))
_IN_NAMESPACE: Final = "CODIO_LABORATORY"


def enter_namespace(argv: Sequence[str]) -> list[str]:
    """The command that runs this program with ``argv`` in a network namespace of its own. It needs
    Linux and root; nothing leaves the machine."""
    routes = "".join(f"ip route add local {net}.0.0.0/8 dev lo; " for net in _PUBLIC_NETWORKS)
    setup = f'ip link set lo up; {routes} exec "$0" "$@"'
    return ["unshare", "-n", "sh", "-ec", setup, sys.executable, __file__, *argv]


@dataclass
class Victim:
    """The daemon under attack."""

    process: subprocess.Popen[bytes]
    data: Path

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def disk_mib(self) -> float:
        """Its data directory."""
        return sum(each.stat().st_blocks * 512 for each in self.data.iterdir()) / 1024**2

    def stats(self) -> dict[str, Any]:
        """What ``codio-dht stats`` says."""
        program = str(TREE / ".venv/bin/codio-dht")
        command = [program, "stats", "--json", "--data-dir", str(self.data)]
        found: dict[str, Any] = json.loads(subprocess.check_output(command))
        return found


class VictimLeftError(Exception):
    """The victim ended a connection."""


# --- strangers ------------------------------------------------------------------------------------


async def stranger(stack: AsyncExitStack, source: str) -> RawPeer:
    """A new identity at the address ``source``, connected to the victim."""
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(VICTIM)
    peer = RawPeer(await stack.enter_async_context(trio.SocketStream(sock)))
    await peer.handshake()
    return peer


async def ask(peer: RawPeer, request: bytes) -> tuple[bytes | None, str]:
    """The payload of the answer to ``request``, if there is one, and how the stream ended."""
    streams = peer.connection.streams
    channel = streams.open([KAD_PROTOCOL], now(), request)
    streams.close_write(channel)
    await peer.flush()
    reader = FrameReader()
    while True:
        alive = await peer.receive()
        events, peer.events = peer.events, []
        for event in events:
            match event:
                case ChannelData(other, data) if other is channel:
                    reader.feed(data)
                case ChannelEof(other) if other is channel:
                    return reader.next_frame(), "end"
                case ChannelReset(other, reason) if other is channel:
                    return None, reason
        if not alive:
            return None, "connection ended"


def provide(peer: RawPeer, key: bytes) -> bytes:
    """The request by which ``peer`` says that it provides ``key``."""
    return encode_request(AddProvider(key, (PeerEntry(peer.key.peer_id(), (ADDR,)),)))


async def read_all(peer: RawPeer) -> None:
    """Read what the victim sends, so that it may go on sending.

    Raises:
        VictimLeftError: it ended the connection.
    """
    while await peer.receive():
        events, peer.events = peer.events, []
        for event in events:
            if isinstance(event, ChannelData):
                peer.connection.streams.consume(event.channel, len(event.data))
    raise VictimLeftError


async def flood(source: str) -> None:
    """As many FIND_NODE as eight connections carry."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            peer = await stranger(stack, source)
            nursery.start_soon(read_all, peer)
            nursery.start_soon(_ask_for_ever, peer)


async def _ask_for_ever(peer: RawPeer) -> None:
    request = encode_request(FindNode(os.urandom(34))) * 20
    streams = peer.connection.streams
    channels = [streams.open([KAD_PROTOCOL], now(), request) for _ in range(16)]
    while True:
        for channel in channels:
            if channel.stream.unsent < len(request):
                streams.send(channel, request)
        await peer.flush()
        await trio.lowlevel.checkpoint()


async def hold_memory(source: str) -> None:
    """Messages that never end: 65,000 bytes of a push, 16,000 of a request."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            peer = await stranger(stack, source)
            nursery.start_soon(read_all, peer)
            nursery.start_soon(_begin_messages, peer)


async def _begin_messages(peer: RawPeer) -> None:
    streams = peer.connection.streams
    while True:
        try:
            streams.open([KAD_PROTOCOL], now(), b"\xf0\x7f" + bytes(16_000))
            streams.open([IDENTIFY_PUSH], now(), b"\xf0\xff\x03" + bytes(65_000))
        except CapacityError:  # so many are open: go on when the victim has acknowledged some
            await trio.sleep(0.01)
        await peer.flush()


async def fill_records(source: str) -> None:
    """Provider records of random keys, as fast as one connection carries them."""
    async with AsyncExitStack() as stack:
        peer = await stranger(stack, source)
        while True:
            channel = peer.connection.streams.open([KAD_PROTOCOL], now())
            for _ in range(50):
                many = b"".join(provide(peer, b"\x12\x4e" + os.urandom(78)) for _ in range(20))
                peer.connection.streams.send(channel, many)
                await peer.flush()
            await ask(peer, encode_request(FindNode(b"x")))  # when it was all read


ATTACKS: Final[dict[str, Callable[[str], Awaitable[None]]]] = {
    "flood": flood,
    "memory": hold_memory,
    "records": fill_records,
}


async def persist(attack: Callable[[str], Awaitable[None]], source: str) -> None:
    """Begin again whenever the victim ends it."""
    while True:
        try:
            await attack(source)
        except* (OSError, trio.BrokenResourceError, StreamError, VictimLeftError, AssertionError):
            pass
        await trio.sleep(0.5)


# --- the honest -----------------------------------------------------------------------------------


async def ask_honestly(seconds: float) -> None:
    """Ask ten times a second, provide a key each second and look whether it is told; one line of
    JSON at the end."""
    times, lost, kept, provided = [], 0, 0, 0
    end = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        peer = await stranger(stack, HONEST)
        while time.monotonic() < end:
            began = time.monotonic()
            payload, _ = await ask(peer, encode_request(FindNode(os.urandom(34))))
            times.append(time.monotonic() - began)
            lost += payload is None
            if len(times) % 10 == 0:
                key = b"\x12\x20" + os.urandom(32)
                await ask(peer, provide(peer, key))
                payload, _ = await ask(peer, encode_request(GetProviders(key)))
                provided += 1
                named = decode_reply(payload).provider_peers if payload else ()
                kept += peer.key.peer_id() in [each.peer_id for each in named]
            await trio.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
    times.sort()
    print(
        json.dumps(
            {
                "asked": len(times),
                "lost": lost,
                "p50_ms": round(times[len(times) // 2] * 1000, 2),
                "p99_ms": round(times[int(len(times) * 0.99)] * 1000, 2),
                "provided": provided,
                "told": kept,
            }
        )
    )


async def honest(seconds: float) -> dict[str, Any]:
    """What an honest client in a process of its own was served."""
    done = await trio.run_process(
        [sys.executable, __file__, "honest", "--seconds", str(seconds)], capture_stdout=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- a run ----------------------------------------------------------------------------------------


async def run(attack: str, seconds: float, networks: int) -> dict[str, Any]:
    """Attack a fresh daemon from ``networks`` addresses, each in a network of its own."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        victim = Victim(_start(data), data)
        try:
            quiet = await honest(min(seconds / 2, 5.0))
            rss, disk = victim.rss_mib, victim.disk_mib
            most = rss
            async with trio.open_nursery() as nursery:
                for number in range(networks):
                    nursery.start_soon(persist, ATTACKS[attack], f"{20 + number}.1.1.1")
                await trio.sleep(1)
                attacked = await honest(seconds)
                most = max(most, victim.rss_mib)
                nursery.cancel_scope.cancel()
            stats = victim.stats()
            return {
                "attack": attack,
                "networks": networks,
                "quiet": quiet,
                "attacked": attacked,
                "memory_grown_mib": round(most - rss, 1),
                "disk_grown_mib": round(victim.disk_mib - disk, 1),
                "failures": stats["failures"],
                "host": {
                    name: count
                    for name, count in stats["host"].items()
                    if "refused" in name or "shed" in name or "bugs" in name or "turns" in name
                },
            }
        finally:
            victim.process.terminate()
            victim.process.wait()


def _start(data: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [
            *(TREE / ".venv/bin/codio-dht", "daemon", "--data-dir", data, "--json"),
            *("--mode", "server", "--bootstrap", "none", "--log-level", "error"),
            *("--listen", f"/ip4/{VICTIM[0]}/tcp/{VICTIM[1]}"),
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline(), "the daemon did not start"
    return process


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=[*ATTACKS, "honest"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--networks", type=int, default=1, help="1 to 20")
    arguments = parser.parse_args()
    if arguments.attack == "honest":
        trio.run(ask_honestly, arguments.seconds)
    elif _IN_NAMESPACE not in os.environ:
        os.environ[_IN_NAMESPACE] = "1"
        command = enter_namespace(sys.argv[1:])
        os.execvp(command[0], command)
    else:
        figures = trio.run(run, arguments.attack, arguments.seconds, arguments.networks)
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
