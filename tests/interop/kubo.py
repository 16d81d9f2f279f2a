"""Drives real Kubo nodes and our daemons as people run them: programs, their commands, their files.

    async with kubo_network(tmp_path, ipfs, daemons=8, kubos=3) as network:
        await network.start_kubos()
        cid = await network.kubos[0].add(b"content")

Everything listens on loopback. Kubo's WAN DHT takes loopback addresses because of
``TEST_DHT_STUB``, its own switch for tests; nothing else of it is told to be lenient.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parents[2]
CLI = (sys.executable, "-m", "codio_dht.cli")

LISTEN = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")

START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0

_READ_BYTES = 1 << 16

KUBO_SETTINGS: Mapping[str, Any] = {
    "Addresses.Swarm": LISTEN,
    "AutoConf.Enabled": False,
    "AutoNAT.ServiceMode": "disabled",
    "AutoTLS.Enabled": False,
    "Discovery.MDNS.Enabled": False,
    "HTTPRetrieval.Enabled": False,
    "Ipns.DelegatedPublishers": [],
    "Plugins.Plugins": {"telemetry": {"Disabled": True}},
    "Routing.DelegatedRouters": [],
    "Routing.Type": "dht",
    "Swarm.AddrFilters": [],
    "Swarm.RelayClient.Enabled": False,
    "Swarm.RelayService.Enabled": False,
    "Version.SwarmCheckEnabled": False,
}
"""Nothing that reaches out of this machine, and the DHT as its default settings have it: a client
until somebody finds it reachable, which nobody here does."""


class CommandError(Exception):
    """A command or a request failed; the message is what it said."""


class Program:
    """A process that writes lines when it is ready."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._unread = b""

    @classmethod
    async def start(cls, command: Sequence[str], log: Path, env: Mapping[str, str]) -> Program:
        with log.open("ab") as errors:
            process = await trio.lowlevel.open_process(
                list(command), stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=dict(env)
            )
        return cls(process)

    async def line_with(self, text: str, log: Path) -> str:
        """The first line that holds ``text``.

        Raises:
            CommandError: it ended, or took too long, before it wrote that.
        """
        assert self.process.stdout is not None
        with trio.move_on_after(START_TIMEOUT_S):
            while data := await self.process.stdout.receive_some(_READ_BYTES):
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    if text in line.decode():
                        return line.decode()
        said = await trio.Path(log).read_text(errors="replace")
        raise CommandError(f"not ready: {said[-2000:]}")

    async def drain(self) -> None:
        """Read on, so that it never waits for a reader."""
        assert self.process.stdout is not None
        async with self.process.stdout as stdout:
            while await stdout.receive_some(_READ_BYTES):
                pass

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        with trio.CancelScope(shield=True):
            if self.process.returncode is None:
                self.process.terminate()
            with trio.move_on_after(STOP_TIMEOUT_S):
                await self.process.wait()
            await self.kill()
            if self.process.stdout is not None:
                await self.process.stdout.aclose()

    async def kill(self) -> None:
        """SIGKILL."""
        with trio.CancelScope(shield=True):
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()


