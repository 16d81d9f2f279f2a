"""The rust and js programs of the test harness, among themselves: they speak the lines of go's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peers import PeerError, PeerLauncher, RawReply, until

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("name", ["rust", "js"])]

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"  # of the empty file

Launch = Callable[[str], PeerLauncher]


def find_node(key: bytes) -> bytes:
    """FIND_NODE by hand: field 1 = 4, field 2 = the key."""
    return bytes([0x08, 0x04, 0x12, len(key)]) + key


async def test_peers_of_one_process_form_a_network(launch: Launch, name: str) -> None:
    async with launch(name).start(count=4, seed="harness") as swarm:
        for peer in swarm[1:]:
            await peer.until_it_knows(swarm[0].peer_id)
        view = await swarm[1].view_of(swarm[0].peer_id)
        assert f"codio-dht-test-{name}-peer" == view.agent
        assert "/ipfs/kad/1.0.0" in view.protocols
        assert await swarm[1].ping(swarm[0].peer_id) < 5

        await swarm[1].provide(CID)
        (found,) = await swarm[2].find_providers(CID, count=1)
        assert swarm[1].peer_id == found.peer_id
        assert swarm[3].peer_id == (await swarm[1].find_peer(swarm[3].peer_id)).peer_id
        assert swarm[0].peer_id in await swarm[1].get_closest(b"a key")
        await swarm[1].put_value(b"/v/x", b"value")
        assert b"value" == await swarm[2].get_value(b"/v/x")


async def test_a_seed_decides_the_identities(launch: Launch, name: str) -> None:
    start = launch(name).start
    async with start(count=2, seed="same") as first, start(seed="same") as second:
        assert first[0].peer_id == second[0].peer_id != first[1].peer_id


async def test_requests_by_hand_and_held_streams(launch: Launch, name: str) -> None:
    async with launch(name).start(count=2, seed="raw") as (asked, asking):
        to = asked.peer_id
        assert (await asking.raw_rpc(to, find_node(b"x"))).reply.startswith(b"\x08\x04")
        assert RawReply("reset") == await asking.raw_rpc(to, b"\x03\xff\xff\xff", framed=True)
        announcement = bytes([0x08, 0x02, 0x12, 0x01, 0x78])
        assert RawReply("sent") == await asking.raw_rpc(to, announcement, no_reply=True)
        half_a_frame = await asking.raw_rpc(to, b"\x05", framed=True, timeout_s=0.5)
        assert RawReply("timeout") == half_a_frame

        first = await asking.hold_stream(to, "mine", find_node(b"x"))
        assert first == await asking.request_on("mine", find_node(b"x"))
        await asking.close_stream("mine")
        with pytest.raises(PeerError, match="no stream is held"):
            await asking.request_on("mine", find_node(b"x"))


async def test_a_peer_disconnects_and_a_command_that_fails_says_why(
    launch: Launch, name: str
) -> None:
    async with launch(name).start(count=2, seed="part") as (first, second):

        async def gone() -> bool:
            # Again and again: rust's peers dial each other anew by themselves.
            await second.disconnect(first.peer_id)
            return second.peer_id not in await first.connected_peers()

        await until(gone, 20, "the end of the connection")
        with pytest.raises(PeerError, match="unknown command"):
            await first.command("dance")
