"""What a node answers to PUT_VALUE and GET_VALUE, over the memory network."""

from __future__ import annotations

import threading

import pytest
import trio

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import GetValue, PutValue, Record, Reply
from codio_dht.crypto.ipns import create_ipns_record, ipns_key
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.public_key_records import public_key_key
from codio_dht.errors import StreamError
from codio_dht.node.clock import Clock
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from nodes import EPOCH, host_of, memory_net, open_nodes, settle, soon, until
from value_fakes import ApplicationValidator

PROTOCOL = "/myapp/kad/1.0.0"
NAME = PrivateKey.from_ed25519_seed(b"n" * 32)
IPNS_KEY = ipns_key(NAME.peer_id())
PATH = "/ipfs/bafkqaddwgevxmmraojswg33smq"


def record_of(sequence: int, path: str = PATH, **more) -> bytes:
    made = create_ipns_record(
        NAME, path, sequence=sequence, now=UnixTime(EPOCH + trio.current_time()), **more
    )
    return made.encoded


async def ask(host, node: DHTManager, *requests, protocol: str | None = None) -> list[Reply]:
    """The answers to ``requests`` on one stream; StreamError if it was reset."""
    protocol = protocol or node._node.main.network.protocol
    stream = await host.open_stream(node.peer_id, protocol, soon())
    await stream.write(b"".join(encode_request(request) for request in requests))
    reader = FrameReader()
    replies: list[Reply] = []
    while len(replies) < len(requests):
        data = await stream.read(1 << 16)
        if not data:
            break
        reader.feed(data)
        while (payload := reader.next_frame()) is not None:
            replies.append(decode_reply(payload))
    await stream.close()
    return replies


def put(key: bytes, value: bytes, record_key: bytes | None = None) -> PutValue:
    return PutValue(key, Record(record_key or key, value, "1970-01-01T00:00:00Z"))


async def is_refused(host, node, request) -> bool:
    try:
        await ask(host, node, request)
    except StreamError:
        return True
    return False


@pytest.mark.conformance("c09", "c26", "c27")
async def test_a_value_is_put_echoed_and_told_with_closer_peers(autojump_clock) -> None:
    async with memory_net() as net, open_nodes(net, 3) as nodes:
        await settle(nodes, 2)
        host, record = host_of(nodes[1]), record_of(1)
        [missing] = await ask(host, nodes[0], GetValue(IPNS_KEY))
        assert missing.record is None
        assert [entry.peer_id for entry in missing.closer_peers] == [nodes[2].peer_id]
        [echo] = await ask(host, nodes[0], put(IPNS_KEY, record))
        assert echo.record is not None
        assert (echo.key, echo.record.key, echo.record.value) == (IPNS_KEY, IPNS_KEY, record)
        assert (echo.closer_peers, echo.provider_peers) == ((), ())
        assert echo.record.time_received.startswith("2023-11-14T22:1")
        [told] = await ask(host, nodes[0], GetValue(IPNS_KEY))
        assert told.record == echo.record
        assert [entry.peer_id for entry in told.closer_peers] == [nodes[2].peer_id]


@pytest.mark.conformance("c23")
async def test_what_is_not_valid_resets_the_stream_and_is_not_held(autojump_clock) -> None:
    async with memory_net() as net, open_nodes(net, 2) as nodes:
        await settle(nodes, 1)
        host, other = host_of(nodes[1]), PrivateKey.from_ed25519_seed(b"o" * 32)
        record = record_of(1)
        wrong = [
            PutValue(IPNS_KEY, None),
            put(IPNS_KEY, record, record_key=b"/ipns/other"),
            put(b"/v/key", b"any"),
            put(b"no slash", b"any"),
            put(IPNS_KEY, record[:-1]),
            put(ipns_key(other.peer_id()), record),
            put(IPNS_KEY, record_of(9, lifetime_s=-1)),
            put(IPNS_KEY, bytes(10 * 1024 + 1)),
            put(IPNS_KEY, bytes(3 << 20)),
            put(public_key_key(other.peer_id()), NAME.public_key().to_protobuf()),
        ]
        for request in wrong:
            assert await is_refused(host, nodes[0], request), request
            [answer] = await ask(host, nodes[0], GetValue(request.key))
            assert answer.record is None
        assert nodes[0]._node.shared.values.stats().records == 0
        assert nodes[0].stats().failures == {}


async def test_a_public_key_is_held_under_its_peer_id(autojump_clock) -> None:
    async with memory_net() as net, open_nodes(net, 2) as nodes:
        await settle(nodes, 1)
        key, value = public_key_key(NAME.peer_id()), NAME.public_key().to_protobuf()
        [_, told] = await ask(host_of(nodes[1]), nodes[0], put(key, value), GetValue(key))
        assert told.record is not None
        assert told.record.value == value


