"""How the host on our own stack connects to peers."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import DeadlineError, DialError, NetworkError
from codio_dht.net import link
from codio_dht.net.dial import race
from codio_dht.net.dial.budget import DialBudget
from codio_dht.net.dial.failures import DialFailedError, DialFailure
from codio_dht.net.dial.hearsay import MAX_HEARD_PORTS, TARGET_INTERVAL_S
from codio_dht.net.dial.limits import (
    MAX_ADDRS_PER_DIAL,
    MAX_BACKOFF_S,
    MAX_DIALS_PER_GROUP,
    SILENT_BACKOFF_S,
    STRANGER_BACKOFF_S,
)
from codio_dht.net.dial.memory import FailedAddresses, RefusedPipelining
from codio_dht.net.host import Stream
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack.security import Security
from codio_dht.net.stack_host import Gate, Limits, StackHost, connections, tcp
from codio_dht.net.targets import Ip, Target, dial_target, ranked
from host_steps import (
    ECHO,
    IDLE_S,
    QUIC,
    TCP,
    TCP6,
    UNDIALLABLE,
    Echoes,
    connect,
    dead_address,
    echo_of,
    identified,
    silent_listener,
    soon,
    until,
)
from host_subjects import Relay
from stack_hosts import (
    black_hole,
    lengthen_refused_backoff,
    made_host,
    open_sockets,
    quicken,
    tasks,
)

STRANGER = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()


# --- one dial -------------------------------------------------------------------------------------


async def test_concurrent_connects_to_one_peer_share_one_connection() -> None:
    async with made_host() as server, made_host() as client:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(connect, client, server)
        assert 1 == client.stats()["dials"]
        await until(lambda: len(server.connections()) == 1)
        assert 1 == len(client.connections())


async def expect_deadline(client: StackHost, peer_id: PeerId, addr: Multiaddr) -> None:
    with pytest.raises(DeadlineError):
        await client.connect(peer_id, [addr], soon(0.02))


async def test_a_dial_that_nobody_waits_for_leaves_nothing_behind() -> None:
    async with made_host() as client:
        with silent_listener() as silent:
            sockets, running = open_sockets(), tasks()
            for patience_s in (0.0, 0.001, 0.01, 0.05):
                with trio.move_on_after(patience_s):
                    await client.connect(STRANGER, [silent, dead_address()], soon())
            await until(lambda: tasks() == running)
            assert (sockets, 0) == (open_sockets(), client.stats()["dials_running"])
            assert 0 == client._dialler.running


async def test_another_peer_at_the_address_is_a_dial_error() -> None:
    async with made_host() as server, made_host() as client:
        with pytest.raises(DialError, match="another peer than expected"):
            await client.connect(STRANGER, server.addrs, soon())
        assert not client.is_connected(STRANGER)
        assert not client.is_connected(server.peer_id)
        await connect(client, server)  # which says nothing against the one who is there


@UNDIALLABLE
async def test_addresses_that_cannot_be_dialled_are_a_dial_error(addrs: list[str]) -> None:
    async with made_host(name_servers=NoNameServers()) as client:
        with pytest.raises(DialError, match="can be dialled"):
            await client.connect(STRANGER, [Multiaddr(addr) for addr in addrs], soon())


async def test_a_connection_of_the_peers_own_ends_the_dial() -> None:
    async with made_host() as one, made_host() as two:
        with silent_listener() as silent:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.connect, two.peer_id, [silent], soon())
                await until(lambda: one.stats()["dials_running"] == 1)
                await connect(two, one)
            assert one.is_connected(two.peer_id)
            assert 0 == one._dialler.running


async def test_two_that_dial_each_other_at_once_end_with_one_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicken(monkeypatch)
    monkeypatch.setattr(connections, "DUPLICATE_IDLE_S", 0.2)
    async with made_host() as one, made_host() as two:
        for host in (one, two):
            host.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect, one, two)
                nursery.start_soon(connect, two, one)
            assert b"hello" == await echo_of(one, two)
            assert b"hello" == await echo_of(two, one)
            await until(lambda: len(one.connections()) == len(two.connections()) == 1)
            assert b"hello" == await echo_of(one, two)
            assert b"hello" == await echo_of(two, one)
            await one.disconnect(two.peer_id)
            await until(lambda: not two.connections())


# --- a peer that died without a word --------------------------------------------------------------

CARRIERS = pytest.mark.parametrize("listen", [TCP, QUIC], ids=["tcp", "quic"])


@CARRIERS
async def test_a_new_connection_is_used_rather_than_a_silent_older_one(listen: Multiaddr) -> None:
    key = PrivateKey.generate_ed25519()
    async with (
        made_host(listen) as client,
        made_host(listen, key=key) as before,
        Relay(before).running() as relay,
    ):
        await client.connect(before.peer_id, [relay.addr], soon())
        await identified(client, before.peer_id)
        relay.silent = True  # it died ...
        async with made_host(listen, key=key) as again:  # ... and is back
            again.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
            await connect(again, client)
            await until(lambda: len(client.connections()) == 2)
            with trio.fail_after(15):
                for _ in range(3):
                    assert b"hello" == await echo_of(client, again)


@CARRIERS
async def test_a_connection_on_which_nothing_came_back_is_not_used_again(
    listen: Multiaddr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "DOUBT_AFTER_S", 0.2)
    async with (
        made_host(listen) as client,
        made_host(listen) as server,
        Relay(server).running() as relay,
    ):
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await client.connect(server.peer_id, [relay.addr], soon())
        await identified(client, server.peer_id)
        await client.connect(server.peer_id, server.addrs, soon())
        assert 1 == len(client.connections())  # that one will do
        relay.silent = True
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.4):
            await echo_of(client, server)
        await client.connect(server.peer_id, server.addrs, soon())
        with trio.fail_after(15):
            assert b"hello" == await echo_of(client, server)

        relay.silent = False  # it was only slow: both will do
        with trio.fail_after(15):
            assert b"hello" == await echo_of(client, server)


async def _say_nothing(_stream: Stream) -> None:
    await trio.sleep_forever()


async def test_a_stream_given_up_says_nothing_of_a_connection_on_which_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "DOUBT_AFTER_S", 0.1)
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        server.serve_stream("/mute/1", _say_nothing)
        await connect(client, server)
        await identified(client, server.peer_id)
        mute = await client.open_stream(server.peer_id, "/mute/1", soon())
        await mute.write(b"hello?")
        await trio.sleep(0.15)
        assert b"hello" == await echo_of(client, server)
        await mute.reset()
        await connect(client, server)

        assert 1 == len(client.connections())


# --- many addresses -------------------------------------------------------------------------------


async def test_every_address_is_tried_until_one_leads_to_the_peer() -> None:
    with silent_listener() as silent, black_hole() as hole:
        async with made_host() as server, made_host() as other, made_host() as client:
            dead = [dead_address() for _ in range(12)]
            await client.connect(
                server.peer_id, [*dead, silent, hole, *other.addrs, *server.addrs], soon()
            )
            assert client.is_connected(server.peer_id)
            await until(lambda: client.stats()["dials_running"] == 0)


async def test_the_first_success_ends_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "DIAL_STAGGER_S", 1e6)
    with silent_listener() as silent:
        async with made_host() as server, made_host() as client:
            await client.connect(server.peer_id, [*server.addrs, silent], soon())
            await until(lambda: client.stats()["dials_running"] == 0)
            assert 1 == client.stats()["dials"]


def test_addresses_are_ranked_by_reach_and_carrier_and_families_take_turns() -> None:
    texts = [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/1.1.1.1/tcp/1",
        "/ip4/1.1.1.2/tcp/1",
        "/ip6/2606::1/tcp/1",
        "/ip6/2606::2/tcp/1",
        "/ip4/1.1.1.1/udp/1/quic-v1",
        "/ip4/192.0.2.1/tcp/1",
    ]
    targets = [dial_target(Multiaddr(text), STRANGER) for text in texts]
    assert [
        "/ip4/1.1.1.1/udp/1/quic-v1",
        "/ip6/2606::1/tcp/1",
        "/ip4/1.1.1.1/tcp/1",
        "/ip6/2606::2/tcp/1",
        "/ip4/1.1.1.2/tcp/1",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/192.0.2.1/tcp/1",
    ] == [str(target) for target in ranked(target for target in targets if target)]


async def test_only_a_second_address_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """R9 of py-libp2p: every dial waits."""
    monkeypatch.setattr(race, "DIAL_STAGGER_S", 1e6)
    async with made_host() as server, made_host() as client:
        for _ in range(3):
            await connect(client, server)
            await client.disconnect(server.peer_id)
        with black_hole() as hole, pytest.raises(NetworkError):
            await client.connect(server.peer_id, [hole, *server.addrs], soon(0.3))


async def test_a_host_is_reached_over_either_family() -> None:
    async with made_host(TCP, TCP6) as server, made_host() as client:
        four, six = server.addrs
        for dead in (four, six):
            gone = Multiaddr(str(dead).rsplit("/", 1)[0] + str(dead_address())[-6:])
            other = six if dead is four else four
            await client.connect(server.peer_id, [gone, other], soon())
            assert other == client.connections()[0].addr
            await client.disconnect(server.peer_id)


# --- failures -------------------------------------------------------------------------------------


async def test_an_address_that_failed_is_left_alone_for_a_while_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengthen_refused_backoff(monkeypatch, 2.0)
    async with made_host() as server, made_host() as client:
        dead = dead_address()
        with pytest.raises(DialError, match="Connection refused"):
            await client.connect(server.peer_id, [dead], soon())
        with pytest.raises(DialError, match="failed a moment ago"):
            await client.connect(STRANGER, [dead], soon())
        assert 1 == client.stats()["dials"]
        await client.connect(server.peer_id, [dead, *server.addrs], soon())
        await trio.sleep(2.0)
        with pytest.raises(DialError, match="Connection refused"):
            await client.connect(STRANGER, [dead], soon())


def test_a_back_off_doubles_up_to_its_ceiling_and_ends_with_a_success() -> None:
    failures = FailedAddresses()
    moment, waits = 0.0, []
    for _ in range(12):
        failures.add(b"a", STRANGER, DialFailure.SILENT, Monotonic(moment))
        wait = 0.0
        while failures.is_blocked(b"a", STRANGER, Monotonic(moment + wait)):
            wait += SILENT_BACKOFF_S
        waits.append(wait)
        moment += wait
    assert [5.0, 10.0, 20.0, 40.0, 80.0, 160.0] + [MAX_BACKOFF_S] * 6 == waits
    failures.forget(b"a", STRANGER)
    assert not failures.is_blocked(b"a", STRANGER, Monotonic(moment))
    failures.add(b"a", STRANGER, DialFailure.SILENT, Monotonic(moment))
    assert not failures.is_blocked(b"a", STRANGER, Monotonic(moment + SILENT_BACKOFF_S))


def test_an_address_of_somebody_else_is_left_alone_for_the_one_who_was_not_there() -> None:
    failures = FailedAddresses()
    failures.add(b"a", STRANGER, DialFailure.STRANGER, Monotonic(0.0))
    other = PrivateKey.generate_ed25519().peer_id()
    assert failures.is_blocked(b"a", STRANGER, Monotonic(STRANGER_BACKOFF_S - 1))
    assert not failures.is_blocked(b"a", other, Monotonic(0.0))


def test_a_fault_of_this_machine_is_not_held_against_an_address() -> None:
    failures = FailedAddresses()
    failures.add(b"a", STRANGER, DialFailure.LOCAL, Monotonic(0.0))
    assert not failures.is_blocked(b"a", STRANGER, Monotonic(0.0))


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    failures, refusers = FailedAddresses(capacity=3), RefusedPipelining(capacity=3)
    for number in range(10):
        failures.add(bytes([number]), STRANGER, DialFailure.SILENT, Monotonic(0.0))
        refusers.add(bytes([number]))
    assert (3, 3) == (len(failures), len(refusers))
    assert failures.is_blocked(bytes([9]), STRANGER, Monotonic(1.0))
    assert bytes([9]) in refusers


async def test_a_black_hole_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "CONNECT_TIMEOUT_S", 0.1)
    async with made_host() as client:
        with black_hole() as hole, pytest.raises(DialError, match="no answer"):
            await client.connect(STRANGER, [hole], soon())


async def test_a_listener_that_says_nothing_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "UPGRADE_TIMEOUT_S", 0.1)
    async with made_host() as client:
        with silent_listener() as silent, pytest.raises(DialError, match="took too long"):
            await client.connect(STRANGER, [silent], soon())


async def test_what_a_person_asks_for_is_dialled_whatever_failed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengthen_refused_backoff(monkeypatch, 60.0)
    async with made_host() as client:
        async with made_host() as before:
            addrs = list(before.addrs)
        for _ in range(6):  # a script that waits for the peer
            with pytest.raises(DialError, match="Connection refused"):
                await client.connect(STRANGER, addrs, soon(), retry_failed=True)
        with pytest.raises(DialError, match="failed a moment ago"):
            await client.connect(STRANGER, addrs, soon())  # a lookup leaves it alone
        key = PrivateKey.generate_ed25519()
        async with made_host(*addrs, key=key) as back:
            await client.connect(back.peer_id, addrs, soon(), retry_failed=True)


async def test_a_person_may_join_a_dial_that_leaves_the_address_alone() -> None:
    async with made_host() as server, made_host() as client:
        with silent_listener() as silent:
            for addr in server.addrs:
                client._dialler._failed.add(
                    addr.to_bytes(),
                    server.peer_id,
                    DialFailure.SILENT,
                    Monotonic(trio.current_time()),
                )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.connect, server.peer_id, [silent, *server.addrs], soon())
                await trio.sleep(0.05)
                assert not client.is_connected(server.peer_id)
                await client.connect(server.peer_id, server.addrs, soon(), retry_failed=True)
                assert 0 == client.stats().get("dials_failed", 0)


async def test_a_denied_address_is_not_dialled() -> None:
    gate = Gate(deny=["127.0.0.1"])
    async with made_host() as server, made_host(gate=gate) as client:
        with pytest.raises(DialError, match="denied"):
            await client.connect(server.peer_id, server.addrs, soon())
        assert 0 == client.stats().get("dials", 0)


async def test_no_more_addresses_of_a_peer_are_dialled_than_the_bound() -> None:
    dead = [Multiaddr(f"/ip4/127.7.{n}.1/tcp/1") for n in range(MAX_ADDRS_PER_DIAL + 40)]
    async with made_host() as client:
        with pytest.raises(DialError) as caught:
            await client.connect(STRANGER, dead, soon(60))
        assert MAX_ADDRS_PER_DIAL == client.stats()["dials"]
        assert MAX_ADDRS_PER_DIAL == str(caught.value).count(";") + 1


# --- how many at once -----------------------------------------------------------------------------


async def test_dead_peers_do_not_hold_up_a_good_one() -> None:
    with silent_listener() as silent:
        async with made_host() as server, made_host() as client, trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(dial_dead, client, silent)
            await until(lambda: client.stats()["dials_running"] == 60)
            await connect(client, server)
            assert 60 <= client.stats()["dials_running"]  # none of them had to end first
            nursery.cancel_scope.cancel()


async def dial_dead(client: StackHost, addr: Multiaddr) -> None:
    dead = PrivateKey.generate_ed25519().peer_id()
    with pytest.raises((DialError, DeadlineError)):
        await client.connect(dead, [addr], soon())


async def test_black_holes_that_fill_every_place_delay_a_good_dial_by_a_second_at_most() -> None:
    limits = Limits(max_dials=32, exempt_local=False)
    with ExitStack() as holes:
        async with (
            made_host() as server,
            made_host(limits=limits) as client,
            trio.open_nursery() as nursery,
        ):
            for number in range(40):
                hole = holes.enter_context(black_hole(f"127.1.{number}.1"))
                nursery.start_soon(dial_dead, client, hole)
            await until(lambda: client.stats()["dials_running"] == 32)
            await connect(client, server)
            assert client.stats()["dials_gave_way"] > 0
            nursery.cancel_scope.cancel()


async def test_one_network_of_black_holes_takes_its_own_places_only() -> None:
    limits = Limits(exempt_local=False)
    with black_hole("127.9.9.1") as hole:
        async with (
            made_host() as server,
            made_host(limits=limits) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(40):
                nursery.start_soon(dial_dead, client, hole)
            await until(lambda: client.stats()["dials_running"] == MAX_DIALS_PER_GROUP)
            await connect(client, server)
            assert MAX_DIALS_PER_GROUP <= client.stats()["dials_running"]
            nursery.cancel_scope.cancel()


def ip(text: str, *, local: bool = False) -> Ip:
    return Ip(ipaddress.ip_address(text).packed, local)


async def test_networks_take_turns_when_places_are_few(autojump_clock) -> None:
    budget = DialBudget(Limits(max_dials=2), Counter())
    order: list[str] = []

    async def dial(name: str, where: Ip) -> None:
        async with budget.place(where):
            order.append(name)
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        for name in ("a1", "a2", "a3", "a4", "b1", "c1"):
            number = "abc".index(name[0]) + 1
            nursery.start_soon(dial, name, ip(f"1.1.{number}.1"))
            await trio.sleep(0.001)
    assert ["a1", "a2", "a3", "b1", "c1", "a4"] == order
    assert 0 == budget.running


async def test_a_dial_that_is_cancelled_while_it_waits_gives_its_turn_to_the_next(
    autojump_clock,
) -> None:
    budget = DialBudget(Limits(max_dials=1), Counter())
    done: list[int] = []

    async def dial(number: int, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            async with budget.place(ip("1.1.1.1")):
                await trio.sleep(0.1)
                done.append(number)

    async with trio.open_nursery() as nursery:
        for number, patience_s in enumerate((1.0, 0.05, 0.15, 1.0)):
            nursery.start_soon(dial, number, patience_s)
            await trio.sleep(0.001)
    assert [0, 3] == done
    assert 0 == budget.running


async def test_a_dial_without_an_answer_gives_way_and_one_with_time_left_does_not(
    autojump_clock,
) -> None:
    budget = DialBudget(Limits(max_dials=1), Counter())
    ends: list[tuple[str, float]] = []
    begun = trio.current_time()

    async def dial(name: str, duration_s: float) -> None:
        try:
            async with budget.place(ip(f"1.1.{len(name)}.1")):
                await trio.sleep(duration_s)
            ends.append((name, round(trio.current_time() - begun, 1)))
        except DialFailedError:
            ends.append((name + " gave way", round(trio.current_time() - begun, 1)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, "hole", 60.0)
        await trio.sleep(0.5)
        nursery.start_soon(dial, "good", 0.1)
    assert [("hole gave way", 1.0), ("good", 1.1)] == ends


async def test_local_addresses_are_not_counted_by_network(autojump_clock) -> None:
    budget = DialBudget(Limits(), Counter())
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            async with budget.place(ip("127.0.0.1", local=True)):
                await trio.sleep(1)

        for _ in range(100):
            nursery.start_soon(dial)
        await trio.sleep(0.1)
        assert 100 == budget.running


# --- names ----------------------------------------------------------------------------------------


class NoNameServers:
    async def texts(self, name: str) -> list[str]:
        raise AssertionError(f"asked for {name}")

    async def ips(self, name: str, ip_version: int) -> list[str]:
        raise AssertionError(f"asked for {name}")


class FakeNameServers:
    def __init__(self, texts: dict[str, list[str]], ips: dict[str, list[str]]) -> None:
        self._texts, self._ips = texts, ips

    async def texts(self, name: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        if name not in self._texts:
            raise NetworkError(f"cannot resolve {name}")
        return self._texts[name]

    async def ips(self, name: str, ip_version: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        if name not in self._ips:
            raise NetworkError(f"cannot resolve {name}")
        return [each for each in self._ips[name] if (":" in each) == (ip_version == 6)]


async def test_names_are_resolved_and_join_the_race() -> None:
    async with made_host() as server:
        port = str(server.addrs[0]).rsplit("/", 1)[1]
        end = f"/tcp/{port}/p2p/{server.peer_id}"
        servers = FakeNameServers(
            {"_dnsaddr.list.example": [f"dnsaddr=/dns4/host.example{end}"]},
            {"host.example": ["127.0.0.1"]},
        )
        for addr in (
            f"/dns4/host.example{end}",
            f"/dns/host.example/tcp/{port}",
            f"/dnsaddr/list.example/p2p/{server.peer_id}",
        ):
            async with made_host(name_servers=servers) as client:
                await client.connect(server.peer_id, [Multiaddr(addr), dead_address()], soon())
                assert client.is_connected(server.peer_id)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a b", b"..", b"\x1b[31m"])
async def test_a_name_that_is_none_is_an_address_that_cannot_be_dialled(name: bytes) -> None:
    addr = Multiaddr(b"\x36" + bytes([len(name)]) + name + b"\x06\x00\x01")
    async with made_host(name_servers=NoNameServers()) as client:
        with pytest.raises(DialError, match="can be dialled"):
            await client.connect(STRANGER, [addr], soon())


async def test_a_name_that_nobody_knows_is_a_dial_error() -> None:
    async with made_host(name_servers=FakeNameServers({}, {})) as client:
        with pytest.raises(DialError, match=r"cannot resolve nobody\.example"):
            await client.connect(STRANGER, [Multiaddr("/dns4/nobody.example/tcp/1")], soon())


# --- pipelining -----------------------------------------------------------------------------------


def other_security(key: PrivateKey) -> Security:
    """Noise under another name, whose initiator waits for the listener's answer."""
    return Security("/other", NoiseIdentity(key).security().factory, opens_with_message=False)


