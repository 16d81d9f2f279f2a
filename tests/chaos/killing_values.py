"""A node that is killed again and again while it takes values of others and publishes names.

The bounded tests (``test_values_crash.py``) and the long runs (``scripts/crash``) use the same. The
node is a process; this one is its only peer, and talks to it over TCP. What the node has promised:

    values of others   a batch is written about once a second. What it reports as written is there
                       after the kill, and is told after the restart. What was not yet written may
                       be lost; the network's other holders have it
    own names          on disk before anybody is told. Neither what is on disk nor what this peer
                       was told ever goes back to an earlier sequence number
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import trio

from codio_dht import DHTManager, PeerId
from codio_dht.core.clock import Monotonic, UnixTime
from codio_dht.core.messages import GetValue, PutValue, Record, Reply, Request
from codio_dht.crypto.ipns import IpnsValidator, ipns_key, parse_ipns_record
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.public_key_records import public_key_key
from codio_dht.store.name_keys import NameKeys
from codio_dht.store.sqlite import SqliteStore

ROOT: Final = Path(__file__).parents[2]
LOOPBACK: Final = ("/ip4/127.0.0.1/tcp/0",)
LABEL: Final = "blog"

START_S: Final = 60.0
"""How long a node may take to start and to be reached, seconds, also on a busy machine."""

NODE = """
import sys
from pathlib import Path

import trio

from codio_dht import DHTManager

directory, peer, what, first = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

async def publish_for_ever(node):
    if "blog" not in await node.name_keys():
        await node.generate_name_key("blog")
    number = first
    while True:
        done = await node.publish_name(f"/ipfs/bafkqaaa/{number}", key="blog", quorum=1)
        print("published", number, done.record.sequence, done.put.holders, flush=True)
        number += 1

async def report_what_is_written(node):
    said = -1
    while True:
        written = node.stats().storage.get("values_written", 0)
        if written != said:
            print("written", written, flush=True)
            said = written
        await trio.sleep(0.01)

async def main():
    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with DHTManager.open(data_dir=directory, listen=listen, bootstrap=[peer]) as node:
        while not node.routing_table_peers():
            await trio.sleep(0.01)
        print("at", f"{node.addrs[0]}/p2p/{node.peer_id}", flush=True)
        await (publish_for_ever if what == "publish" else report_what_is_written)(node)

