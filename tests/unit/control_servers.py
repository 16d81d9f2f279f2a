"""A control server over a fake node, for tests of what talks to a daemon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from codio_dht.daemon.control import ControlServer
from codio_dht.daemon.datadir import listening_socket
from codio_dht.daemon.methods import Methods
from codio_dht.daemon.protocol import API_VERSION, Hello
from fake_dht import FakeDht, peer


@contextmanager
def serving(dht: FakeDht, data_dir: Path, api: int = API_VERSION) -> Iterator[None]:
    """A control server on ``data_dir`` in a thread of its own."""
    ready = threading.Event()
    scope = trio.CancelScope()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        methods = Methods(dht, "9.9", lambda: {"uptime_s": 1.0}).table()
        with scope, listening_socket(data_dir) as listener:
            ready.set()
            await ControlServer(methods, Hello(api, "9.9", str(peer(1)))).serve(listener)

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(5)
    try:
        yield
    finally:
        tokens[0].run_sync_soon(scope.cancel)
        thread.join(5)
