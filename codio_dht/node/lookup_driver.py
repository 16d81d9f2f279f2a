"""Runs one lookup machine of ``core.lookup`` on the network.

Decides nothing about whom to ask: it asks whom the machine says, gives it what came back, and ends
when the machine is done or the deadline passes. A task per request; the machine bounds how many are
out, those past their soft deadline included, whose late answers still count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from codio_dht.core.clock import Monotonic
from codio_dht.core.lookup import Done, FailureReason, Query, Step, StopReason, Wait
from codio_dht.core.peer import PeerId
from codio_dht.errors import (
    DeadlineError,
    DialError,
    NetworkError,
    RemoteError,
    UnsupportedProtocolError,
)


class Machine(Protocol):
    """The part of a lookup that the driver needs."""

    def next(self, now: Monotonic) -> Step: ...
    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None: ...
    def stop(self, reason: StopReason) -> None: ...


Ask = Callable[[PeerId], Awaitable[None]]
"""Ask one peer and feed its answer to the machine; raises NetworkError or RemoteError."""


async def drive(machine: Machine, ask: Ask, deadline: Monotonic) -> Done:
    """Run ``machine`` to its end. At ``deadline`` it is stopped and what it has is returned."""
    moved = trio.Event()

    async def query(peer: PeerId) -> None:
        nonlocal moved
        try:
            await ask(peer)
        except (NetworkError, RemoteError) as error:
            machine.on_failure(peer, failure_reason(error), Monotonic(trio.current_time()))
        moved.set()

    async with trio.open_nursery() as nursery:
        while True:
            now = Monotonic(trio.current_time())
            if now >= deadline:
                machine.stop(StopReason.TIMEOUT)
            match machine.next(now):
                case Query(peer):
                    nursery.start_soon(query, peer)
                case Wait(until):
                    with trio.move_on_at(deadline if until is None else min(until, deadline)):
                        await moved.wait()
                    moved = trio.Event()
                case Done() as done:
                    nursery.cancel_scope.cancel()
                    return done


def failure_reason(error: NetworkError | RemoteError) -> FailureReason:
    """What an error of the RPC client means to a lookup and to the routing table."""
    match error:
        case DialError():
            return FailureReason.UNREACHABLE
        case DeadlineError():
            return FailureReason.TIMEOUT
        case UnsupportedProtocolError():
            return FailureReason.UNSUPPORTED
        case _:
            return FailureReason.BROKEN
