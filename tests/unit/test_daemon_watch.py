"""The daemon's look at how joining goes: often, so it has to be cheap."""

from __future__ import annotations

import trio

from codio_dht.daemon.service import _watch_bootstrap
from fake_dht import FakeDht, FakeStats


class CountingDht(FakeDht):
    counted = 0

    def stats(self) -> FakeStats:
        self.counted += 1
        return super().stats()


async def test_the_node_is_counted_through_only_when_joining_has_moved_on(autojump_clock) -> None:
    dht = CountingDht()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_bootstrap, dht)
        await trio.sleep(60)
        assert 1 == dht.counted
        dht.bootstrap_state = "joined"
        await trio.sleep(60)
        assert 2 == dht.counted
        nursery.cancel_scope.cancel()
