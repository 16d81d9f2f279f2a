"""A DHT that answers at once from dictionaries, with ``DHTManager``'s names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import base58
import trio
from multiaddr import Multiaddr

from codio_dht.core.denials import DenyCounts
from codio_dht.core.lookup_states import LookupEvent, Standing
from codio_dht.core.mode import Mode
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.daemon.parameters import parse_cid
from codio_dht.errors import DialError, NoPeersError, StreamError
from codio_dht.net.host import ConnectionInfo
from codio_dht.node.names import PublishedName, ResolvedName
from codio_dht.node.results import FoundPeer, KeyStatus, ManyResult, ProvideStatus

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def peer(number: int) -> PeerId:
    """A peer id that only ``number`` decides."""
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + sha256(number.to_bytes(4, "big")).digest())


def info(number: int) -> PeerInfo:
    """That peer with one address."""
    return PeerInfo(peer(number), [Multiaddr(f"/ip4/192.0.2.{number}/tcp/4001")])


def raw_cid_of(text: str) -> str:
    """A CIDv0: quick to make and different for each text."""
    return base58.b58encode(b"\x12\x20" + sha256(text.encode()).digest()).decode()


@dataclass
class FakeOutcome:
    holders: int = 20
    confirmed: int = 18
    attempted: int = 20
    pending: int = 0
    seconds: float = 0.25


@dataclass
class FakeOwnKey:
    key: bytes
    added: float
    last_provided: float | None
    written: str | None = None
    waits: bool = True


@dataclass(frozen=True, slots=True)
class FakeStats:
    num_peers: int
    num_providers: int = 0
    routing_table_size: int = 0
    bootstrap: str = "alone"
    provider_ttl_s: float = 86400.0
    served: dict[str, int] = field(default_factory=dict)


class FakeDht:
    """``providers_wait`` holds back every provider after the first until it is set, and every event
    of ``walk`` after the first ``told_at_once``."""

    def __init__(self) -> None:
        self.peer_id = peer(1)
        self.denied: list[str] = []
        self.addrs = [Multiaddr("/ip4/127.0.0.1/tcp/4001")]
        self.mode = Mode.SERVER
        self.providers = [info(2), info(3)]
        self.slow: set[PeerId] = set()
        self.walk: list[LookupEvent] = []
        self.told_at_once = 1
        self.known = {peer(2): info(2).addrs}
        self.connected: list[ConnectionInfo] = []
        self.kept: dict[bytes, FakeOwnKey] = {}
        self.outcome = FakeOutcome()
        self.fail: Exception | None = None
        self.fail_at_the_end: Exception | None = None
        self.pings_fail = False
        self.providers_wait: trio.Event | None = None
        self.never = False
        self.running = 0
        self.bootstrap_state = "alone"
        self.joined_through: list[str] = []

    async def deny(self, rule: str) -> bool:
        if rule in self.denied:
            return False
        self.denied.append(rule)
        return True

    async def stop_denying(self, rule: str) -> bool:
        if rule not in self.denied:
            return False
        self.denied.remove(rule)
        return True

    def deny_rules(self) -> list[str]:
        return list(self.denied)

    def deny_counts(self) -> DenyCounts:
        return DenyCounts(len(self.denied), 2, 3, 4, 5)

    async def reload_deny_lists(self) -> DenyCounts:
        return self.deny_counts()

    def is_denied(self, subject: str) -> bool:
        return subject in self.denied

    async def bootstrap(self, addrs: Iterable[Multiaddr | str]) -> int:
        self.joined_through = [str(addr) for addr in addrs]
        if self.fail is not None:
            raise self.fail
        return len(self.joined_through)

    async def connect(self, addr: Multiaddr | str) -> PeerId:
        text = str(addr)
        if "192.0.2.99" in text:
            raise DialError(f"no address of {text} answers")
        found = PeerId.from_string(text.rpartition("/p2p/")[2])
        self.connected.append(
            ConnectionInfo(
                found,
                Multiaddr(text.rpartition("/p2p/")[0]),
                inbound=False,
                agent="evil\x1b[31m",
                protocols=frozenset({"/ipfs/kad/1.0.0"}),
            )
        )
        return found

    async def ping(self, peer_id: PeerId) -> float:
        if peer_id not in self.known and all(peer_id != info.peer_id for info in self.connected):
            raise DialError(f"no address of {peer_id} is known")
        if self.pings_fail:
            raise StreamError("the stream ended")
        return 0.0015

    async def provide(self, cid: str | bytes) -> FakeOutcome:
        multihash = parse_cid(str(cid), "cid")[1]
        self.kept[multihash] = FakeOwnKey(multihash, 1.0, None, str(cid))
        return await self.provide_once(cid)

    async def provide_once(self, cid: str | bytes) -> FakeOutcome:
        if self.fail is not None:
            raise self.fail
        return self.outcome

    async def stop_providing(self, cid: str | bytes) -> bool:
        return self.kept.pop(parse_cid(str(cid), "cid")[1], None) is not None

    async def provide_many(self, cids: Iterable[object]) -> ManyResult:
        before, cids = len(self.kept), list(cids)
        for cid in cids:
            multihash = parse_cid(str(cid), "cids")[1]
            self.kept.setdefault(multihash, FakeOwnKey(multihash, 1.0, None, str(cid)))
        return ManyResult(len(cids), len(self.kept) - before)

    async def stop_providing_many(self, cids: Iterable[object]) -> ManyResult:
        cids = list(cids)
        removed = [await self.stop_providing(str(cid)) for cid in cids]
        return ManyResult(len(cids), sum(removed))

    async def iter_own_keys(self) -> AsyncGenerator[FakeOwnKey, None]:
        for own in list(self.kept.values()):
            yield own

    async def provide_status(self, cid: object = None) -> KeyStatus | ProvideStatus | None:
        if cid is None:
            return ProvideStatus(
                keys=len(self.kept),
                waiting=len(self.kept),
                connectivity="online",
                regions=4,
                regions_due=1,
                regions_running=0,
                next_due=None,
                lag_s=1_000.0,
                keys_per_s=2.5,
                holders_per_key=19.5,
                wanted=20,
            )
        own = self.kept.get(parse_cid(str(cid), "cid")[1])
        if own is None:
            return None
        held_by = (PeerId(b"\x12\x20" + bytes(32)),)
        return KeyStatus(own.key, own.written, own.added, 5.0, 1e12, held_by, 20)

    async def iter_providers(
        self, cid: str | bytes, count: int | None
    ) -> AsyncGenerator[PeerInfo, None]:
        self.running += 1
        try:
            if self.fail is not None:
                raise self.fail
            for number, found in enumerate(self.providers):
                if number and self.providers_wait is not None:
                    await self.providers_wait.wait()
                yield found
                if number + 1 == count:
                    return
            if self.fail_at_the_end is not None:
                raise self.fail_at_the_end
            if self.never:
                await trio.sleep_forever()
        finally:
            self.running -= 1

    # Values and names: tests/component/test_value_commands.py has real nodes for these.

    async def put_value(
        self, key: bytes | str, value: bytes, quorum: int | None = None, *, keep: bool = False
    ) -> FakeOutcome:
        return self.outcome

    async def search_value(self, key: bytes | str, quorum: int) -> AsyncGenerator[bytes, None]:
        if self.fail is not None:
            raise self.fail
        yield b"value"

    async def publish_name(
        self, path: str, *, key: str, lifetime: float, ttl: float
    ) -> PublishedName:
        raise NoPeersError("the routing table is empty")

    async def unpublish_name(self, key: str) -> bool:
        return False

    async def resolve_name(
        self, name: PeerId | str, quorum: int, *, recursive: bool
    ) -> ResolvedName | None:
        return None

    async def name_keys(self) -> Mapping[str, PeerId]:
        return {"self": self.peer_id}

    async def generate_name_key(self, label: str) -> PeerId:
        return peer(9)

    async def remove_name_key(self, label: str) -> bool:
        return False

    async def find_peer(self, peer_id: PeerId) -> Sequence[Multiaddr]:
        if isinstance(self.fail, NoPeersError):
            raise self.fail
        return self.known.get(peer_id, [])

    async def find_closest_peers(
        self, key: bytes, watch: Callable[[LookupEvent], None] | None = None
    ) -> Sequence[FoundPeer]:
        for number, event in enumerate(self.walk):
            if number >= self.told_at_once and self.providers_wait is not None:
                await self.providers_wait.wait()
            if watch is not None:
                watch(event)
        if not self.providers:
            raise NoPeersError("the routing table is empty")
        return [
            FoundPeer(each.peer_id, each.addrs, Standing.ALIVE, 7.0)
            if each.peer_id in self.slow
            else FoundPeer(each.peer_id, each.addrs, Standing.ANSWERED, 9.0)
            for each in self.providers
        ]

    def get_closest_peers(self, key: bytes) -> Sequence[PeerId]:
        return [found.peer_id for found in self.providers]

    def connections(self) -> Sequence[ConnectionInfo]:
        return self.connected

    def stats(self) -> FakeStats:
        return FakeStats(num_peers=len(self.connected), bootstrap=self.bootstrap_state)
