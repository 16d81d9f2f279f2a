"""Light peer types: who a peer is, and where.

``PeerId`` carries py-libp2p's method names and compares equal to (and hashes like) its ``ID``, so
that either may be used as an argument or as a dict key, without libp2p being imported here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from multiaddr import Multiaddr

from codio_dht.core.keyspace import Key, key_of
from codio_dht.errors import FormatError, PeerIdError
from codio_dht.formats.multibase import decode_base58, encode_base58
from codio_dht.formats.multihash import is_multihash
from codio_dht.formats.text import read_peer_id

if TYPE_CHECKING:
    from libp2p.peer.id import ID as Libp2pID  # noqa: TID251 - a type, never loaded
    from libp2p.peer.peerinfo import PeerInfo as Libp2pPeerInfo  # noqa: TID251 - as above

MAX_PEER_ID_BYTES: Final = 96
"""Longest peer id taken, bytes: an inlined key is at most 42 bytes, a digest at most 64."""


class PeerIdObject(Protocol):
    """A peer id of another library, such as ``libp2p.peer.id.ID``."""

    def to_bytes(self) -> bytes:
        """The multihash."""
        ...

    def to_base58(self) -> str:
        """The base58btc text."""
        ...


PeerLike: TypeAlias = "PeerId | PeerIdObject | str | bytes"
"""What is taken as a peer id."""


class PeerId:
    """A peer's identity: the multihash of its public key. Immutable, hashable, ordered by bytes.

    Raises:
        PeerIdError: the bytes are not a multihash of at most 96 bytes.
    """

    __slots__ = ("_bytes", "_key", "_text")

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_PEER_ID_BYTES or not is_multihash(data):
            raise PeerIdError(f"not a peer id: {data[:64].hex()!r}")
        self._bytes = bytes(data)
        self._key: Key | None = None
        self._text: str | None = None

    @classmethod
    def from_base58(cls, text: str) -> PeerId:
        """The peer id written in base58btc (``12D3Koo...`` or ``Qm...``)."""
        data = decode_base58(text)
        if data is None:
            raise PeerIdError(f"not a base58 peer id: {text[:80]!r}")
        return cls(data)

    @classmethod
    def from_string(cls, text: str) -> PeerId:
        """The peer id that people write: base58btc or a CIDv1 of codec libp2p-key (IPFS peer-ids),
        also behind ``/p2p/`` and its like (:func:`codio_dht.formats.text.read_peer_id`).

        Raises:
            PeerIdError: it is none; the message says what it is instead, where that can be told.
        """
        try:
            return cls(read_peer_id(text))
        except FormatError as error:
            raise PeerIdError(str(error)) from error

    @classmethod
    def coerce(cls, value: PeerLike) -> PeerId:
        """A peer id from text, bytes, a ``PeerId`` or a ``libp2p.peer.id.ID``.

        Raises:
            PeerIdError: it is none of them, or not a valid peer id.
        """
        if isinstance(value, PeerId):
            return value
        if isinstance(value, str):
            return cls.from_string(value)
        if isinstance(value, bytes):
            return cls(value)
        to_bytes = getattr(value, "to_bytes", None)
        if to_bytes is None or isinstance(value, int):
            raise PeerIdError(f"not a peer id: {value!r}")
        return cls(to_bytes())

    @property
    def key(self) -> Key:
        """The peer's point in the keyspace (computed once)."""
        if self._key is None:
            self._key = key_of(self._bytes)
        return self._key

    def to_bytes(self) -> bytes:
        """The multihash, as it goes on the wire."""
        return self._bytes

    def to_base58(self) -> str:
        """The base58btc text."""
        if self._text is None:
            self._text = encode_base58(self._bytes)
        return self._text

    to_string = pretty = __str__ = to_base58

    def to_libp2p(self) -> Libp2pID:
        """The same identity as a ``libp2p.peer.id.ID`` (imports libp2p)."""
        from libp2p.peer.id import ID  # noqa: PLC0415, TID251 - only for who asks for it

        return ID(self._bytes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PeerId):
            return self._bytes == other._bytes
        data = getattr(other, "_bytes", None)  # libp2p.peer.id.ID
        return self._bytes == data if isinstance(data, bytes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __lt__(self, other: PeerId) -> bool:
        return self._bytes < other._bytes

    def __repr__(self) -> str:
        return f"PeerId({self.to_base58()})"


class PeerInfo:
    """A peer and its known addresses (``multiaddr.Multiaddr``, without a trailing ``/p2p``).

    Equal to another ``PeerInfo`` (ours or py-libp2p's) with the same id and the same addresses in
    the same order.
    """

    __slots__ = ("addrs", "peer_id")

    def __init__(self, peer_id: PeerLike, addrs: Iterable[Multiaddr] = ()) -> None:
        self.peer_id: PeerId = PeerId.coerce(peer_id)
        self.addrs: list[Multiaddr] = list(addrs)

    @classmethod
    def from_libp2p(cls, info: Libp2pPeerInfo) -> PeerInfo:
        """From a ``libp2p.peer.peerinfo.PeerInfo``."""
        return cls(PeerId.coerce(info.peer_id), info.addrs)

    def to_libp2p(self) -> Libp2pPeerInfo:
        """As a ``libp2p.peer.peerinfo.PeerInfo`` (imports libp2p)."""
        from libp2p.peer.peerinfo import (  # noqa: PLC0415, TID251 - only for who asks for it
            PeerInfo as Libp2pPeerInfo,
        )

        return Libp2pPeerInfo(self.peer_id.to_libp2p(), self.addrs)

    def __eq__(self, other: object) -> bool:
        peer_id: Any = getattr(other, "peer_id", None)
        addrs: Any = getattr(other, "addrs", None)
        if peer_id is None or addrs is None:
            return NotImplemented
        return bool(self.peer_id == peer_id and self.addrs == list(addrs))

    def __hash__(self) -> int:
        return hash(self.peer_id)

    def __repr__(self) -> str:
        return f"PeerInfo({self.peer_id}, {[str(addr) for addr in self.addrs]})"
