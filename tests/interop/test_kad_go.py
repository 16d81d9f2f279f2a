"""Our node among real go-libp2p-kad-dht servers, over loopback sockets.

What is asked of the daemon goes through its command line, as a user would; what needs many of our
own nodes runs them in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import trio

from codio_dht import DHTConfig, DHTManager, PeerId
from codio_dht.core.keyspace import distance, key_of
from codio_dht.core.messages import FindNode, GetProviders
from codio_dht.core.multihash import multihash_of
from codio_dht.node.hosting import Stack
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from peers import PeerLauncher, until

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "codio_dht.cli"]
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
GO_CID = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)


class Daemon:
    """``codio-dht daemon`` as a process, and the command line that talks to it."""

    def __init__(self, process: trio.Process, data_dir: Path, ready: dict[str, Any]) -> None:
        self.process = process
        self.data_dir = data_dir
        self.peer_id: str = ready["peer_id"]
        self.addrs: list[str] = ready["addrs"]

    async def cli(self, *arguments: str) -> list[dict[str, Any]]:
        """One command with ``--json``: its lines."""
        command = [*CLI, *arguments, "--json", "--data-dir", str(self.data_dir)]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, cwd=ROOT)
        return [json.loads(line) for line in done.stdout.splitlines()]


@asynccontextmanager
async def daemon(data_dir: Path, *options: str) -> AsyncIterator[Daemon]:
    command = [*CLI, "daemon", "--json", "--data-dir", str(data_dir), *options]
    with (data_dir / "stderr").open("wb") as errors:
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env={**os.environ}
        )
    assert process.stdout is not None
    try:
        line = b""
        with trio.fail_after(60):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some(1 << 16)
        yield Daemon(process, data_dir, json.loads(line))
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(15):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture(params=get_args(Stack))
def stack(request: pytest.FixtureRequest) -> Stack:
    """Each test runs on py-libp2p and on our own stack."""
    return cast("Stack", request.param)


def open_node(stack: Stack, *bootstrap: str) -> DHTManager:
    return DHTManager.open(DHTConfig(), listen=LOOPBACK, bootstrap=bootstrap, stack=stack)


def frame(request: Any) -> bytes:
    """The request without its length prefix, as ``raw_rpc`` wants it."""
    reader = FrameReader()
    reader.feed(encode_request(request))
    payload = reader.next_frame()
    assert payload is not None
    return payload


async def has(node: DHTManager, peers: int) -> None:
    async def enough() -> bool:
        return len(node.routing_table_peers()) >= peers

    await until(enough, 30, f"{peers} peers in our table")


async def test_the_daemon_and_go_find_each_other_and_what_each_provides(
    go: PeerLauncher, tmp_path: Path, stack: Stack
) -> None:
    async with go.start(count=5, seed="daemon") as swarm:
        options = ("--listen", LOOPBACK[0], "--bootstrap", swarm[0].addr, "--stack", stack)
        async with daemon(tmp_path, *options) as ours:
            await swarm[0].until_it_knows(ours.peer_id)

            [provided] = await ours.cli("provide", "add", CID)
            assert provided["holders"] == 5
            [found] = await swarm[3].find_providers(CID, count=1)
            assert found.peer_id == ours.peer_id
            assert [f"{addr}/p2p/{found.peer_id}" for addr in found.addrs] == ours.addrs

            await swarm[2].provide(GO_CID)
            providers = await ours.cli("findprovs", GO_CID)
            assert swarm[2].peer_id in [provider["peer_id"] for provider in providers]

            assert (await swarm[4].find_peer(ours.peer_id)).peer_id == ours.peer_id
            [peer] = await ours.cli("findpeer", swarm[4].peer_id)
            assert swarm[4].addr.removesuffix(f"/p2p/{swarm[4].peer_id}") in str(peer)


async def test_a_go_client_that_knows_only_our_node_joins_the_network_through_it(
    go: PeerLauncher, stack: Stack
) -> None:
    async with go.start(count=4, seed="network") as swarm, open_node(stack, swarm[0].addr) as ours:
        await has(ours, 4)
        await swarm[1].provide(GO_CID)
        ours_addr = f"{ours.addrs[0]}/p2p/{ours.peer_id}"
        async with go.start(mode="client", bootstrap=[ours_addr], seed="client") as [client]:
            await client.until_it_knows(str(ours.peer_id))
            [found] = await client.find_providers(GO_CID, count=1)
            assert found.peer_id == swarm[1].peer_id
            for peer in swarm:
                assert (await client.find_peer(peer.peer_id)).peer_id == peer.peer_id
            await trio.sleep(1)
            assert PeerId.from_string(client.peer_id) not in ours.routing_table_peers()


async def test_sixteen_go_peers_that_hold_their_streams_open_are_all_still_answered(
    go: PeerLauncher, stack: Stack
) -> None:
    async with open_node(stack) as ours:
        addr = f"{ours.addrs[0]}/p2p/{ours.peer_id}"
        async with go.start(count=16, seed="holders", refresh=False) as swarm:
            request = frame(FindNode(b"some key"))
            for peer in swarm:
                await peer.connect(addr)
                held = await peer.hold_stream(str(ours.peer_id), "held", request)
                assert held.outcome == "reply"
            for _ in range(3):
                for peer in swarm:
                    assert (await peer.request_on("held", request)).outcome == "reply"
            assert (await swarm[0].raw_rpc(str(ours.peer_id), request)).outcome == "reply"


async def test_our_closest_peers_are_gos_closest_peers(go: PeerLauncher, stack: Stack) -> None:
    async with go.start(count=25, seed="closest") as swarm, open_node(stack, swarm[0].addr) as ours:
        for peer in swarm:
            await peer.refresh()
        await has(ours, 20)
        key = b"a key that nobody has"
        ids = [PeerId.from_string(peer.peer_id) for peer in swarm]
        expected = sorted(ids, key=lambda peer: distance(peer.key, key_of(key)))[:20]
        assert expected == [info.peer_id for info in await ours.find_closest_peers(key)]
        assert await ours.ping(swarm[7].peer_id) < 5


async def test_what_we_provide_sits_on_the_twenty_closest_go_peers(
    go: PeerLauncher, stack: Stack
) -> None:
    async with go.start(count=25, seed="provide") as swarm, open_node(stack, swarm[0].addr) as ours:
        for peer in swarm:
            await peer.refresh()
        await has(ours, 20)
        result = await ours.provide(CID, quorum=20)
        assert (result.holders, result.confirmed) == (20, 20)
        key = multihash_of(CID)
        by_distance = sorted(
            swarm, key=lambda peer: distance(PeerId.from_string(peer.peer_id).key, key_of(key))
        )
        asking = by_distance[-1]
        holders = []
        for peer in swarm:
            if peer is asking:
                continue
            await asking.connect(peer.addr)
            answer = await asking.raw_rpc(peer.peer_id, frame(GetProviders(key)))
            named = decode_reply(answer.reply).provider_peers
            if ours.peer_id in [entry.peer_id for entry in named]:
                holders.append(peer.peer_id)
        assert set(holders) == {peer.peer_id for peer in by_distance[:20]}


@pytest.mark.conformance("c06", "c18")
async def test_go_sees_the_same_refusals_from_us_as_from_go(go: PeerLauncher, stack: Stack) -> None:
    swarm = go.start(count=2, seed="refusals", refresh=False)
    async with swarm as (theirs, asking), open_node(stack) as ours:
        await asking.connect(theirs.addr)
        await asking.connect(f"{ours.addrs[0]}/p2p/{ours.peer_id}")
        requests = {
            "empty FIND_NODE": b"\x08\x04",
            "empty GET_PROVIDERS": b"\x08\x03",
            "long GET_PROVIDERS": b"\x08\x03\x12\x51" + bytes(81),
            "80 byte GET_PROVIDERS": b"\x08\x03\x12\x50" + bytes(80),
            "empty GET_VALUE": b"\x08\x01",
            "PUT_VALUE without a record": b"\x12\x01x",
            "ADD_PROVIDER without a provider": b"\x08\x02\x12\x01x",
            "unknown type": b"\x08\x63\x12\x01x",
            "not protobuf": b"\xff\xff\xff",
            "PING": b"\x08\x05",
        }
        for name, request in requests.items():
            outcomes = [
                (await asking.raw_rpc(peer_id, request, timeout_s=3)).outcome
                for peer_id in (theirs.peer_id, str(ours.peer_id))
            ]
            assert outcomes[0] == outcomes[1], name


async def test_a_node_with_quic_and_tls_is_reached_by_go_both_ways(
    go: PeerLauncher, stack: Stack
) -> None:
    quic = "/ip4/127.0.0.1/udp/0/quic-v1"
    for listen, security in ((quic, "noise"), (LOOPBACK[0], "tls")):
        async with go.start(count=2, listen=[listen], security=security, seed="tls") as swarm:
            manager = DHTManager.open(
                DHTConfig(), listen=[LOOPBACK[0], quic], bootstrap=[swarm[0].addr], stack=stack
            )
            async with manager as ours:
                await has(ours, 2)
                await swarm[0].until_it_knows(str(ours.peer_id))
                await swarm[1].provide(GO_CID)
                assert len(await ours.find_providers(GO_CID, count=1)) == 1
