"""The test harness itself: go peers among themselves, before anything of ours is involved."""

from __future__ import annotations

import pytest

from peers import PeerError, PeerLauncher, RawReply

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"  # of the empty file


def find_node(key: bytes) -> bytes:
    """FIND_NODE by hand: field 1 = 4, field 2 = the key."""
    return bytes([0x08, 0x04, 0x12, len(key)]) + key


async def test_many_go_peers_of_one_process_form_a_network(go: PeerLauncher) -> None:
    async with go.start(count=16, seed="harness") as swarm:
        for peer in swarm[1:]:
            await peer.until_it_knows(swarm[0].peer_id)
        await swarm[3].provide(CID)
        found = await swarm[12].find_providers(CID, count=1)
        assert [provider.peer_id for provider in found] == [swarm[3].peer_id]
        assert (await swarm[5].find_peer(swarm[9].peer_id)).peer_id == swarm[9].peer_id


async def test_a_seed_decides_the_identities(go: PeerLauncher) -> None:
    async with go.start(count=2, seed="same") as first, go.start(seed="same") as second:
        assert second[0].peer_id == first[0].peer_id
        assert second[0].peer_id != first[1].peer_id


async def test_a_raw_request_is_answered_refused_or_left_alone(go: PeerLauncher) -> None:
    async with go.start(count=2, seed="raw") as (asked, asking):
        answer = await asking.raw_rpc(asked.peer_id, find_node(b"x"))
        assert answer.outcome == "reply"
        assert answer.reply.startswith(b"\x08\x04")
        # go resets the stream on an empty key, and never answers ADD_PROVIDER (type 2).
        assert await asking.raw_rpc(asked.peer_id, find_node(b"")) == RawReply("reset")
        announcement = bytes([0x08, 0x02, 0x12, 0x01, 0x78])
        assert await asking.raw_rpc(asked.peer_id, announcement, no_reply=True) == RawReply("sent")


async def test_a_held_stream_is_used_again(go: PeerLauncher) -> None:
    async with go.start(count=2, seed="held") as (asked, asking):
        first = await asking.hold_stream(asked.peer_id, "mine", find_node(b"x"))
        again = await asking.request_on("mine", find_node(b"x"))
        assert first.outcome == again.outcome == "reply"
        await asking.close_stream("mine")
        with pytest.raises(PeerError, match="no stream is held"):
            await asking.request_on("mine", find_node(b"x"))


async def test_a_command_that_fails_says_why(go: PeerLauncher) -> None:
    async with go.start() as swarm:
        with pytest.raises(PeerError, match="unknown command"):
            await swarm[0].command("dance")
