"""Which of the addresses at which peers see us are believed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.net import limits
from codio_dht.net.limits import (
    MAX_OBSERVATIONS,
    MAX_OBSERVATIONS_PER_GROUP,
    MAX_OBSERVED_TOLD,
    MIN_OBSERVER_GROUPS,
    OBSERVATION_TTL_S,
)
from codio_dht.net.observed_addrs import ObservedAddr, ObservedAddrs

OURS = "/ip4/5.6.7.8/tcp/4001"
START = Monotonic(0.0)


def binary(text: str) -> bytes:
    return bytes(Multiaddr(text).to_bytes())


def peer(group: int, host: int = 1, transport: str = "tcp/1000") -> bytes:
    """A peer of a /16 of its own."""
    return binary(f"/ip4/9.{group % 256}.{host // 256}.{host % 256}/{transport}")


def saw(
    observed: ObservedAddrs,
    connection: object,
    remote: bytes,
    addr: str = OURS,
    *,
    now: float = 0.0,
) -> bool:
    return observed.saw(connection, remote=remote, observed=binary(addr), now=Monotonic(now))


def told(observed: ObservedAddrs, now: float = 0.0) -> list[str]:
    return [str(Multiaddr(each.addr)) for each in observed.addrs(Monotonic(now))]


def seen_by(count: int, addr: str = OURS, transport: str = "tcp/1000") -> ObservedAddrs:
    observed = ObservedAddrs()
    for number in range(count):
        assert saw(observed, number, peer(number, transport=transport), addr)
    return observed


# --- how many it takes ----------------------------------------------------------------------------


def test_an_address_is_ours_when_four_groups_see_it_and_not_before() -> None:
    assert [] == told(seen_by(MIN_OBSERVER_GROUPS - 1))
    assert [OURS] == told(seen_by(MIN_OBSERVER_GROUPS))


def test_any_number_of_peers_of_one_group_has_one_vote() -> None:
    observed = seen_by(MIN_OBSERVER_GROUPS - 1)
    for number in range(1_000):
        saw(observed, ("liar", number), peer(0, host=number))
    assert [] == told(observed)


def test_an_ipv6_group_is_what_one_provider_has() -> None:
    ours = "/ip6/2606:4700::1/tcp/4001"
    observed = ObservedAddrs()
    for number in range(100):
        assert saw(observed, number, binary(f"/ip6/2a00:1450:{number:x}::1/tcp/1"), ours)
    assert [] == told(observed)
    for number in range(1, MIN_OBSERVER_GROUPS):
        assert saw(observed, -number, binary(f"/ip6/2a0{number}:1::1/tcp/1"), ours)
    assert [ours] == told(observed)


def test_four_groups_that_agree_do_not_prevail_against_many() -> None:
    observed = seen_by(4 * MIN_OBSERVER_GROUPS + 1)
    for number in range(100, 100 + MIN_OBSERVER_GROUPS):
        saw(observed, number, peer(number), "/ip4/6.6.6.6/tcp/4001")
    assert [OURS] == told(observed)


def test_of_one_transport_three_addresses_are_told_at_most_the_most_seen_first() -> None:
    observed = ObservedAddrs()
    for number, groups in enumerate((4, 6, 5, 4, 7)):
        for group in range(groups):
            saw(observed, (number, group), peer(group), f"/ip4/5.6.7.{number}/tcp/1")
    assert MAX_OBSERVED_TOLD == len(told(observed))
    assert [f"/ip4/5.6.7.{number}/tcp/1" for number in (4, 1, 2)] == told(observed)


def test_each_transport_and_ip_version_has_its_own() -> None:
    observed = ObservedAddrs()
    expected = []
    for remote, ours in (
        ("/ip4/9.{}.0.1/tcp/1", "/ip4/5.6.7.8/tcp/4001"),
        ("/ip4/9.{}.0.1/udp/1/quic-v1", "/ip4/5.6.7.8/udp/4001/quic-v1"),
        ("/ip6/2a0{}::1/tcp/1", "/ip6/2606:4700::1/tcp/4001"),
        ("/ip6/2a0{}::1/udp/1/quic-v1", "/ip6/2606:4700::1/udp/4001/quic-v1"),
    ):
        expected.append(ours)
        for number in range(MIN_OBSERVER_GROUPS):
            assert saw(observed, (ours, number), binary(remote.format(number)), ours)
    assert sorted(expected) == sorted(told(observed))


# --- what counts ----------------------------------------------------------------------------------


def test_what_leads_to_no_socket_of_that_connection_does_not_count() -> None:
    observed = ObservedAddrs()
    for remote, addr in (
        ("/ip4/9.1.0.1/tcp/1", "/ip4/5.6.7.8/udp/4001/quic-v1"),
        ("/ip4/9.1.0.1/tcp/1", "/ip6/2606:4700::1/tcp/4001"),
        ("/ip4/9.1.0.1/tcp/1", "/ip4/5.6.7.8/tcp/0"),
        ("/ip4/9.1.0.1/tcp/1", "/ip4/5.6.7.8/tcp/4001/ws"),
        ("/ip4/9.1.0.1/tcp/1", "/dns4/example.com/tcp/4001"),
        ("/ip4/9.1.0.1/tcp/1", "/ip4/127.0.0.1/tcp/4001"),
        ("/ip4/9.1.0.1/tcp/1", "/ip4/192.168.1.2/tcp/4001"),
        ("/ip6/2a00::1/tcp/1", "/ip6/64:ff9b::506:708/tcp/4001"),
        ("/ip4/192.168.1.9/tcp/1", OURS),
        ("/ip4/127.0.0.1/tcp/1", OURS),
    ):
        assert not saw(observed, object(), binary(remote), addr), (remote, addr)
    assert 0 == len(observed)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_bytes_that_are_no_addresses_do_not_count_and_harm_nobody(
    remote: bytes, addr: bytes
) -> None:
    observed = ObservedAddrs()
    observed.saw("one", remote=remote, observed=addr, now=START)
    observed.saw("two", remote=peer(1), observed=addr, now=START)
    observed.addrs(START)
    observed.ended("one", START)


# --- whether it can be reached --------------------------------------------------------------------


def test_what_any_number_of_peers_say_is_believed_and_not_proven() -> None:
    observed = seen_by(40)
    assert [ObservedAddr(binary(OURS), proven=False)] == observed.addrs(START)


def test_what_a_dial_back_proved_is_proven_for_a_while_whether_peers_see_us_there_or_not() -> None:
    observed, other = seen_by(MIN_OBSERVER_GROUPS), binary("/ip4/5.6.7.9/udp/1/quic-v1")
    observed.prove(other, START)
    assert [ObservedAddr(other, proven=True), ObservedAddr(binary(OURS), proven=False)] == (
        observed.addrs(START)
    )
    observed.prove(binary(OURS), START)
    assert {True} == {each.proven for each in observed.addrs(START)}
    later = Monotonic(OBSERVATION_TTL_S)
    assert [ObservedAddr(binary(OURS), proven=False)] == observed.addrs(later)


def test_the_addresses_that_are_proven_are_bounded() -> None:
    observed = ObservedAddrs()
    for port in range(1, 100):
        observed.prove(binary(f"/ip4/5.6.7.8/tcp/{port}"), START)
    assert limits.MAX_PROVEN_OWN_ADDRS == len(observed.addrs(START))
    assert "/ip4/5.6.7.8/tcp/99" in told(observed)


# --- for how long ---------------------------------------------------------------------------------


def test_a_vote_counts_while_its_connection_is_open_and_for_a_while_after() -> None:
    observed = seen_by(MIN_OBSERVER_GROUPS)
    assert [OURS] == told(observed, now=1e9)
    for number in range(MIN_OBSERVER_GROUPS):
        observed.ended(number, Monotonic(10.0))
    assert [OURS] == told(observed, now=10.0 + OBSERVATION_TTL_S - 1)
    assert [] == told(observed, now=10.0 + OBSERVATION_TTL_S)
    assert 0 == len(observed)


def test_a_connection_has_one_vote_and_the_last_one_counts() -> None:
    observed = seen_by(MIN_OBSERVER_GROUPS)
    other = "/ip4/5.6.7.9/tcp/4001"
    for number in range(MIN_OBSERVER_GROUPS):
        for _ in range(3):
            assert saw(observed, number, peer(number), other, now=10.0)
    assert [OURS, other] == told(observed, now=10.0)
    assert [other] == told(observed, now=10.0 + OBSERVATION_TTL_S)


def test_the_end_of_a_connection_that_said_nothing_is_no_matter() -> None:
    observed = seen_by(MIN_OBSERVER_GROUPS)
    observed.ended("never heard of", START)
    for _ in range(2):
        observed.ended(0, START)
    assert [OURS] == told(observed)


# --- bounds ---------------------------------------------------------------------------------------


def test_one_group_cannot_push_out_what_others_saw() -> None:
    observed = seen_by(MIN_OBSERVER_GROUPS)
    for number in range(MIN_OBSERVER_GROUPS):
        observed.ended(number, START)
    for number in range(2 * MAX_OBSERVATIONS):
        port = 1 + number % 65_535
        saw(observed, ("liar", number), peer(200), f"/ip4/6.6.6.6/tcp/{port}")
        observed.ended(("liar", number), START)
    assert MIN_OBSERVER_GROUPS + MAX_OBSERVATIONS_PER_GROUP == len(observed)
    assert [OURS] == told(observed)


def test_when_all_is_full_the_oldest_without_a_connection_goes() -> None:
    observed = ObservedAddrs()
    for number in range(MAX_OBSERVATIONS + 1):
        group, port = divmod(number, MAX_OBSERVATIONS_PER_GROUP)
        remote = binary(f"/ip4/{20 + group // 200}.{group % 200}.0.1/tcp/1")
        saw(observed, number, remote, f"/ip4/5.6.7.8/tcp/{1 + port}")
        if number == 5:
            observed.ended(5, START)
    assert MAX_OBSERVATIONS == len(observed)
    # Nobody else has ended: the next one is not taken in.
    assert not saw(observed, "late", peer(250))
    assert MAX_OBSERVATIONS == len(observed)


class Crowd(RuleBasedStateMachine):
    """Peers of a few groups come, say anything, change their minds and go."""

    def __init__(self) -> None:
        super().__init__()
        self.observed = ObservedAddrs()
        self.now = 0.0
        self.open: dict[int, tuple[int, int]] = {}
        """Connection to its group and the address it stands for."""
        self.past: dict[tuple[int, int], float] = {}
        """Until when what an ended connection said counts."""

    @rule(connection=st.integers(0, 20), address=st.integers(0, 3))
    def says(self, connection: int, address: int) -> None:
        group = connection % 7
        taken = saw(
            self.observed,
            connection,
            peer(group, host=connection),
            f"/ip4/5.6.7.8/tcp/{address + 1}",
            now=self.now,
        )
        assert taken
        if self.open.get(connection) != (group, address):
            self.it_no_longer_stands(connection)
            self.open[connection] = (group, address)

    @rule(connection=st.integers(0, 20))
    def ends(self, connection: int) -> None:
        self.observed.ended(connection, Monotonic(self.now))
        self.it_no_longer_stands(connection)

    def it_no_longer_stands(self, connection: int) -> None:
        key = self.open.pop(connection, None)
        if key is not None:
            self.past[key] = self.now + OBSERVATION_TTL_S

    @rule(seconds=st.floats(0.0, OBSERVATION_TTL_S))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def told_is_what_enough_groups_see(self) -> None:
        standing = set(self.open.values()) | {
            key for key, until in self.past.items() if until > self.now
        }
        groups = {addr: sum(key[1] == addr for key in standing) for addr in range(4)}
        believed = sorted(
            (addr for addr, count in groups.items() if count >= limits.MIN_OBSERVER_GROUPS),
            key=lambda addr: (-groups[addr], addr),
        )
        expected = [f"/ip4/5.6.7.8/tcp/{addr + 1}" for addr in believed[:MAX_OBSERVED_TOLD]]
        assert expected == told(self.observed, self.now)
        assert len(standing) == len(self.observed)


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(stateful_step_count=30, max_examples=60)
