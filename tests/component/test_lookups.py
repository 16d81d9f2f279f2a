"""How a node runs its searches: how many at once, how long each, and what they leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.lookup_states import Standing
from codio_dht.core.search import Search
from codio_dht.params import K
from keepers import Keepers, client_of, keepers
from nodes import until

KEYS = [b"one key", b"another key", b"a third key"]


@asynccontextmanager
async def client_among_peers(
    **settings,
) -> AsyncIterator[tuple[Keepers, DHTManager]]:
    async with keepers(0.05) as peers, client_of(peers, **settings) as client:
        yield peers, client


async def look_up_all(client: DHTManager) -> float:
    """Look up all keys at once; how long that took."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for key in KEYS:
            nursery.start_soon(client.find_closest_peers, key)
    return trio.current_time() - began


async def test_past_the_bound_lookups_wait_for_their_turn(autojump_clock, monkeypatch):
    async with client_among_peers() as (_, client):
        at_once_s = await look_up_all(client)
    monkeypatch.setattr("codio_dht.node.lookups.MAX_LOOKUPS", 1)
    async with client_among_peers() as (_, client):
        assert await look_up_all(client) >= (len(KEYS) - 0.5) * at_once_s
        assert client._node.main.lookups.turns.borrowed_tokens == 0


async def silence(_stream: object) -> None:
    await trio.sleep_forever()


async def test_a_lookup_whose_turn_does_not_come_ends_in_time_too(autojump_clock, monkeypatch):
    monkeypatch.setattr("codio_dht.node.lookups.MAX_LOOKUPS", 1)
    config = DHTConfig(query_timeout=2)
    async with client_among_peers(config=config) as (_, client):
        turns, somebody = client._node.main.lookups.turns, object()
        await turns.acquire_on_behalf_of(somebody)
        with trio.fail_after(3):
            assert await look_up_all(client) == pytest.approx(2, abs=0.01)
        assert client.stats().lookups["timeout"] == len(KEYS)
        turns.release_on_behalf_of(somebody)
        assert turns.borrowed_tokens == 0


@pytest.mark.parametrize(("bound", "left"), [(0, False), (128, True)])
async def test_requests_outlive_their_lookup_as_long_as_they_are_few(
    autojump_clock, monkeypatch, bound, left
):
    """What they tell serves the next lookup."""
    monkeypatch.setattr("codio_dht.core.search.MAX_STRAGGLERS", bound)
    async with client_among_peers() as (peers, client):
        for peer in peers.hosts[:3]:
            peer.script = silence  # type: ignore[attr-defined]
        await client._node.main.rpc.aclose()
        found = await client.find_closest_peers(KEYS[0])
        assert sum(each.standing is Standing.ANSWERED for each in found) >= K - 3
        await trio.testing.wait_all_tasks_blocked()
        errands = client._node.shared.errands
        assert (errands.running > 0) is left
        await until(lambda: errands.running == 0)
        assert client.stats().failures == {}


# --- bugs -----------------------------------------------------------------------------------------


def broken(*_: object) -> None:
    raise ZeroDivisionError


async def test_a_bug_in_a_search_is_its_callers_and_leaves_nothing_open(
    autojump_clock, monkeypatch
):
    async with client_among_peers() as (_, client):
        monkeypatch.setattr(Search, "on_reply", broken)
        with pytest.raises(ZeroDivisionError):
            await client.find_closest_peers(KEYS[0])
        await trio.testing.wait_all_tasks_blocked()
        assert client._node.shared.errands.running == 0
        assert client._node.main.lookups.turns.borrowed_tokens == 0
        assert client.stats().failures == {}
        monkeypatch.undo()
        assert len(await client.find_closest_peers(KEYS[0])) == K


async def test_a_bug_in_a_request_that_outlived_its_search_is_counted(autojump_clock, monkeypatch):
    async with client_among_peers() as (peers, client):
        for peer in peers.hosts[:9]:
            peer.script = silence  # type: ignore[attr-defined]
        await client._node.main.rpc.aclose()
        await client.find_closest_peers(KEYS[0])
        errands = client._node.shared.errands
        assert (left := errands.running) > 0
        monkeypatch.setattr(Search, "on_failure", broken)
        await until(lambda: errands.running == 0)
        assert client.stats().failures == {"request": left}