class Daemon:
    """``codio-dht daemon``; started again it has the same identity, and listens where it did."""

    def __init__(
        self, place: Path, bootstrap: Sequence[str], listen: Sequence[str] = LISTEN
    ) -> None:
        place.mkdir()
        self._listen = listen
        self.place = place
        self.peer_id = ""
        self.addrs: list[str] = []
        self._bootstrap = bootstrap or ("none",)
        self._program: Program | None = None

    def addr(self, transport: str) -> str:
        return next(addr for addr in self.addrs if f"/{transport}" in addr)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start it and wait until it is ready."""
        command = [*CLI, "daemon", "--json", "--mode", "server", "--data-dir", str(self.place)]
        for addr in self.addrs or self._listen:
            command += ["--listen", re.sub("/p2p/.*", "", addr)]
        for addr in self._bootstrap:
            command += ["--bootstrap", addr]
        log = self.place / "stderr"
        self._program = await Program.start(command, log, os.environ)
        ready = json.loads(await self._program.line_with("peer_id", log))
        self.peer_id, self.addrs = ready["peer_id"], ready["addrs"]
        nursery.start_soon(self._program.drain)

    async def kill(self) -> None:
        """As kill -9 does it."""
        assert self._program is not None
        await self._program.kill()

    async def stop(self) -> None:
        if self._program is not None:
            await self._program.stop()

    async def ask(self, method: str, **params: Any) -> tuple[list[Any], dict[str, Any]]:
        """A request over the control socket: its items and its result.

        Raises:
            CommandError: it ended with an error.
        """
        request = {"id": 1, "method": method, "params": params}
        items: list[Any] = []
        with trio.fail_after(COMMAND_TIMEOUT_S):
            async with await trio.open_unix_socket(str(self.place / "control.sock")) as stream:
                await stream.send_all(json.dumps(request).encode() + b"\n")
                unread = b""
                async for data in stream:
                    *lines, unread = (unread + data).split(b"\n")
                    for line in lines:
                        answer = json.loads(line)
                        if "item" in answer:
                            items.append(answer["item"])
                        elif "error" in answer:
                            raise CommandError(f"{method}: {answer['error']}")
                        elif "result" in answer:
                            return items, answer["result"]
        raise CommandError(f"{method}: the daemon closed the connection")

    async def cli(self, *arguments: str) -> Any:
        """``codio-dht ... --json`` as a person gives it: what it answered.

        Raises:
            CommandError: it failed.
        """
        command = [*CLI, *arguments, "--json", "--data-dir", str(self.place)]
        with trio.fail_after(COMMAND_TIMEOUT_S):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, cwd=ROOT
            )
        if done.returncode:
            raise CommandError(f"codio-dht {' '.join(arguments)}: {done.stderr.decode()}")
        return json.loads(done.stdout)

    async def stats(self) -> dict[str, Any]:
        return (await self.ask("stats"))[1]

    async def table(self) -> set[str]:
        """Who is in its routing table (nobody is asked)."""
        items, _ = await self.ask("closest", key=self.peer_id, local=True)
        return {item["peer_id"] for item in items}

    async def providers(self, cid: str) -> set[str]:
        items, _ = await self.ask("findprovs", cid=cid)
        return {item["peer_id"] for item in items}


class Kubo:
    """A Kubo node with a repository of its own."""

    def __init__(self, ipfs: str, place: Path) -> None:
        self._ipfs = ipfs
        self._place = place
        self._env = {
            **os.environ,
            "IPFS_PATH": str(place),
            "IPFS_TELEMETRY": "off",
            "TEST_DHT_STUB": "1",
        }
        self._program: Program | None = None
        self.peer_id = ""

    async def start(self, nursery: trio.Nursery, bootstrap: Sequence[str]) -> None:
        """Make its repository, start it, wait until it is ready."""
        await self("init", "--profile=test")
        settings = {**KUBO_SETTINGS, "Bootstrap": bootstrap}
        self.peer_id = self._configure(settings)["Identity"]["PeerID"]
        log = self._place / "log"
        self._program = await Program.start((self._ipfs, "daemon"), log, self._env)
        await self._program.line_with("Daemon is ready", log)
        nursery.start_soon(self._program.drain)

    def _configure(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        file = self._place / "config"
        config: dict[str, Any] = json.loads(file.read_text())
        for name, value in settings.items():
            *parents, last = name.split(".")
            at = config
            for parent in parents:
                if not isinstance(at.get(parent), dict):
                    at[parent] = {}
                at = at[parent]
            at[last] = value
        file.write_text(json.dumps(config))
        return config

    async def stop(self) -> None:
        if self._program is not None:
            await self._program.stop()

    async def __call__(self, *arguments: str, data: bytes = b"") -> bytes:
        """``ipfs ...``: what it printed.

        Raises:
            CommandError: it failed.
        """
        with trio.fail_after(COMMAND_TIMEOUT_S):
            done = await trio.run_process(
                [self._ipfs, *arguments],
                stdin=data,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self._env,
            )
        if done.returncode:
            raise CommandError(f"ipfs {' '.join(arguments)}: {done.stderr.decode()}")
        return done.stdout

    async def words(self, *arguments: str) -> list[str]:
        return (await self(*arguments)).decode().split()

    async def json(self, *arguments: str) -> Any:
        """Its answer in JSON, where that is one line."""
        return json.loads((await self("--enc=json", *arguments)).splitlines()[0])

    async def add(self, content: bytes, *options: str) -> str:
        """The CID of the content, once it is added."""
        done = await self("add", "-Q", "--cid-version=1", *options, data=content)
        return done.decode().strip()

    async def providers(self, cid: str) -> set[str]:
        """Who provides it, as far as the first answer goes."""
        return set(await self.words("routing", "findprovs", "-n", "1", cid))

    async def table(self) -> set[str]:
        """Who is in the routing table of its WAN DHT."""
        buckets = (await self.json("stats", "dht", "wan"))["Buckets"] or ()
        return {peer["ID"] for bucket in buckets for peer in bucket["Peers"] or ()}

    async def publish(self, path: str) -> str:
        """Publish ``path`` under its own name; the name."""
        return (await self("name", "publish", "--quieter", path)).decode().strip()

    async def resolve(self, name: str) -> str:
        """The path that a name stands for, asked of the network."""
        return (await self("name", "resolve", "--nocache", f"/ipns/{name}")).decode().strip()

    async def sweep(self) -> Sweep:
        """How far its provider is."""
        told = (await self.json("provide", "stat", "--all"))["Sweep"]
        past = told["operations"]["past"]
        waiting = told["queues"]["pending_key_provides"]
        running = told["operations"]["ongoing"]["key_provides"]
        return Sweep(
            past["keys_provided"],
            past.get("keys_failed", 0),
            waiting + running,
            told["schedule"]["keys"],
            told["connectivity"]["status"] == "online",
            told["network"]["reachable"],
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    """What Kubo's sweeping provider tells of itself (``ipfs provide stat``)."""

    provided: int
    """CIDs since it started; the same for those that failed."""
    failed: int
    unfinished: int
    scheduled: int
    """CIDs that it will provide again."""
    online: bool
    reachable: int
    """Servers that took its records."""


