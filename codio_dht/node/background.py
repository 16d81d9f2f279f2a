"""Background work: tasks that go on for as long as a node runs.

Decides that they go on: a bug in one task is logged and counted, and that task begins again; the
others, and the node, live on. Which tasks there are, their owners say
(:class:`~codio_dht.node.shared.Shared`, :class:`~codio_dht.node.runtime.NetworkRuntime`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from codio_dht.logger import get_logger

RESTART_DELAY_S: Final = 1.0
"""Background work that failed by a bug begins again after this many seconds."""

log = get_logger(__name__)

Work = Callable[[], Awaitable[None]]
"""A task that runs until it is cancelled."""


def start_all(nursery: trio.Nursery, tasks: Mapping[str, Work], failures: Counter[str]) -> None:
    """Start every task in ``nursery``. They end when it is cancelled; ``failures`` counts the bugs
    of each by its name."""
    for name, work in tasks.items():
        nursery.start_soon(_supervise, name, work, failures)


async def _supervise(name: str, work: Work, failures: Counter[str]) -> None:
    while True:
        try:
            await work()
            return
        except Exception:
            failures[name] += 1
            log.exception("background_work_failed", work=name)
        await trio.sleep(RESTART_DELAY_S)
