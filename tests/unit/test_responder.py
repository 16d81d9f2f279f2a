"""What a server answers, case by case, and by brute force against a table of known peers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY, AddressFilter
from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.core.keyspace import Key, distance, key_of
from codio_dht.core.messages import (
    AddProvider,
    ConnectionType,
    FindNode,
    GetProviders,
    GetValue,
    MessageType,
    PeerEntry,
    Ping,
    PutValue,
    Record,
    Reply,
    Request,
)
from codio_dht.core.origins import DEFAULT_FLOWS, Flow, OriginLedger, Rate, RecordOrigin
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.places import MAX_PLACES_PER_SUBNET
from codio_dht.core.records import ProviderRecords
from codio_dht.core.responder import MAX_PROVIDERS_PER_REPLY, Responder
from codio_dht.core.steps import Answer, Load, LoadKind, NoReply, Refuse
from codio_dht.params import PROVIDER_ADDR_TTL_S, PROVIDER_TTL_PUBLIC_S, K
from codio_dht.wire import dht_pb2
from codio_dht.wire.codec import decode_request

KEY = b"\x12\x03key"
PUBLIC = b"\x04\x01\x02\x03\x04\x06\x0f\xa1"
PUBLIC_2 = b"\x04\x01\x02\x03\x05\x06\x0f\xa1"
LAN = b"\x04\x0a\x00\x00\x01\x06\x0f\xa1"
CIRCUIT_ONLY = b"\xa5\x03\x03\x00\x01r\xa2\x02"
NOW = Now(Monotonic(1_000.0), UnixTime(1e9))


def later(seconds: float) -> Now:
    return Now(Monotonic(NOW.monotonic + seconds), UnixTime(NOW.unix + seconds))


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x02" + number.to_bytes(2, "big"))


LOCAL, ASKER, TARGET = peer(0), peer(1), peer(2)


class FakeTable:
    """Sorts all of its peers. It may hold the local peer, which the real table never does."""

    def __init__(self, peers: Iterable[PeerId] = ()) -> None:
        self.peers = list(peers)

    def nearest(self, key: Key, n: int, exclude: Iterable[PeerId] = ()) -> list[PeerId]:
        left_out = set(exclude)
        peers = [each for each in self.peers if each not in left_out]
        return sorted(peers, key=lambda each: distance(each.key, key))[:n]


class Server:
    """A responder and what it stands on."""

    def __init__(
        self,
        peers: Iterable[PeerId] = (),
        *,
        address_filter: AddressFilter = KEEP_ALL,
        own_keys: Iterable[bytes] = (),
        seed: int = 7,
    ) -> None:
        self.table = FakeTable(peers)
        self.book = PeerBook(LOCAL)
        self.records = ProviderRecords(ttl_s=PROVIDER_TTL_PUBLIC_S)
        self.own_keys = OwnKeys()
        for key in own_keys:
            self.own_keys.added(key, is_new=True)
        self.responder = Responder(
            LOCAL,
            table=self.table,
            book=self.book,
            records=self.records,
            rng=random.Random(seed),
            address_filter=address_filter,
            own_keys=self.own_keys,
        )
        for each in self.table.peers:
            self.book.heard(each, [PUBLIC], NOW.monotonic)
            self.book.pin(each)

    def ask(self, request: Request, now: Now = NOW, asker: PeerId = ASKER) -> Answer:
        return self.responder.respond(asker, request, now)

    def reply(self, request: Request, now: Now = NOW, asker: PeerId = ASKER) -> Reply:
        answer = self.ask(request, now, asker)
        assert isinstance(answer, Reply)
        return answer

    def closer(self, request: Request, asker: PeerId = ASKER) -> list[PeerId]:
        return [entry.peer_id for entry in self.reply(request, asker=asker).closer_peers]

    def provide(self, provider: PeerId, *addrs: bytes, key: bytes = KEY, now: Now = NOW) -> Answer:
        return self.ask(AddProvider(key, (PeerEntry(provider, addrs),)), now, provider)


def nearest(peers: Iterable[PeerId], key: bytes) -> list[PeerId]:
    return sorted(peers, key=lambda each: distance(each.key, key_of(key)))


def crowd(count: int) -> list[PeerId]:
    return [peer(number) for number in range(100, 100 + count)]


# --- FIND_NODE ------------------------------------------------------------------------------------


@pytest.mark.conformance("c15")
@given(st.sets(st.integers(0, 400), max_size=120), st.binary(min_size=1, max_size=50))
def test_the_closer_peers_are_the_20_nearest_by_xor_without_asker_and_self(
    numbers: set[int], key: bytes
) -> None:
    server = Server([peer(number) for number in sorted(numbers)])
    others = [each for each in server.table.peers if each not in (ASKER, LOCAL)]

    expected = nearest(others, key)[:K]
    for request in (FindNode(key), GetProviders(key), GetValue(key)):
        assert expected == server.closer(request)


@pytest.mark.conformance("c16")
def test_a_known_target_comes_first_even_if_it_is_a_client_and_far_away() -> None:
    server = Server(crowd(60))
    server.book.heard(TARGET, [PUBLIC_2], NOW.monotonic)

    reply = server.reply(FindNode(TARGET.to_bytes()))

    assert PeerEntry(TARGET, (PUBLIC_2,)) == reply.closer_peers[0]
    expected = nearest(crowd(60), TARGET.to_bytes())[:K]
    assert expected == [entry.peer_id for entry in reply.closer_peers[1:]]


@pytest.mark.conformance("c16")
def test_a_target_in_the_table_is_told_once_as_one_of_the_20() -> None:
    server = Server(crowd(60))
    target = crowd(60)[33]

    assert nearest(crowd(60), target.to_bytes())[:K] == server.closer(FindNode(target.to_bytes()))


@pytest.mark.conformance("c16")
def test_a_target_without_addresses_is_not_told() -> None:
    server = Server(crowd(3))
    server.book.identified(TARGET, [], NOW.monotonic)

    assert TARGET not in server.closer(FindNode(TARGET.to_bytes()))
    assert len(server.closer(FindNode(TARGET.to_bytes()))) == 3


@pytest.mark.conformance("c16")
@pytest.mark.parametrize("in_table", [False, True])
def test_the_asker_asking_for_itself_is_told_itself_first(in_table: bool) -> None:
    server = Server([*crowd(30), *([ASKER] if in_table else [])])
    server.book.identified(ASKER, [PUBLIC_2], NOW.monotonic)

    reply = server.reply(FindNode(ASKER.to_bytes()))

    assert ASKER == reply.closer_peers[0].peer_id
    assert ConnectionType.CONNECTED is reply.closer_peers[0].connection
    assert len(reply.closer_peers) == K + 1


@pytest.mark.conformance("c16")
def test_asked_for_itself_a_node_comes_first_with_its_own_addresses() -> None:
    server = Server([*crowd(30), LOCAL])
    assert LOCAL not in server.closer(FindNode(LOCAL.to_bytes()))

    server.responder.set_own_addrs([PUBLIC_2])
    reply = server.reply(FindNode(LOCAL.to_bytes()))

    assert PeerEntry(LOCAL, (PUBLIC_2,)) == reply.closer_peers[0]
    assert [LOCAL] == [e.peer_id for e in reply.closer_peers if e.peer_id == LOCAL]
    assert len(reply.closer_peers) == K + 1


@pytest.mark.conformance("c17")
def test_peers_without_addresses_are_left_out_of_find_node_but_not_of_the_others() -> None:
    server = Server(crowd(3))
    silent = peer(50)
    server.table.peers.append(silent)

    assert silent not in server.closer(FindNode(KEY))
    assert silent in server.closer(GetProviders(KEY))
    assert silent in server.closer(GetValue(KEY))


@pytest.mark.conformance("c17")
def test_on_the_public_network_a_nodes_own_private_addresses_are_not_told() -> None:
    server = Server(address_filter=PUBLIC_ONLY)
    server.responder.set_own_addrs([LAN, PUBLIC])

    (own,) = server.reply(FindNode(LOCAL.to_bytes())).closer_peers
    assert (PUBLIC,) == own.addrs


def test_a_provider_that_is_no_server_is_found_at_the_addresses_it_announced() -> None:
    server = Server(crowd(30))
    server.provide(TARGET, PUBLIC_2)

    for now in (NOW, later(PROVIDER_ADDR_TTL_S - 1)):
        first = server.reply(FindNode(TARGET.to_bytes()), now).closer_peers[0]
        assert PeerEntry(TARGET, (PUBLIC_2,)) == first


def test_entries_are_reused_from_reply_to_reply() -> None:
    server = Server(crowd(30))

    first = server.reply(FindNode(KEY)).closer_peers
    second = server.reply(FindNode(KEY), later(60)).closer_peers
    assert all(a is b for a, b in zip(first, second, strict=True))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.conformance("c06")
@pytest.mark.parametrize(
    "request_",
    [
        FindNode(b""),
        GetProviders(b""),
        AddProvider(b"", (PeerEntry(ASKER, (PUBLIC,)),)),
        GetValue(b""),
        PutValue(b"", Record(b"", b"value")),
    ],
    ids=lambda request: type(request).__name__,
)
def test_an_empty_key_is_refused(request_: Request) -> None:
    server = Server(crowd(3))

    assert Refuse("empty key") == server.ask(request_)
    assert len(server.records) == 0


@pytest.mark.conformance("c18")
@pytest.mark.parametrize(("size", "served"), [(1, True), (80, True), (81, False), (4000, False)])
def test_a_provider_key_has_1_to_80_bytes(size: int, served: bool) -> None:
    server = Server(crowd(3))
    key = bytes(size)
    add = server.provide(ASKER, PUBLIC, key=key)
    get = server.ask(GetProviders(key))

    if served:
        assert NoReply() == add
        assert isinstance(get, Reply)
        assert [ASKER] == [entry.peer_id for entry in get.provider_peers]
    else:
        assert Refuse("provider key too long") == add == get


@pytest.mark.conformance("c29")
def test_what_a_node_does_not_serve_it_refuses_and_the_rest_it_answers() -> None:
    server = Server(crowd(30))
    nothing = Responder(
        LOCAL, table=server.table, book=server.book, records=None, rng=random.Random(1), values=None
    )
    refused: list[Request] = [
        GetProviders(KEY),
        AddProvider(KEY, (PeerEntry(ASKER, (PUBLIC,)),)),
        GetValue(KEY),
        PutValue(KEY, Record(KEY, b"value")),
    ]

    for request in refused:
        assert Refuse("not served") == nothing.respond(ASKER, request, NOW)
    reply = nothing.respond(ASKER, FindNode(KEY), NOW)
    assert isinstance(reply, Reply)
    assert len(reply.closer_peers) == K


# --- GET_PROVIDERS --------------------------------------------------------------------------------


@pytest.mark.conformance("c19")
def test_providers_come_with_the_20_closest_peers_and_the_key() -> None:
    server = Server(crowd(60))
    for each in crowd(3):
        server.provide(each, PUBLIC_2)

    reply = server.reply(GetProviders(KEY, cluster_level=3))

    assert (MessageType.GET_PROVIDERS, KEY, None, 3) == (
        reply.type,
        reply.key,
        reply.record,
        reply.cluster_level,
    )
    assert set(crowd(3)) == {entry.peer_id for entry in reply.provider_peers}
    assert nearest(crowd(60), KEY)[:K] == [entry.peer_id for entry in reply.closer_peers]


@pytest.mark.conformance("c19")
def test_providers_come_in_every_order_equally_often() -> None:
    server = Server()
    for each in crowd(3):
        server.provide(each, PUBLIC)

    orders = Counter(
        tuple(entry.peer_id for entry in server.reply(GetProviders(KEY)).provider_peers)
        for _ in range(1_200)
    )
    assert len(orders) == 6
    assert min(orders.values()) > 140
    assert max(orders.values()) < 260


@pytest.mark.conformance("c19")
def test_of_too_many_providers_for_one_reply_each_is_told_as_often_as_the_others() -> None:
    server = Server()
    count = 2 * MAX_PROVIDERS_PER_REPLY
    for each in crowd(count):
        server.provide(each, PUBLIC)

    told: Counter[PeerId] = Counter()
    for _ in range(100):
        providers = [entry.peer_id for entry in server.reply(GetProviders(KEY)).provider_peers]
        assert MAX_PROVIDERS_PER_REPLY == len(set(providers)) == len(providers)
        told.update(providers)
    assert len(told) == count
    assert min(told.values()) > 25
    assert max(told.values()) < 75


def test_a_key_this_node_provides_itself_is_answered_with_its_current_addresses() -> None:
    server = Server(own_keys=[KEY])
    server.provide(TARGET, PUBLIC)
    server.responder.set_own_addrs([PUBLIC_2])

    reply = server.reply(GetProviders(KEY))
    assert {TARGET: (PUBLIC,), LOCAL: (PUBLIC_2,)} == {
        entry.peer_id: entry.addrs for entry in reply.provider_peers
    }
    server.own_keys.removed(KEY)
    assert [TARGET] == [entry.peer_id for entry in server.reply(GetProviders(KEY)).provider_peers]


@pytest.mark.conformance("c22")
def test_after_a_day_a_provider_is_told_by_id_alone_and_after_two_no_longer() -> None:
    server = Server()
    server.provide(TARGET, PUBLIC)

    def told(seconds: float) -> list[PeerEntry]:
        return list(server.reply(GetProviders(KEY), later(seconds)).provider_peers)

    assert [PeerEntry(TARGET, (PUBLIC,))] == told(PROVIDER_ADDR_TTL_S - 1)
    assert [PeerEntry(TARGET)] == told(PROVIDER_ADDR_TTL_S)
    assert [PeerEntry(TARGET)] == told(PROVIDER_TTL_PUBLIC_S - 1)
    assert [] == told(PROVIDER_TTL_PUBLIC_S)


@pytest.mark.conformance("c22")
def test_a_provider_whose_addresses_expired_is_told_with_what_the_peer_book_knows() -> None:
    server = Server()
    server.provide(TARGET, PUBLIC)
    now = later(PROVIDER_ADDR_TTL_S + 1)
    server.book.heard(TARGET, [PUBLIC_2], now.monotonic)

    (entry,) = server.reply(GetProviders(KEY), now).provider_peers
    assert PeerEntry(TARGET, (PUBLIC_2,)) == entry


def test_after_a_restart_a_provider_is_told_with_the_addresses_of_its_record() -> None:
    old, new = Server(), Server()
    old.provide(TARGET, PUBLIC)
    rows = old.records.get(KEY, NOW.unix)
    assert not isinstance(rows, Load)
    new.records.opened(1)

    assert Load(LoadKind.PROVIDERS, KEY) == new.ask(GetProviders(KEY))
    new.records.loaded(KEY, rows, NOW.unix)
    new.book.heard(TARGET, [PUBLIC_2], NOW.monotonic)  # hearsay counts less than its own word
    (entry,) = new.reply(GetProviders(KEY)).provider_peers
    assert PeerEntry(TARGET, (PUBLIC,)) == entry
    assert entry is new.reply(GetProviders(KEY)).provider_peers[0]


def test_a_connected_provider_is_told_as_connected_and_where_it_is_now() -> None:
    server = Server()
    server.provide(TARGET, PUBLIC)
    server.book.identified(TARGET, [PUBLIC_2], NOW.monotonic)

    (entry,) = server.reply(GetProviders(KEY)).provider_peers
    assert PeerEntry(TARGET, (PUBLIC_2, PUBLIC), ConnectionType.CONNECTED) == entry


# --- ADD_PROVIDER ---------------------------------------------------------------------------------


@pytest.mark.conformance("c20")
def test_only_the_senders_own_entry_is_taken() -> None:
    server = Server()
    entries = (PeerEntry(TARGET, (PUBLIC,)), PeerEntry(ASKER, (PUBLIC_2,)), PeerEntry(peer(9)))

    assert NoReply() == server.ask(AddProvider(KEY, entries))
    assert [PeerEntry(ASKER, (PUBLIC_2,))] == list(server.reply(GetProviders(KEY)).provider_peers)


@pytest.mark.conformance("c20")
def test_a_record_about_others_only_is_refused_and_leaves_no_trace() -> None:
    server = Server()

    for entries in ((), (PeerEntry(TARGET, (PUBLIC,)),), (PeerEntry(LOCAL, (PUBLIC,)),)):
        assert Refuse("no valid provider") == server.ask(AddProvider(KEY, entries))
    assert () == server.reply(GetProviders(KEY)).provider_peers
    assert (0, 0) == (len(server.records), len(server.book))


@pytest.mark.conformance("c20")
def test_several_entries_of_the_sender_are_one_record_with_all_addresses() -> None:
    server = Server()
    entries = (PeerEntry(ASKER, (PUBLIC,)), PeerEntry(ASKER), PeerEntry(ASKER, (PUBLIC_2, PUBLIC)))

    assert NoReply() == server.ask(AddProvider(KEY, entries))
    (entry,) = server.reply(GetProviders(KEY)).provider_peers
    assert (PUBLIC, PUBLIC_2) == entry.addrs


@pytest.mark.conformance("c21")
@pytest.mark.parametrize("addrs", [(), (b"garbage",)])
def test_a_record_without_a_readable_address_is_refused(addrs: tuple[bytes, ...]) -> None:
    server = Server()

    assert Refuse("no valid provider") == server.provide(ASKER, *addrs)
    assert len(server.records) == 0


@pytest.mark.conformance("c21")
def test_only_addresses_that_pass_the_filter_are_stored() -> None:
    server = Server(address_filter=PUBLIC_ONLY)

    assert NoReply() == server.provide(ASKER, LAN, PUBLIC, b"garbage")
    rows = server.records.get(KEY, NOW.unix)
    assert not isinstance(rows, Load)
    assert [(PUBLIC,)] == [row.addrs for row in rows]
    assert (PUBLIC,) == server.book.addrs(ASKER, NOW.monotonic)


@pytest.mark.conformance("c21")
def test_a_provider_of_which_the_filter_leaves_no_address_is_taken_all_the_same() -> None:
    server = Server(address_filter=PUBLIC_ONLY)

    assert NoReply() == server.provide(ASKER, CIRCUIT_ONLY)
    assert [PeerEntry(ASKER)] == list(server.reply(GetProviders(KEY)).provider_peers)


@pytest.mark.conformance("c17")
def test_addresses_stored_before_the_node_went_public_are_not_told_afterwards() -> None:
    old, new = Server(), Server(address_filter=PUBLIC_ONLY)
    old.provide(TARGET, LAN, PUBLIC)
    rows = old.records.get(KEY, NOW.unix)
    assert not isinstance(rows, Load)
    new.records.loaded(KEY, rows, NOW.unix)

    (entry,) = new.reply(GetProviders(KEY)).provider_peers
    assert (PUBLIC,) == entry.addrs


def test_networks_that_share_a_record_tell_it_each_through_its_own_filter() -> None:
    private, public = Server(), Server(address_filter=PUBLIC_ONLY)
    private.provide(TARGET, LAN, PUBLIC)
    rows = private.records.get(KEY, NOW.unix)
    assert not isinstance(rows, Load)
    elsewhere = Server()  # whose book knows nothing of the provider
    for server in (elsewhere, public):
        server.records.loaded(KEY, rows, NOW.unix)

    def told(server: Server) -> tuple[bytes, ...]:
        (entry,) = server.reply(GetProviders(KEY)).provider_peers
        return entry.addrs

    for _ in range(2):
        assert (LAN, PUBLIC) == told(elsewhere)
        assert (PUBLIC,) == told(public)


def test_a_filter_that_changes_holds_for_records_and_for_this_node_itself() -> None:
    private, server = Server(), Server()
    private.provide(TARGET, LAN, PUBLIC)
    rows = private.records.get(KEY, NOW.unix)
    assert not isinstance(rows, Load)
    server.records.loaded(KEY, rows, NOW.unix)
    server.responder.set_own_addrs([LAN, PUBLIC])

    def told() -> list[tuple[bytes, ...]]:
        provider = server.reply(GetProviders(KEY)).provider_peers[0]
        own = server.reply(FindNode(LOCAL.to_bytes())).closer_peers[0]
        return [provider.addrs, own.addrs]

    assert [(LAN, PUBLIC), (LAN, PUBLIC)] == told()
    server.responder.set_address_filter(PUBLIC_ONLY)
    server.responder.set_own_addrs([LAN, PUBLIC])
    assert [(PUBLIC,), (PUBLIC,)] == told()


def test_a_record_about_this_node_is_never_taken() -> None:
    server = Server()

    assert Refuse("no valid provider") == server.provide(LOCAL, PUBLIC)


def test_a_record_past_the_bounds_is_refused_so_that_its_provider_sees_it() -> None:
    server = Server()
    full = ProviderRecords(max_records=1)
    responder = Responder(
        LOCAL, table=server.table, book=server.book, records=full, rng=random.Random(1)
    )

    answers = []
    for each in crowd(3):
        add = AddProvider(each.to_bytes(), (PeerEntry(each, (PUBLIC,)),))
        answers.append(responder.respond(each, add, NOW))
    assert [NoReply(), *[Refuse("no room for records")] * 2] == answers
    assert len(full) == 1


class Payers:
    """Every peer is in a subnet of its own but those of ``crowd``, which share one."""

    def __init__(self, crowd: Iterable[PeerId], budget: float = 2_000.0) -> None:
        rate = Rate(1.0, 1.0, 1_000.0, budget)
        self.ledger = OriginLedger(flows={**DEFAULT_FLOWS, Flow.RECORD_BYTES: rate})
        self.crowd = set(crowd)

    def __call__(self, peer: PeerId, now: Monotonic) -> RecordOrigin:
        number = 0 if peer in self.crowd else 1 + peer.to_bytes()[-1]
        ip = bytes([20 + number, 1, 1, 1])
        return RecordOrigin(self.ledger, self.ledger.peer(ip, peer.to_bytes()), now)


def charged(payers: Payers, records: ProviderRecords) -> Responder:
    server = Server()
    return Responder(
        LOCAL,
        table=server.table,
        book=server.book,
        records=records,
        rng=random.Random(1),
        origin_of=payers,
    )


def provide_all(responder: Responder, peers: Iterable[PeerId], *keys: bytes) -> list[Answer]:
    return [
        responder.respond(each, AddProvider(key, (PeerEntry(each, (PUBLIC,)),)), NOW)
        for each in peers
        for key in keys
    ]


def test_an_origin_that_used_up_its_disk_is_refused_and_others_are_not() -> None:
    greedy, *honest = crowd(4)
    responder = charged(Payers([greedy]), ProviderRecords())
    keys = [b"key %d" % number for number in range(50)]
    answers = provide_all(responder, [greedy], *keys)
    taken = answers.count(NoReply())
    assert 5 <= taken <= 10
    assert [Refuse("too many records of one origin")] * (50 - taken) == answers[taken:]
    assert [NoReply()] * 3 == provide_all(responder, honest, b"key")


def test_a_refresh_of_a_record_in_memory_costs_nothing() -> None:
    [provider] = crowd(1)
    responder = charged(Payers([]), ProviderRecords())
    assert [NoReply()] * 100 == provide_all(responder, [provider] * 100, b"key")


def test_the_fuller_the_store_is_the_less_an_origin_may_have_of_it() -> None:
    greedy, other = crowd(2)
    records = ProviderRecords(max_disk_bytes=1_000)
    records.disk_bytes = 900
    responder = charged(Payers([greedy]), records)
    keys = [b"key %d" % number for number in range(50)]
    assert 2 == provide_all(responder, [greedy], *keys).count(NoReply())  # of 9
    assert [NoReply()] == provide_all(responder, [other], b"key")
    records.disk_bytes = 1_000
    assert [Refuse("no room for records")] == provide_all(responder, [other], b"another")


def test_one_subnet_does_not_fill_a_key_and_the_honest_provider_is_in_every_reply() -> None:
    peers = crowd(60)
    honest, crowded = peers[0], peers[1:]
    responder = charged(Payers(crowded, budget=1e9), ProviderRecords())
    responder.respond(ASKER, GetProviders(KEY), NOW)
    answers = provide_all(responder, [*crowded, honest], KEY)
    assert NoReply() == answers[-1]
    for _ in range(20):
        asked = responder.respond(ASKER, GetProviders(KEY), NOW)
        assert isinstance(asked, Reply)
        named = [entry.peer_id for entry in asked.provider_peers]
        assert honest in named[:2]  # groups take turns
        assert MAX_PLACES_PER_SUBNET + 1 == len(named)


def test_values_take_from_the_same_disk() -> None:
    class Kept:
        def get(self, key: bytes, now: UnixTime) -> None:
            """Nothing."""

        def put(self, key: bytes, record: Record, now: UnixTime) -> Record:
            return record

    [greedy] = crowd(1)
    payers = Payers([greedy])
    server = Server()
    responder = Responder(
        LOCAL,
        table=server.table,
        book=server.book,
        records=None,
        rng=random.Random(1),
        values=Kept(),
        origin_of=payers,
    )
    put = PutValue(b"/v/k", Record(b"/v/k", b"x" * 700))
    answers = [responder.respond(greedy, put, NOW) for _ in range(4)]
    assert 2 == sum(isinstance(answer, Reply) for answer in answers)
    assert Refuse("too many records of one origin") == answers[-1]


# --- values and ping ------------------------------------------------------------------------------


@pytest.mark.conformance("c27")
def test_a_value_that_is_not_here_is_answered_with_closer_peers() -> None:
    server = Server(crowd(60))

    reply = server.reply(GetValue(KEY, cluster_level=2))

    assert (MessageType.GET_VALUE, KEY, None, (), 2) == (
        reply.type,
        reply.key,
        reply.record,
        reply.provider_peers,
        reply.cluster_level,
    )
    assert nearest(crowd(60), KEY)[:K] == [entry.peer_id for entry in reply.closer_peers]


@pytest.mark.parametrize(
    ("reason", "record"),
    [
        ("no record", None),
        ("key and record key differ", Record(b"other", b"value")),
        ("values are not kept", Record(KEY, b"value")),
    ],
)
def test_values_are_refused_as_long_as_there_is_no_store_for_them(
    reason: str, record: Record | None
) -> None:
    assert Refuse(reason) == Server().ask(PutValue(KEY, record))


class OneValue:
    """A value store that takes what begins with ``ok`` and needs a load for the key ``disk``."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Record] = {}

    def get(self, key: bytes, now: UnixTime) -> Record | Load | None:
        return Load(LoadKind.PROVIDERS, key) if key == b"disk" else self.kept.get(key)

    def put(self, key: bytes, record: Record, now: UnixTime) -> Record | Load | Refuse:
        if not record.value.startswith(b"ok"):
            return Refuse("invalid record")
        self.kept[key] = record
        return record


