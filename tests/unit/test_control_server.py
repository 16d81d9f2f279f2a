"""The control API's server over a real Unix socket, with a fake node behind it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    Ended,
    FollowUpBegan,
    GivenUp,
    LookedBeyond,
    LookupEvent,
    RequestFailed,
    StopReason,
    Unresponsive,
)
from codio_dht.core.messages import FailureReason
from codio_dht.daemon.control import ControlServer
from codio_dht.daemon.datadir import listening_socket, socket_path
from codio_dht.daemon.methods import Methods, to_json
from codio_dht.daemon.parameters import MAX_LIST_ITEMS
from codio_dht.daemon.protocol import (
    API_VERSION,
    MAX_CONNECTIONS,
    MAX_LINE_BYTES,
    MAX_REQUESTS_PER_CONNECTION,
    MAX_TEXT_CHARS,
    Answer,
    ErrorCode,
    Failure,
    Hello,
    Item,
    LineReader,
    Request,
    RequestId,
    Result,
    decode_answer,
    encode_request,
)
from codio_dht.daemon.provide_methods import raw_cid
from codio_dht.daemon.trace import MAX_UNREAD_EVENTS, event_json
from codio_dht.errors import CapacityError, DeadlineError, DialError, NoPeersError, StorageError
from codio_dht.net.host import ConnectionInfo
from codio_dht.node.results import DHTStats
from fake_dht import CID, FakeDht, info, peer, raw_cid_of

HELLO = Hello(API_VERSION, "9.9", str(peer(1)))


class Talker:
    """A client that says what the test tells it to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = LineReader(10**6)
        self._lines: list[bytes] = []

    async def say(self, line: bytes) -> None:
        await self.stream.send_all(line)

    async def ask(self, request_id: RequestId, method: str, **params: Any) -> None:
        await self.say(encode_request(Request(request_id, method, params)))

    async def hear(self) -> Answer:
        while not self._lines:
            data = await self.stream.receive_some(65536)
            assert data, "the daemon closed the connection"
            self._lines += self._reader.feed(data)
        return decode_answer(self._lines.pop(0))

    async def call(self, method: str, **params: Any) -> tuple[list[Any], Answer]:
        """One request alone: its items, and how it ended."""
        await self.ask(7, method, **params)
        items = []
        while isinstance(answer := await self.hear(), Item):
            items.append(answer.item)
        return items, answer

    async def value(self, method: str, **params: Any) -> Any:
        items, answer = await self.call(method, **params)
        assert isinstance(answer, Result), answer
        return items or answer.result

    async def refusal(self, method: str, **params: Any) -> str:
        _, answer = await self.call(method, **params)
        assert isinstance(answer, Failure), answer
        return answer.code


class Serving:
    """A running server, and how to talk to it."""

    def __init__(self, server: ControlServer, data_dir: Path) -> None:
        self.server = server
        self._data_dir = data_dir

    @asynccontextmanager
    async def talker(self) -> AsyncIterator[Talker]:
        with socket_path(self._data_dir) as path:
            stream = trio.SocketStream(await _connected(path))
        async with stream:
            talker = Talker(stream)
            assert await talker.hear() == HELLO
            yield talker


async def _connected(path: str) -> trio.socket.SocketType:
    client = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await client.connect(path)
    return client


@asynccontextmanager
async def serving(dht: FakeDht, data_dir: Path) -> AsyncIterator[Serving]:
    methods = Methods(dht, "9.9", lambda: {"uptime_s": 1.0}).table()
    server = ControlServer(methods, HELLO)
    with listening_socket(data_dir) as listener, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener)
            yield Serving(server, data_dir)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.002)


# --- requests -------------------------------------------------------------------------------------


