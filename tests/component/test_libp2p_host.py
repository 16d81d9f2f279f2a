"""What the py-libp2p adapter does beyond the port, whose contract is ``test_host_contract.py``."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

import libp2p_hosts as lh
from codio_dht import __version__
from codio_dht.errors import (
    IdentityError,
    StreamError,
    UnsupportedProtocolError,
    UsageError,
)
from codio_dht.net.host import PeerGone, Stream
from codio_dht.net.identify.message import IDENTIFY
from codio_dht.net.libp2p_host import Libp2pHost, identifying, inbound, make_libp2p_host
from codio_dht.net.libp2p_host.negotiation import Answer, question
from host_steps import ECHO, IDLE_S, QUIC, TCP, Echoes, ask, connect, identified, soon
from libp2p_hosts import made_host, upstream_host

TRANSPORTS = pytest.mark.parametrize("listen", [TCP, QUIC], ids=["tcp", "quic"])


# --- streams --------------------------------------------------------------------------------------


async def test_streams_of_handlers_are_bounded_as_those_with_tasks_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "MAX_INBOUND_STREAMS_PER_PEER", 3)
    monkeypatch.setattr(inbound, "MAX_INBOUND_STREAMS", 5)
    async with made_host() as server, made_host() as one, made_host() as two:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        answered: list[int] = []
        for client in (one, two):
            await connect(client, server)
            count = 0
            for _ in range(4):
                stream = await client.open_stream(server.peer_id, ECHO, soon())
                try:
                    await ask(stream, b"x")
                except StreamError:
                    continue
                count += 1
            answered.append(count)
        refused = server.stats()["inbound_streams_refused"]

    assert answered == [3, 2]
    assert refused == 3


# --- opening --------------------------------------------------------------------------------------


@TRANSPORTS
async def test_a_protocol_that_the_peer_does_not_speak_is_told_when_opening(
    listen: Multiaddr,
) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        await connect(client, server)
        with pytest.raises(UnsupportedProtocolError):
            await client.open_stream(server.peer_id, "/nobody/speaks/this", soon())
        rtt = await client.ping(server.peer_id, soon())

    assert rtt > 0


# --- the host -------------------------------------------------------------------------------------


async def test_a_key_that_is_none_is_an_identity_error() -> None:
    with pytest.raises(IdentityError):
        async with make_libp2p_host(b"\x08\x01\x12\x03abc", [TCP]):
            raise AssertionError("running")


async def test_mounting_on_a_programs_host_leaves_its_protocols_alone() -> None:
    async def greet(stream: object) -> None:
        await stream.write(b"program")  # type: ignore[attr-defined]
        await stream.close()  # type: ignore[attr-defined]

    async with upstream_host(guarded=False) as ihost, made_host() as client:
        lh.serve_upstream(ihost, "/program", greet)
        before = dict(ihost.multiselect.handlers)
        async with Libp2pHost(ihost) as host:
            host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            await client.connect(host.peer_id, host.addrs, soon())
            ours = await ask(await client.open_stream(host.peer_id, ECHO, soon()), b"ours")
            theirs = await client.open_stream(host.peer_id, "/program", soon())
            greeting = await theirs.read(100)
        after = dict(ihost.multiselect.handlers)
        theirs = await client.open_stream(host.peer_id, "/program", soon())
        greeting_after = await theirs.read(100)
        async with Libp2pHost(ihost) as host:  # and again
            rtt = await client.ping(host.peer_id, soon())

    assert (ours, greeting, greeting_after) == (b"ours", b"program", b"program")
    assert after == before
    assert rtt > 0


async def test_a_protocol_that_the_program_served_is_its_own_again_afterwards() -> None:
    async def greet(stream: object) -> None:
        await stream.write(b"program")  # type: ignore[attr-defined]
        await stream.close()  # type: ignore[attr-defined]

    async with upstream_host(guarded=False) as ihost, made_host() as client:
        lh.serve_upstream(ihost, ECHO, greet)
        async with Libp2pHost(ihost) as host:
            await client.connect(host.peer_id, host.addrs, soon())
            for _ in range(2):  # serving twice replaces ours, not the program's
                host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            ours = await ask(await client.open_stream(host.peer_id, ECHO, soon()), b"ours")
            host.unserve(ECHO)
            theirs = await (await client.open_stream(host.peer_id, ECHO, soon())).read(100)

    assert (ours, theirs) == (b"ours", b"program")


async def test_a_host_is_mounted_on_once_at_a_time() -> None:
    async with upstream_host(guarded=False) as ihost, Libp2pHost(ihost):
        with pytest.raises(UsageError, match="mounted already"):
            async with Libp2pHost(ihost):
                raise AssertionError("mounted twice")


async def test_a_peer_that_left_without_notice_is_found_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identifying, "RECONCILE_INTERVAL_S", 0.05)
    async with made_host() as server, made_host() as client:
        await connect(client, server)
        await identified(client, server.peer_id)
        client._swarm.notifees.clear()  # nobody is told of anything any more
        async with client.events() as of_client:
            await client.disconnect(server.peer_id)
            with trio.fail_after(30):
                while await anext(of_client) != PeerGone(server.peer_id):
                    pass


async def test_a_peer_whose_identify_fails_is_asked_once_more() -> None:
    asked: list[int] = []

    async with made_host() as server, made_host() as client:
        answer = server._state.identifier._answer

        async def fail_first(stream: Stream) -> None:
            asked.append(1)
            if len(asked) == 1:
                raise RuntimeError("not now")
            await answer(stream._net_stream)  # type: ignore[attr-defined]

        server.serve_stream(IDENTIFY, fail_first)
        await connect(client, server)
        said = await identified(client, server.peer_id)

    assert len(asked) == 2
    assert said.agent == f"codio-dht/{__version__}"


async def test_a_host_that_is_not_py_libp2ps_is_refused() -> None:
    with pytest.raises(UsageError, match="ihost"):
        Libp2pHost(object())  # type: ignore[arg-type]


# --- laws -----------------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_no_bytes_make_a_negotiation_raise_anything_but_a_stream_error(
    data: bytes, cuts: list[int]
) -> None:
    answer = Answer(ECHO)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    with suppress(StreamError):
        for start, stop in pairwise(places):
            answer.feed(data[start:stop])


@given(st.binary(max_size=50), st.lists(st.integers(0, 120), max_size=6))
def test_an_answer_is_read_however_it_is_cut(rest: bytes, cuts: list[int]) -> None:
    wire = question(ECHO) + rest
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    answer, after = Answer(ECHO), b""
    for start, stop in pairwise(places):
        after += answer.feed(wire[start:stop])

    assert answer.is_done
    assert after == rest
