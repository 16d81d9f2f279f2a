"""Drives real peers of other implementations from a test, over JSON lines.

One process holds one or many peers (``count``). The lines are described in
``go-peer/protocol.go``; every implementation's program speaks the same ones.

    async with go.start(count=16, bootstrap=[addr]) as swarm:
        await swarm[3].provide(cid)

Every command has a deadline. A process is told to quit, and killed by its own pid if it does not;
it also ends by itself when this process ends, because its stdin does. Its log is a file that stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count as counter
from pathlib import Path
from subprocess import PIPE
from typing import Any, Literal, cast, overload

import trio

START_TIMEOUT_S = 60.0
"""From the start of a process to its ready line, seconds: 25 peers on a busy machine."""

COMMAND_TIMEOUT_S = 30.0
"""What a peer gives a command unless told, seconds."""

ANSWER_GRACE_S = 5.0
"""How much longer than the peer the driver waits for the answer, seconds."""

STOP_TIMEOUT_S = 5.0
"""From ``quit`` to the kill, seconds."""

POLL_INTERVAL_S = 0.05
"""Between two looks at something that is awaited, seconds."""

_LOG_TAIL_CHARS = 2000
_READ_BYTES = 1 << 16


class PeerError(Exception):
    """A peer answered that a command failed, did not answer in time, or its process is gone."""


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer as another implementation reports it."""

    peer_id: str
    addrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection as the other side sees it."""

    addr: str
    inbound: bool
    muxer: str
    security: str
    streams: int


@dataclass(frozen=True, slots=True)
class PeerView:
    """What a peer knows of another from identify."""

    protocols: tuple[str, ...]
    agent: str
    addrs: tuple[str, ...]
    connections: tuple[Connection, ...]


Outcome = Literal["reply", "eof", "reset", "timeout", "sent"]


@dataclass(frozen=True, slots=True)
class RawReply:
    """How a request sent by hand ended: with a reply, a clean end, a reset, or nothing in time."""

    outcome: Outcome
    reply: bytes = b""
    """The frame's content, without its length prefix."""


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """How to start; see the flags of ``go-peer/main.go``."""

    count: int = 1
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: Sequence[str] = ()
    mode: Literal["server", "client", "auto"] = "server"
    seed: str | None = None
    security: str = "noise,tls"
    values: Literal["any", "amino"] = "any"
    limits: Literal["none", "default"] = "none"
    refresh: bool = True
    apart: bool = False

    def arguments(self) -> list[str]:
        flags = ["--count", str(self.count), "--mode", self.mode, "--security", self.security]
        flags += ["--values", self.values, "--limits", self.limits]
        for addr in self.listen:
            flags += ["--listen", addr]
        for addr in self.bootstrap:
            flags += ["--bootstrap", addr]
        if self.seed is not None:
            flags += ["--seed", self.seed]
        if not self.refresh:
            flags += ["--no-refresh"]
        if self.apart:
            flags += ["--apart"]
        return flags


@dataclass(frozen=True, slots=True)
class PeerLauncher:
    """Starts processes of one implementation's program."""

    program: tuple[str, ...]
    log_dir: Path
    environment: Mapping[str, str] | None = None
    """That of the processes; None: this one's."""

    @asynccontextmanager
    async def start(self, **options: Any) -> AsyncIterator[PeerProcess]:
        """A running process with its peers; options are those of ``PeerOptions``."""
        arguments = PeerOptions(**options).arguments()
        log = _new_log(self.log_dir, Path(self.program[-1]).name.replace(":", "-"))
        with log.open("wb") as errors:
            process = await trio.lowlevel.open_process(
                [*self.program, *arguments],
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                env=self.environment,
            )
        running = PeerProcess(process, log)
        try:
            async with trio.open_nursery() as nursery:
                await running.wait_ready()
                nursery.start_soon(running.read_answers)
                try:
                    yield running
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            await running.stop()


