"""A node that is killed while it saves, removes and sweeps many keys: no promise is forgotten."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from codio_dht.store.sqlite import SqliteStore
from killing import kill_after

ROOT = Path(__file__).parents[2]
ROUNDS = 6
CHUNK = 1_024
"""Keys that ``provide_many`` saves at once."""

PROGRAM = """
import sys
sys.path[:0] = ["tests/component", "."]
import trio
from itertools import count
from pathlib import Path
from codio_dht import DHTManager
from memory_host import MemoryNet
from nodes import full_addr

directory, first = Path(sys.argv[1]), int(sys.argv[2])

def keys(begin, end):
    return (b"\\x12\\x20" + number.to_bytes(32, "big") for number in range(begin, end))

async def main():
    async with trio.open_nursery() as nursery:
        net = MemoryNet(nursery)
        async with DHTManager(net.host(1)) as other:
            host = net.host(2)
            seed = full_addr(net.hosts["/ip4/127.0.0.1/tcp/10001"])
            async with DHTManager(host, data_dir=directory, bootstrap=[seed]) as node:
                for begin in count(first, 2_048):
                    await node.provide_many(
                        keys(begin, begin + 2_048),
                        progress=lambda done: print("saved", begin, done, flush=True),
                    )
                    await node.stop_providing_many(
                        keys(begin, begin + 1_024),
                        progress=lambda done: print("removed", begin, done, flush=True),
                    )

trio.run(main)
"""


@pytest.mark.conformance("c66")
@pytest.mark.deadline_s(300)
def test_after_sigkill_no_saved_key_is_forgotten_and_no_removed_one_comes_back(
    tmp_path: Path,
) -> None:
    rng = random.Random(16)
    kept: set[int] = set()
    for turn in range(ROUNDS):
        first = turn * 1_000_000
        saved: set[int] = set()
        removed: set[int] = set()
        for line in kill_after(rng.randrange(1, 9), PROGRAM, tmp_path, first):
            what, begin, done = line.split()
            numbers = range(int(begin), int(begin) + int(done))
            (saved if what == "saved" else removed).update(numbers)
        store = SqliteStore(tmp_path)
        found = {int.from_bytes(own.key[2:], "big") for own in store.keys.page(b"", 1_000_000)}
        assert store.keys.spans()[0][0] == 0
        store.close()
        # Of what was under way one chunk may be done that nobody was told of: the next one.
        more = found - kept - (saved - removed)
        less = kept | (saved - removed)
        less -= found
        assert (len(more), len(less)) in ((0, 0), (CHUNK, 0), (0, CHUNK))
        assert all(first <= number for number in more | less)
        assert not more & removed
        assert all(number % 1_000_000 % (2 * CHUNK) < CHUNK for number in less)
        kept = found
