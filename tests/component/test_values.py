"""Values over the memory network: put, found, and corrected where they are outdated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.crypto.ipns import create_ipns_record, ipns_key
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.public_key_records import public_key_key
from codio_dht.errors import NoPeersError, NotRunningError, UsageError
from codio_dht.formats.text import format_name
from nodes import EPOCH, memory_net, open_nodes, settle, until
from value_fakes import ApplicationValidator

OWN_NETWORK = DHTConfig(protocol="/myapp/kad/1.0.0", validators={"v": ApplicationValidator()})
KEY = b"/v/\xffgreeting"
NAME = PrivateKey.from_ed25519_seed(b"n" * 32)
NAME_KEY = ipns_key(NAME.peer_id())


def record_of(sequence: int) -> bytes:
    path = f"/ipfs/bafkqaddwgevxmmraojswg33smq/{sequence}"
    now = UnixTime(EPOCH + trio.current_time())
    return create_ipns_record(NAME, path, sequence=sequence, now=now).encoded


@asynccontextmanager
async def network(count: int, config: DHTConfig | None = None) -> AsyncIterator[list[DHTManager]]:
    async with memory_net(0.02) as net, open_nodes(net, count, config=config) as nodes:
        await settle(nodes, min(count - 1, 20))
        yield nodes


async def hold(node: DHTManager, key: bytes, value: bytes) -> None:
    """As if somebody had put it there."""
    values = node._node.shared.storage.values
    assert values is not None
    assert isinstance(await values.put(Record(key, value)), Record)


def holds(node: DHTManager, key: bytes, value: bytes) -> bool:
    held = node._node.shared.values.get(key, UnixTime(EPOCH + trio.current_time()))
    return isinstance(held, Record) and held.value == value


async def test_a_value_is_put_to_the_closest_and_found_by_another(autojump_clock) -> None:
    async with network(25, OWN_NETWORK) as nodes:
        put = await nodes[3].put_value(KEY, b"1:hello", quorum=20)
        assert (put.key, put.holders, put.pending) == (KEY, 20, 0)
        assert sum(holds(node, KEY, b"1:hello") for node in nodes) in (20, 21)
        assert await nodes[11].get_value(KEY) == b"1:hello"
        assert await nodes[11].get_value("/v/nothing") is None
        assert all(node.stats().failures == {} for node in nodes)


async def test_a_put_returns_at_its_quorum_and_goes_on(autojump_clock) -> None:
    async with network(25, OWN_NETWORK) as nodes:
        await nodes[3].find_closest_peers(KEY)
        put = await nodes[3].put_value(KEY, b"1:", quorum=3)
        assert 3 <= put.holders
        await until(lambda: sum(holds(node, KEY, b"1:") for node in nodes) >= 20)


async def test_an_ipns_record_and_a_public_key_are_found_by_their_text(autojump_clock) -> None:
    async with network(4) as nodes:
        record = record_of(1)
        await nodes[1].put_value(NAME_KEY, record)
        name = format_name(NAME.peer_id().to_bytes())
        assert await nodes[2].get_value(f"/ipns/{name}") == record
        assert await nodes[2].get_value(f"/ipns/{NAME.peer_id()}") == record
        key = NAME.public_key().to_protobuf()
        await nodes[1].put_value(public_key_key(NAME.peer_id()), key)
        assert await nodes[3].get_value(f"/pk/{NAME.peer_id()}") == key


@pytest.mark.conformance("c42")
async def test_better_values_stream_out_as_they_come(autojump_clock) -> None:
    async with network(12, OWN_NETWORK) as nodes:
        for n, node in enumerate(nodes[1:]):
            await hold(node, KEY, b"%d:" % (n % 4))
        found = [value async for value in nodes[0].search_value(KEY)]
        assert found == sorted(set(found))
        assert found[-1] == b"3:"


@pytest.mark.conformance("c41")
async def test_outdated_holders_are_corrected_at_the_end(autojump_clock) -> None:
    async with network(10, OWN_NETWORK) as nodes:
        await hold(nodes[2], KEY, b"1:old")
        await hold(nodes[3], KEY, b"1:old")
        await hold(nodes[7], KEY, b"2:new")
        assert await nodes[0].get_value(KEY, quorum=0) == b"2:new"
        await until(lambda: all(holds(node, KEY, b"2:new") for node in nodes))
        await until(lambda: nodes[0]._node.values.counters["corrected"] == 8)


@pytest.mark.conformance("c41")
async def test_a_quorum_that_is_passed_corrects_nobody(autojump_clock) -> None:
    async with network(10, OWN_NETWORK) as nodes:
        for node in nodes[1:8]:
            await hold(node, KEY, b"1:")
        assert await nodes[0].get_value(KEY, quorum=2) == b"1:"
        await trio.sleep(30)
        assert not holds(nodes[9], KEY, b"1:")
        assert nodes[0]._node.values.counters == {}


@pytest.mark.conformance("c28", "c42")
async def test_hostile_values_are_neither_returned_nor_held(autojump_clock) -> None:
    """Peers that hold what no validator takes, as only a broken or hostile one does."""
    async with network(12) as nodes:
        right = record_of(5)
        other = create_ipns_record(
            PrivateKey.from_ed25519_seed(b"o" * 32), "/ipfs/x", sequence=9, now=UnixTime(EPOCH)
        )
        hostile = [other.encoded, right[:-1], b"", bytes(10 * 1024 + 1), bytes(1 << 20)]
        for node, value in zip(nodes[1:6], hostile, strict=True):
            records = node._node.shared.values
            records._take(_row(NAME_KEY, value))
        await hold(nodes[7], NAME_KEY, right)
        found = [value async for value in nodes[0].search_value(NAME_KEY)]
        assert found == [right]
        assert holds(nodes[0], NAME_KEY, right)
        await until(lambda: all(holds(node, NAME_KEY, right) for node in nodes[1:]))


def _row(key: bytes, value: bytes):
    from codio_dht.core.value_records import ValueRow

    return ValueRow(key, value, UnixTime(EPOCH + trio.current_time()))


async def test_an_applications_slow_validator_does_not_slow_a_search_for_others(
    autojump_clock,
) -> None:
    class Picky(ApplicationValidator):
        def validate(self, key: bytes, value: bytes) -> None:
            if value == b"9:broken":
                raise RuntimeError("broken")
            super().validate(key, value)

    config = DHTConfig(protocol="/myapp/kad/1.0.0", validators={"v": Picky()})
    async with network(6, config) as nodes:
        for node in nodes[1:4]:
            node._node.shared.values._take(_row(KEY, b"9:broken"))
        await hold(nodes[5], KEY, b"1:")
        assert await nodes[0].get_value(KEY, quorum=0) == b"1:"
        assert nodes[0].stats().storage["validator:v"] >= 1
        assert nodes[0].stats().failures == {}


async def test_leaving_the_loop_ends_the_search(autojump_clock) -> None:
    async with network(8, OWN_NETWORK) as nodes:
        for node in nodes[1:]:
            await hold(node, KEY, b"1:")
        async with aclosing(nodes[0].search_value(KEY)) as values:
            async for value in values:
                assert value == b"1:"
                break
        await trio.sleep(30)
        assert nodes[0].stats().pending_queries == 0
        assert nodes[0]._node.values.counters == {}


async def test_a_node_alone_tells_what_it_holds_and_says_that_there_is_nobody_else(
    autojump_clock,
) -> None:
    async with memory_net() as net, DHTManager(net.host(0), OWN_NETWORK) as node:
        with pytest.raises(NoPeersError):
            await node.get_value(KEY)
        with pytest.raises(NoPeersError):
            await node.put_value(KEY, b"1:")
        assert await node.get_value(KEY) == b"1:"
        assert [value async for value in node.search_value(KEY)] == [b"1:"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (b"/w/key", b"1:", "namespace"),
        ("no slash", b"1:", "namespace/rest"),
        (b"/v/" + bytes(2_000), b"1:", "1024 bytes"),
        (b"/v/key", b"no version", "invalid value"),
        (b"/v/key", bytes(70_000), "65536 bytes"),
        ("/ipns/example.com", b"1:", "domain"),
        ("/pk/nonsense", b"1:", "peer id"),
        (7, b"1:", "key"),
        (b"/v/key", "text", "value"),
    ],
)
async def test_a_wrong_argument_is_named(autojump_clock, key, value, said: str) -> None:
    async with network(2, OWN_NETWORK) as nodes:
        with pytest.raises(UsageError, match=said):
            await nodes[0].put_value(key, value)
        wrong: list[Any] = [-1, True, "1"]
        for quorum in wrong:
            with pytest.raises(UsageError, match="quorum"):
                await nodes[0].get_value(KEY, quorum=quorum)


async def test_a_worse_value_than_the_one_held_here_is_not_put(autojump_clock) -> None:
    async with network(3, OWN_NETWORK) as nodes:
        await nodes[0].put_value(KEY, b"2:")
        with pytest.raises(UsageError, match="older"):
            await nodes[0].put_value(KEY, b"1:")


async def test_values_need_a_node_that_is_open(autojump_clock) -> None:
    async with memory_net() as net:
        node = DHTManager(net.host(0), OWN_NETWORK)
        with pytest.raises(NotRunningError):
            await node.get_value(KEY)
        with pytest.raises(NotRunningError):
            await node.put_value(KEY, b"1:")
