"""Our own trouble is not the peer's: limits, the system's errors and a network that is down."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.messages import FailureReason
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import (
    CapacityError,
    DeadlineError,
    DialError,
    FrameError,
    NetworkError,
    ProtocolError,
    StreamError,
    UnsupportedProtocolError,
)
from codio_dht.net.dial import race
from codio_dht.net.dial.budget import DialBudget
from codio_dht.net.dial.failures import DialFailedError, DialFailure, is_local, of_handshake
from codio_dht.net.limits import Limits
from codio_dht.net.stack.limits import MAX_OUTBOUND_STREAMS
from codio_dht.net.stack_host import StackHost, tcp
from codio_dht.net.targets import Ip
from codio_dht.node.rpc import failure_reason
from host_steps import (
    ECHO,
    IDLE_S,
    QUIC,
    TCP,
    Echoes,
    connect,
    dead_address,
    silent_listener,
    soon,
    until,
)
from stack_hosts import black_hole, lengthen_refused_backoff, made_host

ROOT = Path(__file__).resolve().parents[2]
STRANGER = PrivateKey.from_ed25519_seed(b"s" * 32).peer_id()


async def dial_error(host: StackHost, *addrs: Multiaddr) -> DialError:
    with pytest.raises(DialError) as caught:
        await host.connect(STRANGER, addrs, soon())
    return caught.value


# --- what an error means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "at_once", "later"),
    [
        (errno.EMFILE, True, True),
        (errno.ENFILE, True, True),
        (errno.ENOBUFS, True, True),
        (errno.EADDRNOTAVAIL, True, True),
        (errno.ENETDOWN, True, True),
        (errno.EPERM, True, True),
        # Later, somebody on the way says so: there is no such network, or nobody at the address.
        (errno.ENETUNREACH, True, False),
        (errno.EHOSTUNREACH, True, False),
        (errno.ECONNREFUSED, False, False),
        (errno.ECONNRESET, False, False),
        (errno.ETIMEDOUT, False, False),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else str(value),
)
def test_which_errors_of_the_system_are_our_own_trouble(
    code: int, at_once: bool, later: bool
) -> None:
    assert (at_once, later) == (is_local(code, at_once=True), is_local(code, at_once=False))


def test_a_handshake_that_we_ended_for_want_of_room_says_nothing_of_the_peer() -> None:
    kinds = [
        of_handshake(error).kind
        for error in (
            CapacityError("too many"),
            ProtocolError("noise", "x"),
            DeadlineError("x"),
            None,
        )
    ]
    assert [
        DialFailure.LOCAL,
        DialFailure.STRANGER,
        DialFailure.SILENT,
        DialFailure.REFUSED,
    ] == kinds


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DialError("too many connections", local=True), FailureReason.CAPACITY),
        (DeadlineError("no turn", local=True), FailureReason.CAPACITY),
        (StreamError("no room", local=True), FailureReason.CAPACITY),
        (DialError("refused"), FailureReason.UNREACHABLE),
        (DeadlineError("late"), FailureReason.TIMEOUT),
        (UnsupportedProtocolError("no"), FailureReason.UNSUPPORTED),
        (StreamError("ended"), FailureReason.BROKEN),
        (FrameError("none"), FailureReason.BROKEN),
    ],
)
def test_what_an_error_means_to_lookups_and_to_the_table(
    error: NetworkError, reason: FailureReason
) -> None:
    assert reason is failure_reason(error)


# --- the system -----------------------------------------------------------------------------------


class _Failing(socket.socket):
    """A socket of a machine that has no way to anywhere."""

    def connect_ex(self, address: Any) -> int:
        return errno.ENETUNREACH

    def connect(self, address: Any) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


@pytest.mark.parametrize("listen", [TCP, QUIC], ids=["tcp", "quic"])
async def test_a_network_that_is_down_is_found_at_once_and_not_remembered(
    listen: Multiaddr, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with made_host(listen) as server, made_host(listen) as client:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", _Failing)
            with trio.fail_after(8):  # less than any time-out of a dial
                errors = [await dial_error(client, *server.addrs) for _ in range(2)]
        assert [True, True] == [error.local for error in errors]
        assert all("Network is unreachable" in str(error) for error in errors)
        await connect(client, server)  # at once, now that it is back


@pytest.mark.parametrize("listen", [TCP, QUIC], ids=["tcp", "quic"])
async def test_no_file_descriptors_left_is_no_fault_of_the_peer(
    listen: Multiaddr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_args: Any) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with made_host(listen) as server, made_host(listen) as client:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", none_left)
            error = await dial_error(client, *server.addrs)
        assert error.local
        assert "Too many open files" in str(error)
        await connect(client, server)


INSIDE = """
import json, trio
from multiaddr import Multiaddr
from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import NetworkError
from codio_dht.net.stack_host import make_stack_host