trio.run(main)
"""


@dataclass
class Tally:
    """What a run did."""

    rounds: int = 0
    done: int = 0
    lost: int = 0
    """Values that were acknowledged and not yet written when the node was killed."""


class Victim:
    """A running node, until it is killed."""

    def __init__(self, directory: Path, peer: DHTManager, what: str, first: int) -> None:
        peer_addr = f"{peer.addrs[0]}/p2p/{peer.peer_id}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODE, str(directory), peer_addr, what, str(first)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout

    async def line(self) -> list[str]:
        """The next line that it prints, in words."""
        line: str = await trio.to_thread.run_sync(self._out.readline)
        assert line.endswith("\n"), "it ended by itself"
        return line.split()

    def kill(self) -> list[list[str]]:
        """Kill it now; the whole lines that it printed and nobody has read. Idempotent."""
        if self._out.closed:
            return []
        self._process.send_signal(signal.SIGKILL)
        rest = self._out.readlines()
        self._out.close()
        assert self._process.wait(START_S) == -signal.SIGKILL
        return [line.split() for line in rest if line.endswith("\n")]


@asynccontextmanager
async def started(
    directory: Path, peer: DHTManager, what: str, first: int = 0
) -> AsyncIterator[tuple[Victim, str]]:
    """A node that has joined through ``peer``, and its address. Whoever uses it kills it."""
    victim = Victim(directory, peer, what, first)
    try:
        with trio.fail_after(START_S):
            word, addr = await victim.line()
        assert word == "at"
        yield victim, addr
    except BaseException:
        victim.kill()
        raise


async def puts_of_others(directory: Path, count: int, at_most: int, rng: Random) -> Tally:
    """Put ``count`` values to a node over TCP, and kill it after at most ``at_most`` of them, again
    and again.

    Raises:
        AssertionError: a value that was reported as written is gone, or is not what was put.
    """
    tally = Tally()
    kept: dict[bytes, bytes] = {}
    """Values that were reported as written."""
    acknowledged: dict[bytes, bytes] = {}
    async with DHTManager.open(listen=LOOPBACK) as peer:
        while tally.done < count:
            async with started(directory, peer, "take") as (victim, addr):
                node = await peer.connect(addr)
                for key in rng.sample(sorted(kept), min(5, len(kept))):
                    told = await _ask(peer, node, GetValue(key))
                    assert told.record is not None
                    assert told.record.value == kept[key], "it is told after the restart"
                put: list[tuple[bytes, bytes]] = []
                for _ in range(rng.randint(1, at_most)):
                    value = PrivateKey.generate_ed25519().public_key()
                    record = Record(public_key_key(value.peer_id()), value.to_protobuf())
                    echoed = await _ask(peer, node, PutValue(record.key, record))
                    assert echoed.record is not None, "it is acknowledged"
                    put.append((record.key, record.value))
                written = 0
                wait_for = rng.choice((0, 1, len(put)))
                with trio.fail_after(START_S):
                    while written < wait_for:
                        written = int((await victim.line())[1])
                written = max([written, *(int(words[1]) for words in victim.kill())])
            on_disk = _values_on_disk(directory)
            kept |= dict(put[:written])
            acknowledged |= dict(put)
            assert kept.items() <= on_disk.items(), "what was written is there"
            assert on_disk.items() <= acknowledged.items(), "nothing else is"
            tally.lost += sum(key not in on_disk for key, _ in put)
            tally.rounds, tally.done = tally.rounds + 1, tally.done + len(put)
    return tally


async def own_publishes(directory: Path, count: int, at_most: int, rng: Random) -> Tally:
    """Have a node publish a name ``count`` times to this peer, and kill it after at most
    ``at_most`` of them, again and again.

    Raises:
        AssertionError: a sequence number went back, or was used for two paths.
    """
    tally = Tally()
    paths: dict[int, bytes] = {}
    """What this peer was told, by sequence number."""
    highest = -1
    async with DHTManager.open(listen=LOOPBACK) as peer:
        while tally.done < count:
            published: list[list[str]] = []
            async with started(directory, peer, "publish", tally.done) as (victim, _):
                for _ in range(rng.randint(1, at_most)):
                    published.append(await victim.line())
                    assert published[-1][3] == "1", "this peer took the record"
                    highest = _note(await _told(peer, directory), paths, highest)
                await trio.sleep(rng.random() * 0.02)
                published += victim.kill()
            sequences = [int(words[2]) for words in published]
            assert sequences == sorted(set(sequences)), "each path has a sequence number of its own"
            highest = _note(await _told(peer, directory), paths, highest)
            on_disk = _own_on_disk(directory)
            IpnsValidator().validate_at(*on_disk)
            record = parse_ipns_record(on_disk[1])
            assert record.sequence >= max(highest, *sequences), "what was told is on disk"
            tally.rounds += 1
            tally.done = int(record.value.rpartition(b"/")[2]) + 1
    return tally


def _note(value: bytes, paths: dict[int, bytes], highest: int) -> int:
    record = parse_ipns_record(value)
    assert record.sequence >= highest, "what others are told never goes back"
    assert paths.setdefault(record.sequence, record.value) == record.value, "one path a number"
    return record.sequence


async def _told(peer: DHTManager, directory: Path) -> bytes:
    """The record of the name that this peer holds, as a server."""
    held = await peer._node.values.held(_name(directory))
    assert held is not None
    return held.value


def _name(directory: Path) -> bytes:
    key = NameKeys(directory).get(LABEL)
    assert key is not None
    return ipns_key(key.peer_id())


async def _ask(peer: DHTManager, node: PeerId, request: Request) -> Reply:
    deadline = Monotonic(trio.current_time() + START_S)
    return await peer._main.rpc.request(node, request, deadline)


def _values_on_disk(directory: Path) -> dict[bytes, bytes]:
    store = SqliteStore(directory)
    try:
        rows = [store.values.load(key) for key, _, _ in store.values.page(b"", 100_000)]
        return {row.key: row.value for row in rows if row is not None}
    finally:
        store.close()


def _own_on_disk(directory: Path) -> tuple[bytes, bytes, UnixTime]:
    store = SqliteStore(directory)
    try:
        own = store.own_values.get(_name(directory))
        assert own is not None
        return own.key, own.value, own.added
    finally:
        store.close()
