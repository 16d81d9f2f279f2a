"""``codio_dht.client`` against a control server with a fake node: plain, on asyncio and on trio."""

from __future__ import annotations

import asyncio  # noqa: TID251 - what programs on asyncio do
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from codio_dht import Mode, PeerId, PeerInfo, ProvideResult, multihash_of
from codio_dht.client import AsyncClient, Client, DaemonFaultError
from codio_dht.client.exchange import MAX_CALLS_AT_ONCE
from codio_dht.core.clock import UnixTime
from codio_dht.core.lookup_states import Standing
from codio_dht.core.own_keys import OwnKey
from codio_dht.daemon.datadir import listening_socket
from codio_dht.errors import (
    CapacityError,
    DeadlineError,
    NetworkError,
    NoPeersError,
    NotRunningError,
    StorageError,
    UsageError,
)
from control_servers import serving
from fake_dht import CID, FakeDht, info, peer

Way = Callable[..., Any]


def plain(data_dir: Path, method: str, *args: Any, **kwargs: Any) -> Any:
    found = getattr(Client(data_dir), method)(*args, **kwargs)
    return list(found) if isinstance(found, Iterator) else found


async def _call(data_dir: Path, method: str, *args: Any, **kwargs: Any) -> Any:
    found = getattr(AsyncClient(data_dir), method)(*args, **kwargs)
    if hasattr(found, "__aiter__"):
        return [each async for each in found]
    return await found


