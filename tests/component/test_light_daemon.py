"""What the daemon's own stack spares: py-libp2p's 80 MiB."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, trio
from codio_dht import DHTConfig, DHTManager
import codio_dht.daemon.service, codio_dht.daemon.demo

async def main():
    async with DHTManager.open(DHTConfig(), listen=["/ip4/127.0.0.1/tcp/0"]) as first:
        seed = f"{first.addrs[0]}/p2p/{first.peer_id}"
        async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[seed]) as second:
            await second.find_closest_peers(b"key")

trio.run(main)
print(sorted(name for name in sys.modules if name.split(".")[0] == "libp2p"))
"""


def test_a_node_on_our_own_stack_does_not_import_py_libp2p():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
