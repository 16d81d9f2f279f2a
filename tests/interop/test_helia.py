"""Helia among our daemons: what one Helia adds and names, another one that it never met finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import peer_builds
from kubo import LISTEN, Network, kubo_network
from peers import Peer, PeerLauncher, until

pytestmark = pytest.mark.interop

CONTENT_BYTES = 60_000


@pytest.fixture
def helia(tmp_path: Path) -> PeerLauncher:
    try:
        return PeerLauncher(peer_builds.ensure_built("helia"), tmp_path)
    except peer_builds.MissingToolError as error:
        pytest.skip(str(error))


async def test_helias_that_know_only_our_daemons_find_content_and_names_of_each_other(
    helia: PeerLauncher, tmp_path: Path
) -> None:
    async with (
        kubo_network(tmp_path, "", daemons=5, kubos=0, listen=LISTEN[:1]) as network,
        helia.start(count=2) as (a, b),
    ):
        await _join(network, a, 0)
        await _join(network, b, 1)
        path = await _added_here_is_fetched_there(network, a, b)
        await network.daemons[0].kill()
        await _names_are_resolved(network, a, b, path)
        await network.daemons[0].start(network.nursery)
        target = network.daemons[2]
        found = await b.find_peer(target.peer_id)
        assert {target.addrs[0].partition("/p2p/")[0]} == set(found.addrs)


async def _join(network: Network, peer: Peer, through: int) -> None:
    await peer.connect(network.daemons[through].addrs[0])
    ours = {daemon.peer_id for daemon in network.daemons}

    async def joined() -> bool:
        return ours <= set(await peer.routing_table())

    await until(joined, 40, "every daemon in Helia's table")


async def _added_here_is_fetched_there(network: Network, a: Peer, b: Peer) -> str:
    content = os.urandom(CONTENT_BYTES)
    cid = str((await a.command("add", value_hex=content.hex()))["cid"])
    await a.provide(cid)
    for daemon in network.daemons:
        assert a.peer_id in await daemon.providers(cid)
    assert a.peer_id not in await b.connected_peers()
    assert content.hex() == (await b.command("cat", cid=cid))["value_hex"]
    assert a.peer_id in await b.connected_peers()
    return f"/ipfs/{cid}"


async def _names_are_resolved(network: Network, a: Peer, b: Peer, path: str) -> None:
    """One of the daemons is dead."""
    alive = network.daemons[1:]
    name = (await a.command("publish_name", key="blog", path=path))["name"]
    assert path == (await b.command("resolve_name", peer_id=name))["path"]
    for daemon in alive:
        assert path == (await daemon.cli("name", "resolve", name))["path"]
    ours = (await alive[-1].cli("name", "publish", path))["name"]
    for helia in (a, b):
        assert path == (await helia.command("resolve_name", peer_id=ours))["path"]
