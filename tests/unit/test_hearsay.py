"""What the word of strangers may make this node dial: bounds for each machine and each network."""

from __future__ import annotations

import random

from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.dial import hearsay
from codio_dht.net.dial.hearsay import (
    HEARD_PORTS_MEMORY_S,
    MAX_HEARD_PORTS,
    MAX_PROVEN_ADDRS,
    MAX_TARGETS,
    MAX_TURN_WAIT_S,
    NETWORK_AT_ONCE,
    NETWORK_INTERVAL_S,
    TARGET_AT_ONCE,
    TARGET_INTERVAL_S,
    Hearsay,
)
from codio_dht.net.targets import Target, parse

PEER = PrivateKey.from_ed25519_seed(b"p" * 32).peer_id()
OTHER = PrivateKey.from_ed25519_seed(b"o" * 32).peer_id()


def target(ip: str, port: int = 4001, *, udp: bool = False) -> Target:
    transport = f"udp/{port}/quic-v1" if udp else f"tcp/{port}"
    found = parse(Multiaddr(f"/ip{6 if ':' in ip else 4}/{ip}/{transport}").to_bytes())
    assert found is not None
    return found


def at(seconds: float) -> Monotonic:
    return Monotonic(1_000.0 + seconds)


def test_a_peer_is_dialled_at_once_over_quic_and_over_tcp() -> None:
    heard = Hearsay()
    assert [0.0, 0.0] == [heard.turn(target("5.0.0.1", udp=udp), at(0)) for udp in (True, False)]
    assert TARGET_INTERVAL_S == heard.turn(target("5.0.0.1", 4002), at(0))


def test_a_machine_is_dialled_once_a_second_in_the_long_run_whoever_names_it() -> None:
    """A minute of words about it, a thousand a second."""
    heard, dialled = Hearsay(), list[float]()
    for millisecond in range(60_000):
        moment = at(millisecond / 1_000)
        wait_s = heard.turn(target("5.0.0.1", 2_000 + millisecond % MAX_HEARD_PORTS), moment)
        if wait_s is not None:
            assert wait_s <= MAX_TURN_WAIT_S
            dialled.append(moment + wait_s)
    assert 60 <= len(dialled) <= 60 + TARGET_AT_ONCE + MAX_TURN_WAIT_S
    for first in dialled:
        within = sum(first <= each < first + TARGET_INTERVAL_S - 1e-6 for each in dialled)
        assert within <= TARGET_AT_ONCE


def test_of_one_machine_eight_ports_are_dialled_and_others_when_these_are_forgotten() -> None:
    heard = Hearsay()
    moment = 0.0
    for port in range(5_000, 5_000 + 3 * MAX_HEARD_PORTS):
        moment += TARGET_INTERVAL_S
        expected = 0.0 if port < 5_000 + MAX_HEARD_PORTS else None
        assert expected == heard.turn(target("5.0.0.1", port), at(moment))
    assert 0.0 == heard.turn(target("5.0.0.1", 5_001), at(moment + TARGET_INTERVAL_S))
    assert 0.0 == heard.turn(target("5.0.0.1", 9_999), at(moment + HEARD_PORTS_MEMORY_S))


def test_a_port_that_is_refused_takes_no_turn() -> None:
    heard = Hearsay()
    for number in range(MAX_HEARD_PORTS):
        heard.turn(target("5.0.0.1", 2_000 + number), at(number * TARGET_INTERVAL_S))
    now = at(MAX_HEARD_PORTS * TARGET_INTERVAL_S + 10)
    for number in range(100):
        assert heard.turn(target("5.0.0.1", 3_000 + number), now) is None
    assert 0.0 == heard.turn(target("5.0.0.1", 2_000), now)


def test_a_network_is_dialled_so_often_however_many_machines_of_it_are_named() -> None:
    heard = Hearsay()
    waits = [heard.turn(target(f"5.0.0.{n}", 4001 + n), at(0)) for n in range(200)]
    turns = [wait for wait in waits if wait is not None]
    assert [0.0] * NETWORK_AT_ONCE == turns[:NETWORK_AT_ONCE]
    assert len(turns) == NETWORK_AT_ONCE + MAX_TURN_WAIT_S / NETWORK_INTERVAL_S
    assert 0.0 == heard.turn(target("5.0.1.1"), at(0))  # another network
    assert 0.0 == heard.turn(target("2a00:1:2::1"), at(0))


def test_an_address_where_a_peer_was_met_is_no_hearsay_for_this_peer() -> None:
    heard, addr = Hearsay(), target("5.0.0.1", 443).addr
    assert not heard.is_proven(addr, PEER)
    heard.proven(addr, PEER)
    assert heard.is_proven(addr, PEER)
    assert not heard.is_proven(addr, OTHER)
    for number in range(MAX_PROVEN_ADDRS):
        heard.proven(b"%d" % number, PEER)
    assert not heard.is_proven(addr, PEER)


def test_what_is_remembered_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(hearsay, "MAX_TARGETS", 50)
    heard, rng = Hearsay(), random.Random(1)
    for number in range(500):
        ip = ".".join(str(rng.randrange(1, 250)) for _ in range(4))
        heard.turn(target(ip, rng.randrange(2_000, 60_000)), at(number / 100))
    assert (50, 50) == (len(heard), len(heard._of_machine))
    assert 50 == len(heard._of_network)
    assert MAX_TARGETS > 50
