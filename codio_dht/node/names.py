"""IPNS names: published under this node's keys, and resolved.

Decides the sequence number of a new record, and how far a chain of names is followed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from codio_dht.core.peer import PeerId
from codio_dht.core.republish import Naming, OwnValue
from codio_dht.core.value_search import VALUE_QUORUM
from codio_dht.crypto.ipns import IpnsRecord, create_ipns_record, ipns_key, parse_ipns_record
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import FormatError, NetworkError, UsageError
from codio_dht.formats.text import format_name, read_name
from codio_dht.node.clock import Clock
from codio_dht.node.republishing import Republishing
from codio_dht.node.results import ProvideResult
from codio_dht.node.value_storage import StoreThread
from codio_dht.node.values import Values
from codio_dht.store.name_keys import NameKeys

MAX_NAME_DEPTH: Final = 32
"""Names that may lead to each other before a chain of them is given up (Kubo
``DefaultDepthLimit``)."""


@dataclass(frozen=True, slots=True)
class PublishedName:
    """A name that was published."""

    name: str
    """The name (``k51...``)."""
    record: IpnsRecord
    put: ProvideResult
    """How it went; ``put.key`` is the key in the DHT."""


@dataclass(frozen=True, slots=True)
class ResolvedName:
    """What a name stands for."""

    path: str
    """The path at the end of the chain: ``/ipfs/...``, or a name that was not followed."""
    record: IpnsRecord
    """The record of the first name."""


class Names:
    """Publishes IPNS names under this node's keys, and resolves names."""

    def __init__(
        self,
        values: Values,
        republishing: Republishing,
        keys: NameKeys,
        call: StoreThread,
        clock: Clock,
    ) -> None:
        self._values = values
        self._republishing = republishing
        self._keys = keys
        self._call = call
        self._clock = clock
        self._turns: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        """By label of the key: two records of one sequence number and different values must never
        be made. Bounded by the keys (``MAX_NAME_KEYS``)."""
        self._asked: set[bytes] = set()
        """Names whose last record in the network is known since this node started; as bounded."""

    # --- keys -------------------------------------------------------------------------------------

    async def keys(self) -> Mapping[str, PeerId]:
        """The name of each key, by the key's label."""
        found: Mapping[str, PrivateKey] = await self._call(self._keys.all)
        return {label: key.peer_id() for label, key in found.items()}

    async def generate(self, label: str) -> PeerId:
        """Make a key called ``label``; its name."""
        key: PrivateKey = await self._call(partial(self._keys.generate, label))
        return key.peer_id()

    async def remove(self, label: str) -> bool:
        """Forget the key called ``label``, and keep its name published no more; False if there is
        none. Records already out expire."""
        key: PrivateKey | None = await self._call(partial(self._keys.get, label))
        if key is None:
            return False
        dht_key = ipns_key(key.peer_id())
        await self._republishing.stop(dht_key)  # also ends a publication that has the turn
        async with self._turns[label]:
            await self._republishing.stop(dht_key)
            removed: bool = await self._call(partial(self._keys.remove, label))
        self._asked.discard(dht_key)
        if not self._turns[label].locked():  # nobody waited for it
            del self._turns[label]
        return removed

    # --- publishing -------------------------------------------------------------------------------

    async def publish(
        self, path: str, *, label: str, lifetime_s: float, ttl_s: float, quorum: int
    ) -> PublishedName:
        """Let the name of the key called ``label`` stand for ``path``, and keep it published.

        The sequence number is one more than that of the last record known; it stays if the value
        does (Kubo). The network is asked too before the first publication since the node started:
        the data directory may be an old copy, or the key may publish elsewhere.

        Raises:
            UsageError: there is no such key, or the record would not be valid.
            StorageError: it could not be noted; nothing was published.
            NoPeersError: nobody to give it to; it is kept, and put as soon as there is.
        """
        key: PrivateKey | None = await self._call(partial(self._keys.get, label))
        if key is None:
            raise UsageError(f"key: there is no key called {label!r}")
        async with self._turns[label]:
            key = await self._call(partial(self._keys.get, label))
            if key is None:  # removed while this waited for its turn
                raise UsageError(f"key: there is no key called {label!r}")
            dht_key = ipns_key(key.peer_id())
            last = await self._last(dht_key)
            now = self._clock.unix()
            sequence = 0 if last is None else last.sequence + (last.value != path.encode())
            record = create_ipns_record(
                key, path, sequence=sequence, now=now, lifetime_s=lifetime_s, ttl_s=ttl_s
            )
            naming = Naming(label, lifetime_s, ttl_s)
            own = OwnValue(dht_key, record.encoded, now, None, naming)
            put = await self._republishing.publish(own, quorum)
        return PublishedName(format_name(key.peer_id().to_bytes()), record, put)

    async def unpublish(self, label: str) -> bool:
        """Keep the name of the key called ``label`` published no more; False if it was not."""
        key: PrivateKey | None = await self._call(partial(self._keys.get, label))
        return key is not None and await self._republishing.stop(ipns_key(key.peer_id()))

    async def _last(self, dht_key: bytes) -> IpnsRecord | None:
        """The newest record of a name that is known."""
        known = []
        own = await self._republishing.own(dht_key)
        if own is not None:
            known.append(own.value)
        held = await self._values.held(dht_key)
        if held is not None:
            known.append(held.value)
        if dht_key not in self._asked:
            with suppress(NetworkError):
                found = await self._values.search(dht_key, VALUE_QUORUM, _ignore)
                known += [] if found is None else [found]
                self._asked.add(dht_key)
        records = [parse_ipns_record(value) for value in known]
        return max(records, key=lambda record: record.order, default=None)

    # --- resolving --------------------------------------------------------------------------------

    async def resolve(self, name: PeerId, quorum: int, *, recursive: bool) -> ResolvedName | None:
        """What ``name`` stands for; None if it has no record. A record that leads to another name
        is followed if ``recursive``.

        Raises:
            NoPeersError: there is nobody to ask, and no record here.
            UsageError: the names lead to each other without end.
        """
        first = await self._record(name, quorum)
        if first is None:
            return None
        path = first.value.decode("utf-8", "replace")
        for _ in range(MAX_NAME_DEPTH):
            step = _next_name(path) if recursive else None
            if step is None:
                return ResolvedName(path, first)
            record = await self._record(step[0], quorum)
            if record is None:
                return ResolvedName(path, first)
            path = record.value.decode("utf-8", "replace") + step[1]
        raise UsageError(f"name: more than {MAX_NAME_DEPTH} names lead to each other")

    async def _record(self, name: PeerId, quorum: int) -> IpnsRecord | None:
        value = await self._values.search(ipns_key(name), quorum, _ignore)
        return None if value is None else parse_ipns_record(value)


def _next_name(path: str) -> tuple[PeerId, str] | None:
    """The name that ``path`` leads to, and what of the path is behind it."""
    if not path.startswith("/ipns/"):
        return None
    try:
        pasted = read_name(path)
    except FormatError:
        return None
    return PeerId(pasted.multihash), pasted.path


def _ignore(_value: bytes) -> None:
    """Wants only the end."""