async def test_a_listener_that_refuses_pipelining_is_dialled_again_and_remembered() -> None:
    server_key, client_key = PrivateKey.generate_ed25519(), PrivateKey.generate_ed25519()
    both = [NoiseIdentity(client_key).security(), other_security(client_key)]
    async with (
        made_host(key=server_key, securities=[other_security(server_key)]) as server,
        made_host(key=client_key, securities=both) as client,
    ):
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        for _ in range(2):
            await connect(client, server)
            assert b"hello" == await echo_of(client, server)
            await client.disconnect(server.peer_id)
        assert 1 == client.stats()["dials_without_pipelining"]


async def test_security_protocols_without_one_in_common_are_a_dial_error() -> None:
    key = PrivateKey.generate_ed25519()
    securities = [other_security(key)]
    async with made_host(key=key, securities=securities) as server, made_host() as client:
        with pytest.raises(DialError, match="no security protocol in common"):
            await connect(client, server)


async def test_a_request_written_at_once_needs_no_identify() -> None:
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        assert b"hello" == await echo_of(client, server)
        await identified(client, server.peer_id)


# --- the words of strangers -----------------------------------------------------------------------


@asynccontextmanager
async def dialler_of_machines() -> AsyncGenerator[tuple[StackHost, list[tuple[float, Target]]]]:
    """A host whose dials are noted, with their time, and refused."""
    dialled: list[tuple[float, Target]] = []

    async def refuse(target: Target, _peer_id: PeerId, _reached: object) -> None:
        dialled.append((trio.current_time(), target))
        await trio.lowlevel.checkpoint()
        raise DialFailedError(DialFailure.REFUSED, "refused")

    async with made_host() as client:
        for transport in client.transports:
            transport.dial = refuse  # type: ignore[assignment]
        yield client, dialled