async def test_providers_come_as_they_are_found(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers_wait = trio.Event()
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask(1, "findprovs", cid=CID)
        first = await talker.hear()
        dht.providers_wait.set()
        second, end = await talker.hear(), await talker.hear()
    addr = f"/ip4/192.0.2.2/tcp/4001/p2p/{peer(2)}"
    assert Item(1, {"peer_id": str(peer(2)), "addrs": [addr]}) == first
    assert isinstance(second, Item)
    assert isinstance(end, Result)
    assert end.result["found"] == 2


async def test_a_count_ends_the_search(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.never = True
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        items = await talker.value("findprovs", cid=CID, count=2)
        assert [str(peer(2)), str(peer(3))] == [item["peer_id"] for item in items]
        await until(lambda: dht.running == 0)


async def test_several_requests_run_at_once_on_one_connection(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.never = True
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask("slow", "findprovs", cid=CID)
        await until(lambda: dht.running == 1)
        await talker.ask("quick", "version")
        heard = [await talker.hear() for _ in range(3)]
    assert {"slow", "quick"} == {answer.id for answer in heard if not isinstance(answer, Hello)}


async def test_a_client_that_disconnects_cancels_its_requests(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.never = True
    async with serving(dht, tmp_path) as daemon:
        async with daemon.talker() as talker:
            await talker.ask(1, "findprovs", cid=CID)
            await until(lambda: dht.running == 1)
        await until(lambda: dht.running == 0)
        await until(lambda: daemon.server.stats()["connections"] == 0)


async def test_a_client_that_only_finished_sending_still_gets_its_answers(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers_wait = trio.Event()
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask(1, "findprovs", cid=CID)
        await talker.stream.send_eof()
        assert isinstance(await talker.hear(), Item)
        dht.providers_wait.set()
        assert isinstance(await talker.hear(), Item)
        assert isinstance(await talker.hear(), Result)
        assert await talker.stream.receive_some() == b""


async def test_one_that_finished_sending_and_then_left_cancels_too(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers, dht.never = [], True  # nothing is sent, so no send fails either
    async with serving(dht, tmp_path) as daemon:
        async with daemon.talker() as talker:
            await talker.ask(1, "findprovs", cid=CID)
            await talker.stream.send_eof()
            await until(lambda: dht.running == 1)
        await until(lambda: dht.running == 0)


async def test_what_this_node_knows_itself_is_an_answer_where_there_is_nobody_to_ask(
    tmp_path: Path,
) -> None:
    dht = FakeDht()
    dht.fail_at_the_end = NoPeersError("nobody to ask")
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        assert len(await talker.value("findprovs", cid=CID)) == 2
        dht.providers = []
        assert await talker.refusal("findprovs", cid=CID) == "no_peers"


async def test_a_request_can_be_cancelled_by_its_id(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers = []
    dht.never = True
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask(1, "findprovs", cid=CID)
        await until(lambda: dht.running == 1)
        await talker.ask(2, "cancel", id=1)
        heard = [await talker.hear(), await talker.hear()]
        await talker.ask(3, "cancel", id=1)
        assert await talker.hear() == Result(3, {"cancelled": False})
    assert Result(2, {"cancelled": True}) in heard
    assert ["cancelled"] == [answer.code for answer in heard if isinstance(answer, Failure)]


async def test_a_client_that_does_not_read_stops_only_itself(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers = [info(2)] * 20_000
    async with serving(dht, tmp_path) as daemon, daemon.talker() as deaf:
        await deaf.ask(1, "findprovs", cid=CID)
        await until(lambda: dht.running == 1)
        async with daemon.talker() as other:
            assert (await other.value("version"))["version"] == "9.9"
        assert dht.running == 1


# --- bad input and bounds -------------------------------------------------------------------------


async def test_a_bad_line_is_answered_and_the_connection_lives(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        for line in (b"hello\n", b"[]\n", b'{"id":1}\n', b"\xff\n"):
            await talker.say(line)
            answer = await talker.hear()
            assert isinstance(answer, Failure)
            assert answer.code == "parse"
        assert (await talker.value("version"))["api"] == API_VERSION


async def test_a_line_that_is_too_long_ends_the_connection_with_a_word(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        await talker.say(b"x" * (MAX_LINE_BYTES + 1))
        answer = await talker.hear()
        assert isinstance(answer, Failure)
        assert (answer.id, answer.code) == (None, "parse")
        assert await talker.stream.receive_some() == b""


async def test_unknown_methods_and_parameters_are_refused_by_name(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        assert await talker.refusal("nope") == "unknown_method"
        assert await talker.refusal("stats", extra=1) == "usage"
        assert await talker.refusal("cancel", who=1) == "usage"


async def test_an_id_in_use_is_refused(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers, dht.never = [], True
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask(1, "findprovs", cid=CID)
        await talker.ask(1, "version")
        answer = await talker.hear()
    assert isinstance(answer, Failure)
    assert answer.code == "usage"


async def test_requests_past_the_bound_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.providers, dht.never = [], True
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        for number in range(MAX_REQUESTS_PER_CONNECTION):
            await talker.ask(number, "findprovs", cid=CID)
        await talker.ask("over", "version")
        answer = await talker.hear()
        assert dht.running == MAX_REQUESTS_PER_CONNECTION
    assert isinstance(answer, Failure)
    assert (answer.id, answer.code) == ("over", "capacity")


async def test_connections_past_the_bound_are_refused_with_a_word(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon:
        path = str(tmp_path / "control.sock")
        held = [trio.SocketStream(await _connected(path)) for _ in range(MAX_CONNECTIONS)]
        for stream in held:
            await stream.receive_some()
        over = Talker(trio.SocketStream(await _connected(path)))
        answer = await over.hear()
        assert isinstance(answer, Failure)
        assert answer.code == "capacity"
        assert await over.stream.receive_some() == b""
        for stream in (over.stream, *held):
            await stream.aclose()
        await until(lambda: daemon.server.stats()["connections"] == 0)
        async with daemon.talker() as talker:
            assert await talker.value("version")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoPeersError("nobody"), "no_peers"),
        (DeadlineError("late"), "timeout"),
        (CapacityError("full"), "capacity"),
        (StorageError("disk"), "storage"),
        (ZeroDivisionError("a fault of ours"), "internal"),
    ],
)
async def test_every_error_has_a_code_and_the_connection_lives(
    tmp_path: Path, error: Exception, code: str
) -> None:
    dht = FakeDht()
    dht.fail = error
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        assert await talker.refusal("findprovs", cid=CID) == code
        assert await talker.value("version")


# --- methods --------------------------------------------------------------------------------------


async def test_own_identity_comes_with_addresses_to_paste(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        own = {
            "peer_id": str(peer(1)),
            "addrs": [f"/ip4/127.0.0.1/tcp/4001/p2p/{peer(1)}"],
            "mode": "server",
            "version": "9.9",
        }
        assert own == await talker.value("id")
        assert own == await talker.value("id", peer=str(peer(1)))


async def test_another_peer_is_looked_up(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        found = await talker.value("id", peer=str(peer(2)))
        assert found["connected"] is False
        assert await talker.value("findpeer", peer=str(peer(2))) == {
            "peer_id": str(peer(2)),
            "addrs": found["addrs"],
        }
        assert await talker.refusal("findpeer", peer=str(peer(9))) == "not_found"
        assert await talker.refusal("id", peer=str(peer(9))) == "not_found"


def connection(addr: str, *said: str, inbound: bool) -> ConnectionInfo:
    """A connection of peer 7."""
    return ConnectionInfo(
        peer(7), Multiaddr(addr), inbound, "x", frozenset(), tuple(map(Multiaddr, said))
    )


LISTENS, CAME_FROM = "/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.7/tcp/51234"


@pytest.mark.parametrize(
    ("connections", "addrs"),
    [
        ([connection(CAME_FROM, LISTENS, inbound=True)], [LISTENS]),
        (
            [
                connection(CAME_FROM, LISTENS, inbound=True),
                connection("/ip4/192.0.2.8/tcp/1", LISTENS, inbound=False),
            ],
            [LISTENS],
        ),
        ([connection(LISTENS, inbound=False)], [LISTENS]),
        ([connection(CAME_FROM, inbound=True)], []),
    ],
)
async def test_a_connected_peer_is_shown_where_it_says_that_it_is_and_never_where_it_came_from(
    tmp_path: Path, connections: list[ConnectionInfo], addrs: list[str]
) -> None:
    dht = FakeDht()
    dht.connected += connections
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        shown = await talker.value("id", peer=str(peer(7)))
    assert (True, [f"{addr}/p2p/{peer(7)}" for addr in addrs]) == (
        shown["connected"],
        shown["addrs"],
    )


async def test_a_connected_peer_that_said_nothing_yet_is_where_the_network_says(
    tmp_path: Path,
) -> None:
    dht = FakeDht()
    dht.connected.append(connection(CAME_FROM, inbound=True))
    dht.known[peer(7)] = [Multiaddr(LISTENS)]
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        shown = await talker.value("id", peer=str(peer(7)))
        assert [f"{LISTENS}/p2p/{peer(7)}"] == shown["addrs"]
        dht.fail = NoPeersError("the routing table is empty")
        assert [] == (await talker.value("id", peer=str(peer(7))))["addrs"]


async def test_a_kept_key_is_listed_until_it_is_removed(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        added = await talker.value("provide.add", cid=f"ipfs://{CID}")
        assert added == {
            "cid": CID,
            "holders": 20,
            "confirmed": 18,
            "attempted": 20,
            "pending": 0,
            "seconds": 0.25,
        }
        assert await talker.value("provide.ls") == [
            {"cid": CID, "added": 1.0, "last_provided": None, "waits": True}
        ]
        assert await talker.value("provide.rm", cid=CID) == {"cid": CID}
        assert await talker.refusal("provide.rm", cid=CID) == "not_found"
        assert await talker.value("provide.ls") == {"count": 0}


async def test_many_keys_are_kept_and_removed_in_one_request_each(tmp_path: Path) -> None:
    cids = [raw_cid(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(300)]
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        assert await talker.value("provide.many", cids=cids) == {"keys": 300, "added": 300}
        assert await talker.value("provide.many", cids=cids[:5]) == {"keys": 5, "added": 0}
        removed = await talker.value("provide.rm_many", cids=[*cids[:7], CID])
        assert removed == {"keys": 8, "removed": 7}
        assert await talker.refusal("provide.many", cids=[]) == "usage"
        assert await talker.refusal("provide.many", cids=[CID] * 1_001) == "usage"
        assert await talker.refusal("provide.rm_many", cids=["no cid"]) == "usage"


async def test_the_status_of_the_keys_and_of_one_key_is_told(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        assert await talker.refusal("provide.stat", cid=CID) == "not_found"
        await talker.value("provide.add", cid=CID)
        total = await talker.value("provide.stat")
        assert (total["keys"], total["lag_s"], total["next_due"]) == (1, 1_000.0, None)
        one = await talker.value("provide.stat", cid=CID)
        assert (one["cid"], one["holders"], one["wanted"], len(one["held_by"])) == (CID, 1, 20, 1)


async def test_provide_once_keeps_nothing(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        assert (await talker.value("provide.once", cid=CID))["holders"] == 20
        assert await talker.value("provide.ls") == {"count": 0}


async def test_a_provide_that_goes_on_says_how_many_peers_are_being_tried(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.outcome.holders, dht.outcome.pending = 15, 5
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        for method in ("provide.add", "provide.once"):
            outcome = await talker.value(method, cid=CID)
            assert (15, 5) == (outcome["holders"], outcome["pending"])


async def test_a_provide_that_nobody_took_failed_and_says_that_the_key_is_kept(
    tmp_path: Path,
) -> None:
    dht = FakeDht()
    dht.outcome.holders = 0
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        assert await talker.refusal("provide.once", cid=CID) == "network"
        _, answer = await talker.call("provide.add", cid=CID)
        assert isinstance(answer, Failure)
        assert "the key is saved and will be provided" in answer.message
        dht.fail = NoPeersError("nobody")
        _, answer = await talker.call("provide.add", cid=CID)
        assert isinstance(answer, Failure)
        assert "the key is saved and will be provided" in answer.message
        assert answer.code == "no_peers"


async def test_closest_peers_come_from_the_network_or_from_the_table(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        for extra in ({}, {"local": True}):
            items = await talker.value("closest", key=CID, **extra)
            assert [str(peer(2)), str(peer(3))] == [item["peer_id"] for item in items]


async def test_closest_peers_say_whether_they_answered_or_are_only_known_to_be_alive(
    tmp_path: Path,
) -> None:
    dht = FakeDht()
    dht.slow = {peer(3)}
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        items, end = await talker.call("closest", key=CID)
    told = [(item["standing"], item["alive_at"]) for item in items]
    assert [("answered", 9.0), ("alive", 7.0)] == told
    assert isinstance(end, Result)
    assert {"found", "seconds"} == set(end.result)


# --- the walk of a lookup -------------------------------------------------------------------------

AT = Monotonic(100.5)


def test_each_event_of_a_walk_has_its_json_form() -> None:
    one = str(peer(2))
    near = {"at": 0.5, "peer_id": one, "cpl": 246}
    late = {"seconds": 2.0, "named": 20, "new": 3, "late": True}
    expected = [
        {"event": "asked", **near, "follow_up": True},
        {"event": "answered", **near, **late},
        {"event": "failed", **near, "seconds": 2.0, "reason": "unreachable"},
        {"event": "overdue", **near},
        {"event": "given_up", **near, "seconds": 2.0, "alive": True, "alive_ago": 0.25},
        {"event": "given_up", **near, "seconds": 2.0, "alive": False, "alive_ago": None},
        {"event": "follow_up", "at": 0.5},
        {"event": "look_beyond", **near},
        {"event": "ended", "at": 0.5, "reason": "completed", "requests": 31},
    ]
    events: list[LookupEvent] = [
        Asked(AT, peer(2), 1023, follow_up=True),
        Answered(AT, peer(2), 1023, 2.0, 20, 3, late=True),
        RequestFailed(AT, peer(2), 1023, 2.0, FailureReason.UNREACHABLE),
        Unresponsive(AT, peer(2), 1023),
        GivenUp(AT, peer(2), 1023, 2.0, Monotonic(100.25)),
        GivenUp(AT, peer(2), 1023, 2.0, None),
        FollowUpBegan(AT),
        LookedBeyond(AT, peer(2), 1023),
        Ended(AT, StopReason.COMPLETED, 31),
    ]
    assert expected == [event_json(event, 100.0) for event in events]


async def test_a_walk_is_told_while_it_happens_and_then_the_peers(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.walk = [Asked(AT, peer(2), 1, follow_up=False), Ended(AT, StopReason.COMPLETED, 1)]
    dht.providers_wait = trio.Event()
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask(1, "closest", key=CID, trace=True)
        first = await talker.hear()
        dht.providers_wait.set()
        rest = [await talker.hear() for _ in range(4)]
    assert isinstance(first, Item)
    assert "asked" == first.item["event"]
    told = [item.item.get("event") for item in rest if isinstance(item, Item)]
    assert ["ended", None, None] == told
    assert isinstance(rest[-1], Result)
    assert (2, 0) == (rest[-1].result["found"], rest[-1].result["missed"])


async def test_a_walk_that_fails_is_told_before_its_error(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.walk, dht.providers = [Ended(AT, StopReason.NO_PEERS, 0)], []
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        items, end = await talker.call("closest", key=CID, trace=True)
    assert ["no_peers"] == [item["reason"] for item in items]
    assert isinstance(end, Failure)
    assert ErrorCode.NO_PEERS == end.code


async def test_a_walk_is_not_held_up_by_its_reader_and_says_what_was_left_out(
    tmp_path: Path,
) -> None:
    dht = FakeDht()
    dht.walk = [Unresponsive(AT, peer(2), 1)] * (MAX_UNREAD_EVENTS + 7)
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        items, end = await talker.call("closest", key=CID, trace=True)
    told = sum(1 for item in items if "event" in item)
    assert isinstance(end, Result)
    assert len(dht.walk) == told + end.result["missed"]
    assert told - MAX_UNREAD_EVENTS in (0, 1)  # one may be in its reader's hands already


async def test_a_walk_that_is_cancelled_ends_with_its_request(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.walk = [Asked(AT, peer(2), 1, follow_up=False)] * 2
    dht.providers_wait = trio.Event()
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        await talker.ask(1, "closest", key=CID, trace=True)
        await talker.hear()
        await talker.ask(2, "cancel", id=1)
        ends = [await talker.hear(), await talker.hear()]
    assert ErrorCode.CANCELLED in [end.code for end in ends if isinstance(end, Failure)]


async def test_there_is_no_walk_to_trace_in_the_own_table(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        assert "usage" == await talker.refusal("closest", key=CID, local=True, trace=True)
        assert "usage" == await talker.refusal("closest", key=CID, trace="yes")


# --- peers ----------------------------------------------------------------------------------------


async def test_ping_takes_an_id_or_an_address(tmp_path: Path) -> None:
    addr = f"/ip4/192.0.2.5/tcp/4001/p2p/{peer(5)}"
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        for target in (addr, str(peer(5)), str(peer(2))):
            items, end = await talker.call("ping", target=target, count=2, interval=0)
            assert [1, 2] == [item["seq"] for item in items]
            assert isinstance(end, Result)
            assert (2, 2, 0.0015) == (
                end.result["sent"],
                end.result["received"],
                end.result["avg"],
            )
        assert await talker.refusal("ping", target=str(peer(9))) == "network"
        assert await talker.refusal("ping", target=str(peer(1))) == "usage"
        assert await talker.refusal("ping", target="/ip4/192.0.2.5/tcp/4001") == "usage"


async def test_a_peer_that_never_answers_a_ping_is_a_failure_with_items(tmp_path: Path) -> None:
    dht = FakeDht()
    dht.pings_fail = True
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        items, end = await talker.call("ping", target=str(peer(2)), count=1)
    assert ["the stream ended"] == [item["error"] for item in items]
    assert isinstance(end, Failure)


async def test_connecting_shows_up_among_the_peers(tmp_path: Path) -> None:
    addr = f"/ip4/192.0.2.5/tcp/4001/p2p/{peer(5)}"
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        assert await talker.value("swarm.connect", addr=addr) == {
            "peer_id": str(peer(5)),
            "addr": addr,
        }
        (item,) = await talker.value("swarm.peers")
        assert (addr, "outbound") == (item["addr"], item["direction"])
        assert (await talker.value("id", peer=str(peer(5))))["connected"] is True
        unreachable = f"/ip4/192.0.2.99/tcp/4001/p2p/{peer(6)}"
        assert await talker.refusal("swarm.connect", addr=unreachable) == "network"
        for wrong in ("/ip4/192.0.2.5/tcp/4001", "nonsense", "/ip4/1.2.3.4/tcp/1/p2p/zz"):
            assert await talker.refusal("swarm.connect", addr=wrong) == "usage"


async def test_bootstrap_hands_over_the_addresses(tmp_path: Path) -> None:
    dht = FakeDht()
    addr = f"/dnsaddr/example.org/p2p/{peer(5)}"
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        result = await talker.value("bootstrap", addrs=[addr])
        assert await talker.refusal("bootstrap", addrs=["/ip4/192.0.2.5"]) == "usage"
        assert await talker.refusal("bootstrap") == "usage"
        dht.fail = DialError("none of them answered")
        assert await talker.refusal("bootstrap", addrs=["default"]) == "network"
    assert ["default"] == dht.joined_through
    assert {"answered", "num_peers", "routing_table_size", "seconds"} == set(result)


async def test_stats_are_the_nodes_and_the_daemons(tmp_path: Path) -> None:
    async with serving(FakeDht(), tmp_path) as daemon, daemon.talker() as talker:
        stats = await talker.value("stats")
    assert stats["num_peers"] == 0
    assert stats["daemon"] == {"uptime_s": 1.0}


def test_every_field_of_the_nodes_stats_has_a_json_form() -> None:
    stats = DHTStats(
        num_peers=1,
        num_providers=2,
        routing_table_size=3,
        pending_queries=0,
        mode="server",
        own_keys=0,
        provider_keys=0,
        unsaved_records=0,
        provider_ttl_s=float("inf"),
        bootstrap="joined",
        served={"FindNode": 3},
    )
    as_json = to_json(stats)
    assert isinstance(as_json, dict)
    assert as_json["served"] == {"FindNode": 3}
    assert as_json["provider_ttl_s"] is None


def test_the_document_names_every_method_error_code_and_bound() -> None:
    text = (Path(__file__).parents[2] / "docs" / "control-api.md").read_text()
    methods = Methods(FakeDht(), "9.9", dict).table()
    for name in [*methods, "cancel", *ErrorCode]:
        assert f"| `{name}` |" in text, name
    for bound in (MAX_REQUESTS_PER_CONNECTION, MAX_CONNECTIONS, MAX_TEXT_CHARS, MAX_LIST_ITEMS):
        assert f"| {bound:,}" in text, bound
    assert MAX_LINE_BYTES == 128 * 1024
    assert "| 128 KiB |" in text


# --- the socket -----------------------------------------------------------------------------------


async def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(FakeDht(), tmp_path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_a_path_too_long_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with serving(FakeDht(), deep) as daemon, daemon.talker() as talker:
        assert await talker.value("version")
    assert [] == list(deep.iterdir())


async def test_many_keys_are_listed_without_loss(tmp_path: Path) -> None:
    dht = FakeDht()
    async with serving(dht, tmp_path) as daemon, daemon.talker() as talker:
        for number in range(50):
            await dht.provide(raw_cid_of(str(number)))
        assert len(await talker.value("provide.ls")) == 50
