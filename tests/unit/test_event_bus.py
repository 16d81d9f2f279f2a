"""Host events: each subscriber has its own, and neither waits too long nor keeps others waiting."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from codio_dht.core.peer import PeerId
from codio_dht.net import event_bus
from codio_dht.net.event_bus import EventBus
from codio_dht.net.host import HostEvent, PeerGone, PeerIdentified


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


def identified(number: int, agent: str = "", *, new: bool = False) -> PeerIdentified:
    peer_id = PeerId(bytes([0, 1, number]))
    return PeerIdentified(peer_id, frozenset(), (), agent, new_connection=new)


async def waiting(bus: EventBus, *emitted: HostEvent) -> list[HostEvent]:
    """What a subscriber is told that was asleep while all of that happened."""
    with bus.subscribed([]) as events:
        for event in emitted:
            bus.emit(event)
        bus.end()
        return [event async for event in events]


async def test_ten_thousand_changes_of_one_peer_push_out_nothing_of_another() -> None:
    counters: Counter[str] = Counter()
    flood = [identified(1, f"agent {number}") for number in range(10_000)]
    told = await waiting(EventBus(counters), identified(2), *flood, gone(3))
    assert [identified(2), identified(1, "agent 9999"), gone(3)] == told
    assert {} == counters


async def test_a_new_connection_stays_new_when_more_is_said_on_it() -> None:
    (told,) = await waiting(EventBus(Counter()), identified(1, new=True), identified(1, "later"))
    assert isinstance(told, PeerIdentified)
    assert ("later", True) == (told.agent, told.new_connection)


async def test_a_peer_that_went_and_came_back_is_told_as_newly_connected() -> None:
    (told,) = await waiting(EventBus(Counter()), identified(1), gone(1), identified(1))
    assert isinstance(told, PeerIdentified)
    assert told.new_connection


async def test_the_end_of_a_peer_that_was_told_is_never_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_bus, "MAX_UNTOLD_ENDS", 2)
    counters: Counter[str] = Counter()
    bus = EventBus(counters)
    with bus.subscribed([identified(1)]) as events:
        await anext(events)
        bus.emit(gone(1))
        for number in range(2, 7):
            bus.emit(gone(number))
        bus.end()
        assert [gone(1), gone(5), gone(6)] == [event async for event in events]
    assert {"events_dropped": 3} == counters
