"""What a sighting of a peer means to a network: whose addresses are kept, and who is asked."""

from __future__ import annotations

import pytest

from codio_dht.core.addresses import PUBLIC_ONLY
from codio_dht.core.admission import OfferOutcome
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import PeerEntry
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.peer import PeerId
from codio_dht.params import MAX_CLOSER_PEERS_ACCEPTED, K

NOW = Monotonic(5.0)
PUBLIC = bytes((0x04, 8, 8, 8, 8, 0x06, 0x0F, 0xA1))
PRIVATE = bytes((0x04, 10, 0, 0, 1, 0x06, 0x0F, 0xA1))


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def public_network() -> Network:
    """A network that keeps public addresses only."""
    return Network(peer(0), protocol="/kad", policy=NetworkPolicy(PUBLIC_ONLY))


def test_of_what_a_peer_says_of_itself_the_addresses_that_the_policy_keeps_are_kept() -> None:
    network = public_network()
    network.identified(peer(1), ["/kad"], (PRIVATE, PUBLIC), NOW)
    assert network.book.addrs(peer(1), NOW) == (PUBLIC,)


def test_who_is_known_at_private_addresses_only_is_no_candidate() -> None:
    network = public_network()
    assert network.identified(peer(1), ["/kad"], (PRIVATE,), NOW) is None
    assert network.answered(peer(1), NOW) is None
    assert (network.admission.waiting, len(network.table)) == (0, 0)


@pytest.mark.conformance("c30")
def test_who_does_not_speak_the_protocol_is_no_candidate_and_leaves_the_table() -> None:
    network = public_network()
    assert network.identified(peer(1), ["/kad"], (PUBLIC,), NOW) is OfferOutcome.QUEUED
    network.answered(peer(1), NOW)
    assert len(network.table) == 1
    assert network.identified(peer(1), ["/other"], (PUBLIC,), NOW) is None
    assert (network.admission.waiting, len(network.table)) == (0, 0)


def test_of_a_reply_twice_k_peers_are_read() -> None:
    network = public_network()
    closer = [PeerEntry(peer(number), (PUBLIC,)) for number in range(1, 100)]
    taken = network.learn(closer, None, NOW)
    assert MAX_CLOSER_PEERS_ACCEPTED == 2 * K
    assert taken == [each.peer_id for each in closer[: 2 * K]]
    assert network.book.addrs(closer[2 * K].peer_id, NOW) == ()


@pytest.mark.parametrize(
    ("addrs", "target", "is_taken"),
    [
        ((PUBLIC,), None, True),
        ((PRIVATE,), None, False),
        ((), None, False),
        ((), 1, True),
        ((PRIVATE,), 1, True),
    ],
)
def test_who_in_a_reply_may_be_asked(
    addrs: tuple[bytes, ...], target: int | None, is_taken: bool
) -> None:
    """Peers without an address that the policy keeps are not, unless they are looked for."""
    wanted = None if target is None else peer(target)
    taken = public_network().learn([PeerEntry(peer(1), addrs)], wanted, NOW)
    assert taken == ([peer(1)] if is_taken else [])


def test_a_peer_in_a_reply_whose_address_is_known_may_be_asked_without_one() -> None:
    network = public_network()
    network.book.heard(peer(1), (PUBLIC,), NOW)
    assert network.learn([PeerEntry(peer(1))], None, NOW) == [peer(1)]


def test_this_node_itself_is_never_asked() -> None:
    network = public_network()
    assert network.learn(
        [PeerEntry(peer(0), (PUBLIC,)), PeerEntry(peer(2), (PUBLIC,))], None, NOW
    ) == [peer(2)]
