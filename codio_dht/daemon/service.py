"""The process of the daemon: start, print the ready line, run, stop cleanly.

    CHECKING  settings                                 fails: one line, exit code 1 or 2
    OPENING   data directory, node, control socket     fails: one line, exit code 1
    READY     the ready line is out; until a signal
    STOPPING  at most 10 s, then exit code 0           (:mod:`codio_dht.daemon.stopping`)

Never prints a traceback for what a user or the system did wrong; a fault of our own is logged with
its traceback and ends the process with code 1.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import trio

from codio_dht.daemon import logs
from codio_dht.daemon.control import ControlServer
from codio_dht.daemon.datadir import (
    SOCKET_NAME,
    absolute_data_dir,
    default_data_dir,
    listening_socket,
)
from codio_dht.daemon.methods import Methods, full_addrs
from codio_dht.daemon.node_port import Dht
from codio_dht.daemon.open_files import raise_open_files
from codio_dht.daemon.protocol import API_VERSION, Hello
from codio_dht.daemon.settings import DEFAULT_LISTEN_IP4, DEFAULT_LISTEN_IP6, Settings
from codio_dht.daemon.stopping import Stopping
from codio_dht.errors import CodioError, IdentityError, UsageError
from codio_dht.logger import get_logger

OpenDht = Callable[[Settings], AbstractAsyncContextManager[Dht]]

WATCH_INTERVAL_S: Final = 1.0
"""How often the node's bootstrap state is read, in seconds; a change is logged."""

_UNREACHABLE: Final = "unreachable"
"""``DHTStats.bootstrap`` when the last round of dials reached nobody."""

_HOUR_S: Final = 3600

_OK: Final = 0
_RUNTIME_ERROR: Final = 1
_USAGE_ERROR: Final = 2

log = get_logger(__name__)


def run(settings: Settings, version: str, open_dht: OpenDht | None = None) -> int:
    """Run a daemon in this process until it is told to stop; return its exit code."""
    stopping = Stopping()
    stopping.install()
    as_json = settings.as_json or not sys.stderr.isatty()
    foreign = logs.configure(settings.log_level, as_json=as_json)
    try:
        settings = replace(settings, data_dir=absolute_data_dir(settings.data_dir))
        if settings.kubo_config is not None:
            adopt_identity(settings.kubo_config, settings.data_dir)
        daemon = _Daemon(settings, version, foreign)
        stopping.enter()
        trio.run(daemon.run, stopping, open_dht or open_node)
    except UsageError as error:
        return _fail(_USAGE_ERROR, str(error))
    except (CodioError, OSError) as error:
        return _fail(_RUNTIME_ERROR, str(error))
    except BaseExceptionGroup as group:
        expected, unexpected = group.split((CodioError, OSError))
        if expected is None or unexpected is not None:
            return _fault(group)
        first = next(_leaves(expected))
        code = _USAGE_ERROR if isinstance(first, UsageError) else _RUNTIME_ERROR
        return _fail(code, str(first))
    except Exception as error:  # noqa: BLE001 - the outermost edge of the process
        return _fault(error)
    return _OK


def open_node(settings: Settings) -> AbstractAsyncContextManager[Dht]:
    """A ``DHTManager`` as the settings say."""
    from codio_dht import DHTConfig, DHTManager  # noqa: PLC0415 - slow, after the checks
    from codio_dht.net.limits import Limits  # noqa: PLC0415 - as above

    raise_open_files(Limits().open_files)

    said: dict[str, Any] = {
        "provider_timeout": settings.provider_timeout_s,
        "republish_interval": settings.republish_interval_s,
        "provider_addrs": settings.provider_addrs or None,
        "protocol": settings.protocol,
    }
    config = DHTConfig(**{name: value for name, value in said.items() if value is not None})
    manager: AbstractAsyncContextManager[Dht] = DHTManager.open(
        config,
        data_dir=settings.data_dir,
        listen=list(settings.listen) if settings.listen else default_listen(),
        announce=list(settings.announce),
        append_announce=list(settings.append_announce),
        bootstrap=list(settings.bootstrap_addrs),
        mode=settings.mode or "auto",
        stack=settings.stack,
        deny=settings.deny_lists,
    )
    if settings.stack == "py-libp2p":
        logs.tame_libp2p()
    return manager


def adopt_identity(kubo_config: str, data_dir: Path) -> None:
    """Make the key of a Kubo config this node's identity. If it is the identity already, nothing
    changes.

    Raises:
        IdentityError: it has no usable key, or the directory has another identity.
    """
    from codio_dht.node.hosting import KEY_FILE  # noqa: PLC0415 - as in open_node
    from codio_dht.store.identity import (  # noqa: PLC0415 - as in open_node
        create_identity,
        import_kubo_identity,
        load_or_create_identity,
    )

    key = import_kubo_identity(kubo_config)
    path = data_dir / KEY_FILE
    if not path.exists():
        create_identity(path, key)
        log.info("identity_imported", peer_id=str(key.peer_id()), file=str(path))
        return
    own = load_or_create_identity(path).peer_id()
    if own != key.peer_id():
        raise IdentityError(
            f"{path} is the key of {own}, the Kubo config's of {key.peer_id()}: choose another"
            " --data-dir, or move the key file away"
        )


def default_listen() -> list[str]:
    """Where a node listens by default: TCP and QUIC on port 4001, IPv6 if the machine has it."""
    return [*DEFAULT_LISTEN_IP4, *(DEFAULT_LISTEN_IP6 if _has_ipv6() else ())]


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