def on_asyncio(data_dir: Path, method: str, *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(_call(data_dir, method, *args, **kwargs))


def on_trio(data_dir: Path, method: str, *args: Any, **kwargs: Any) -> Any:
    async def call() -> Any:
        return await _call(data_dir, method, *args, **kwargs)

    return trio.run(call)


EVERY_WAY = pytest.mark.parametrize("way", [plain, on_asyncio, on_trio])


@pytest.fixture
def dht() -> FakeDht:
    return FakeDht()


@pytest.fixture
def data_dir(dht: FakeDht, tmp_path: Path) -> Iterator[Path]:
    with serving(dht, tmp_path):
        yield tmp_path


@EVERY_WAY
def test_each_call_gives_what_the_node_says(way: Way, data_dir: Path, dht: FakeDht) -> None:
    me = way(data_dir, "identity")
    assert (me.peer_id, me.mode, me.version) == (peer(1), Mode.SERVER, "9.9")
    assert me.addrs == dht.addrs

    put = way(data_dir, "provide", CID)
    assert put == ProvideResult(multihash_of(CID), 20, 18, 20, 0, 0.25)
    assert way(data_dir, "own_keys") == [OwnKey(multihash_of(CID), UnixTime(1.0), None, CID)]
    assert way(data_dir, "provide_once", multihash_of(CID)) == put
    assert way(data_dir, "stop_providing", CID) is True
    assert way(data_dir, "stop_providing", CID) is False

    providers = [info(2), info(3)]
    assert way(data_dir, "find_providers", CID) == providers
    assert way(data_dir, "iter_providers", CID) == providers
    assert way(data_dir, "find_providers", CID, 1) == providers[:1]
    assert way(data_dir, "find_peer", peer(2)) == info(2).addrs
    assert way(data_dir, "find_peer", str(peer(7))) == []

    closest = way(data_dir, "find_closest_peers", peer(5))
    assert closest == providers
    assert {each.standing for each in closest} == {Standing.ANSWERED}
    assert way(data_dir, "find_closest_peers", b"any bytes") == providers

    addr = f"/ip4/192.0.2.4/tcp/1/p2p/{peer(4)}"
    assert way(data_dir, "connect", addr) == peer(4)
    [connection] = way(data_dir, "connections")
    assert (connection.peer_id, str(connection.addr)) == (peer(4), "/ip4/192.0.2.4/tcp/1")
    assert not connection.inbound
    assert way(data_dir, "ping", peer(2)) == 0.0015
    assert way(data_dir, "bootstrap", [addr]) == 1
    assert way(data_dir, "stats")["num_peers"] == 1


@EVERY_WAY
def test_values_and_names_have_calls_of_their_own(way: Way, data_dir: Path) -> None:
    assert way(data_dir, "put_value", "/v/a", b"\xff", keep=True).holders == 20
    assert way(data_dir, "get_value", "/v/a") == b"value"
    assert way(data_dir, "search_value", "/v/a") == [b"value"]
    assert way(data_dir, "resolve_name", peer(1)) is None
    assert list(way(data_dir, "name_keys")) == ["self"]
    assert way(data_dir, "generate_name_key", "blog").startswith("k51")
    assert way(data_dir, "remove_name_key", "blog") is False
    assert way(data_dir, "unpublish_name") is False
    with pytest.raises(NoPeersError):
        way(data_dir, "publish_name", "/ipfs/bafkqaaa")


@EVERY_WAY
@pytest.mark.parametrize(
    "error", [NoPeersError, NetworkError, DeadlineError, CapacityError, StorageError, UsageError]
)
def test_a_failure_is_the_error_that_a_node_would_raise(
    way: Way, data_dir: Path, dht: FakeDht, error: type[Exception]
) -> None:
    dht.fail = error("the reason")
    with pytest.raises(error, match="the reason") as caught:
        way(data_dir, "provide_once", CID)
    assert type(caught.value) is error


@EVERY_WAY
def test_a_fault_of_the_daemon_is_told_as_one(way: Way, data_dir: Path, dht: FakeDht) -> None:
    dht.fail = ZeroDivisionError("a fault of ours")
    with pytest.raises(DaemonFaultError):
        way(data_dir, "provide_once", CID)


@EVERY_WAY
def test_a_wrong_argument_is_refused_before_anything_is_sent(way: Way, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cid"):
        way(tmp_path, "provide", "no cid")
    with pytest.raises(UsageError, match="peer_id"):
        way(tmp_path, "find_peer", b"no peer")


@EVERY_WAY
def test_without_a_daemon_the_error_says_how_to_start_one(way: Way, tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="codio-dht daemon --data-dir"):
        way(tmp_path, "identity")


@EVERY_WAY
def test_a_daemon_of_another_api_is_named(way: Way, dht: FakeDht, tmp_path: Path) -> None:
    with serving(dht, tmp_path, api=99), pytest.raises(DaemonFaultError, match="version 99"):
        way(tmp_path, "identity")


@EVERY_WAY
def test_a_daemon_that_goes_away_ends_the_call(way: Way, tmp_path: Path) -> None:
    def accept_and_go(listener: socket.socket) -> None:
        listener.accept()[0].close()

    with listening_socket(tmp_path) as listener:
        thread = threading.Thread(target=accept_and_go, args=(listener,))
        thread.start()
        with pytest.raises(NotRunningError):
            way(tmp_path, "identity")
        thread.join()


# --- what ends early ------------------------------------------------------------------------------


def ended(dht: FakeDht) -> bool:
    """Whether the daemon ends what it was doing for a client, within 5 s."""
    event = threading.Event()
    for _ in range(500):
        if not dht.running:
            return True
        event.wait(0.01)
    return False


def test_a_call_that_takes_too_long_is_given_up_here_and_at_the_daemon(
    data_dir: Path, dht: FakeDht
) -> None:
    dht.never = True
    with pytest.raises(DeadlineError, match=r"0\.05 s"):
        Client(data_dir, timeout=0.05).find_providers(CID)
    assert ended(dht)


def test_a_call_that_waits_for_its_turn_among_many_has_a_time_limit_too(
    data_dir: Path, dht: FakeDht
) -> None:
    dht.never = True
    client = Client(data_dir)
    open_ones = [client.iter_providers(CID) for _ in range(MAX_CALLS_AT_ONCE)]
    for each in open_ones:
        next(each)
    client._timeout = 0.01
    failed: list[DeadlineError] = []

    def ask() -> None:
        try:
            client.identity()
        except DeadlineError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert "turn" in str(failed[0])
    for each in open_ones:
        each.close()  # type: ignore[attr-defined]
    client._timeout = None
    assert client.identity().peer_id


def test_results_that_keep_coming_have_a_time_limit_each(data_dir: Path, dht: FakeDht) -> None:
    dht.never = True
    providers = Client(data_dir, timeout=5).iter_providers(CID)
    assert [next(providers), next(providers)] == [info(2), info(3)]
    assert dht.running
    providers.close()  # type: ignore[attr-defined]
    assert ended(dht)


@pytest.mark.parametrize("run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)])
def test_leaving_a_loop_or_cancelling_it_ends_it_at_the_daemon(
    run: Callable[[Any], Any], data_dir: Path, dht: FakeDht
) -> None:
    dht.never = True

    async def leave() -> PeerInfo:
        async with aclosing(AsyncClient(data_dir).iter_providers(CID)) as providers:
            async for each in providers:
                return each
        raise AssertionError

    assert run(leave()) == info(2)
    assert ended(dht)


def test_a_cancelled_call_ends_at_the_daemon(data_dir: Path, dht: FakeDht) -> None:
    dht.never = True

    async def in_asyncio() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await AsyncClient(data_dir).find_providers(CID)

    async def in_trio() -> None:
        with trio.move_on_after(0.05) as scope:
            await AsyncClient(data_dir).find_providers(CID)
        assert scope.cancelled_caught

    asyncio.run(in_asyncio())
    assert ended(dht)
    trio.run(in_trio)
    assert ended(dht)


def test_more_calls_than_the_daemon_takes_at_once_wait_for_their_turn(data_dir: Path) -> None:
    async def in_asyncio() -> list[ProvideResult]:
        client = AsyncClient(data_dir)
        return await asyncio.gather(*[client.provide_once(CID) for _ in range(100)])

    async def in_trio() -> int:
        client = AsyncClient(data_dir)
        results: list[ProvideResult] = []

        async def one() -> None:
            results.append(await client.provide_once(CID))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one)
        return len(results)

    assert len(asyncio.run(in_asyncio())) == 100
    assert trio.run(in_trio) == 100


def test_threads_may_share_a_client(data_dir: Path) -> None:
    client = Client(data_dir)
    found: list[PeerId] = []

    def ask() -> None:
        found.append(client.identity().peer_id)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [peer(1)] * 40


@pytest.mark.parametrize("run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)])
def test_as_a_context_a_client_makes_sure_that_the_daemon_answers(
    run: Callable[[Any], Any], data_dir: Path, tmp_path: Path
) -> None:
    with Client(data_dir) as client:
        assert client.name_keys()
    with pytest.raises(NotRunningError), Client(tmp_path / "none"):
        pass

    async def enter() -> None:
        async with AsyncClient(data_dir) as client:
            assert await client.name_keys()
        with pytest.raises(NotRunningError):
            await AsyncClient(tmp_path / "none").__aenter__()

    run(enter())
