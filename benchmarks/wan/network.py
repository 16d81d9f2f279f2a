"""The swarm's process, and the look whether its network is what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import trio

from benchmarks.wan.cells import Cell

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "interop"))

import peer_builds  # noqa: E402 - found through the line above

SWARM = peer_builds.go_source("swarm", HERE / "swarm")

START_TIMEOUT_S = 60.0
"""From the start of the swarm to its ready line, seconds: 1,000 servers on a busy machine."""

STOP_TIMEOUT_S = 10.0

GREETING = b"\x13/multistream/1.0.0\n"
TRIED_SERVERS = 4
"""Of each state, in the look before the run."""

SILENT_FOR_S = 3.0
"""A black hole that has not answered for so long is one, seconds."""

_READ_BYTES = 1 << 16


class SwarmError(Exception):
    """The swarm said no, or is gone, or its network is not what it says."""


class Swarm:
    """A running swarm; one command at a time."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._rest = b""
        self._turn = trio.Lock()
        self.ready: dict[str, Any] = {}

    @property
    def bootstrap(self) -> list[str]:
        addrs: list[str] = self.ready["bootstrap"]
        return addrs

    async def read_line(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = await self._stdout.receive_some(_READ_BYTES)
            if not data:
                raise SwarmError("the swarm ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        result: dict[str, Any] = json.loads(line)
        return result

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """A command of ``swarm/commands.go``; bytes go as hex."""
        line = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in {"command": command, **arguments}.items()
        }
        async with self._turn:
            await self._stdin.send_all(json.dumps(line).encode() + b"\n")
            # Cancelled in between, the next one would read this one's answer.
            with trio.CancelScope(shield=True):
                answer = await self.read_line()
        if "error" in answer:
            raise SwarmError(f"{command}: {answer['error']}")
        return answer

    async def stop(self) -> None:
        with trio.CancelScope(shield=True):
            await self._stdin.aclose()
            with trio.move_on_after(STOP_TIMEOUT_S):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            await self._stdout.aclose()


@asynccontextmanager
async def running(cell: Cell) -> AsyncIterator[Swarm]:
    shape = ["--servers", str(cell.servers), "--dead", str(cell.dead), "--seed", str(cell.seed)]
    process = await trio.lowlevel.open_process(
        [*peer_builds.build(SWARM), *shape], stdin=PIPE, stdout=PIPE
    )
    swarm = Swarm(process)
    try:
        with trio.fail_after(START_TIMEOUT_S):
            swarm.ready = await swarm.read_line()
        yield swarm
    finally:
        await swarm.stop()


async def round_trip_ms(port: int) -> float:
    """As measured: the greeting waits for the handshake, its answer comes a round trip later."""
    started = trio.current_time()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(GREETING)
        await stream.receive_some(_READ_BYTES)
        return (trio.current_time() - started) * 1000 / 2


async def dead_as(port: int) -> str:
    """How a dead server's address behaves."""
    try:
        with trio.fail_after(SILENT_FOR_S):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
    except trio.TooSlowError:
        return "black_hole"
    except OSError:
        return "refusing"
    await stream.aclose()
    return "living"


async def look(swarm: Swarm) -> dict[str, Any]:
    """Measure a few servers of each state.

    Raises:
        SwarmError: a dead server is not dead, or not in its way.
    """
    found: dict[str, Any] = {"living": [], "slow": [], "refusing": 0, "black_hole": 0}
    some = (await swarm.ask("lines", count=TRIED_SERVERS))["servers"]

    async def look_at(state: str, port: int, said_ms: float) -> None:
        if state in ("living", "slow"):
            measured = round(await round_trip_ms(port), 1)
            found[state].append({"said_ms": round(said_ms, 1), "measured_ms": measured})
        else:
            behaves = await dead_as(port)
            if behaves != state:
                raise SwarmError(f"a server that should be a {state} is {behaves}")
            found[state] += 1

    async with trio.open_nursery() as nursery:
        for state, servers in some.items():
            for server in servers:
                nursery.start_soon(look_at, state, server["port"], server["rtt_ms"])
    return found
