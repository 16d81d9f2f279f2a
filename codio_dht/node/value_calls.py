"""The calls of ``DHTManager`` that are about values and names.

Checks what callers pass, and hands each call to the part that does it. Decides nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from codio_dht.checks import Checks, shown
from codio_dht.core.messages import Record
from codio_dht.core.peer import PeerId, PeerLike
from codio_dht.core.republish import OwnValue
from codio_dht.core.value_records import MAX_VALUE_BYTES, MAX_VALUE_KEY_BYTES
from codio_dht.core.value_search import VALUE_QUORUM
from codio_dht.crypto.ipns import IPNS_LIFETIME_S, IPNS_TTL_S, ipns_key
from codio_dht.crypto.public_key_records import public_key_key
from codio_dht.errors import FormatError, PeerIdError, UsageError
from codio_dht.formats.text import read_name, read_peer_id
from codio_dht.node import arguments
from codio_dht.node.calls import ended_with_the_node
from codio_dht.node.lookups import ignore
from codio_dht.node.names import PublishedName, ResolvedName
from codio_dht.node.result_stream import ResultStream, run_search
from codio_dht.node.results import ProvideResult
from codio_dht.store.name_keys import SELF, check_label

if TYPE_CHECKING:
    from codio_dht.node.life import NodeLife

_CHECKS = Checks()
_MAX_QUORUM = 1_000

Found = TypeVar("Found")


async def _nothing_more(_result: ProvideResult) -> None:
    """Wants to know no more when a put is over."""


class ValueCalls:
    """What :class:`~codio_dht.DHTManager` offers for values and names."""

    _life: NodeLife

    def _running_call(self) -> AbstractContextManager[None]:
        """The block is one call of the program."""
        return self._life.call()

    def _search_into(
        self,
        stream: ResultStream[Found, Any],
        find: Callable[[Callable[[Found], None]], Awaitable[object]],
    ) -> None:
        """Run the search ``find`` in the background; ``stream`` takes what it finds."""
        failures = self._life.node.shared.failures
        self._life.nursery.start_soon(run_search, stream.findings, find, failures)

    # --- values -----------------------------------------------------------------------------------

    @ended_with_the_node
    async def put_value(
        self, key: bytes | str, value: bytes, quorum: int | None = None, *, keep: bool = False
    ) -> ProvideResult:
        """Put ``value`` under ``key`` (PUT_VALUE): this node holds it from now on, and so do the 20
        peers closest to the key. Servers forget it 48 hours later.

        Args:
            key: ``/namespace/rest`` as bytes, or as text: ``/ipns/<name>`` and ``/pk/<peer id>`` in
                any form that people paste, others as they are.
            value: what the namespace's validator takes: at most 64 KiB.
            quorum: return when so many peers hold it; the put goes on until 20 do. None:
                ``DHTConfig.provide_quorum``.
            keep: put it again every 4 hours, over restarts too if there is a data directory.

        Raises:
            UsageError: the value is not valid, or worse than the one that this node holds.
            NoPeersError: there is nobody to give it to; with ``keep`` it is put when there is.
            StorageError: with ``keep``: it could not be noted, and is not kept.
        """
        node, config = self._life.node, self._life.node.main.config
        wanted = arguments.quorum_argument(quorum, config.replication_factor)
        record = Record(value_key_argument(key), value_argument(value))
        most = wanted or config.provide_quorum
        if not keep:
            return await node.values.put(record, most, _nothing_more)
        now = node.shared.clock.unix()
        return await node.republishing.publish(OwnValue(record.key, record.value, now, None), most)

    @ended_with_the_node
    async def get_value(self, key: bytes | str, quorum: int = VALUE_QUORUM) -> bytes | None:
        """The best value of ``key`` that the network has (GET_VALUE); None if it has none.

        It is returned when more than ``quorum`` valid answers came, or when the closest peers have
        answered, if that is earlier; with a quorum of 0 only then. Peers among the closest that
        turn out to hold an older value are given the best one.

        Raises:
            NoPeersError: there is nobody to ask, and this node holds none.
            UsageError: the key's namespace has no validator here.
        """
        preimage, most = value_key_argument(key), _quorum(quorum)
        return await self._life.node.values.search(preimage, most, ignore)

    def search_value(self, key: bytes | str, quorum: int = 0) -> ResultStream[bytes, bytes]:
        """The values of ``key`` as they are found, each better than all before: the first as soon
        as one is valid, the last is the best. Otherwise as :meth:`get_value`. Leaving the loop ends
        the search.

        Raises:
            NoPeersError: there is nobody to ask, and this node holds none.
            UsageError: the key's namespace has no validator here.
        """
        preimage, most = value_key_argument(key), _quorum(quorum)
        values = self._life.node.values
        stream: ResultStream[bytes, bytes] = ResultStream(_same)
        self._search_into(stream, partial(values.search, preimage, most))
        return stream

    @ended_with_the_node
    async def stop_republishing(self, key: bytes | str) -> bool:
        """Keep the value of ``key`` published no more; False if it was not. What peers hold they
        forget by themselves: the network has no message to take a value back."""
        return await self._life.node.republishing.stop(value_key_argument(key))

    # --- names ------------------------------------------------------------------------------------

    @ended_with_the_node
    async def publish_name(
        self,
        path: str,
        *,
        key: str = SELF,
        lifetime: float = IPNS_LIFETIME_S,
        ttl: float = IPNS_TTL_S,
        quorum: int | None = None,
    ) -> PublishedName:
        """Let an IPNS name stand for ``path``, and keep it published, over restarts too if there is
        a data directory.

        Args:
            path: ``/ipfs/<cid>``, ``/ipns/<name>``, or another path.
            key: the label of the key that signs; ``self`` is this node's own identity.
            lifetime: how long each record holds, seconds; it is renewed well before that.
            ttl: how long resolvers may keep it before they ask again, seconds.
            quorum: as for :meth:`put_value`.

        Raises:
            UsageError: there is no such key, or an argument is wrong.
            StorageError: it could not be noted; nothing was published.
            NoPeersError: there is nobody to give it to; it is published as soon as there is.
        """
        node, config = self._life.node, self._life.node.main.config
        wanted = arguments.quorum_argument(quorum, config.replication_factor)
        return await node.names.publish(
            _CHECKS.text(path, "path"),
            label=check_label(_CHECKS.text(key, "key")),
            lifetime_s=_CHECKS.seconds(lifetime, "lifetime"),
            ttl_s=_CHECKS.number(ttl, "ttl", 0),
            quorum=wanted or config.provide_quorum,
        )

    @ended_with_the_node
    async def unpublish_name(self, key: str = SELF) -> bool:
        """Keep the name of a key published no more; False if it was not. Records that peers hold
        expire by themselves."""
        return await self._life.node.names.unpublish(check_label(_CHECKS.text(key, "key")))

    @ended_with_the_node
    async def resolve_name(
        self,
        name: PeerLike,
        quorum: int = VALUE_QUORUM,
        *,
        recursive: bool = True,
    ) -> ResolvedName | None:
        """What an IPNS name stands for; None if nobody has a record of it.

        Args:
            name: a peer id, or the name as text in any form that people paste.
            quorum: as for :meth:`get_value`.
            recursive: follow a record that leads to another name.

        Raises:
            NoPeersError: there is nobody to ask, and this node has no record.
            UsageError: it is no name, or names lead to each other without end.
        """
        asked, path = name_argument(name)
        found = await self._life.node.names.resolve(
            asked, _quorum(quorum), recursive=_CHECKS.flag(recursive, "recursive")
        )
        return None if found is None else ResolvedName(found.path + path, found.record)

    @ended_with_the_node
    async def name_keys(self) -> Mapping[str, PeerId]:
        """The names that this node can publish, by the label of their keys; ``self`` first."""
        return await self._life.node.names.keys()

    @ended_with_the_node
    async def generate_name_key(self, label: str) -> PeerId:
        """Make a new Ed25519 key called ``label``; its name.

        Raises:
            UsageError: there is one already, or no key may be called so.
            IdentityError: it cannot be written.
        """
        return await self._life.node.names.generate(check_label(_CHECKS.text(label, "label")))

    @ended_with_the_node
    async def remove_name_key(self, label: str) -> bool:
        """Forget a key for good, and keep its name published no more; False if there is none."""
        return await self._life.node.names.remove(check_label(_CHECKS.text(label, "label")))


def value_key_argument(key: object, name: str = "key") -> bytes:
    """The bytes of a value's key.

    Raises:
        UsageError: it is none.
    """
    if isinstance(key, bytes | bytearray | memoryview):
        preimage = bytes(key)
    elif isinstance(key, str):
        preimage = _key_of_text(key, name)
    else:
        raise _CHECKS.refuse(key, name, "the bytes or the text of a key")
    if not preimage.startswith(b"/") or b"/" not in preimage[1:]:
        raise UsageError(f"{name}: {shown(key)} is not /namespace/rest")
    if len(preimage) > MAX_VALUE_KEY_BYTES:
        raise UsageError(f"{name} must have at most {MAX_VALUE_KEY_BYTES} bytes")
    return preimage


def _key_of_text(text: str, name: str) -> bytes:
    try:
        if text.startswith("/ipns/"):
            pasted = read_name(text)
            if pasted.path:
                raise UsageError(f"{name}: {shown(text)} has a path behind the name")
            return ipns_key(PeerId(pasted.multihash))
        if text.startswith("/pk/"):
            return public_key_key(PeerId(read_peer_id(text.removeprefix("/pk/"))))
    except (FormatError, PeerIdError) as error:
        raise UsageError(f"{name}: {error}") from error
    return text.encode()


def value_argument(value: object, name: str = "value") -> bytes:
    """A value.

    Raises:
        UsageError: it is none, or too long.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _CHECKS.refuse(value, name, "bytes")
    if len(value) > MAX_VALUE_BYTES:
        raise UsageError(f"{name} must have at most {MAX_VALUE_BYTES} bytes, not {len(value)}")
    return bytes(value)


def name_argument(value: object, name: str = "name") -> tuple[PeerId, str]:
    """An IPNS name, and the path behind it.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str):
        return arguments.peer_argument(value, name), ""
    try:
        pasted = read_name(value)
        return PeerId(pasted.multihash), pasted.path
    except (FormatError, PeerIdError) as error:
        raise UsageError(f"{name}: {error}") from error


def _quorum(value: object) -> int:
    return _CHECKS.whole_number(value, "quorum", 0, _MAX_QUORUM)


def _same(value: bytes) -> bytes:
    return value
