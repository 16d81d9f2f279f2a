from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from codio_dht.core.origins import OriginLedger, Stock
from codio_dht.net.stack_host.load_watch import MIN_REPORTED_TIMES, LoadWatch


@pytest.mark.parametrize(("work", "presses"), [(0.9, True), (0.001, False)])
async def test_an_event_loop_that_is_late_by_its_own_work_presses_the_heavy_origins(
    autojump_clock: MockClock, work: float, presses: bool
) -> None:
    """``work`` is its part of the time; the rest the machine gave to something else."""
    late_s, lost_s = 0.5, 0.0

    def clock() -> float:
        """Runs ahead of trio's, as it does while something blocks the loop."""
        nonlocal lost_s
        lost_s += late_s
        return trio.current_time() + lost_s

    origins = OriginLedger()
    watch = LoadWatch(origins, clock, lambda: work * (trio.current_time() + lost_s))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(1)
        assert (origins.pressure > 1) is presses
        late_s = 0.0
        await trio.sleep(10)
        assert 1 == origins.pressure
        nursery.cancel_scope.cancel()


def test_an_origin_that_is_often_at_a_limit_is_logged_with_its_address_and_its_network() -> None:
    origins = OriginLedger()
    watch = LoadWatch(origins, lambda: 0.0)
    often = origins.peer(bytes([5, 6, 7, 8]), b"x")
    for _ in range(MIN_REPORTED_TIMES):
        origins.hold(often, Stock.STREAMS, 1 << 30)
    origins.hold(origins.peer(bytes([9, 6, 7, 8]), b"x"), Stock.STREAMS, 1 << 30)
    with capture_logs() as logs:
        watch.report()
        watch.report()
    assert [
        {
            "event": "origin_at_limit",
            "log_level": "warning",
            "ip": "5.6.7.8",
            "network": "5.6.7.0/24",
            "level": "peer",
            "times": MIN_REPORTED_TIMES,
        }
    ] == logs
