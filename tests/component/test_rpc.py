"""The RPC client over the memory network: when a stream is used again, when a request is tried
again, and how long a peer's word on a record is waited for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.clock import Monotonic
from codio_dht.core.delivery import Receipt
from codio_dht.core.messages import AddProvider, FindNode
from codio_dht.errors import DeadlineError, DialError
from codio_dht.node.rpc import RpcClient
from codio_dht.node.stream_pool import MAX_REUSE_FAILURES
from codio_dht.params import KAD_PROTOCOL, REPLY_BUDGET_BYTES
from hostile_host import HostileHost, Script, answering, closer, hostile, request_of
from memory_host import MemoryHost, MemoryStream
from nodes import memory_net

LATENCY_S = 0.05
REQUEST = FindNode(b"key")
RECORD = AddProvider(b"\x12\x20" + bytes(32), ())
REQUEST_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 5.0


@asynccontextmanager
async def client_of(script: Script) -> AsyncGenerator[tuple[RpcClient, MemoryHost, HostileHost]]:
    """A client, its host, and a peer that does what ``script`` says."""
    async with memory_net(LATENCY_S) as net:
        host, peer = net.host(1), hostile(net, 100, script)
        rpc = RpcClient(
            host,
            KAD_PROTOCOL,
            lambda _: peer.addrs,
            lambda: KEEP_ALL,
            dial_timeout_s=DIAL_TIMEOUT_S,
            request_timeout_s=REQUEST_TIMEOUT_S,
        )
        yield rpc, host, peer


def within(seconds: float) -> Monotonic:
    return Monotonic(trio.current_time() + seconds)


async def mute(stream: MemoryStream) -> None:
    await trio.sleep_forever()


async def elapsed_s(work) -> float:
    began = trio.current_time()
    await work
    return trio.current_time() - began


# --- streams --------------------------------------------------------------------------------------


async def test_a_stream_on_which_more_came_than_the_answer_is_not_used_again(autojump_clock):
    """What is left of it would be read as the answer to the next request."""
    script = answering(lambda request: closer(request, []) + b"\x01")
    async with client_of(script) as (rpc, host, peer):
        for _ in range(2):
            await rpc.request(peer.peer_id, REQUEST, within(5))
        assert host.opened[peer.peer_id] == 2
        assert host.open_streams == 0


async def test_a_peer_that_ends_its_streams_early_gets_new_ones_after_a_few_failures(
    autojump_clock,
):
    """As py-libp2p does, which answers one request a stream and then resets it."""

    async def answers_once(stream: MemoryStream) -> None:
        request = await request_of(stream)
        assert request is not None
        stream.answer(closer(request, []))
        if await request_of(stream) is not None:
            stream.abort()

    async with client_of(answers_once) as (rpc, host, peer):
        for _ in range(2 * MAX_REUSE_FAILURES + 2):
            await rpc.request(peer.peer_id, REQUEST, within(5))
        assert rpc.counters["retries"] == MAX_REUSE_FAILURES
        assert host.open_streams == 0


# --- tries ----------------------------------------------------------------------------------------


async def test_a_request_without_an_answer_is_sent_once_more(autojump_clock):
    async with client_of(mute) as (rpc, host, peer):
        with pytest.raises(DeadlineError):
            await rpc.request(peer.peer_id, REQUEST, within(60))
        assert host.opened[peer.peer_id] == 2
        assert trio.current_time() == pytest.approx(2 * REQUEST_TIMEOUT_S, abs=1)


async def test_a_request_that_timed_out_is_not_repeated_before_the_host_had_its_say(
    autojump_clock,
):
    """The host connects anew where nothing came back on the connection; where that fails, the
    request is not sent into the old one again."""
    async with client_of(mute) as (rpc, host, peer):
        await host.connect(peer.peer_id, peer.addrs, within(5))

        async def nobody_there(peer_id, addrs, deadline: Monotonic, **_how: object) -> None:
            raise DialError("nothing came back on the connection, and nobody takes another one")

        host.connect = nobody_there
        took_s = await elapsed_s(expect(DialError, rpc.request(peer.peer_id, REQUEST, within(60))))
        assert host.opened[peer.peer_id] == 1
        assert took_s == pytest.approx(REQUEST_TIMEOUT_S, abs=1)


async def expect(error: type[Exception], work) -> None:
    with pytest.raises(error):
        await work


async def test_a_connection_that_is_there_is_used_without_asking_for_one(autojump_clock):
    script = answering(lambda request: closer(request, []))
    async with client_of(script) as (rpc, host, peer):
        await rpc.request(peer.peer_id, REQUEST, within(5))
        await rpc.request(peer.peer_id, REQUEST, within(5))
        assert host.dials[peer.peer_id] == 1


# --- records --------------------------------------------------------------------------------------


async def test_a_peer_that_floods_the_stream_of_a_record_is_not_read_to_the_end(autojump_clock):
    async def flooding(stream: MemoryStream) -> None:
        assert isinstance(await request_of(stream), AddProvider)
        for _ in range(10_000):
            stream.answer(bytes(64 * 1024))

    async with client_of(flooding) as (rpc, host, peer):
        read = 0
        opened = host.open_stream

        async def counting(*args):
            nonlocal read
            stream = await opened(*args)
            reads = stream.read

            async def counted(most):
                nonlocal read
                data = await reads(most)
                read += len(data)
                return data

            stream.read = counted
            return stream

        host.open_stream = counting
        assert await rpc.give(peer.peer_id, RECORD, within(60)) is Receipt.SENT
        assert read <= REPLY_BUDGET_BYTES + 64 * 1024
        assert host.open_streams == 0


async def test_a_peer_that_echoes_a_record_has_confirmed_it(autojump_clock):
    """py-libp2p does."""

    async def echoing(stream: MemoryStream) -> None:
        data = await stream.take_request()
        stream.answer(data)
        stream.finish()

    async with client_of(echoing) as (rpc, _, peer):
        assert await rpc.give(peer.peer_id, RECORD, within(60)) is Receipt.CONFIRMED
