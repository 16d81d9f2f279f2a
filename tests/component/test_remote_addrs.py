"""Where a peer's connections come from: what the IP diversity of the table counts by."""

from __future__ import annotations

import trio
from multiaddr import Multiaddr

from host_steps import connect
from host_subjects import EVERYWHERE, Subject

CLAIMED = Multiaddr("/ip4/8.8.8.8/tcp/4001")


@EVERYWHERE
async def test_a_peer_is_seen_where_its_connection_comes_from_and_not_where_it_says(
    subject: Subject,
) -> None:
    async with subject.host() as server, subject.host(announce=[CLAIMED]) as client:
        assert server.remote_addrs(client.peer_id) == []
        await connect(client, server)
        with trio.fail_after(30):
            while not (seen := server.remote_addrs(client.peer_id)):
                await trio.sleep(0.01)
        [info] = server.connections()
        assert seen == [info.addr]
        assert seen != [CLAIMED]
        assert client.remote_addrs(server.peer_id) == list(server.addrs)
        await client.disconnect(server.peer_id)
        with trio.fail_after(30):
            while server.remote_addrs(client.peer_id):
                await trio.sleep(0.01)
