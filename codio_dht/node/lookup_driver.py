"""Runs one lookup machine of ``core.lookup`` on the network.

Decides nothing about whom to ask: it asks whom the machine says, gives it what came back, passes on
what the machine tells, and ends when the machine is done or the deadline passes.

A task per request; the machine bounds how many are out, those past their soft deadline included,
whose late answers still count. Requests that are out when the lookup is over go on as errands, up
to ``MAX_STRAGGLERS``: what they tell of a peer serves the next lookup. A lookup that is cancelled,
or out of time, takes its requests with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.lookup_states import (
    Done,
    LookBeyond,
    LookupEvent,
    LookupStep,
    Query,
    StopReason,
)
from codio_dht.core.messages import FailureReason
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Wait
from codio_dht.errors import NetworkError, RemoteError
from codio_dht.node.errands import Errands
from codio_dht.node.rpc import failure_reason


class Machine(Protocol):
    """The part of a lookup that the driver needs."""

    events: list[LookupEvent]

    def next(self, now: Monotonic) -> LookupStep: ...
    def on_failure(self, peer: PeerId, why: FailureReason, now: Monotonic) -> None: ...
    def on_beyond(
        self, peer: PeerId, point: Key, closer: Sequence[PeerId], now: Monotonic
    ) -> None: ...
    def stop(self, reason: StopReason) -> None: ...


Ask = Callable[[Query | LookBeyond], Awaitable[None]]
"""Ask the step's peer and feed its answer to the machine; raises NetworkError or RemoteError."""

Watch = Callable[[LookupEvent], None]
"""Told of everything that happens in a lookup, in order."""


async def drive(
    machine: Machine, ask: Ask, deadline: Monotonic, errands: Errands, watch: Watch
) -> Done:
    """Run ``machine`` to its end. At ``deadline`` it is stopped and what it has is returned."""
    return await _Drive(machine, ask, errands, watch).run(deadline)


class _Drive:
    """One lookup under way."""

    def __init__(self, machine: Machine, ask: Ask, errands: Errands, watch: Watch) -> None:
        self._machine = machine
        self._ask = ask
        self._errands = errands
        self._watch = watch
        self._told = 0
        self._moved = trio.Event()
        self._out: dict[Query | LookBeyond, trio.CancelScope] = {}
        self._bugs: list[Exception] = []

    async def run(self, deadline: Monotonic) -> Done:
        ended = False
        try:
            while True:
                now = _now()
                if now >= deadline:
                    self._machine.stop(StopReason.TIMEOUT)
                step = self._machine.next(now)
                self._tell()
                match step:
                    case Query() | LookBeyond():
                        scope = self._errands.start("lookup", partial(self._query, step))
                        self._out[step] = scope
                    case Wait(until):
                        await self._wait(deadline if until is None else min(until, deadline))
                    case Done() as done:
                        ended = done.reason is not StopReason.TIMEOUT
                        return done
        finally:
            if not ended or self._errands.running > params.MAX_STRAGGLERS:
                for scope in self._out.values():
                    scope.cancel()

    async def _query(self, step: Query | LookBeyond) -> None:
        try:
            await self._ask(step)
        except (NetworkError, RemoteError) as error:
            match step:
                case Query(peer):
                    self._machine.on_failure(peer, failure_reason(error), _now())
                case LookBeyond(peer, point):
                    self._machine.on_beyond(peer, point, (), _now())
        except Exception as error:
            self._bugs.append(error)
            raise
        finally:
            del self._out[step]
            self._moved.set()

    async def _wait(self, until: Monotonic) -> None:
        with trio.move_on_at(until):
            await self._moved.wait()
        self._moved = trio.Event()
        if self._bugs:
            raise self._bugs[0]

    def _tell(self) -> None:
        events = self._machine.events
        for event in events[self._told :]:
            self._watch(event)
        self._told = len(events)


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
