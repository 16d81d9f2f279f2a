"""Calls of the program end with the node."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from codio_dht.errors import NotRunningError
from codio_dht.node.calls import Calls


async def test_a_call_that_is_under_way_ends_and_says_why(autojump_clock):
    calls = Calls()
    ended: list[str] = []

    async def call() -> None:
        why = "closed while the call was under way"
        with pytest.raises(NotRunningError, match=why), calls.running():
            await trio.sleep_forever()
        ended.append("call")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == len(calls)
        await calls.end()
        assert 0 == len(calls)
    assert ["call"] == ended


async def test_a_call_that_ends_by_itself_is_told_nothing(autojump_clock):
    calls = Calls()
    with calls.running():
        await trio.sleep(1)
    assert 0 == len(calls)
    await calls.end()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_end_waits_until_every_call_has_cleaned_up_even_when_it_is_cancelled(
    autojump_clock, cancelled
):
    calls = Calls()
    steps: list[str] = []

    async def call() -> None:
        try:
            with calls.running():
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):  # as the store finishes what was begun
                        await trio.sleep(5)
                    steps.append("cleaned up")
        except NotRunningError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await calls.end()
            steps.append("ended")
    assert ["cleaned up", "ended"] == steps