@dataclass(frozen=True, slots=True)
class Network:
    """Daemons of ours, all joined through the first, and Kubos that may join through it."""

    daemons: list[Daemon]
    kubos: list[Kubo]
    nursery: trio.Nursery

    async def start_kubos(self) -> None:
        """All at once. One that starts before the daemons know each other learns of the others
        minutes later: go looks around when it starts, and then every ten minutes."""
        async with trio.open_nursery() as starting:
            for kubo in self.kubos:
                starting.start_soon(kubo.start, self.nursery, [self.daemons[0].addr("tcp")])


@asynccontextmanager
async def kubo_network(
    place: Path, ipfs: str, *, daemons: int, kubos: int, listen: Sequence[str] = LISTEN
) -> AsyncIterator[Network]:
    """The daemons run while the block does, and listen on ``listen``; the Kubos run once they were
    started."""
    ours = [Daemon(place / "d0", (), listen)]
    theirs = [Kubo(ipfs, place / f"k{number}") for number in range(kubos)]
    try:
        async with trio.open_nursery() as nursery:
            await ours[0].start(nursery)
            # A peer that vanishes is noticed at once on TCP and only after 30 s on QUIC.
            through = [ours[0].addrs[-1]]
            names = [f"d{number}" for number in range(1, daemons)]
            ours += [Daemon(place / name, through, listen) for name in names]
            async with trio.open_nursery() as starting:
                for daemon in ours[1:]:
                    starting.start_soon(daemon.start, nursery)
            yield Network(ours, theirs, nursery)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as stopping:
                for daemon in ours:
                    stopping.start_soon(daemon.stop)
                for kubo in theirs:
                    stopping.start_soon(kubo.stop)
