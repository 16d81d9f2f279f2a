"""What a request tells of its peer's health: when it counts, and how its time is read."""

from __future__ import annotations

import pytest

from codio_dht import params
from codio_dht.core.addresses import KEEP_ALL
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason, FindNode
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import DIAL_ROUND_TRIPS, Condition
from codio_dht.core.requests import Requests

ADDR = bytes((0x04, 8, 8, 8, 8, 0x06, 0x0F, 0xA1))
REQUEST = FindNode(b"key")


def peer_at(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


class Connected:
    """Contacts of a host that is connected to some peers and reaches no others."""

    def __init__(self, *peers: PeerId) -> None:
        self.peers = list(peers)

    def is_connected(self, peer: PeerId) -> bool:
        return peer in self.peers

    is_reached = is_connected


def requests_of(*connected: PeerId) -> tuple[Network, Requests]:
    network = Network(peer_at(0), protocol=params.KAD_PROTOCOL, policy=NetworkPolicy(KEEP_ALL))
    return network, Requests(network, Connected(*connected))


def condition(requests: Requests, peer: PeerId, at: float) -> Condition:
    return requests.outlook(peer, Monotonic(at)).condition


def test_a_request_has_its_time_from_when_it_begins_and_says_whether_it_dials() -> None:
    near, far = peer_at(1), peer_at(2)
    _, requests = requests_of(near)
    ask = requests.begin(near, REQUEST, Monotonic(7.0))
    assert (ask.peer, ask.request) == (near, REQUEST)
    assert (ask.began, ask.deadline) == (7.0, 7.0 + params.PEER_TIMEOUT_S)
    assert not ask.dials
    dialling = requests.begin(far, REQUEST, Monotonic(7.0), timeout_s=2.0)
    assert dialling.deadline == 9.0
    assert dialling.dials


def test_an_answer_says_that_the_peer_is_alive_and_how_fast_it_is() -> None:
    peer = peer_at(1)
    network, requests = requests_of(peer)
    requests.answered(requests.begin(peer, REQUEST, Monotonic(1.0)), Monotonic(1.2))
    outlook = network.health.outlook(peer, Monotonic(1.2), connected=True)
    assert outlook.condition is Condition.ALIVE
    assert outlook.expected_s == pytest.approx(0.2)


def test_an_answer_after_a_dial_counts_as_that_many_round_trips() -> None:
    peer = peer_at(1)
    network, requests = requests_of()
    requests.answered(requests.begin(peer, REQUEST, Monotonic(1.0)), Monotonic(1.3))
    outlook = network.health.outlook(peer, Monotonic(1.3), connected=True)
    assert outlook.expected_s == pytest.approx(0.3 / DIAL_ROUND_TRIPS)


@pytest.mark.parametrize("known_by", ["address", "connection"])
def test_a_failure_counts_if_the_peer_could_be_tried(known_by: str) -> None:
    peer = peer_at(1)
    network, requests = requests_of(*([peer] if known_by == "connection" else []))
    if known_by == "address":
        network.book.heard(peer, (ADDR,), Monotonic(0.0))
    requests.failed(peer, FailureReason.TIMEOUT, Monotonic(2.0), began=Monotonic(0.0))
    assert condition(requests, peer, 2.0) is Condition.DEAD


def test_a_failure_without_an_address_to_try_says_nothing_of_the_peer() -> None:
    peer = peer_at(1)
    _, requests = requests_of()
    requests.failed(peer, FailureReason.UNREACHABLE, Monotonic(1.0), began=Monotonic(0.0))
    assert condition(requests, peer, 1.0) is Condition.UNKNOWN


def test_a_failure_of_our_own_says_nothing_of_the_peer() -> None:
    peer = peer_at(1)
    _, requests = requests_of(peer)
    requests.failed(peer, FailureReason.CAPACITY, Monotonic(1.0), began=Monotonic(0.0))
    assert condition(requests, peer, 1.0) is Condition.UNKNOWN


def test_a_failure_of_a_request_from_before_the_peers_introduction_says_nothing() -> None:
    peer = peer_at(1)
    network, requests = requests_of(peer)
    network.health.introduced(peer, Monotonic(5.0))
    requests.failed(peer, FailureReason.TIMEOUT, Monotonic(9.0), began=Monotonic(4.0))
    assert condition(requests, peer, 9.0) is Condition.ALIVE
    requests.failed(peer, FailureReason.TIMEOUT, Monotonic(9.0), began=Monotonic(6.0))
    assert condition(requests, peer, 9.0) is Condition.DEAD


def test_what_is_expected_of_a_peer_depends_on_whether_it_has_to_be_dialled() -> None:
    peer = peer_at(1)
    network, connected = requests_of(peer)
    _, dialling = requests_of()
    expected = {
        each: network.health.outlook(peer, Monotonic(1.0), connected=each) for each in (True, False)
    }
    assert expected[True] != expected[False]
    assert connected.outlook(peer, Monotonic(1.0)) == expected[True]
    assert dialling.outlook(peer, Monotonic(1.0)) == expected[False]


def test_whether_a_peer_shows_life_the_host_knows() -> None:
    near, far = peer_at(1), peer_at(2)
    _, requests = requests_of(near)
    assert [requests.is_reached(near), requests.is_reached(far)] == [True, False]
