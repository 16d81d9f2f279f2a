"""When a node that reached nobody tries again, and the public list."""

from __future__ import annotations

from random import Random

import pytest

from codio_dht.node.arguments import peer_address_argument
from codio_dht.node.bootstrap import FIRST_RETRY_S, LAST_RETRY_S, PUBLIC_BOOTSTRAP, Backoff


def test_delays_double_up_to_a_ceiling_with_jitter():
    backoff = Backoff(Random(1))
    delays = [backoff.failed() for _ in range(12)]
    ideal = [min(FIRST_RETRY_S * 2**n, LAST_RETRY_S) for n in range(12)]
    assert [pytest.approx(delay, rel=0.25) for delay in ideal] == delays
    assert delays != ideal


def test_a_success_starts_over():
    backoff = Backoff(Random(1))
    for _ in range(5):
        backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == pytest.approx(FIRST_RETRY_S, rel=0.25)


def test_every_address_of_the_public_list_can_be_dialled():
    infos = [peer_address_argument(addr, "bootstrap") for addr in PUBLIC_BOOTSTRAP]
    assert len({info.peer_id for info in infos}) == 6
    assert all(info.addrs for info in infos)
