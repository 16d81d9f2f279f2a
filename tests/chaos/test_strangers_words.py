"""What strangers on public addresses make a public node dial, in a network namespace of its own.

All limits are those that ship. The stranger's machines, those that it names, and the node's own
network are local addresses of the namespace; nothing leaves it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ATTACK = """
import json, socket, sys
sys.path[:0] = ["tests/component", "tests/chaos", "."]
import trio
from multiaddr import Multiaddr
from codio_dht import DHTManager
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.handlers import Reset
from codio_dht.net.stack_host import make_stack_host
from codio_dht.params import KAD_PROTOCOL

TARGETS = ("31.1.1.1", "127.0.0.1", "192.168.77.7", "169.254.169.254")
PORTS = [25, 80, *range(2_000, 2_060)]
IDENTITIES = 12
knocks = []

class Refusing:
    def feed(self, data, now):
        return Reset("no")

    def eof(self, now):
        return b""

    def closed(self):
        pass

async def watch(ip, port, nursery):
    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind((ip, port))
    listener.listen(64)

    async def accept():
        while True:
            taken, _ = await listener.accept()
            knocks.append((trio.current_time(), ip, port))
            taken.close()

    nursery.start_soon(accept)

async def stranger(number, victim):
    named = [
        Multiaddr(f"/ip4/{ip}/tcp/{port}")
        for ip in TARGETS
        for port in PORTS[number % 2 :: 2][: 16]
    ]
    names = [Multiaddr(f"/dns4/{name}/tcp/2001") for name in ("localhost", "nas", "router.lan")]
    key = PrivateKey.from_ed25519_seed(bytes([number]) * 32)
    async with make_stack_host(key, [], [*names, *named]) as host:
        host.serve(KAD_PROTOCOL, lambda _peer: Refusing(), idle_timeout_s=60)
        deadline = trio.current_time() + 20
        await host.connect(victim.peer_id, list(victim.addrs), deadline)
        while victim_sees(victim, host.peer_id) is None:
            await trio.sleep(0.02)

def victim_sees(victim, peer_id):
    return victim._host._identifier.known.get(peer_id)

async def main():
    async with trio.open_nursery() as nursery:
        for ip in TARGETS:
            for port in PORTS:
                await watch(ip, port, nursery)
        async with DHTManager.open(listen=["/ip4/5.0.0.1/tcp/4001"], mode="server") as victim:
            assert victim._node.main.public
            for number in range(IDENTITIES):
                await stranger(number + 1, victim)
            while victim._node.main.network.admission.waiting:
                await trio.sleep(0.1)
            await trio.sleep(2)
            told = len(victim._node.main.network.book)
            print(json.dumps({"knocks": knocks, "strangers": told}))
        nursery.cancel_scope.cancel()

trio.run(main)
"""

SET_UP = """
ip link set lo up
for net in 5.0.0.0/8 7.0.0.0/8 31.0.0.0/8; do ip route add local $net dev lo; done
ip addr add 192.168.77.7/32 dev lo
ip addr add 169.254.169.254/32 dev lo
ip route replace local 5.0.0.1/32 dev lo src 7.9.9.9 table local 2>/dev/null
exec "$0" "$@"
"""


@pytest.mark.deadline_s(150)
def test_a_stranger_makes_a_public_node_knock_at_nobody_elses_machine(require_tool) -> None:
    """It names third parties, the node's own network and names, as twelve identities that leave."""
    require_tool("unshare")
    require_tool("ip")
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--net", "sh", "-c", SET_UP),
            *(sys.executable, "-c", ATTACK),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert 12 == seen["strangers"]
    assert [] == seen["knocks"]
