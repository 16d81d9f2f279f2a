"""How fast own keys are saved, listed and removed, and what each costs in memory and on disk.

    .venv/bin/python benchmarks/own_keys.py                one million keys
    .venv/bin/python benchmarks/own_keys.py --keys 10000000

The node is alone, so that only saving is measured. Memory is what the process holds beyond what it
held idle, divided by the number of keys. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from codio_dht import DHTManager


def resident_bytes() -> int:
    """The memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4_096


def multihashes(count: int) -> Iterator[bytes]:
    """``count`` different multihashes, made as they are asked for."""
    return (b"\x12\x20" + number.to_bytes(32, "big") for number in range(count))


async def measure(count: int, directory: Path) -> dict[str, float]:
    """Save, list and remove ``count`` keys."""
    figures: dict[str, float] = {"keys": count}
    async with DHTManager.open(data_dir=directory, listen=["/ip4/127.0.0.1/tcp/0"]) as node:
        await trio.sleep(1)
        idle = resident_bytes()
        began, cpu = time.monotonic(), time.process_time()
        await node.provide_many(multihashes(count))
        figures["saved_per_s"] = count / (time.monotonic() - began)
        figures["cpu_us_per_key"] = (time.process_time() - cpu) / count * 1e6
        figures["memory_bytes_per_key"] = (resident_bytes() - idle) / count
        began, listed = time.monotonic(), 0
        async for _ in node.iter_own_keys():
            listed += 1
        figures["listed_per_s"] = listed / (time.monotonic() - began)
        figures["memory_bytes_per_key_after_listing"] = (resident_bytes() - idle) / count
        began = time.monotonic()
        await node.provide_status()
        figures["status_s"] = time.monotonic() - began
        figures["disk_bytes_per_key"] = (directory / "keys.db").stat().st_size / count
        part = min(count, 50_000)
        began = time.monotonic()
        await node.stop_providing_many(multihashes(part))
        figures["removed_per_s"] = part / (time.monotonic() - began)
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        print(json.dumps(trio.run(measure, options.keys, Path(directory))))


if __name__ == "__main__":
    main()