@pytest.mark.conformance("c09")
def test_a_taken_value_is_echoed_without_the_peers_that_came_with_it() -> None:
    server = Server(crowd(3))
    responder = Responder(
        LOCAL,
        table=server.table,
        book=server.book,
        records=None,
        rng=random.Random(1),
        values=OneValue(),
    )
    message = dht_pb2.Message(type="PUT_VALUE", key=KEY)
    message.record.key, message.record.value = KEY, b"ok"
    message.closerPeers.add(id=crowd(1)[0].to_bytes())
    message.providerPeers.add(id=crowd(1)[0].to_bytes())
    request = decode_request(message.SerializeToString())
    echo = Reply(MessageType.PUT_VALUE, KEY, Record(KEY, b"ok"))
    assert echo == responder.respond(ASKER, request, NOW)


def test_a_value_store_decides_about_values() -> None:
    server = Server(crowd(3))
    responder = Responder(
        LOCAL,
        table=server.table,
        book=server.book,
        records=None,
        rng=random.Random(1),
        values=OneValue(),
    )
    good, bad = Record(KEY, b"ok"), Record(KEY, b"no")

    def ask(request: Request) -> Answer:
        return responder.respond(ASKER, request, NOW)

    assert Refuse("invalid record") == ask(PutValue(KEY, bad))
    assert Reply(MessageType.PUT_VALUE, KEY, good) == ask(PutValue(KEY, good))
    got = ask(GetValue(KEY))
    assert isinstance(got, Reply)
    assert good == got.record
    assert Load(LoadKind.PROVIDERS, b"disk") == ask(GetValue(b"disk"))


