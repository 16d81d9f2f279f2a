"""What the host on our own stack does beyond the port; for that: ``test_host_contract.py``."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from codio_dht import DHTManager
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DeadlineError, StreamError
from codio_dht.net.host import Stream
from host_steps import (
    ECHO,
    IDLE_S,
    Echoes,
    ask,
    connect,
    echo_of,
    identified,
    soon,
    until,
)
from stack_hosts import made_host

# --- streams --------------------------------------------------------------------------------------


async def test_what_arrived_before_a_reset_is_still_read() -> None:
    async def half(stream: Stream) -> None:
        await stream.write(b"half")
        await trio.sleep(0.02)
        raise RuntimeError("half way")

    async with made_host() as server, made_host() as client:
        server.serve_stream("/half", half)
        await connect(client, server)
        stream = await client.open_stream(server.peer_id, "/half", soon())
        await stream.write(b"x")
        await trio.sleep(0.1)
        assert b"half" == await stream.read(10)
        with pytest.raises(StreamError):
            await stream.read(1)


# --- opening --------------------------------------------------------------------------------------


async def test_opening_waits_for_room_and_ends_at_its_deadline() -> None:
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        await identified(client, server.peer_id)
        await identified(server, client.peer_id)
        streams = []
        for _ in range(384):  # MAX_OUTBOUND_STREAMS
            streams.append(await client.open_stream(server.peer_id, ECHO, soon()))
            await ask(streams[-1], b"x")
        with pytest.raises(DeadlineError):
            await client.open_stream(server.peer_id, ECHO, soon(0.05))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo_of, client, server)
            await trio.sleep(0.02)
            await streams[0].close()


# --- the host -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: ec.generate_private_key(ec.SECP256R1()),
    ],
    ids=["RSA", "SECP256K1", "ECDSA"],
)
async def test_other_kinds_of_keys_work_too(make) -> None:
    async with made_host(key=PrivateKey(make())) as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        assert b"hello" == await echo_of(client, server)
        said = await identified(client, server.peer_id)
        assert server.addrs == said.addrs


@pytest.mark.deadline_s(60)
async def test_twenty_five_nodes_on_this_host_provide_to_twenty_and_find() -> None:
    cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    async with AsyncExitStack() as stack:
        nodes: list[DHTManager] = []
        for _ in range(25):
            host = await stack.enter_async_context(made_host())
            boot = [f"{nodes[0].addrs[0]}/p2p/{nodes[0].peer_id}"] if nodes else []
            nodes.append(
                await stack.enter_async_context(DHTManager(host, bootstrap=boot, mode="server"))
            )
        await until(lambda: all(len(node.routing_table_peers()) >= 20 for node in nodes), 50)
        provider = nodes[7].peer_id
        result = await nodes[7].provide(cid, quorum=20)
        holders = [node for node in nodes if await node.provider_records(cid)]
        found = await nodes[3].find_providers(cid)

    assert (20, 20, 20) == (result.holders, result.confirmed, len(holders))
    assert [provider] == [info.peer_id for info in found]


def test_running_a_host_imports_no_py_libp2p() -> None:
    program = """
import sys, trio
from multiaddr import Multiaddr
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.stack_host import make_stack_host

async def main():
    tcp = Multiaddr("/ip4/127.0.0.1/tcp/0")
    async with (
        make_stack_host(PrivateKey.generate_ed25519(), [tcp]) as one,
        make_stack_host(PrivateKey.generate_ed25519(), [tcp]) as two,
    ):
        await one.connect(two.peer_id, two.addrs, trio.current_time() + 25)
        await one.ping(two.peer_id, trio.current_time() + 25)

trio.run(main)
print([name for name in sys.modules if name.partition(".")[0] == "libp2p"])
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert ("[]\n", 0) == (run.stdout, run.returncode), run.stderr
