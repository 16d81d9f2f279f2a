"""IPNS names over the memory network: published, resolved, renewed, and kept over restarts."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import new_host

from codio_dht import DHTManager
from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.crypto.ipns import create_ipns_record, ipns_key, parse_ipns_record
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import NoPeersError, UsageError
from codio_dht.formats.text import format_name
from codio_dht.node.clock import Clock
from codio_dht.node.names import Names
from codio_dht.store.identity import create_identity
from codio_dht.store.name_keys import NameKeys
from memory_host import MemoryHost, MemoryNet
from nodes import EPOCH, full_addr, memory_net, open_nodes, settle, until

ONE = "/ipfs/bafkqaddwgevxmmraojswg33smq"
TWO = "/ipfs/bafkqahtwgevxmmrao5uxi2bamjzg623fnyqhg2lhnzqxi5lsmuqhmmi"


def now() -> UnixTime:
    return UnixTime(EPOCH + trio.current_time())


def publisher(net: MemoryNet, data_dir: Path | None, host: MemoryHost | None = None) -> DHTManager:
    bootstrap = [full_addr(next(iter(net.hosts.values())))] if net.hosts else []
    host = host or net.host(500)
    return DHTManager(host, data_dir=data_dir, bootstrap=bootstrap, clock=Clock(now))


@asynccontextmanager
async def others(count: int = 6) -> AsyncIterator[tuple[MemoryNet, list[DHTManager]]]:
    async with memory_net(0.02) as net, open_nodes(net, count) as nodes:
        await settle(nodes, count - 1)
        yield net, nodes


async def test_a_name_is_published_and_resolved_by_another(autojump_clock, tmp_path) -> None:
    async with others() as (net, nodes), publisher(net, tmp_path) as node:
        await settle([node], 5)
        name = await node.generate_name_key("blog")
        published = await node.publish_name(ONE, key="blog")
        assert published.name == format_name(name.to_bytes())
        assert (published.record.sequence, published.put.holders) == (0, 6)
        for text in (published.name, f"/ipns/{name}", f"https://{published.name}.ipns.dweb.link/"):
            found = await nodes[2].resolve_name(text)
            assert found is not None
            assert (found.path, found.record.value) == (ONE, ONE.encode())
        deeper = await nodes[2].resolve_name(f"/ipns/{name}/a/b")
        assert deeper is not None
        assert deeper.path == f"{ONE}/a/b"
        assert await nodes[2].resolve_name(PrivateKey.generate_ed25519().peer_id()) is None


async def test_the_sequence_grows_with_each_new_path_and_only_then(autojump_clock) -> None:
    async with others() as (net, nodes), publisher(net, None) as node:
        await settle([node], 5)
        await node.generate_name_key("blog")
        sequences = []
        for path in (ONE, ONE, TWO, ONE):
            await trio.sleep(1)
            published = await node.publish_name(path, key="blog")
            sequences.append(published.record.sequence)
            found = await nodes[1].resolve_name(published.name)
            assert found is not None
            assert (found.path, found.record.eol_ns) == (path, published.record.eol_ns)
        assert sequences == [0, 0, 1, 2]


async def test_a_key_that_published_elsewhere_goes_on_from_the_networks_sequence(
    autojump_clock, tmp_path
) -> None:
    async with others() as (net, nodes):
        key = PrivateKey.generate_ed25519()
        create_identity(tmp_path / "names" / "old.key", key)
        record = create_ipns_record(key, ONE, sequence=41, now=now())
        await nodes[1].put_value(ipns_key(key.peer_id()), record.encoded)
        async with publisher(net, tmp_path) as node:
            await settle([node], 5)
            assert (await node.publish_name(TWO, key="old")).record.sequence == 42


async def test_a_restored_data_directory_goes_on_from_the_networks_sequence(
    autojump_clock, tmp_path
) -> None:
    async with others() as (net, nodes):
        host = net.host(500)
        async with publisher(net, tmp_path / "node", host) as node:
            await settle([node], 5)
            await node.generate_name_key("blog")
            await node.publish_name(ONE, key="blog")
        shutil.copytree(tmp_path / "node", tmp_path / "backup")
        async with publisher(net, tmp_path / "node", host) as node:
            await settle([node], 5)
            for path in (TWO, ONE):
                published = await node.publish_name(path, key="blog")
            assert published.record.sequence == 2
        async with publisher(net, tmp_path / "backup", host) as node:
            await settle([node], 5)
            published = await node.publish_name(TWO, key="blog")
            assert (published.record.sequence, published.put.holders) == (3, 6)
            found = await nodes[2].resolve_name(published.name)
            assert found is not None
            assert found.path == TWO


async def test_publications_of_different_names_do_not_wait_for_each_other(autojump_clock) -> None:
    async with others() as (net, _), publisher(net, None) as node:
        await settle([node], 5)
        for label in ("a", "b", "c", "d"):
            await node.generate_name_key(label)

        async def publish(label: str) -> None:
            await node.publish_name(ONE, key=label)

        began = trio.current_time()
        await publish("a")
        alone = trio.current_time() - began
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for label in ("b", "c", "d"):
                nursery.start_soon(publish, label)
        assert trio.current_time() - began < 2 * alone


async def test_names_of_names_are_followed(autojump_clock) -> None:
    async with others() as (net, nodes), publisher(net, None) as node:
        await settle([node], 5)
        for label in ("a", "b", "c"):
            await node.generate_name_key(label)
        end = await node.publish_name(ONE, key="c")
        middle = await node.publish_name(f"/ipns/{end.name}/x", key="b")
        first = await node.publish_name(f"/ipns/{middle.name}/y", key="a")
        found = await nodes[3].resolve_name(first.name)
        assert found is not None
        assert found.path == f"{ONE}/x/y"
        near = await nodes[3].resolve_name(first.name, recursive=False)
        assert near is not None
        assert near.path == f"/ipns/{middle.name}/y"
        loop = await node.publish_name(f"/ipns/{first.name}", key="c")
        with pytest.raises(UsageError, match="lead to each other"):
            await nodes[3].resolve_name(loop.name)


async def test_a_name_is_renewed_before_its_end_with_the_same_sequence(
    autojump_clock, tmp_path
) -> None:
    async with others() as (net, nodes), publisher(net, tmp_path) as node:
        await settle([node], 5)
        await node.generate_name_key("blog")
        published = await node.publish_name(ONE, key="blog", lifetime=600.0)
        ends = [published.record.eol]
        for _ in range(4):
            await trio.sleep(300)
            found = await nodes[2].resolve_name(published.name)
            assert found is not None
            assert (found.path, found.record.sequence) == (ONE, 0)
            ends.append(found.record.eol)
        assert ends[-1] > ends[0] + 600
        assert await node.unpublish_name("blog")
        assert not await node.unpublish_name("blog")
        await trio.sleep(700)
        assert await nodes[2].resolve_name(published.name) is None


async def test_own_names_and_values_are_published_again_after_a_restart(
    autojump_clock, tmp_path
) -> None:
    async with others(4) as (net, nodes):
        host = net.host(500)
        async with publisher(net, tmp_path, host) as node:
            await settle([node], 3)
            name = await node.generate_name_key("blog")
            published = await node.publish_name(ONE, key="blog", lifetime=3600.0)
            pk = PrivateKey.generate_ed25519().public_key()
            await node.put_value(f"/pk/{pk.peer_id()}", pk.to_protobuf(), keep=True)
        for each in nodes:  # they lose all
            each._node.shared.values.expire(UnixTime(EPOCH + 1e9))
        await trio.sleep(1800)
        async with publisher(net, tmp_path, host) as node:
            await settle([node], 3)
            assert len(node._node.republishing) == 2

            async def resolved() -> bool:
                found = await nodes[2].resolve_name(name)
                return found is not None and found.record.eol > published.record.eol

            with trio.fail_after(600):
                while not await resolved():
                    await trio.sleep(1)
            assert (await node.publish_name(TWO, key="blog")).record.sequence == 1
            assert await node.stop_republishing(f"/pk/{pk.peer_id()}")


async def test_what_could_not_be_published_is_published_when_there_is_somebody(
    autojump_clock, tmp_path
) -> None:
    async with memory_net(0.02) as net, publisher(net, tmp_path) as node:
        name = await node.generate_name_key("blog")
        with pytest.raises(NoPeersError):
            await node.publish_name(ONE, key="blog")
        async with open_nodes(net, 3) as nodes:
            await settle(nodes, 3)
            held = nodes[2]._node.shared.values
            await until(lambda: isinstance(held.get(ipns_key(name), now()), Record))


async def test_the_record_is_on_disk_before_anybody_is_told(autojump_clock, tmp_path) -> None:
    """Killed in the middle of a publish, the sequence number does not go back."""
    async with others(3) as (net, _), publisher(net, tmp_path) as node:
        await settle([node], 2)
        name = await node.generate_name_key("blog")
        await node.publish_name(ONE, key="blog")
        store = node._node.shared.storage.store
        told: list[int] = []
        rpc = node._node.main.rpc
        give = rpc.give

        async def noting(peer, request, deadline):
            own = store.own_values.get(ipns_key(name))
            assert own is not None
            told.append(parse_ipns_record(own.value).sequence)
            return await give(peer, request, deadline)

        rpc.give = noting
        await node.publish_name(TWO, key="blog")
        assert told
        assert set(told) == {1}


async def test_keys_are_listed_and_removed_with_their_publication(autojump_clock, tmp_path) -> None:
    async with others(3) as (net, _), publisher(net, tmp_path) as node:
        await settle([node], 2)
        name = await node.generate_name_key("blog")
        assert await node.name_keys() == {"blog": name}
        await node.publish_name(ONE, key="blog")
        assert await node.remove_name_key("blog")
        assert not await node.remove_name_key("blog")
        assert await node.name_keys() == {}
        assert len(node._node.republishing) == 0
        with pytest.raises(UsageError, match="no key called 'blog'"):
            await node.publish_name(ONE, key="blog")


async def test_a_node_with_its_own_identity_publishes_under_its_peer_id(tmp_path) -> None:
    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with DHTManager.open(data_dir=tmp_path, listen=listen) as node:
        assert await node.name_keys() == {"self": node.peer_id}
        with pytest.raises(NoPeersError):
            await node.publish_name(ONE)
        found = await node.resolve_name(node.peer_id)
        assert found is not None
        assert found.path == ONE
    assert NameKeys(tmp_path).all() == {}


@pytest.mark.parametrize("stack", ["own", "py-libp2p"])
async def test_without_a_directory_too_a_node_publishes_under_its_peer_id(stack) -> None:
    async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"], stack=stack) as node:
        assert await node.name_keys() == {"self": node.peer_id}
        with pytest.raises(NoPeersError):
            await node.publish_name(ONE)
        found = await node.resolve_name(node.peer_id)
        assert found is not None
        assert found.path == ONE


async def test_on_a_host_that_a_program_brought_names_are_of_the_hosts_identity() -> None:
    ihost = new_host()
    async with ihost.run(listen_addrs=[]), DHTManager(ihost) as node:
        assert str(ihost.get_id()) == str((await node.name_keys())["self"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "ipfs/x"}, "path"),
        ({"path": 7}, "path"),
        ({"key": "../x"}, "key"),
        ({"key": "absent"}, "absent"),
        ({"lifetime": 0}, "lifetime"),
        ({"ttl": -1}, "ttl"),
        ({"quorum": 99}, "quorum"),
    ],
)
async def test_a_wrong_argument_is_named(autojump_clock, arguments, said: str) -> None:
    async with memory_net() as net, publisher(net, None) as node:
        await node.generate_name_key("blog")
        whole = {"path": ONE, "key": "blog"} | arguments
        with pytest.raises(UsageError, match=said):
            await node.publish_name(whole.pop("path"), **whole)
        with pytest.raises(UsageError, match="domain"):
            await node.resolve_name("/ipns/docs.ipfs.tech")


async def test_a_key_that_is_removed_leaves_one_turn_to_those_who_wait_for_it() -> None:
    class NothingKept:
        async def stop(self, _key: bytes) -> bool:
            return False

    async def call(function):
        return function()

    unused: Any = None
    kept: Any = NothingKept()
    names = Names(unused, kept, NameKeys(None), call, Clock())
    await names.generate("blog")
    turn, end = names._turns["blog"], trio.Event()

    async def publish() -> None:
        async with turn:
            await end.wait()

    async with trio.open_nursery() as nursery:
        async with turn:
            nursery.start_soon(names.remove, "blog")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(publish)
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert names._turns["blog"] is turn
        end.set()
