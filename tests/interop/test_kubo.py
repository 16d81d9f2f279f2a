"""The first hour of a Kubo in a network of our daemons: it joins through one of them, adds,
fetches, and provides thousands of CIDs; half of the daemons die without a word and come back.

Nothing of the return may wait for somebody's next lookup: while the tables mend, nobody is asked
for anything but what it holds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

import peer_builds
from codio_dht.core.messages import GetProviders
from codio_dht.formats.cid import RAW, format_cid, parse_cid
from codio_dht.formats.multihash import SHA2_256, encode_multihash
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from kubo import LISTEN, Daemon, Network, kubo_network
from peers import Peer, PeerLauncher, until

pytestmark = pytest.mark.interop

DAEMONS, KUBOS, SWEPT = 8, 3, 2000
BLOCK_BYTES = 64
TCP = LISTEN[:1]
HALF = DAEMONS // 2

SAMPLE = 40
"""CIDs of the sweep of which every daemon is asked; their count tells of the others."""

WHOLE_WITHIN_S = 15.0
"""From the last daemon's return until every table is whole, seconds."""

KUBO_FORGETS_WITHIN_S = 120.0
"""Until what a Kubo provides reaches the daemons that came back, seconds. It goes on using a QUIC
connection of before until its idle time-out: a daemon that was killed does not reset it yet."""


@pytest.fixture
def ipfs() -> str:
    """Kubo's program."""
    try:
        return peer_builds.ensure_built("kubo")[0]
    except peer_builds.MissingToolError as error:
        pytest.skip(str(error))


