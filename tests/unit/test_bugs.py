from __future__ import annotations

from collections import Counter

from structlog.testing import capture_logs

from codio_dht.core.clock import Monotonic
from codio_dht.net.bugs import BUG_LINES_PER_MINUTE, BugLog


def test_every_fault_is_counted_and_few_are_logged_in_a_minute():
    counters: Counter[str] = Counter()
    bugs = BugLog(counters)
    with capture_logs() as lines:
        for _ in range(100):
            bugs.report("connection failed", ValueError("x"), Monotonic(5.0))
        assert BUG_LINES_PER_MINUTE == len(lines)
        bugs.report("connection failed", ValueError("x"), Monotonic(66.0))
        bugs.report("connection failed", ValueError("x"), Monotonic(67.0))
    assert 102 == counters["connection_bugs"]
    assert [100 - BUG_LINES_PER_MINUTE, None] == [line.get("omitted") for line in lines[-2:]]
