"""A node with deny lists: what it answers, asks, connects to and keeps, and lists that change."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from codio_dht import DHTManager
from codio_dht.core.messages import (
    AddProvider,
    FindNode,
    GetProviders,
    GetValue,
    PeerEntry,
    PutValue,
    Record,
)
from codio_dht.core.multihash import multihash_of
from codio_dht.core.steps import Refuse
from codio_dht.errors import DeniedError, StorageError, UsageError
from codio_dht.node.denying import OWN_LIST, RELOAD_INTERVAL_S
from host_steps import soon
from memory_host import MemoryNet
from nodes import host_of, memory_net, open_nodes, settle
from stack_hosts import made_host

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
KEY = multihash_of(CID)
OTHER = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


async def test_a_denied_key_is_neither_taken_nor_told_nor_looked_up(autojump_clock) -> None:
    async with memory_net() as net:
        provider = net.host(7)
        entry = PeerEntry(provider.peer_id, (b"\x04\x01\x02\x03\x04\x06\x0f\xa1",))
        value = b"/ipns/" + KEY
        async with DHTManager(net.host(1)) as node:
            responder, clock = node._node.main.server.responder, node._node.shared.clock

            def respond(request):
                return responder.respond(provider.peer_id, request, clock.now())

            respond(AddProvider(KEY, (entry,)))
            assert [entry.peer_id] == [
                each.peer_id for each in respond(GetProviders(KEY)).provider_peers
            ]
            await node.deny(CID)

            answer = respond(GetProviders(KEY))
            assert ((), KEY) == (answer.provider_peers, answer.key)  # and the way to others
            assert Refuse("denied key") == respond(AddProvider(KEY, (entry,)))
            assert Refuse("denied key") == respond(PutValue(value, Record(value, b"x")))
            assert respond(GetValue(value)).record is None
            assert not isinstance(respond(FindNode(provider.peer_id.to_bytes())), Refuse)
            for call in (
                node.provide(CID),
                node.provide_once(CID),
                node.find_providers(CID),
                node.get_value(value),
                node.put_value(value, b"x"),
            ):
                with pytest.raises(DeniedError):
                    await call
            assert [] == list(await node.own_keys())

            await node.stop_denying(CID)
            assert 1 == len(respond(GetProviders(KEY)).provider_peers)


async def test_a_denied_peer_leaves_the_table_and_no_lookup_asks_it(autojump_clock) -> None:
    async with memory_net(0.01) as net, open_nodes(net, 4) as nodes:
        await settle(nodes, 3)
        node, denied = nodes[0], nodes[1].peer_id
        assert denied in node.routing_table_peers()
        await node.deny(f"/p2p/{denied}")
        assert denied not in node.routing_table_peers()
        assert [denied] == host_of(node).denied
        await host_of(node).disconnect(denied)
        dialled = host_of(node).dials[denied]
        found = await node.find_closest_peers(KEY)
        assert denied not in [each.peer_id for each in found]
        assert dialled == host_of(node).dials[denied]


async def test_denied_peers_and_networks_are_not_connected_to_in_either_direction() -> None:
    async with made_host() as denied, made_host() as host, made_host() as other:
        await denied.connect(host.peer_id, list(host.addrs), soon())
        await other.connect(host.peer_id, list(host.addrs), soon())
        host.set_denied([denied.peer_id])
        with trio.fail_after(10):
            while host.is_connected(denied.peer_id) or not host.is_connected(other.peer_id):
                await trio.sleep(0.01)
        with pytest.raises(Exception, match="denied"):
            await host.connect(denied.peer_id, list(denied.addrs), soon())
        host.set_denied(["127.0.0.0/8"])
        with trio.fail_after(10):
            while host.connections():
                await trio.sleep(0.01)
        with pytest.raises(Exception, match="denied"):
            await host.connect(other.peer_id, list(other.addrs), soon())
        host.set_denied([])
        await host.connect(other.peer_id, list(other.addrs), soon())


async def test_a_list_that_changes_is_read_again(autojump_clock, tmp_path: Path) -> None:
    path = tmp_path / "badbits.deny"
    path.write_text(f"version: 1\n---\n/ipfs/{CID}\n")
    async with (
        memory_net() as net,
        DHTManager(net.host(1), deny=[path, "192.0.2.0/24"]) as node,
    ):
        assert (1, 1) == (node.deny_counts().keys, node.deny_counts().networks)
        assert [True, False] == [node.is_denied(each) for each in (CID, OTHER)]
        path.write_text(f"/ipfs/{OTHER}\n")
        await trio.sleep(2 * RELOAD_INTERVAL_S)
        assert [False, True] == [node.is_denied(each) for each in (CID, OTHER)]
        assert node.is_denied("192.0.2.77")
        path.write_text("version: 9\n---\n")  # what cannot be read changes nothing
        await trio.sleep(2 * RELOAD_INTERVAL_S)
        assert node.is_denied(OTHER)
        path.unlink()
        await trio.sleep(2 * RELOAD_INTERVAL_S)
        assert node.is_denied(OTHER)
        with pytest.raises(UsageError, match="cannot read the deny list"):
            await node.reload_deny_lists()


async def test_a_rule_given_while_the_node_runs_outlives_it(autojump_clock, tmp_path: Path) -> None:
    async with memory_net() as net:
        async with DHTManager(net.host(1), data_dir=tmp_path) as node:
            assert [True, False] == [await node.deny(rule) for rule in (CID, f"/ipfs/{CID}")]
            assert await node.deny("198.51.100.0/24")
            assert await node.stop_denying("198.51.100.0/24")
            assert not await node.stop_denying("198.51.100.0/24")
            with pytest.raises(UsageError, match="is none"):
                await node.deny("nonsense")
        assert 0o600 == (tmp_path / OWN_LIST).stat().st_mode & 0o777
        async with DHTManager(net.host(1), data_dir=tmp_path) as node:
            assert [f"/ipfs/{CID}"] == node.deny_rules()
            assert node.is_denied(CID)
        (tmp_path / OWN_LIST).unlink()
        (tmp_path / OWN_LIST).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match="symbolic link"):
            async with DHTManager(net.host(1), data_dir=tmp_path):
                pass


async def test_a_list_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        net = MemoryNet(nursery)
        with pytest.raises(UsageError, match=f"cannot read the deny list {tmp_path / 'none'}"):
            async with DHTManager(net.host(1), deny=[tmp_path / "none"]):
                pass
        for wrong in (["nonsense"], [7], "list"):
            with pytest.raises(UsageError):
                DHTManager(net.host(1), deny=wrong)  # type: ignore[arg-type]


async def test_a_rule_that_cannot_be_applied_is_not_saved_either(tmp_path: Path) -> None:
    file, data = tmp_path / "bad.deny", tmp_path / "data"
    file.write_text(f"/ipfs/{OTHER}\n")
    async with memory_net() as net, DHTManager(net.host(1), data_dir=data, deny=[file]) as node:
        file.unlink()
        with pytest.raises(UsageError, match="cannot read the deny list"):
            await node.deny(CID)
        assert not node.is_denied(CID)
        assert [] == node.deny_rules()
        assert not (data / OWN_LIST).exists()
        file.write_text("")
        assert await node.deny(CID)
        assert node.is_denied(CID)