class _Daemon:
    """One run of the daemon inside its event loop."""

    def __init__(self, settings: Settings, version: str, foreign: logs.ForeignLogs) -> None:
        self._settings = settings
        self._version = version
        self._foreign = foreign
        self._started = time.monotonic()
        self._control: ControlServer | None = None

    async def run(self, stopping: Stopping, open_dht: OpenDht) -> None:
        """Open, be ready, wait for the stop, close."""
        stop = stopping.attach()
        with trio.CancelScope() as whole:
            async with trio.open_nursery() as watching:
                ready = trio.Event()
                watching.start_soon(_limit_stop, stop, ready, whole, stopping.grace_s)
                async with open_dht(self._settings) as dht:
                    with listening_socket(self._settings.data_dir) as listener:
                        ready.set()
                        await self._serve(dht, listener, stop)
                    log.info("stopping")
                watching.cancel_scope.cancel()
        log.info("stopped")

    async def _serve(self, dht: Dht, listener: socket.socket, stop: trio.Event) -> None:
        hello = Hello(API_VERSION, self._version, str(dht.peer_id))
        methods = Methods(dht, self._version, self._stats, self._settings.bootstrap_addrs).table()
        self._control = ControlServer(methods, hello)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._control.serve, listener)
            nursery.start_soon(_watch_bootstrap, dht)
            _settle_memory()
            self._say_ready(dht)
            await stop.wait()
            nursery.cancel_scope.cancel()

    def _say_ready(self, dht: Dht) -> None:
        addrs = full_addrs(dht.peer_id, dht.addrs)
        ttl_s = dht.stats().provider_ttl_s
        log.info(
            "ready",
            peer_id=str(dht.peer_id),
            version=self._version,
            data_dir=str(self._settings.data_dir),
            bootstrap=list(self._settings.bootstrap_addrs),
            provider_ttl_s=ttl_s,
        )
        if self._settings.as_json:
            ready = {"ready": True, "peer_id": str(dht.peer_id), "addrs": addrs}
            _say(json.dumps(ready, separators=(",", ":")))
        elif sys.stdout.isatty():
            _say(_welcome(self._settings, str(dht.peer_id), addrs, ttl_s))

    def _stats(self) -> Mapping[str, object]:
        control = self._control.stats() if self._control is not None else {}
        return {
            "version": self._version,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "data_dir": str(self._settings.data_dir),
            "bootstrap_peers": list(self._settings.bootstrap_addrs),
            "control": control,
            "foreign_log_records": self._foreign.stats(),
        }


def _settle_memory() -> None:
    """Exempt the objects that exist by now from garbage collection, since they stay for good. A
    full collection would search them every time, and stop everything for some 35 ms."""
    gc.collect()
    gc.freeze()


async def _limit_stop(
    stop: trio.Event, ready: trio.Event, whole: trio.CancelScope, grace_s: float
) -> None:
    """Cancel the opening at once when a stop is asked for, and a later stop after ``grace_s``."""
    await stop.wait()
    if ready.is_set():
        await trio.sleep(grace_s)
        log.warning("stop_cut_short", after_s=grace_s)
    whole.cancel()


async def _watch_bootstrap(dht: Dht) -> None:
    """Log each change of the bootstrap state, until cancelled. The node itself retries."""
    before = ""
    while True:
        state = dht.bootstrap_state  # looked at all the time; the counts only where it changed
        retrying = before == _UNREACHABLE and state == "joining"
        if state != before and not retrying:
            before = state
            _log_bootstrap(dht.stats())
        await trio.sleep(WATCH_INTERVAL_S)


def _log_bootstrap(stats: Any) -> None:
    facts = {
        "state": stats.bootstrap,
        "num_peers": stats.num_peers,
        "routing_table_size": stats.routing_table_size,
    }
    if stats.bootstrap == _UNREACHABLE:
        log.debug("bootstrap_state", **facts)  # the node has said so, and why
    else:
        log.info("bootstrap_state", **facts)


def _welcome(settings: Settings, peer_id: str, addrs: list[str], ttl_s: float) -> str:
    """The welcome when the daemon is ready: what to copy, and what to try next."""
    command = "codio-dht"
    option = "" if _is_default(settings.data_dir) else f" --data-dir {settings.data_dir}"
    bootstrap = ", ".join(settings.bootstrap_addrs) or "none: others have to connect to this node"
    return "\n".join(
        [
            f"This node is {peer_id}",
            "It can be reached at",
            *(f"  {addr}" for addr in addrs or ["  (no address)"]),
            f"Bootstrap: {bootstrap}",
            f"Provider records of other peers are kept for {ttl_s / _HOUR_S:g} h.",
            f"Data and control socket ({SOCKET_NAME}): {settings.data_dir}",
            "",
            "Try, in another terminal:",
            f"  {command} stats{option}",
            f"  {command} provide add{option} CID",
            f"  {command} findprovs{option} CID",
            "Stop with Ctrl-C.",
        ]
    )


def _is_default(data_dir: Path) -> bool:
    try:
        return data_dir == default_data_dir(os.environ)
    except UsageError:  # there is no default for a user without a home
        return False


def _say(text: str) -> None:
    """Print to stdout. If nobody reads it any more, the daemon goes on without it."""
    try:
        print(text, flush=True)  # noqa: T201 - stdout is where results go
    except OSError as error:
        log.warning("stdout_closed", error=str(error))
        _discard_stdout()


def _discard_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _fail(code: int, message: str) -> int:
    with suppress(OSError):  # the terminal may be gone
        print(f"codio-dht: {message}", file=sys.stderr)  # noqa: T201 - for who started it
    return code


def _fault(error: BaseException) -> int:
    log.error("daemon_failed", exc_info=error)
    return _fail(_RUNTIME_ERROR, "stopped by a fault of its own; the log above has the traceback")


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