async def told_by_stranger(client: StackHost, peer_id: PeerId, *addrs: str) -> None:
    with pytest.raises(NetworkError):
        await client.connect(
            peer_id, list(map(Multiaddr, addrs)), soon(30), stranger_filter=PUBLIC_ONLY
        )


async def test_strangers_words_cost_a_machine_eight_ports_and_a_dial_a_second(
    autojump_clock,
) -> None:
    """Named as the address of peer after peer, of 32 ports each time."""
    async with dialler_of_machines() as (client, dialled):
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(40):
                peer_id = PrivateKey.from_ed25519_seed(bytes([number]) * 32).peer_id()
                addrs = [f"/ip4/5.6.7.8/tcp/{2_000 + 32 * number + n}" for n in range(32)]
                nursery.start_soon(told_by_stranger, client, peer_id, *addrs)
                await trio.sleep(0.5)
        seconds = trio.current_time() - begun
        assert 1 <= len(dialled) <= min(MAX_HEARD_PORTS, seconds / TARGET_INTERVAL_S + 2)
        assert len({target.port for _, target in dialled}) <= MAX_HEARD_PORTS


async def test_what_a_stranger_says_is_judged_where_it_is_dialled(autojump_clock) -> None:
    """No port of a service, and no machine of this node's own network."""
    async with dialler_of_machines() as (client, dialled):
        await told_by_stranger(
            client,
            STRANGER,
            "/ip4/5.6.7.8/tcp/25",
            "/ip4/5.6.7.8/udp/53/quic-v1",
            "/ip4/127.0.0.1/tcp/6379",
            "/ip4/192.168.1.1/tcp/8080",
            "/ip4/169.254.169.254/tcp/8080",
        )
        assert [] == dialled
        with pytest.raises(DialError):  # a person may
            await client.connect(STRANGER, [Multiaddr("/ip4/5.6.7.8/tcp/25")], soon())
        assert [25] == [target.port for _, target in dialled]


