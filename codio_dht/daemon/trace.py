"""The events of a lookup, sent to a client of the control API while the lookup runs.

Decides how an event looks as JSON. If the client is slow, up to ``MAX_UNREAD_EVENTS`` events wait,
and further ones are counted and left out. The reader never delays the lookup: the watcher puts
events into a bounded channel, which another task empties.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from codio_dht import params
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    Ended,
    FollowUpBegan,
    GivenUp,
    LookedBeyond,
    LookupEvent,
    RequestFailed,
    Unresponsive,
)
from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError

T = TypeVar("T")

MAX_UNREAD_EVENTS: Final = 4_096
"""Events of one lookup that wait for a client that does not read. A lookup has a few for each of
its requests, which are some tens."""


async def relay(
    look: Callable[[Callable[[LookupEvent], None]], Awaitable[T]],
    tell: Callable[[LookupEvent], Awaitable[None]],
) -> tuple[T, int]:
    """Run ``look`` with a watcher, and pass each event to ``tell`` as it happens. Return the result
    of ``look`` and the number of events that were left out.

    Raises:
        CodioError: the error of ``look``, after all earlier events were passed on.
    """
    send, receive = trio.open_memory_channel[LookupEvent](MAX_UNREAD_EVENTS)
    found: list[T] = []
    failure: list[CodioError] = []
    missed = 0

    def watch(event: LookupEvent) -> None:
        nonlocal missed
        try:
            send.send_nowait(event)
        except trio.WouldBlock:
            missed += 1

    async def run() -> None:
        with send:
            try:
                found.append(await look(watch))
            except CodioError as error:  # raised below: the nursery would wrap it in a group
                failure.append(error)

    with send, receive:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            async for event in receive:
                await tell(event)
    if failure:
        raise failure[0]
    return found[0], missed


def event_json(event: LookupEvent, began: float) -> dict[str, object]:
    """One event; ``at`` is seconds after ``began``."""
    at = round(event.at - began, 6)
    match event:
        case Asked(_, peer, away, follow_up):
            return {**_of_peer("asked", at, peer, away), "follow_up": follow_up}
        case Answered(_, peer, away, took_s, named, new, late):
            told = {"seconds": round(took_s, 6), "named": named, "new": new, "late": late}
            return {**_of_peer("answered", at, peer, away), **told}
        case RequestFailed(_, peer, away, took_s, why):
            failed = {"seconds": round(took_s, 6), "reason": why.value}
            return {**_of_peer("failed", at, peer, away), **failed}
        case Unresponsive(_, peer, away):
            return _of_peer("overdue", at, peer, away)
        case GivenUp(_, peer, away, waited_s, alive_at):
            ago = None if alive_at is None else round(event.at - alive_at, 6)
            given_up = {"seconds": round(waited_s, 6), "alive": ago is not None, "alive_ago": ago}
            return {**_of_peer("given_up", at, peer, away), **given_up}
        case FollowUpBegan():
            return {"event": "follow_up", "at": at}
        case LookedBeyond(_, peer, away):
            return _of_peer("look_beyond", at, peer, away)
        case Ended(_, reason, requests):
            return {"event": "ended", "at": at, "reason": reason.value, "requests": requests}


def _of_peer(name: str, at: float, peer: PeerId, away: int) -> dict[str, object]:
    """``cpl``: the leading bits that a peer at distance ``away`` shares with the key."""
    bits = params.KEY_BITS - away.bit_length()
    return {"event": name, "at": at, "peer_id": str(peer), "cpl": bits}
