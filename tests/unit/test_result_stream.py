"""The async iterator over results and the search behind it find each other's end."""

from __future__ import annotations

import gc
from collections import Counter
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.errors import NoPeersError
from codio_dht.node.result_stream import ResultStream, run_search

ENTRIES = [PeerEntry(PeerId(b"\x12\x20" + bytes([n]) * 32)) for n in range(5)]


async def find_slowly(found):
    for entry in ENTRIES:
        await trio.sleep(1)
        found(entry)


async def find_for_ever(ended, found):
    try:
        await trio.sleep_forever()
    finally:
        ended.set()


async def start(nursery, find, failures=None) -> Any:
    info: Any = lambda entry: entry  # noqa: E731
    stream = ResultStream(info)
    counted = Counter() if failures is None else failures
    nursery.start_soon(run_search, stream.findings, find, counted)
    await trio.testing.wait_all_tasks_blocked()
    return stream


async def test_each_provider_comes_as_it_is_found(autojump_clock):
    async with trio.open_nursery() as nursery:
        stream = await start(nursery, find_slowly)
        times = [(entry, trio.current_time()) async for entry in stream]
    assert [(entry, pytest.approx(n + 1)) for n, entry in enumerate(ENTRIES)] == times


async def test_a_dropped_stream_ends_its_search(autojump_clock):
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        stream = await start(nursery, partial(find_for_ever, ended))
        del stream
        gc.collect()
        with trio.fail_after(1):
            await ended.wait()


async def test_a_closed_stream_ends_its_search_and_yields_no_more(autojump_clock):
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        async with await start(nursery, partial(find_for_ever, ended)) as stream:
            pass
        assert [entry async for entry in stream] == []
        with trio.fail_after(1):
            await ended.wait()


async def test_the_readers_error_is_the_searchs_error_after_what_was_found(autojump_clock):
    async def find(found):
        found(ENTRIES[0])
        raise NoPeersError("nobody")

    async with trio.open_nursery() as nursery:
        stream = await start(nursery, find)
        assert await anext(stream) == ENTRIES[0]
        with pytest.raises(NoPeersError):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_bug_in_a_search_is_counted_and_does_not_end_the_node(autojump_clock):
    async def find(found):
        raise ZeroDivisionError

    failures: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:
        stream = await start(nursery, find, failures)
        with pytest.raises(ZeroDivisionError):
            await anext(stream)
    assert failures == {"search": 1}
