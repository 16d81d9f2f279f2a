"""Peers at link-local IPv6 addresses, dialled through the interface that the address names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEW_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
INTERFACE = "ip link set lo up && ip addr add fe80::7/64 dev lo nodad"
PROGRAM = """
import sys

import trio

from codio_dht import DHTManager
from codio_dht.errors import DialError

TRANSPORT, LISTEN = sys.argv[1:]


async def main():
    where = f"{LISTEN}/{TRANSPORT}".replace("PORT", "4001")
    async with DHTManager.open(listen=[where]) as server, DHTManager.open(listen=[]) as client:
        path = TRANSPORT.replace("PORT", "4001")
        at = lambda zone: f"/ip6zone/{zone}/ip6/fe80::7/{path}/p2p/{server.peer_id}"
        try:
            await client.connect(at("nosuch0"))
        except DialError as error:
            print(error)
        assert server.peer_id == await client.connect(at("lo"))
        rtt_s = await client.ping(server.peer_id)
        [there], [here] = client.connections(), server.connections()
        print(there.addr, here.peer_id == client.peer_id, rtt_s < 5)


trio.run(main)
"""

PYTHON = [sys.executable, "-c", PROGRAM]


@pytest.mark.parametrize("transport", ["tcp/PORT", "udp/PORT/quic-v1"])
@pytest.mark.parametrize("listen", ["/ip6/::", "/ip6zone/lo/ip6/fe80::7"])
def test_a_peer_is_reached_through_the_interface_that_its_address_names(
    require_tool, transport: str, listen: str
) -> None:
    require_tool("unshare")
    require_tool("ip")
    command = f'{INTERFACE} && exec "$@"'
    done = subprocess.run(
        [*NEW_NAMESPACE, "sh", "-c", command, "", *PYTHON, transport, listen],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    refused, reached = done.stdout.splitlines()
    assert "no interface with this name" in refused
    assert f"/ip6zone/lo/ip6/fe80::7/{transport.replace('PORT', '4001')} True True" == reached
