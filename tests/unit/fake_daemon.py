"""The command ``codio-dht`` with a fake node under its daemon. ``FAKE_DHT`` names a fault."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from codio_dht.cli.main import main
from codio_dht.daemon import service
from codio_dht.daemon.node_port import Dht
from codio_dht.daemon.settings import Settings
from codio_dht.daemon.stopping import Stopping
from codio_dht.errors import ConfigError, StorageError
from codio_dht.store.directory import OwnedDirectory
from fake_dht import FakeDht


@asynccontextmanager
async def open_fake(settings: Settings) -> AsyncIterator[Dht]:
    """Owns the data directory, as a node does; the rest is a fake."""
    directory = OwnedDirectory(settings.data_dir)
    try:
        async with _opened() as dht:
            yield dht
    finally:
        directory.release()


@asynccontextmanager
async def _opened() -> AsyncIterator[Dht]:
    dht = FakeDht()
    match os.environ.get("FAKE_DHT"):
        case "refuses_config":
            raise ConfigError("provider_timeout must be longer")
        case "fails_in_a_nursery":
            async with trio.open_nursery():
                raise StorageError("the disk is full")
        case "port_in_use":
            raise OSError(98, "Address already in use")
        case "has_a_bug":
            raise ZeroDivisionError("a fault of ours")
        case "never_opens":
            await trio.sleep_forever()
        case "cannot_join":
            dht.bootstrap_state = "unreachable"
        case "searches_for_ever":
            dht.never = True
        case _:
            pass
    yield dht
    match os.environ.get("FAKE_DHT"):
        case "never_closes":
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        case "closes_only_when_cancelled":
            await trio.sleep_forever()
        case "tells_what_is_frozen":
            print(f"frozen objects: {gc.get_freeze_count()}", file=sys.stderr)
        case "blocks_the_loop":
            time.sleep(60)  # noqa: ASYNC251 - that is the fault
        case _:
            pass


service.open_node = open_fake
vars(service)["Stopping"] = partial(Stopping, grace_s=0.5, limit_s=1.5)

if __name__ == "__main__":
    main()