async def test_an_address_that_becomes_known_later_joins_the_dial() -> None:
    async with made_host() as server, made_host() as client:
        with silent_listener() as silent:
            known = [silent]
            async with trio.open_nursery() as nursery:

                async def learn_later() -> None:
                    await until(lambda: client.stats()["dials_running"] == 1)
                    known.extend(server.addrs)

                nursery.start_soon(learn_later)
                await client.connect(
                    server.peer_id,
                    [silent],
                    soon(30),
                    stranger_filter=KEEP_ALL,
                    later=lambda: known,
                )
        assert client.is_connected(server.peer_id)


async def test_silent_addresses_do_not_hold_up_a_good_one(autojump_clock) -> None:
    """A liar names sixteen that say nothing before it."""
    async with made_host() as client:
        begun, found = trio.current_time(), trio.Event()
        started: list[int] = []

        async def silent_but_one(target: Target, _peer_id: PeerId, _reached: object) -> None:
            started.append(target.port)
            if target.port == 4_001:
                found.set()
            await trio.sleep_forever()

        for transport in client.transports:
            transport.dial = silent_but_one  # type: ignore[assignment]
        addrs = [f"/ip4/5.{n}.7.8/tcp/{5_000 + n}" for n in range(16)] + ["/ip4/5.6.9.9/tcp/4001"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told_by_stranger, client, STRANGER, *addrs)
            await found.wait()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - begun < 4
