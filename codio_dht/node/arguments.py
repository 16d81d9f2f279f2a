"""What callers may pass, made into what the node works with. Every refusal names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multiaddr import Multiaddr

from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.errors import PeerIdError, UsageError
from codio_dht.params import MAX_LOOKUP_KEY_BYTES

__all__ = [
    "key_argument",
    "multiaddr_argument",
    "multiaddr_list_argument",
    "multihash_of",
    "peer_address_argument",
    "peer_argument",
]


def multiaddr_argument(value: Multiaddr | str | bytes, name: str) -> Multiaddr:
    """A multiaddr from text, bytes or a ``Multiaddr``."""
    if isinstance(value, Multiaddr):
        return value
    if not isinstance(value, str | bytes):
        raise UsageError(f"{name}: {value!r} is not a multiaddr (text, bytes or Multiaddr)")
    try:
        addr = Multiaddr(value)
        str(addr)  # bytes are parsed only now
    except ValueError as error:
        raise UsageError(f"{name}: {value!r} is not a multiaddr: {error}") from error
    return addr


def multiaddr_list_argument(
    values: Iterable[Multiaddr | str | bytes], name: str
) -> list[Multiaddr]:
    """A list of multiaddrs; a single one given by mistake is refused."""
    if isinstance(values, str | bytes | Multiaddr) or not isinstance(values, Iterable):
        raise UsageError(f"{name} must be a list of multiaddrs, not {values!r}")
    return [multiaddr_argument(value, name) for value in values]


def peer_argument(value: object, name: str = "peer_id") -> PeerId:
    """A peer id from text, bytes, ``PeerId`` or libp2p's ``ID``."""
    try:
        return PeerId.coerce(value)  # type: ignore[arg-type]
    except PeerIdError as error:
        raise UsageError(f"{name}: {error}") from error


def peer_address_argument(value: Multiaddr | str | bytes, name: str) -> PeerInfo:
    """A dialable address that ends in ``/p2p/<peer id>``, split into the two."""
    addr = multiaddr_argument(value, name)
    text = str(addr)
    head, separator, tail = text.rpartition("/p2p/")
    if not separator or "/" in tail:
        raise UsageError(f"{name}: {text} does not end in /p2p/<peer id>")
    peer_id = peer_argument(tail, name)
    if not head:
        raise UsageError(f"{name}: {text} has no address before /p2p")
    return PeerInfo(peer_id, [Multiaddr(head)])


def key_argument(value: object, name: str = "key") -> bytes:
    """A key's preimage: bytes, or a peer id (its bytes)."""
    if isinstance(value, bytes | bytearray | memoryview):
        preimage = bytes(value)
    elif isinstance(value, str) or not hasattr(value, "to_bytes") or isinstance(value, int):
        raise UsageError(
            f"{name} must be bytes (the preimage of a key) or a peer id object, not {value!r}"
        )
    else:
        preimage = peer_argument(value, name).to_bytes()
    if not preimage:
        raise UsageError(f"{name} must not be empty")
    if len(preimage) > MAX_LOOKUP_KEY_BYTES:
        raise UsageError(
            f"{name} must have at most {MAX_LOOKUP_KEY_BYTES} bytes, not {len(preimage)}"
        )
    return preimage


def count_argument(value: object, name: str = "count") -> int | None:
    """A positive number, or None for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a positive integer or None, not {value!r}")
    return value


def binary(addrs: Sequence[Multiaddr]) -> tuple[bytes, ...]:
    """Addresses as ``core`` keeps them."""
    return tuple(addr.to_bytes() for addr in addrs)


def multiaddrs(addrs: Iterable[bytes]) -> list[Multiaddr]:
    """Addresses as the public surface and the host take them; unreadable ones are left out."""
    result = []
    for addr in addrs:
        try:
            parsed = Multiaddr(addr)
            str(parsed)
        except ValueError:  # a protocol that our own splitter knows and multiaddr does not
            continue
        result.append(parsed)
    return result