def _new_log(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for number in counter(1):
        log = directory / f"{name}-{number}.log"
        if not log.exists():
            return log
    raise AssertionError("counter ended")


@dataclass(slots=True)
class _Pending:
    """A command that waits for its answer."""

    arrived: trio.Event = field(default_factory=trio.Event)
    answer: dict[str, Any] | None = None


class PeerProcess:
    """A process with one or many peers: index it for one of them."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.log = log
        self.peers: tuple[Peer, ...] = ()
        self._process = process
        self._stdin = process.stdin
        self._lines = _lines(process.stdout)
        self._ids = counter(1)
        self._pending: dict[int, _Pending] = {}
        self._writing = trio.Lock()
        self._ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @overload
    def __getitem__(self, which: int) -> Peer: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Peer, ...]: ...
    def __getitem__(self, which: int | slice) -> Peer | tuple[Peer, ...]:
        return self.peers[which]

    def __iter__(self) -> Iterator[Peer]:
        return iter(self.peers)

    def __len__(self) -> int:
        return len(self.peers)

    async def wait_ready(self) -> None:
        with trio.move_on_after(START_TIMEOUT_S):
            async for line in self._lines:
                ready = json.loads(line)
                assert ready["ready"] is True
                self.peers = tuple(
                    Peer(self, index, peer["peer_id"], tuple(peer["addrs"]))
                    for index, peer in enumerate(ready["peers"])
                )
                return
            raise PeerError(f"ended before it was ready\n{self.log_tail()}")
        raise PeerError(f"not ready after {START_TIMEOUT_S:g} s\n{self.log_tail()}")

    async def read_answers(self) -> None:
        try:
            async for line in self._lines:
                answer = json.loads(line)
                waiting = self._pending.pop(answer["id"], None)
                if waiting is not None:  # else it came after its deadline
                    waiting.answer = answer
                    waiting.arrived.set()
        finally:
            self._ended = True
            for waiting in self._pending.values():
                waiting.arrived.set()

    async def command(
        self, peer: int, name: str, timeout_s: float = COMMAND_TIMEOUT_S, **arguments: Any
    ) -> dict[str, Any]:
        """Send a command, await its result.

        Raises:
            PeerError: it failed, took too long, or the process ended.
        """
        number = next(self._ids)
        what = f"{name} of peer {peer}"
        line = {
            "id": number,
            "peer": peer,
            "command": name,
            "timeout_s": timeout_s,
            "args": arguments,
        }
        waiting = self._pending[number] = _Pending()
        try:
            with trio.move_on_after(timeout_s + ANSWER_GRACE_S):
                try:
                    async with self._writing:
                        await self._stdin.send_all(json.dumps(line).encode() + b"\n")
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise PeerError(f"{what}: the process is gone\n{self.log_tail()}") from error
                if not self._ended:
                    await waiting.arrived.wait()
        finally:
            self._pending.pop(number, None)
        if waiting.answer is None:
            why = "the process ended" if self._ended else "no answer in time"
            raise PeerError(f"{what}: {why}\n{self.log_tail()}")
        if not waiting.answer["ok"]:
            raise PeerError(f"{what}: {waiting.answer.get('error')}")
        return cast("dict[str, Any]", waiting.answer["result"])

    async def stop(self) -> None:
        """Quit, or be killed."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(STOP_TIMEOUT_S):
                try:
                    await self._stdin.send_all(b'{"id":0,"command":"quit"}\n')
                    await self._stdin.aclose()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            await self._lines.aclose()
            assert self._process.stdout is not None
            await self._process.stdout.aclose()
            await self._stdin.aclose()

    def log_tail(self) -> str:
        return f"{self.log}: {self.log.read_text(errors='replace')[-_LOG_TAIL_CHARS:]}"

    def cpu_seconds(self) -> float:
        """Processor time used so far, seconds."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes]:
    buffer = b""
    while data := await stream.receive_some(_READ_BYTES):
        *whole, buffer = (buffer + data).split(b"\n")
        for line in whole:
            yield line


class Peer:
    """One real peer of another implementation. Peer ids and addresses are text, keys are bytes."""

    def __init__(
        self, process: PeerProcess, index: int, peer_id: str, addrs: tuple[str, ...]
    ) -> None:
        self.process = process
        self.index = index
        self.peer_id = peer_id
        self.addrs = addrs
        """Where it listens, each with ``/p2p`` and its id."""

    @property
    def addr(self) -> str:
        return self.addrs[0]

    async def command(
        self, name: str, timeout_s: float = COMMAND_TIMEOUT_S, **arguments: Any
    ) -> dict[str, Any]:
        """Any command, by name; see ``go-peer/commands.go``."""
        return await self.process.command(self.index, name, timeout_s, **arguments)

    async def connect(self, addr: str) -> None:
        await self.command("connect", addr=addr)

    async def disconnect(self, peer_id: str) -> None:
        await self.command("disconnect", peer_id=peer_id)

    async def find_peer(self, peer_id: str, timeout_s: float = COMMAND_TIMEOUT_S) -> FoundPeer:
        return _found(await self.command("find_peer", timeout_s, peer_id=peer_id))

    async def get_closest(
        self, key: bytes, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> tuple[str, ...]:
        """The network lookup for a preimage (a peer id's bytes are one), nearest first."""
        result = await self.command("get_closest", timeout_s, key_hex=key.hex())
        return tuple(result["peers"])

    async def provide(self, cid: str, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        await self.command("provide", timeout_s, cid=cid)

    async def find_providers(
        self, cid: str, count: int = 0, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> tuple[FoundPeer, ...]:
        """``count`` 0 asks for all."""
        result = await self.command("find_providers", timeout_s, cid=cid, count=count)
        return tuple(_found(provider) for provider in result["providers"])

    async def put_value(self, key: bytes, value: bytes) -> None:
        await self.command("put_value", key_hex=key.hex(), value_hex=value.hex())

    async def get_value(self, key: bytes) -> bytes:
        return bytes.fromhex((await self.command("get_value", key_hex=key.hex()))["value_hex"])

    async def publish_name(self, path: str) -> None:
        """Let the peer's own IPNS name stand for ``path``."""
        await self.command("publish_name", path=path)

    async def resolve_name(self, peer_id: str) -> str:
        """The path that the IPNS name of ``peer_id`` stands for."""
        return str((await self.command("resolve_name", peer_id=peer_id))["path"])

    async def routing_table(self) -> tuple[str, ...]:
        return tuple((await self.command("routing_table"))["peers"])

    async def refresh(self, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Refresh the whole routing table and wait until that is done."""
        await self.command("refresh", timeout_s)

    async def connected_peers(self) -> tuple[str, ...]:
        return tuple((await self.command("peers"))["peers"])

    async def view_of(self, peer_id: str) -> PeerView:
        result = await self.command("protocols", peer_id=peer_id)
        return PeerView(
            protocols=tuple(result["protocols"]),
            agent=result["agent"],
            addrs=tuple(result["addrs"]),
            connections=tuple(Connection(**one) for one in result["connections"]),
        )

    async def ping(self, peer_id: str) -> float:
        """One round trip, in seconds."""
        return float((await self.command("ping", peer_id=peer_id))["rtt_ms"]) / 1000

    async def raw_rpc(
        self,
        peer_id: str,
        request: bytes,
        *,
        framed: bool = False,
        half_close: bool = False,
        no_reply: bool = False,
        timeout_s: float = 10.0,
    ) -> RawReply:
        """Send ``request`` on a new kad stream, which is closed afterwards.

        With ``framed`` the bytes go out as they are, else with their length prefix.
        """
        return await self._exchange(
            "raw_rpc",
            timeout_s,
            peer_id=peer_id,
            request_hex=request.hex(),
            framed=framed,
            half_close=half_close,
            no_reply=no_reply,
        )

    async def hold_stream(
        self, peer_id: str, name: str, request: bytes, timeout_s: float = 10.0
    ) -> RawReply:
        """Open a kad stream, send one request on it, and keep it open under ``name``."""
        return await self._exchange(
            "hold_stream", timeout_s, peer_id=peer_id, stream=name, request_hex=request.hex()
        )

    async def request_on(
        self,
        name: str,
        request: bytes,
        *,
        framed: bool = False,
        half_close: bool = False,
        no_reply: bool = False,
        timeout_s: float = 10.0,
    ) -> RawReply:
        """One more request on the held stream ``name``."""
        return await self._exchange(
            "raw_rpc",
            timeout_s,
            stream=name,
            request_hex=request.hex(),
            framed=framed,
            half_close=half_close,
            no_reply=no_reply,
        )

    async def close_stream(self, name: str) -> None:
        await self.command("close_stream", stream=name)

    async def until_it_knows(self, peer_id: str, within_s: float = 20.0) -> None:
        """Wait until ``peer_id`` is in this peer's routing table."""

        async def known() -> bool:
            return peer_id in await self.routing_table()

        await until(known, within_s, f"{peer_id} in the routing table of {self.peer_id}")

    async def _exchange(self, name: str, timeout_s: float, **arguments: Any) -> RawReply:
        result = await self.command(name, timeout_s, **arguments)
        return RawReply(result["outcome"], bytes.fromhex(result.get("reply_hex", "")))


def _found(result: dict[str, Any]) -> FoundPeer:
    return FoundPeer(result["peer_id"], tuple(result["addrs"]))


async def until(condition: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
    """Look again and again until ``condition`` holds.

    Raises:
        TimeoutError: it did not within ``within_s`` seconds.
    """
    with trio.move_on_after(within_s):
        while not await condition():
            await trio.sleep(POLL_INTERVAL_S)
        return
    raise TimeoutError(f"not within {within_s:g} s: {what}")
