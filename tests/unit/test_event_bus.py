"""Host events: each subscriber has its own, and neither waits too long nor keeps others waiting."""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import wait_all_tasks_blocked

from codio_dht.core.peer import PeerId
from codio_dht.net.event_bus import EventBus
from codio_dht.net.host import HostEvent, PeerGone


def gone(number: int) -> PeerGone:
    return PeerGone(PeerId(bytes([0, 1, number])))


class Steps(trio.abc.Instrument):
    """How often a task ran."""

    def __init__(self, task: str) -> None:
        self.taken = 0
        self._task = task

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken += self._task in task.name


async def test_who_waits_for_an_event_is_woken_once_for_it() -> None:
    bus = EventBus(Counter())
    seen: list[HostEvent] = []

    async def follow() -> None:
        with bus.subscribed([]) as events:
            while True:
                seen.append(await anext(events))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, name="follower")
        await wait_all_tasks_blocked()
        steps = Steps("follower")
        trio.lowlevel.add_instrument(steps)
        bus.emit(gone(1))
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
        assert ([gone(1)], 1) == (seen, steps.taken)
        nursery.cancel_scope.cancel()


async def test_events_that_wait_let_others_run_between_them() -> None:
    bus = EventBus(Counter())
    others: list[int] = []

    async def another() -> None:
        while True:
            others.append(1)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        with bus.subscribed([gone(1), gone(2), gone(3)]) as events:
            for _ in range(3):
                await anext(events)
        assert len(others) >= 2
        nursery.cancel_scope.cancel()