class Witness:
    """A go peer that asks daemons what they hold."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def holders(self, daemons: Iterable[Daemon], provider: str, cid: str) -> list[str]:
        """Those of the daemons that name ``provider`` for ``cid`` themselves."""
        found = []
        for daemon in daemons:
            await self._peer.connect(daemon.addr("tcp"))
            request = payload(encode_request(GetProviders(multihash(cid))))
            reply = decode_reply((await self._peer.raw_rpc(daemon.peer_id, request)).reply)
            if provider in [str(entry.peer_id) for entry in reply.provider_peers]:
                found.append(daemon.peer_id)
        return found


async def test_a_kubos_first_hour_among_our_daemons(
    go: PeerLauncher, ipfs: str, tmp_path: Path
) -> None:
    async with kubo_network(tmp_path, ipfs, daemons=DAEMONS, kubos=KUBOS) as network:
        await _everybody_joins(network)
        async with go.start(mode="client") as [peer]:
            await _added_here_is_fetched_there(network, Witness(peer))
            swept = await _a_sweep_reaches_every_daemon(network, Witness(peer))
        await _half_die_and_return(network)
        # A go client of before would wait for its connections to the dead.
        async with go.start(mode="client") as [peer]:
            witness = Witness(peer)
            await _every_provide_reaches_everybody(network, witness)
            for cid in swept[:3]:
                held_by = await witness.holders(network.daemons, network.kubos[0].peer_id, cid)
                assert DAEMONS == len(held_by)


async def test_names_go_from_kubos_to_our_daemons_and_back_while_daemons_die(
    ipfs: str, tmp_path: Path
) -> None:
    """Two Kubos that serve nobody and never meet, and the commands of our daemons. On TCP alone: on
    QUIC a Kubo waits 20 s for each daemon that was killed (the test above)."""
    async with kubo_network(tmp_path, ipfs, daemons=6, kubos=2, listen=TCP) as network:
        await _everybody_joins(network)
        a, b = network.kubos
        first, second = [f"/ipfs/{await a.add(content)}" for content in (b"first", b"second")]
        name = await a.publish(first)
        assert first == await b.resolve(name)
        await _every_daemon_resolves(network.daemons, name, first)
        await _half_die_while_a_newer_record_is_published(network, second)
        assert second == await b.resolve(name)
        await _every_daemon_resolves(network.daemons, name, second)
        await _our_commands_publish(network, first, second)
        told = await a.sweep()
        assert (told.failed, told.online, told.reachable) == (0, True, len(network.daemons))
        assert told.scheduled >= 2


async def _every_daemon_resolves(daemons: Iterable[Daemon], name: str, path: str) -> None:
    for daemon in daemons:
        assert path == (await daemon.cli("name", "resolve", name))["path"]


async def _half_die_while_a_newer_record_is_published(network: Network, path: str) -> None:
    """They return with the older record on their disks."""
    dying = network.daemons[len(network.daemons) // 2 :]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.kubos[0].publish, path)
        for daemon in dying:
            nursery.start_soon(daemon.kill)
    async with trio.open_nursery() as nursery:
        for daemon in dying:
            nursery.start_soon(daemon.start, network.nursery)
    await _whole_within(network, WHOLE_WITHIN_S)


async def _our_commands_publish(network: Network, first: str, second: str) -> None:
    """The publisher is killed after the second record, and goes on with the third."""
    publisher = network.daemons[-1]
    for sequence, path in enumerate((first, second, first)):
        published = await publisher.cli("name", "publish", path)
        assert sequence == published["sequence"]
        for kubo in network.kubos:
            assert path == await kubo.resolve(published["name"])
        if sequence == 1:
            await publisher.kill()
            await publisher.start(network.nursery)
            await _whole_within(network, WHOLE_WITHIN_S)


async def _everybody_joins(network: Network) -> None:
    """The daemons at the same moment, through the first; then the Kubos, through it as well."""
    await _whole_within(network, WHOLE_WITHIN_S)
    await network.start_kubos()
    ours = {daemon.peer_id for daemon in network.daemons}

    async def joined() -> bool:
        return all([ours <= await kubo.table() for kubo in network.kubos])

    await until(joined, 40, "every daemon in every Kubo's table")


async def _whole_within(network: Network, seconds: float) -> None:
    """Wait until every daemon has every other in its table; nobody is asked for anything else."""
    ours = {daemon.peer_id for daemon in network.daemons}
    missing: list[list[str]] = []
    with trio.move_on_after(seconds):
        while True:
            tables = [{daemon.peer_id, *await daemon.table()} for daemon in network.daemons]
            missing = [sorted(ours - table) for table in tables]
            if not any(missing):
                return
            await trio.sleep(0.2)
    pytest.fail(f"after {seconds:g} s each daemon's table lacks {missing}")


async def _added_here_is_fetched_there(network: Network, witness: Witness) -> None:
    a, b, c = network.kubos
    content = random.Random(1).randbytes(40_000)
    cid = await a.add(content)
    await _held_by_all(network, witness, a.peer_id, cid)
    assert a.peer_id in await b.providers(cid)
    assert a.peer_id in await network.daemons[5].providers(cid)
    assert content == await c("cat", cid)


async def _held_by_all(network: Network, witness: Witness, provider: str, cid: str) -> None:
    """Wait until every daemon but the provider itself holds the record."""
    others = [daemon for daemon in network.daemons if daemon.peer_id != provider]

    async def held() -> bool:
        return len(await witness.holders(others, provider, cid)) == len(others)

    await until(held, 20, f"the record of {cid} at {len(others)} daemons")


async def _a_sweep_reaches_every_daemon(network: Network, witness: Witness) -> list[str]:
    a, b, _ = network.kubos
    before = [(await daemon.stats())["num_providers"] for daemon in network.daemons]
    already = await a.sweep()
    content = random.Random(2).randbytes(SWEPT * BLOCK_BYTES)
    root = await a.add(content, f"--chunker=size-{BLOCK_BYTES}")

    async def swept() -> bool:
        now = await a.sweep()
        return now.provided >= already.provided + SWEPT and not now.unfinished

    await until(swept, 60, f"{SWEPT} CIDs provided by the sweep")
    assert already.failed == (await a.sweep()).failed
    leaves = await a.words("refs", "-r", "-u", root)
    assert len(leaves) >= SWEPT

    async def counted() -> bool:
        now = [(await daemon.stats())["num_providers"] for daemon in network.daemons]
        return all(new - old > SWEPT for old, new in zip(before, now, strict=True))

    await until(counted, 10, f"{SWEPT} new records at every daemon")
    sample = random.Random(3).sample(leaves, SAMPLE)
    for cid in sample:
        assert DAEMONS == len(await witness.holders(network.daemons, a.peer_id, cid))
    assert a.peer_id in await b.providers(sample[0])
    return sample


async def _half_die_and_return(network: Network) -> None:
    """They return while lookups of the survivors still wait for them on connections that nobody has
    closed. When the last one is back and those lookups are over, nobody is asked for anything."""
    survivors, dead = network.daemons[:HALF], network.daemons[HALF:]
    async with trio.open_nursery() as dying:
        for daemon in dead:
            dying.start_soon(daemon.kill)
    async with trio.open_nursery() as returning:
        for daemon in survivors:
            returning.start_soon(daemon.providers, random_cid())
        for daemon in dead:
            returning.start_soon(daemon.start, network.nursery)
    await _whole_within(network, WHOLE_WITHIN_S)


async def _every_provide_reaches_everybody(network: Network, witness: Witness) -> None:
    for provider in network.daemons:
        cid = random_cid()
        await provider.ask("provide.once", cid=cid)
        await _held_by_all(network, witness, provider.peer_id, cid)
    kubo, rng = network.kubos[0], random.Random(4)
    with trio.fail_after(KUBO_FORGETS_WITHIN_S):
        while True:
            cid = await kubo.add(rng.randbytes(500))
            try:
                await _held_by_all(network, witness, kubo.peer_id, cid)
            except TimeoutError:
                continue
            return


def random_cid() -> str:
    """A CID of something that nobody has."""
    return format_cid(RAW, encode_multihash(SHA2_256, os.urandom(32)))


def multihash(cid: str) -> bytes:
    """What the DHT knows a CID by."""
    parsed = parse_cid(cid)
    assert parsed is not None
    return parsed.multihash


def payload(frame: bytes) -> bytes:
    """A frame without its length prefix, as ``raw_rpc`` wants it."""
    reader = FrameReader()
    reader.feed(frame)
    request = reader.next_frame()
    assert request is not None
    return request
