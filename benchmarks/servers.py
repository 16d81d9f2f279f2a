"""Starts the servers that are compared, each as a process of its own, pinned to one core.

Ours is ``codio-dht daemon`` as a user starts it: its default limits, its durable store, its
counters. go, rust and js are the peers of ``tests/interop``, without limits; py-libp2p is its own
KadDHT on its own host. ``adapter`` is our daemon on py-libp2p's host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))

import peer_builds  # noqa: E402 - found through the line above

LOAD = peer_builds.go_source("load", HERE / "load")

LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}

STOP_TIMEOUT_S = 15.0
"""From the request to stop to the kill, seconds."""

QUIET_CPU_SHARE = 0.03
"""A server that uses less of a core than this has settled."""

QUIET_LOOK_S = 0.5
QUIET_TIMEOUT_S = 20.0

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server."""

    name: str
    process: subprocess.Popen[str]
    addrs: list[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def addr(self, transport: str) -> str:
        quic = transport == "quic"
        return next(addr for addr in self.addrs if ("/quic-v1" in addr) is quic)

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS_PER_S

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def settle(self) -> None:
        """Wait until it has done what joining peers make it do."""
        until = time.monotonic() + QUIET_TIMEOUT_S
        while time.monotonic() < until:
            before = self.cpu_s()
            time.sleep(QUIET_LOOK_S)
            if self.cpu_s() - before < QUIET_CPU_SHARE * QUIET_LOOK_S:
                return


@dataclass(frozen=True)
class Kind:
    """How a server is started; ``{data}`` in the command stands for an empty directory."""

    name: str
    command: Sequence[str]
    listens_on_both: bool = True
    listen_flag: str | None = "--listen"
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self, transport: str) -> list[str]:
        on = LISTEN.values() if self.listens_on_both else [LISTEN[transport]]
        flag = [self.listen_flag] if self.listen_flag else []
        return [word for addr in on for word in (*flag, addr)]


def kinds(ours_options: Sequence[str] = (), profile: Path | None = None) -> dict[str, Kind]:
    """Every server by name; ``ours_options`` are further options of our daemon, which leaves its
    profile in ``profile``."""
    under = ["-m", "cProfile", "-o", str(profile.absolute())] if profile else []
    daemon = [sys.executable, *under, "-m", "codio_dht.cli", "daemon"]
    daemon += ["--json", "--log-level", "warning"]
    daemon += ["--mode", "server", "--bootstrap", "none", "--data-dir", "{data}", *ours_options]
    found = {
        "ours": Kind("ours", [*daemon, "--stack", "own"]),
        "adapter": Kind("adapter", [*daemon, "--stack", "py-libp2p"]),
    }
    for name in ("go", "rust", "js"):
        try:
            found[name] = Kind(name, [*peer_builds.ensure_built(name), "--no-refresh"])
        except peer_builds.MissingToolError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
    script = [sys.executable, str(HERE / "py_libp2p_server.py")]
    found["py-libp2p"] = Kind("py-libp2p", script, listens_on_both=False, listen_flag=None)
    return found


def pinned(core: int | None) -> list[str]:
    """The prefix of a command that keeps it on one core."""
    return [] if core is None else ["taskset", "-c", str(core)]


@contextmanager
def running(kind: Kind, transport: str, core: int | None, log_dir: Path) -> Iterator[Server]:
    """The server, ready; stopped when the block ends."""
    log = (log_dir / f"{kind.name}-{transport}.log").open("ab")
    with tempfile.TemporaryDirectory(prefix="codio-dht-bench-") as data, log:
        command = [word.replace("{data}", data) for word in kind.command]
        process = subprocess.Popen(
            [*pinned(core), *command, *kind.arguments(transport)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        )
        try:
            yield Server(kind.name, process, _addrs(read_line(process)))
        finally:
            stop(process)


def read_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a program that talks JSON lines."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"ended without a word: {process.args!r}")
    result: dict[str, Any] = json.loads(line)
    return result


def _addrs(ready: dict[str, Any]) -> list[str]:
    addrs: list[str] = ready["addrs"] if "addrs" in ready else ready["peers"][0]["addrs"]
    return addrs


def stop(process: subprocess.Popen[str]) -> None:
    """End of stdin ends the peers and the load, SIGTERM our daemon; a kill whoever is left."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S / 10)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    process.stdout.close()


@contextmanager
def holding_load(arguments: Sequence[str], core: int | None) -> Iterator[dict[str, Any]]:
    """``load fill`` or ``load idle``: what it said; its connections last as long as the block."""
    process = subprocess.Popen(
        [*pinned(core), *peer_builds.build(LOAD), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield read_line(process)
    finally:
        stop(process)


def run_load(arguments: Sequence[str], core: int | None) -> dict[str, Any]:
    """``load rpc``: its report, or ``{"error": ..}``."""
    done = subprocess.run(
        [*pinned(core), *peer_builds.build(LOAD), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"error": done.stderr.strip()}
    result: dict[str, Any] = json.loads(done.stdout)
    return result
