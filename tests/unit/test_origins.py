from __future__ import annotations

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import (
    DEFAULT_FLOWS,
    DEFAULT_STOCKS,
    Flow,
    Held,
    Level,
    Origin,
    OriginLedger,
    Rate,
    Refusals,
    Stock,
    origin_of,
    subnet_of,
)

NOW = Monotonic(1_000.0)
ALICE, BOB = b"alice", b"bob"
HELD = Held(4, 6, 9, 20)
RATE = Rate(1.0, 2.0, 4.0, 8.0)


def ip(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def ledger(held: Held = HELD) -> OriginLedger:
    return OriginLedger(
        stocks={**DEFAULT_STOCKS, Stock.STREAMS: held},
        flows={**DEFAULT_FLOWS, Flow.CPU: RATE, Flow.EVENTS: RATE},
    )


def test_an_origin_is_a_peer_in_a_subnet_in_an_ip_group() -> None:
    expected = Origin("5.6.0.0/16", ip("5.6.7.0")[:3], ALICE)
    assert expected == origin_of(ip("5.6.7.8"), ALICE)


def test_an_ipv6_subnet_is_a_56() -> None:
    assert bytes(7) == subnet_of(bytes(16))


def test_a_peer_holds_no_more_than_its_limit() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    assert [True] * 4 + [False] == [accounts.hold(peer, Stock.STREAMS) for _ in range(5)]
    assert 1 == peer.refused


def test_peers_of_a_subnet_share_its_limit() -> None:
    accounts = ledger()
    assert accounts.hold(accounts.peer(ip("5.6.7.8"), ALICE), Stock.STREAMS, 4)
    bob = accounts.peer(ip("5.6.7.9"), BOB)
    assert not accounts.hold(bob, Stock.STREAMS, 3)
    assert accounts.hold(bob, Stock.STREAMS, 2)
    assert 1 == accounts.subnet(ip("5.6.7.1")).refused


def test_subnets_of_a_group_share_its_limit() -> None:
    accounts = ledger()
    for last in range(2):
        assert accounts.hold(accounts.peer(ip(f"5.6.{last}.8"), ALICE), Stock.STREAMS, 4)
    assert not accounts.hold(accounts.peer(ip("5.6.9.8"), ALICE), Stock.STREAMS, 2)


def test_whoever_takes_all_it_can_get_leaves_room_for_others() -> None:
    accounts = ledger(Held(1_000, 1_000, 1_000, 1_000))
    greedy = [accounts.peer(ip(f"{first}.0.0.1"), ALICE) for first in range(1, 5)]
    for _ in range(1_000):
        for account in greedy:
            accounts.hold(account, Stock.STREAMS)
    assert 1_000 // 5 - 4 <= 1_000 - accounts.held(Stock.STREAMS)
    assert accounts.hold(accounts.peer(ip("9.0.0.1"), BOB), Stock.STREAMS, 100)


def test_what_is_given_back_may_be_held_again() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    assert accounts.hold(peer, Stock.STREAMS, 4)
    accounts.release(peer, Stock.STREAMS, 3)
    assert accounts.hold(peer, Stock.STREAMS, 3)
    assert 4 == accounts.held(Stock.STREAMS)


def test_what_is_held_already_is_charged_past_the_limit_and_said_to_be() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    assert not accounts.force(peer, Stock.STREAMS, 5)
    assert 5 == accounts.held(Stock.STREAMS)


def test_a_flow_may_be_used_at_its_rate_for_ever_without_waiting() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    waits = [accounts.spend(peer, Flow.CPU, 1, Monotonic(NOW + second)) for second in range(100)]
    assert [0.0] * 100 == waits


def test_what_was_left_unused_for_a_while_may_be_used_in_one_go_and_then_there_is_a_wait() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    assert 0 == accounts.spend(peer, Flow.CPU, 8, NOW)
    assert 3 == accounts.spend(peer, Flow.CPU, 3, NOW)
    assert 3 == accounts.owed_s(peer, Flow.CPU, NOW)
    assert 0 == accounts.owed_s(peer, Flow.CPU, Monotonic(NOW + 3))


def test_many_peers_of_one_subnet_wait_for_each_other() -> None:
    accounts = ledger()
    waits = [
        accounts.spend(accounts.peer(ip("5.6.7.8"), bytes([each])), Flow.CPU, 2, NOW)
        for each in range(12)
    ]
    assert [0.0] * 8 + [1.0, 2.0, 3.0, 4.0] == waits
    newcomer = accounts.peer(ip("5.6.7.8"), ALICE)
    assert 4 == accounts.owed_s(newcomer, Flow.CPU, NOW)  # what its subnet owes


def test_other_networks_do_not_wait_for_a_heavy_one() -> None:
    accounts = ledger()
    accounts.spend(accounts.peer(ip("5.6.7.8"), ALICE), Flow.CPU, 1_000, NOW)
    assert 0 == accounts.spend(accounts.peer(ip("5.7.7.8"), ALICE), Flow.CPU, 1, NOW)


def test_pressure_makes_cpu_time_dearer_and_nothing_else() -> None:
    accounts = ledger()
    accounts.pressure = 4.0
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    accounts.spend(peer, Flow.CPU, 8, NOW)  # all that it left unused
    assert 12 == accounts.spend(peer, Flow.CPU, 3, NOW)
    assert 0 == accounts.spend(peer, Flow.EVENTS, 3, NOW)


def test_pressure_takes_nothing_from_what_an_origin_left_unused() -> None:
    """One handshake on a slow machine may take a large part of it."""
    accounts = ledger()
    accounts.pressure = 16.0
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    assert 0 == accounts.spend(peer, Flow.CPU, 8, NOW)
    assert 0 == accounts.owed_s(peer, Flow.CPU, NOW)


def test_what_cannot_be_afforded_is_not_charged() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    affordable = [accounts.afford(peer, Flow.EVENTS, NOW) for _ in range(10)]
    assert [True] * 8 + [False] * 2 == affordable
    assert accounts.afford(peer, Flow.EVENTS, Monotonic(NOW + 1))
    assert 2 == peer.refused == accounts.refusals


def test_accounts_are_bounded_and_those_that_hold_something_are_kept() -> None:
    accounts = OriginLedger(max_accounts=100)
    holder = accounts.peer(ip("5.6.7.8"), ALICE)
    accounts.hold(holder, Stock.STREAMS, 7)
    for number in range(1_000):
        accounts.peer(bytes([20, number >> 8, number & 0xFF, 1]), BOB)
    assert 100 == len(accounts)
    assert holder is accounts.peer(ip("5.6.7.8"), ALICE)


def crowd(accounts: OriginLedger) -> None:
    """A thousand others come."""
    for number in range(1_000):
        accounts.peer(bytes([20, number >> 8, number & 0xFF, 1]), BOB)


def test_the_account_of_a_connection_is_kept_with_its_owners_for_as_long_as_that_lasts() -> None:
    accounts = OriginLedger(max_accounts=100)
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    subnet = peer.parent
    accounts.keep(peer)
    crowd(accounts)
    assert subnet is accounts.subnet(ip("5.6.7.9"))
    assert subnet is accounts.peer(ip("5.6.7.9"), BOB).parent
    crowd(accounts)
    assert peer is accounts.peer(ip("5.6.7.8"), ALICE)
    others = []
    for last in range(60):
        others.append(accounts.peer(bytes([30, 0, last, 1]), BOB))
        accounts.keep(others[-1])
    assert 100 < len(accounts)  # as many as are kept, with their owners
    for each in [peer, *others]:
        accounts.let_go(each)
    crowd(accounts)
    assert subnet is not accounts.subnet(ip("5.6.7.9"))
    assert 100 == len(accounts)


def test_a_subnet_is_never_forgotten_before_its_peers() -> None:
    accounts = OriginLedger(max_accounts=100)
    for number in range(1_000):
        peer = accounts.peer(bytes([20, number >> 8, number & 0xFF, 1]), BOB)
        accounts.spend(peer, Flow.CPU, number % 7, NOW)
        for account in list(accounts._accounts.values()):
            parent = account.parent
            assert parent is None or accounts._accounts[parent.key] is parent


def test_refusals_are_told_once() -> None:
    accounts = ledger()
    peer = accounts.peer(ip("5.6.7.8"), ALICE)
    for _ in range(2):
        accounts.hold(peer, Stock.STREAMS, 5)
    assert [Refusals("5.6.7.0/24", ip("5.6.7.8"), Level.PEER, 2)] == accounts.take_refused()
    assert [] == accounts.take_refused()