async def main():
    peer, said = PrivateKey.generate_ed25519().peer_id(), []
    async with make_stack_host(PrivateKey.generate_ed25519(), []) as host:
        for carrier in ("tcp/4001", "udp/4001/quic-v1"):
            for ip in ("ip4/192.0.2.7", "ip6/2001:db8::7"):
                addr = Multiaddr(f"/{ip}/{carrier}")
                for _ in range(2):
                    try:
                        await host.connect(peer, [addr], Monotonic(trio.current_time() + 2))
                    except NetworkError as error:
                        said.append([error.local, str(error)])
    print(json.dumps(said))

trio.run(main)
"""


def test_without_a_route_nothing_is_held_against_an_address(require_tool) -> None:
    require_tool("unshare")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", INSIDE],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    said = json.loads(done.stdout)
    assert [True] * 8 == [local for local, _ in said]
    assert not [text for _, text in said if "a moment ago" in text]


BACK_ONLINE = """
import os, subprocess, trio
from multiaddr import Multiaddr
from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import NetworkError
from codio_dht.net.dial.failures import DialFailure
from codio_dht.net.host import AddrsChanged
from codio_dht.net.stack_host import make_stack_host, reaper

reaper.REAP_INTERVAL_S, reaper.NETWORK_INTERVAL_S = 0.05, 0.1

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    peer = PrivateKey.generate_ed25519().peer_id()
    addr = Multiaddr("/ip4/192.0.2.7/tcp/4001")
    async with make_stack_host(
        PrivateKey.generate_ed25519(), [], [Multiaddr("/ip4/192.0.2.9/tcp/4001")]
    ) as host, host.events() as events:
        moment = Monotonic(trio.current_time())
        host._dialler._failed.add(addr.to_bytes(), peer, DialFailure.SILENT, moment)
        ip("link", "set", "lo", "up")
        ip("addr", "add", "10.9.9.1/32", "dev", "lo")
        ip("route", "add", "default", "dev", "lo")
        with trio.fail_after(5):
            while not isinstance(await anext(events), AddrsChanged):
                pass
        try:
            await host.connect(peer, [addr], Monotonic(trio.current_time() + 1))
        except NetworkError as error:
            print(str(error))

