"""What a server answers: one synchronous call per request, from the connection's read loop.

Decides the content of every reply, to be what go's server says (kad.md A.4 to A.7): what it puts
first, whom it leaves out, what it refuses by resetting the stream, and that ADD_PROVIDER is never
answered. Whether this node answers at all (server or client mode) its caller decides; how a reply
looks, and what is cut so that it fits, the codec.

Never waits: where rows must come from the store it says ``Load`` and is asked again. Never trusts:
a provider record is taken only from the provider itself. Raises nothing on any request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, zip_longest
from typing import Final, Protocol, TypeVar

from codio_dht.core.addresses import KEEP_ALL, AddressFilter
from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.core.keyspace import Key, key_of
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
from codio_dht.core.origins import RecordOrigin
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import PeerBook
from codio_dht.core.places import place_group
from codio_dht.core.records import ProviderRecords, ProviderRow, RecordOutcome
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Answer, Load, NoReply, Refuse
from codio_dht.core.validation import Check
from codio_dht.formats.multiaddr import is_readable
from codio_dht.params import MAX_PROVIDER_KEY_BYTES, K

MAX_PROVIDERS_PER_REPLY: Final = 300
"""Providers of one key put into a reply, chosen at random: at 54 bytes for an Ed25519 peer with one
IPv4 address, no more fit into ``REPLY_BUDGET_BYTES``."""

MAX_LOADS_PER_REQUEST: Final = 3
"""Times one request may wait for the store (what was read may leave memory again before it is
answered); then its stream is reset."""

_T = TypeVar("_T")

_EMPTY_KEY = Refuse("empty key")
_LONG_KEY = Refuse("provider key too long")
_NO_PROVIDER = Refuse("no valid provider")
_NOT_SERVED = Refuse("not served")
_DENIED = Refuse("denied key")
_TAKEN = NoReply()
_TOO_MUCH = Refuse("too many records of one origin")
_ADDED: Final[dict[RecordOutcome, NoReply | Refuse]] = {
    RecordOutcome.ADDED: _TAKEN,
    RecordOutcome.REFRESHED: _TAKEN,
    RecordOutcome.REFUSED_KEY_FULL: Refuse("no place for this provider"),
    RecordOutcome.REFUSED_ORIGIN: _TOO_MUCH,
    RecordOutcome.REFUSED_FULL: Refuse("no room for records"),
}
"""A refusal is visible to the provider: it has its record kept elsewhere."""

_VALUE_DISK_BYTES: Final = 200
"""What a value takes on the disk beside its key, which is there twice, and its bytes, estimated."""

_FEW_PROVIDERS: Final = 20
"""So many providers fit into every reply, so that their order does not matter."""


class NearestPeers(Protocol):
    """What is needed of the routing table."""

    def nearest(self, key: Key, n: int, exclude: Iterable[PeerId] = ()) -> Sequence[PeerId]:
        """The ``n`` peers nearest to ``key``, nearest first, without those of ``exclude``."""
        ...


class ServedValues(Protocol):
    """Where value records are kept and judged."""

    def get(self, key: bytes, now: UnixTime) -> Record | Load | None:
        """The record under ``key`` that may be told, if any."""
        ...

    def put(self, key: bytes, record: Record, now: UnixTime) -> Record | Load | Check | Refuse:
        """Judge ``record`` and keep it; what is told of it."""
        ...


class NoValues:
    """Holds no values and takes none, but knows that the question is a fair one."""

    def get(self, key: bytes, now: UnixTime) -> None:
        """Nothing."""

    def put(self, key: bytes, record: Record, now: UnixTime) -> Refuse:
        """No."""
        return Refuse("values are not kept")


OriginOf = Callable[[PeerId, Monotonic], RecordOrigin | None]
"""Where a peer is seen now, and who pays for its records; None if nobody does."""


class Responder:
    """Answers for one network.

    ``records`` or ``values`` of None: this node does not serve them, and such requests are refused.
    ``own_keys`` says which multihashes this node provides itself, ``provider_addrs`` where, if not
    at its own addresses.
    """

    def __init__(
        self,
        local: PeerId,
        *,
        table: NearestPeers,
        book: PeerBook,
        records: ProviderRecords | None,
        rng: Rng,
        address_filter: AddressFilter = KEEP_ALL,
        own_keys: OwnKeys | None = None,
        provider_addrs: Sequence[bytes] = (),
        values: ServedValues | None = NoValues(),  # noqa: B008 - it has no state
        k: int = K,
        origin_of: OriginOf = lambda _peer, _now: None,
        denies: Callable[[bytes], bool] = lambda _key: False,
    ) -> None:
        self._local = local
        self._origin_of = origin_of
        self._denies = denies
        self._local_id = local.to_bytes()
        self._table = table
        self._book = book
        self._records = records
        self._rng = rng
        self._filter = address_filter
        self._own_keys = OwnKeys() if own_keys is None else own_keys
        self._values = values
        self._k = k
        self._own_entry = PeerEntry(local)
        self._provided_at = PeerEntry(local, tuple(provider_addrs))

    def set_address_filter(self, address_filter: AddressFilter) -> None:
        """The network's policy changed. :meth:`set_own_addrs` is to be called after it."""
        self._filter = address_filter

    def set_own_addrs(self, addrs: Iterable[bytes]) -> None:
        """What others are told of this node itself, once the network's filter has seen it."""
        self._own_entry = PeerEntry(self._local, self._filter(addrs))

    def respond(self, peer: PeerId, request: Request, now: Now) -> Answer:
        """The answer to ``request`` of the authenticated ``peer``."""
        match request:
            case FindNode():
                return self._find_node(peer, request, now)
            case GetProviders():
                return self._get_providers(peer, request, now)
            case AddProvider():
                return self._add_provider(peer, request, now)
            case GetValue():
                return self._get_value(peer, request, now)
            case PutValue():
                return self._put_value(peer, request, now)
            case Ping():
                return Reply(
                    MessageType.PING,
                    request.key,
                    request.record,
                    cluster_level=request.cluster_level,
                )

    # --- routing ----------------------------------------------------------------------------------

    def _nearest(self, peer: PeerId, key: Key) -> Sequence[PeerId]:
        return self._table.nearest(key, self._k, (peer, self._local))

    def _find_node(self, peer: PeerId, request: FindNode, now: Now) -> Answer:
        """The target first, whoever it is (a client, the requester, this node), then the k nearest
        of the table; none without an address."""
        key = request.key
        if not key:
            return _EMPTY_KEY
        nearest = self._nearest(peer, key_of(key))
        closer = self._book.entries(nearest, now.monotonic)
        if not (nearest and nearest[0].to_bytes() == key):
            target = (
                self._own_entry
                if key == self._local_id
                else self._book.entry_of(key, now.monotonic)
            )
            if target is not None and target.addrs:
                closer.insert(0, target)
        return Reply(
            MessageType.FIND_NODE,
            closer_peers=tuple(closer),
            cluster_level=request.cluster_level,
        )

    # --- providers --------------------------------------------------------------------------------

    def _get_providers(self, peer: PeerId, request: GetProviders, now: Now) -> Answer:
        refusal = self._refuse_provider_key(request.key)
        if refusal is not None or self._records is None:
            return refusal or _NOT_SERVED
        key = key_of(request.key)
        if self._denies(request.key):
            return self._only_closer(peer, request, key, now)
        rows = self._records.get(request.key, now.unix, key)
        if isinstance(rows, Load):
            return rows
        own = self._own_keys.provides(request.key, now.unix, key)
        if isinstance(own, Load):
            return own
        nearest = self._nearest(peer, key)
        return Reply(
            MessageType.GET_PROVIDERS,
            request.key,
            closer_peers=tuple(self._book.all_entries(nearest, now.monotonic)),
            provider_peers=self._provider_entries(rows, now, own=own) if own or rows else (),
            cluster_level=request.cluster_level,
        )

    def _only_closer(
        self, peer: PeerId, request: GetProviders | GetValue, key: Key, now: Now
    ) -> Reply:
        """The way to others: nothing is told of a key that the operator denies."""
        value = isinstance(request, GetValue)
        return Reply(
            MessageType.GET_VALUE if value else MessageType.GET_PROVIDERS,
            request.key,
            closer_peers=tuple(self._book.all_entries(self._nearest(peer, key), now.monotonic)),
            cluster_level=request.cluster_level,
        )

    def _provider_entries(
        self, rows: Sequence[ProviderRow], now: Now, *, own: bool
    ) -> tuple[PeerEntry, ...]:
        """A random choice in random order of as many as may fit, this node among them if it
        provides the key (go keeps itself in its own provider store). Where they are many, the IP
        groups take turns, so that one which came in numbers does not fill the reply."""
        candidates: list[ProviderRow | None] = list(rows)
        if own:
            candidates.append(None)
        if len(candidates) <= _FEW_PROVIDERS:
            drawn = _draw(candidates, MAX_PROVIDERS_PER_REPLY, self._rng)
        else:
            drawn = _draw_by_group(candidates, MAX_PROVIDERS_PER_REPLY, self._rng)
        return tuple(
            [
                self._own_provider_entry() if row is None else self._provider_entry(row, now)
                for row in drawn
            ]
        )

    def _own_provider_entry(self) -> PeerEntry:
        return self._provided_at if self._provided_at.addrs else self._own_entry

    def _provider_entry(self, row: ProviderRow, now: Now) -> PeerEntry:
        """What the provider said of itself, last and here first; the record's own addresses (they
        outlive a restart, and expire before the record); else hearsay, or the bare id."""
        book, provider = self._book, row.provider
        entry = book.told_entry(provider, now.monotonic)
        if entry is not None:
            return entry
        if row.addrs_expire > now.unix:
            connection = (
                ConnectionType.CONNECTED
                if book.is_connected(provider)
                else ConnectionType.NOT_CONNECTED
            )
            cached = row.entry
            if cached is not None and cached[0] is self._filter:
                entry = cached[1]
            if entry is None or entry.connection is not connection:
                entry = PeerEntry(provider, self._filter(row.addrs), connection)
                object.__setattr__(row, "entry", (self._filter, entry))
            if entry.addrs:
                return entry
        return book.all_entries((provider,), now.monotonic)[0]

    def _add_provider(self, peer: PeerId, request: AddProvider, now: Now) -> Answer:
        """Only the sender's word about itself counts, and only with an address. The filter comes
        after that: a peer behind a relay announces itself too (go)."""
        refusal = self._refuse_provider_key(request.key)
        if refusal is not None or self._records is None:
            return refusal or _NOT_SERVED
        if self._denies(request.key):
            return _DENIED
        named = [
            entry.addrs
            for entry in request.providers
            if entry.peer_id == peer and any(map(is_readable, entry.addrs))
        ]
        if not named or peer == self._local:
            return _NO_PROVIDER
        addrs = self._filter(dict.fromkeys([addr for addrs in named for addr in addrs]))
        origin = self._origin_of(peer, now.monotonic)
        outcome = self._records.add(request.key, peer, addrs, now.unix, origin)
        taken = _ADDED[outcome]
        if addrs and taken is _TAKEN:
            self._book.provided(peer, addrs, now.monotonic)
        return taken

    def _refuse_provider_key(self, key: bytes) -> Refuse | None:
        if not key:
            return _EMPTY_KEY
        return _LONG_KEY if len(key) > MAX_PROVIDER_KEY_BYTES else None

    # --- values -----------------------------------------------------------------------------------

    def _get_value(self, peer: PeerId, request: GetValue, now: Now) -> Answer:
        if not request.key or self._values is None:
            return _NOT_SERVED if request.key else _EMPTY_KEY
        if self._denies(request.key):
            return self._only_closer(peer, request, key_of(request.key), now)
        record = self._values.get(request.key, now.unix)
        if isinstance(record, Load):
            return record
        nearest = self._nearest(peer, key_of(request.key))
        return Reply(
            MessageType.GET_VALUE,
            request.key,
            record,
            tuple(self._book.all_entries(nearest, now.monotonic)),
            cluster_level=request.cluster_level,
        )

    def _put_value(self, peer: PeerId, request: PutValue, now: Now) -> Answer:
        """The record is echoed, without any peers the request may have carried."""
        if not request.key or self._values is None:
            return _NOT_SERVED if request.key else _EMPTY_KEY
        if request.record is None:
            return Refuse("no record")
        if request.record.key != request.key:
            return Refuse("key and record key differ")
        if self._denies(request.key):
            return _DENIED
        origin = self._origin_of(peer, now.monotonic)
        size = _VALUE_DISK_BYTES + 2 * len(request.key) + len(request.record.value)
        if origin is not None and not origin.affords(size):
            return _TOO_MUCH
        kept = self._values.put(request.key, request.record, now.unix)
        if not isinstance(kept, Record):
            return kept
        if origin is not None:
            origin.pay(size)
        return Reply(MessageType.PUT_VALUE, request.key, kept, cluster_level=request.cluster_level)


def _draw(items: list[_T], limit: int, rng: Rng) -> list[_T]:
    """Up to ``limit`` of ``items``, each with the same chance, in random order (Fisher-Yates, as
    far as needed). ``items`` is used up."""
    size = len(items)
    for index in range(min(size - 1, limit)):
        other = index + int(rng.random() * (size - index))
        items[index], items[other] = items[other], items[index]
    return items[:limit]


def _draw_by_group(
    rows: list[ProviderRow | None], limit: int, rng: Rng
) -> list[ProviderRow | None]:
    """Up to ``limit`` of ``rows`` in a random order in which IP groups take turns."""
    groups: dict[bytes, list[tuple[ProviderRow | None]]] = {}
    for row in _draw(rows, len(rows), rng):
        group = b"" if row is None else place_group(row.subnet)
        groups.setdefault(group, []).append((row,))
    turns = chain.from_iterable(zip_longest(*groups.values()))
    return [each[0] for each in islice((each for each in turns if each is not None), limit)]