@pytest.mark.conformance("c07")
@pytest.mark.parametrize("ping", [Ping(), Ping(b"key", Record(b"key", b"value"), 4)])
def test_a_ping_is_answered_with_itself_and_no_peers(ping: Ping) -> None:
    server = Server(crowd(30), own_keys=[b"key"])

    expected = Reply(MessageType.PING, ping.key, ping.record, cluster_level=ping.cluster_level)
    assert expected == server.ask(ping)


# --- any request ----------------------------------------------------------------------------------

ENTRIES = st.lists(
    st.builds(
        PeerEntry,
        st.sampled_from([LOCAL, ASKER, TARGET]),
        st.lists(st.sampled_from([PUBLIC, LAN, b"", b"\xff"]), max_size=3).map(tuple),
    ),
    max_size=4,
).map(tuple)
WIRE_KEYS = st.one_of(
    st.binary(max_size=100), st.sampled_from([KEY, LOCAL.to_bytes(), TARGET.to_bytes()])
)
RECORDS = st.none() | st.builds(Record, WIRE_KEYS, st.binary(max_size=10))
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    st.builds(FindNode, WIRE_KEYS),
    st.builds(GetProviders, WIRE_KEYS),
    st.builds(AddProvider, WIRE_KEYS, ENTRIES),
    st.builds(GetValue, WIRE_KEYS),
    st.builds(PutValue, WIRE_KEYS, RECORDS),
    st.builds(Ping, WIRE_KEYS, RECORDS),
)


@given(
    st.lists(st.tuples(st.sampled_from([LOCAL, ASKER, TARGET]), REQUESTS), max_size=20),
    st.booleans(),
)
def test_no_request_raises_and_no_reply_names_the_asker_unasked(
    requests: list[tuple[PeerId, Request]], public: bool
) -> None:
    server = Server([*crowd(5), ASKER, TARGET], address_filter=PUBLIC_ONLY if public else KEEP_ALL)
    for asker, request in requests:
        answer = server.ask(request, NOW, asker)
        if isinstance(answer, Reply) and request.key != asker.to_bytes():
            assert asker not in [entry.peer_id for entry in answer.closer_peers]