trio.run(main)
"""


def test_back_online_what_failed_is_tried_again_at_once(require_tool) -> None:
    require_tool("unshare")
    require_tool("ip")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", BACK_ONLINE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "failed a moment ago" not in done.stdout


# --- limits ---------------------------------------------------------------------------------------


async def test_a_host_that_is_full_says_that_it_is_its_own_fault() -> None:
    limits = Limits(max_connections=1, high_water=1, low_water=1)
    async with made_host() as one, made_host() as two, made_host(limits=limits) as full:
        await connect(full, one)
        with pytest.raises(DialError, match="this node has too many connections") as caught:
            await full.connect(two.peer_id, two.addrs, soon())
        assert caught.value.local


async def test_a_link_without_room_for_one_more_stream_of_ours_is_no_fault_of_the_peer() -> None:
    async with made_host() as server, made_host() as client:
        server.serve(ECHO, Echoes(), idle_timeout_s=IDLE_S)
        await connect(client, server)
        for _ in range(MAX_OUTBOUND_STREAMS):
            await client.open_stream(server.peer_id, ECHO, soon())
        with pytest.raises(DeadlineError) as caught:
            await client.open_stream(server.peer_id, ECHO, soon(0.2))
        assert caught.value.local


async def test_a_back_off_is_our_own_choice_and_does_not_grow_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengthen_refused_backoff(monkeypatch, 60.0)
    async with made_host() as client:
        dead = dead_address()
        assert not (await dial_error(client, dead)).local
        for _ in range(3):
            error = await dial_error(client, dead)
            assert "failed a moment ago" in str(error)
            assert error.local
        assert 1 == client.stats()["dials"]


async def test_a_dial_that_never_had_its_turn_is_no_fault_of_the_peer() -> None:
    limits = Limits(max_dials=1, exempt_local=False)
    with silent_listener() as silent, silent_listener() as other:
        async with made_host(limits=limits) as client, trio.open_nursery() as nursery:
            holder = PrivateKey.generate_ed25519().peer_id()

            async def hold() -> None:
                with pytest.raises(NetworkError):
                    await client.connect(holder, [other], soon(3))

            nursery.start_soon(hold)
            await until(lambda: client.stats()["dials_running"] == 1)
            with pytest.raises(DeadlineError) as caught:
                await client.connect(STRANGER, [silent], soon(0.2))
            assert caught.value.local
            with pytest.raises(DeadlineError) as caught:  # it had its turn
                await client.connect(holder, [other], soon(0.2))
            assert not caught.value.local
            nursery.cancel_scope.cancel()


async def test_a_dial_that_lost_its_turn_is_not_held_against_the_address() -> None:
    limits = Limits(max_dials=1, exempt_local=False)
    with black_hole("127.3.1.1") as hole, silent_listener() as silent:
        async with made_host(limits=limits) as client, trio.open_nursery() as nursery:
            other = PrivateKey.generate_ed25519().peer_id()

            async def take_the_turn() -> None:
                await trio.sleep(0.1)
                with pytest.raises(NetworkError):
                    await client.connect(other, [silent], soon(2))

            nursery.start_soon(take_the_turn)
            error = await dial_error(client, hole)
            assert "others waited" in str(error)
            assert error.local
            assert not client._dialler._failed
            nursery.cancel_scope.cancel()


async def test_an_address_given_up_in_silence_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(race, "SILENT_AFTER_S", 0.1)
    with black_hole() as hole:
        async with made_host() as client:
            with pytest.raises(DeadlineError) as caught:
                await client.connect(STRANGER, [hole], soon(0.2))
            assert not caught.value.local
            assert "failed a moment ago" in str(await dial_error(client, hole))


async def test_what_fails_while_a_dial_waits_for_its_turn_is_not_dialled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(max_dials=1, exempt_local=False)
    dead = dead_address()
    peers = [PrivateKey.generate_ed25519().peer_id() for _ in range(8)]
    async with made_host(limits=limits) as client, trio.open_nursery() as nursery:

        async def dial(number: int) -> None:
            with pytest.raises(DialError):
                await client.connect(peers[number], [dead], soon())

        for number in range(len(peers)):
            nursery.start_soon(dial, number)
    assert 1 == client.stats()["dials"]


async def test_dials_that_have_not_begun_keep_their_places(autojump_clock) -> None:
    counters: Counter[str] = Counter()
    budget = DialBudget(Limits(max_dials=4), counters)
    await trio.sleep(100)

    async def hole(number: int) -> None:
        async with budget.place(Ip(bytes([1, 2, number, 1]), local=False)):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(hole, number)
        await trio.sleep(0.01)
        assert 4 == budget.running
        assert 0 == counters["dials_gave_way"]
        nursery.cancel_scope.cancel()


async def test_a_place_that_is_handed_on_is_kept_until_its_dial_had_its_second(
    autojump_clock,
) -> None:
    counters: Counter[str] = Counter()
    budget = DialBudget(Limits(max_dials=4), counters)
    await trio.sleep(100)
    async with trio.open_nursery() as nursery:
        scopes = []

        async def hole(number: int) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                with suppress(DialFailedError):  # it gave way, in the end
                    async with budget.place(Ip(bytes([1, 2, number, 1]), local=False)):
                        await trio.sleep_forever()

        for number in range(8):
            nursery.start_soon(hole, number)
        await trio.sleep(0.01)
        for scope in scopes[:4]:
            scope.cancel()  # their places go to those that wait, whose tasks have yet to wake
        for number in range(8, 60):
            nursery.start_soon(hole, number)
        await trio.sleep(0.01)
        assert 0 == counters["dials_gave_way"]
        await trio.sleep(1.5)
        assert 0 < counters["dials_gave_way"]
        nursery.cancel_scope.cancel()


def test_the_modules_that_are_patched_here_make_their_sockets_by_the_module() -> None:
    """Else the tests above would patch nothing."""
    assert tcp.socket is socket
