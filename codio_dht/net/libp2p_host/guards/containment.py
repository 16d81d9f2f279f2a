"""R2: an exception in one stream or one connection must not stop the host.

Upstream: ``SwarmConn._handle_muxed_stream`` (libp2p/network/connection/swarm_connection.py, 0.8.1)
lets a handler's exception through, the swarm's ``TrioManager._run_and_manage_task``
(libp2p/tools/anyio_service/trio_manager.py) collects it and cancels the whole swarm. Any peer that
can make any handler raise ends the host.

Guard: the swarm's common stream handler resets the stream instead (logged with its traceback,
counted), and every task that the swarm's manager starts for a connection ends alone. Both apply to
a live host, from the next stream and the next connection on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from libp2p.abc import INetStream
from libp2p.network.swarm import Swarm

from codio_dht.logger import get_logger
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check, replace
from codio_dht.net.libp2p_host.limits import STREAM_END_TIMEOUT_S
from codio_dht.net.libp2p_host.shielding import shielded

_log = get_logger(__name__)

StreamHandler = Callable[[INetStream], Awaitable[None]]

SYMBOLS = (
    Symbol("libp2p.network.swarm", "Swarm.set_stream_handler", ("self", "stream_handler")),
    Symbol(
        "libp2p.network.connection.swarm_connection",
        "SwarmConn._handle_muxed_stream",
        ("self", "muxed_stream"),
    ),
    Symbol(
        "libp2p.tools.anyio_service.trio_manager",
        "TrioManager.run_task",
        ("self", "async_fn", "args", "daemon", "name", "_internal"),
    ),
)


def contain_streams(swarm: Swarm, counters: Counters) -> None:
    """Reset a stream whose handler raises, whoever sets the handler."""
    check(SYMBOLS)

    def set_stream_handler(stream_handler: StreamHandler) -> None:
        swarm.common_stream_handler = _contained(stream_handler, counters)

    set_stream_handler(swarm.common_stream_handler)
    replace(swarm, "set_stream_handler", set_stream_handler)


def _contained(handler: StreamHandler, counters: Counters) -> StreamHandler:
    async def handle(stream: INetStream) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001 - the outermost edge of a stream's task
            counters.add("stream_handler_errors")
            _log.warning("stream handler raised", error=repr(error), exc_info=error)
            await _reset(stream)

    return handle


async def _reset(stream: INetStream) -> None:
    with shielded(STREAM_END_TIMEOUT_S):
        try:
            await stream.reset()
        except Exception as error:  # noqa: BLE001 - the stream is over in any case
            _log.debug("reset failed", error=repr(error))


def contain_tasks(swarm: Swarm, counters: Counters) -> None:
    """End a connection's task alone when it raises. The swarm must be running."""
    check(SYMBOLS)
    manager: Any = swarm.manager
    run_task = manager.run_task

    def run_contained(
        async_fn: Callable[..., Awaitable[Any]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        async def contained(*task_args: Any) -> None:
            try:
                await async_fn(*task_args)
            except Exception as error:  # noqa: BLE001 - the outermost edge of a connection's task
                counters.add("connection_task_errors")
                _log.warning("connection task raised", error=repr(error), exc_info=error)

        run_task(contained, *args, daemon=daemon, name=name or repr(async_fn), _internal=_internal)

    replace(manager, "run_task", run_contained)
