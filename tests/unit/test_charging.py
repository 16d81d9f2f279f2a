from __future__ import annotations

from ipaddress import ip_address

import pytest

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import (
    DEFAULT_FLOWS,
    DEFAULT_STOCKS,
    Flow,
    Held,
    OriginLedger,
    Rate,
    Stock,
)
from codio_dht.core.peer import PeerId
from codio_dht.net.charging import BYTES_STEP, MAX_PAUSE_S, STREAMS_STEP, Charges, Charging
from codio_dht.net.gate import Gate
from codio_dht.net.limits import Limits
from codio_dht.net.targets import Ip, parse

NOW = Monotonic(100.0)
PEER = PeerId(b"\x00\x01x")


def ip(text: str) -> Ip:
    version = ip_address(text).version
    target = parse(bytes([4 if version == 4 else 41]) + ip_address(text).packed + b"\x06\x0f\xa1")
    assert target is not None
    return target.ip


def charging(*, gate: Gate | None = None, public: bool = True, exempt: bool = True) -> Charging:
    made = Charging(OriginLedger(), gate or Gate(), Limits(exempt_local=exempt))
    made.public = public
    return made


@pytest.mark.parametrize(
    ("address", "public", "exempt"),
    [
        ("5.6.7.8", True, False),
        ("5.6.7.8", False, False),
        ("10.1.2.3", False, True),
        ("10.1.2.3", True, False),
        ("100.64.1.2", True, False),
        ("127.0.0.1", True, True),
        ("::1", True, True),
    ],
)
def test_private_addresses_are_exempt_only_where_the_host_is_not_public(
    address: str, public: bool, exempt: bool
) -> None:
    assert exempt == charging(public=public).exempts(ip(address))


def test_networks_that_the_operator_names_are_exempt() -> None:
    assert charging(gate=Gate(allow=["10.1.0.0/16"])).exempts(ip("10.1.2.3"))


def test_nobody_is_exempt_where_local_addresses_are_not() -> None:
    assert not charging(public=False, exempt=False).exempts(ip("127.0.0.1"))


def test_whoever_is_exempt_is_charged_with_nothing() -> None:
    made = charging()
    charges = Charges(made.origins, made.peer(ip("127.0.0.1"), PEER))
    assert charges.within(1 << 40, 1 << 20) is None
    assert 0 == charges.pause_s(100.0, NOW)


def small() -> tuple[OriginLedger, Charges]:
    most = Held(4 * BYTES_STEP, 4 * BYTES_STEP, 4 * BYTES_STEP, 100 * BYTES_STEP)
    streams = Held(4 * STREAMS_STEP, 4 * STREAMS_STEP, 4 * STREAMS_STEP, 100 * STREAMS_STEP)
    origins = OriginLedger(
        stocks={**DEFAULT_STOCKS, Stock.BYTES: most, Stock.STREAMS: streams},
        flows={**DEFAULT_FLOWS, Flow.CPU: Rate(0.1, 0.1, 0.1, 1.0)},
    )
    return origins, Charges(origins, origins.subnet(ip("5.6.7.8").packed))


def test_the_connection_that_goes_past_a_limit_of_its_origin_is_told_what_is_too_much() -> None:
    origins, charges = small()
    other = Charges(origins, origins.subnet(ip("5.6.7.9").packed))
    assert charges.within(3 * BYTES_STEP, 0) is None
    assert other.within(BYTES_STEP - 1, STREAMS_STEP - 1) is None  # less than a step
    assert "bytes" == other.within(2 * BYTES_STEP, 0)
    other.close()
    assert "streams" == charges.within(3 * BYTES_STEP, 5 * STREAMS_STEP)


def test_what_is_held_no_more_is_given_back() -> None:
    origins, charges = small()
    charges.within(3 * BYTES_STEP, 2 * STREAMS_STEP)
    charges.within(0, 0)
    assert (0, 0) == (origins.held(Stock.BYTES), origins.held(Stock.STREAMS))


def test_what_a_connection_holds_moves_to_its_peer_and_ends_with_it() -> None:
    origins, charges = small()
    charges.within(2 * BYTES_STEP, STREAMS_STEP)
    account = origins.peer(ip("5.6.7.8").packed, PEER.to_bytes())
    charges.move(account)
    assert 2 * BYTES_STEP == account.held[Stock.BYTES] == origins.held(Stock.BYTES)
    charges.close()
    assert (0, 0) == (origins.held(Stock.BYTES), origins.held(Stock.STREAMS))


def test_a_connection_that_is_over_is_charged_with_nothing_that_stays() -> None:
    origins, charges = small()
    account = origins.peer(ip("5.6.7.8").packed, PEER.to_bytes())
    charges.move(account)
    charges.within(2 * BYTES_STEP, STREAMS_STEP)
    charges.close()
    assert charges.within(2 * BYTES_STEP, STREAMS_STEP) is None  # its last turn is settled
    assert (0, 0) == (origins.held(Stock.BYTES), origins.held(Stock.STREAMS))
    assert 0 < charges.pause_s(1.0, NOW)  # which took time all the same


def test_a_connection_keeps_the_account_of_its_peer() -> None:
    origins = OriginLedger(max_accounts=20)
    charges = Charges(origins, origins.subnet(ip("5.6.7.8").packed))
    account = origins.peer(ip("5.6.7.8").packed, PEER.to_bytes())
    charges.move(account)
    for last in range(100):
        origins.subnet(ip(f"20.0.{last}.1").packed)
    assert account is origins.peer(ip("5.6.7.8").packed, PEER.to_bytes())
    charges.close()
    charges.close()
    for last in range(100):
        origins.subnet(ip(f"20.0.{last}.1").packed)
    assert account is not origins.peer(ip("5.6.7.8").packed, PEER.to_bytes())


def test_a_connection_pauses_when_its_origin_used_up_its_time_but_never_for_too_long() -> None:
    _, charges = small()
    assert 0 == charges.pause_s(0.1, NOW)
    assert 1 == pytest.approx(charges.pause_s(0.1, NOW))
    assert MAX_PAUSE_S == charges.pause_s(100.0, NOW)
