"""Values and names after SIGKILL at random moments: what was promised is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codio_dht.crypto.ipns import IpnsValidator, ipns_key, parse_ipns_record
from codio_dht.store.name_keys import NameKeys
from codio_dht.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
PUBLISHES = 100
PUTS = 1_000

PUBLISH = """
import sys
from pathlib import Path

import trio

from codio_dht import DHTManager
from codio_dht.errors import NoPeersError

async def main():
    async with DHTManager.open(data_dir=Path(sys.argv[1]), listen=["/ip4/127.0.0.1/tcp/0"]) as node:
        if "blog" not in await node.name_keys():
            await node.generate_name_key("blog")
        print("begun", flush=True)
        for number in range(int(sys.argv[2]), 10**6):
            try:
                await node.publish_name(f"/ipfs/bafkqaddwgevxmmraojswg33smq/{number}", key="blog")
            except NoPeersError:
                pass  # nobody to tell; it is kept all the same
            own = next(iter(node._node.republishing._schedule._values))
            kept = await node._node.republishing.own(own)
            from codio_dht.crypto.ipns import parse_ipns_record
            print(parse_ipns_record(kept.value).sequence, number, flush=True)

trio.run(main)
"""

FLUSH = """
import sys
from itertools import count
from pathlib import Path

from codio_dht.core.value_records import ValueFlush, ValueRow
from codio_dht.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
for batch in count(int(sys.argv[2])):
    keys = [b"/v/%d/%d" % (batch, n) for n in range(10)]
    rows = tuple([ValueRow(key, b"value of " + key, float(batch)) for key in keys])
    store.values.flush(ValueFlush(rows, ()))
    print(batch, flush=True)
"""


def run_and_kill(program: str, directory: Path, start: int, lines: int) -> list[str]:
    """Run ``program`` until it printed ``lines`` lines, kill it at once, return what it printed."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory), str(start)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline().strip() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
    return [line for line in printed + rest[:-1] if line]


@pytest.mark.deadline_s(600)
def test_a_sequence_number_never_goes_back_whenever_the_node_is_killed(tmp_path: Path) -> None:
    rng = random.Random(12)
    published, sequence = 0, -1
    while published < PUBLISHES:
        lines = run_and_kill(PUBLISH, tmp_path, published, rng.randint(4, 25))
        told = [line.split() for line in lines if line != "begun"]
        numbers = [int(number) for number, _ in told]
        assert numbers == sorted(set(numbers)), "each new path has a sequence number of its own"
        if numbers:
            assert numbers[0] > sequence
            sequence, published = numbers[-1], int(told[-1][1]) + 1
        key = NameKeys(tmp_path).get("blog")
        if key is None:
            continue
        store = SqliteStore(tmp_path)
        own = store.own_values.get(ipns_key(key.peer_id()))
        store.close()
        if own is None:
            assert not numbers
            continue
        record = parse_ipns_record(own.value)
        assert record.sequence >= sequence, "what was published is on disk"
        sequence = record.sequence
        IpnsValidator().validate_at(ipns_key(key.peer_id()), own.value, own.added)


def test_a_batch_of_values_is_whole_or_not_there_whenever_the_process_is_killed(
    tmp_path: Path,
) -> None:
    rng = random.Random(7)
    done = 0
    while done * 10 < PUTS:
        lines = run_and_kill(FLUSH, tmp_path, done, rng.randint(5, 40))
        done = int(lines[-1]) + 1
        store = SqliteStore(tmp_path)
        page = store.values.page(b"", 100_000)
        counts: dict[bytes, int] = {}
        for key, _, _ in page:
            batch = key.split(b"/")[2]
            counts[batch] = counts.get(batch, 0) + 1
        store.close()
        assert set(counts.values()) == {10}
        assert set(range(done)) <= {int(batch) for batch in counts}
        done = max(int(batch) for batch in counts) + 1