@pytest.mark.conformance("c24", "c25")
async def test_of_concurrent_puts_the_best_wins_always(autojump_clock) -> None:
    async with memory_net(0.01) as net, open_nodes(net, 4) as nodes:
        await settle(nodes, 3)
        records = [record_of(sequence) for sequence in range(30)]
        order = [(7 * n) % 30 for n in range(30)]

        async def put_one(n: int) -> None:
            try:
                await ask(host_of(nodes[1 + n % 3]), nodes[0], put(IPNS_KEY, records[n]))
            except StreamError:
                assert n < 29  # a worse one, after a better one

        async with trio.open_nursery() as nursery:
            for n in order:
                nursery.start_soon(put_one, n)
        [told] = await ask(host_of(nodes[1]), nodes[0], GetValue(IPNS_KEY))
        assert told.record is not None
        assert told.record.value == records[29]
        assert await is_refused(host_of(nodes[1]), nodes[0], put(IPNS_KEY, records[28]))
        assert not await is_refused(host_of(nodes[1]), nodes[0], put(IPNS_KEY, records[29]))


@pytest.mark.conformance("c26")
async def test_a_value_is_told_for_two_days_over_a_restart(autojump_clock, tmp_path) -> None:
    async with memory_net() as net:
        stranger, served = net.host(1), net.host(0)
        skipped_s = 0.0

        async def asked(node: DHTManager, *requests) -> list[Reply]:
            await stranger.connect(node.peer_id, node.addrs, soon())
            return await ask(stranger, node, *requests)

        def node() -> DHTManager:
            clock = Clock(lambda: UnixTime(EPOCH + trio.current_time() + skipped_s))
            return DHTManager(served, data_dir=tmp_path, mode="server", clock=clock)

        record = record_of(1, lifetime_s=1e6)
        async with node() as first:
            [echo] = await asked(first, put(IPNS_KEY, record))
        async with node() as again:
            [told] = await asked(again, GetValue(IPNS_KEY))
            assert told.record == echo.record
            skipped_s = 48 * 3600 - 60
            [late] = await asked(again, GetValue(IPNS_KEY))
            assert late.record == echo.record
            skipped_s += 120
            [gone] = await asked(again, GetValue(IPNS_KEY))
            assert gone.record is None
            await until(lambda: again._node.shared.values.stats().records == 0)
            await trio.sleep(5)
        async with node() as last:
            assert last._node.shared.values.stats().records == 0


# --- applications ---------------------------------------------------------------------------------


def own_network(**validators) -> DHTConfig:
    return DHTConfig(protocol=PROTOCOL, validators=validators)


@pytest.mark.conformance("c25")
async def test_an_applications_values_are_judged_by_its_validator(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A virtual clock does not wait for the threads on which validators judge.
    monkeypatch.setattr("codio_dht.node.validating.VALIDATOR_TIMEOUT_S", float("inf"))
    config = own_network(v=ApplicationValidator())
    async with memory_net() as net, open_nodes(net, 2, config=config) as nodes:
        await settle(nodes, 1)
        host, node = host_of(nodes[1]), nodes[0]
        [echo] = await ask(host, node, put(b"/v/\xff", b"2:b"))
        assert echo.record is not None
        assert await is_refused(host, node, put(b"/v/\xff", b"1:a"))
        assert await is_refused(host, node, put(b"/v/\xff", b"no version"))
        [told] = await ask(host, node, GetValue(b"/v/\xff"))
        assert told.record == echo.record
        assert not await is_refused(host, node, put(IPNS_KEY, record_of(1)))


async def test_validators_that_raise_or_hang_harm_nobody_else() -> None:
    release = threading.Event()

    class Raising(ApplicationValidator):
        def validate(self, key, value) -> None:
            raise RuntimeError("broken")

    class Hanging(ApplicationValidator):
        def validate(self, key, value) -> None:
            release.wait(20)

    config = own_network(raises=Raising(), hangs=Hanging(), v=ApplicationValidator())
    try:
        async with memory_net() as net, open_nodes(net, 2, config=config) as nodes:
            await settle(nodes, 1)
            host, node = host_of(nodes[1]), nodes[0]
            assert await is_refused(host, node, put(b"/raises/x", b"1:"))
            refused = []

            async def put_what_hangs() -> None:
                refused.append(await is_refused(host, node, put(b"/hangs/x", b"1:")))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(put_what_hangs)
                await trio.sleep(0.1)
                began = trio.current_time()
                for n in range(50):
                    assert not await is_refused(host, node, put(b"/v/%d" % n, b"1:"))
                assert trio.current_time() - began < 1.5
                assert refused == []
                with trio.fail_after(10):
                    while not refused:
                        await trio.sleep(0.05)
            assert refused == [True]
            counters = node.stats().storage
            assert counters["validator:raises"] == 1
            assert counters["validator:hangs"] == 1
            assert node.stats().failures == {}
    finally:
        release.set()
