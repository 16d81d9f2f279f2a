"""What callers may pass, made into what the node works with. Every refusal names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from multiaddr import Multiaddr

from codio_dht.checks import Checks, shown
from codio_dht.core.mode import Mode
from codio_dht.core.multihash import multihash_of
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.errors import FormatError, PeerIdError, UsageError
from codio_dht.formats.multiaddr import split_peer_id
from codio_dht.formats.text import read_multiaddr
from codio_dht.net.dnsaddr import dnsaddr_name
from codio_dht.net.own_addresses import announce_fault
from codio_dht.node.bootstrap import DEFAULT_NAME, PUBLIC_BOOTSTRAP

MAX_LOOKUP_KEY_BYTES: Final = 8 * 1024
"""Longest preimage of a key that is looked up: the request stays within what RS reads."""

_CHECKS: Final = Checks()

__all__ = [
    "key_argument",
    "multiaddr_argument",
    "multiaddr_list_argument",
    "multihash_of",
    "peer_address_argument",
    "peer_argument",
]

Addresses = Iterable[Multiaddr | str | bytes]


def data_dir_argument(value: object) -> Path | None:
    """A directory's path, or None for a node that leaves nothing on disk."""
    if value is None or isinstance(value, str | Path):
        return None if value is None else Path(value)
    raise UsageError(f"data_dir must be a path or None, not {value!r}")


def mode_argument(value: object) -> str:
    """``auto``, or the name of a mode."""
    return str(_CHECKS.choice(value, "mode", ("auto", *(each.value for each in Mode))))


def quorum_argument(value: object, most: int) -> int | None:
    """A number of holders up to ``most``, or None for the configured one."""
    return None if value is None else _CHECKS.whole_number(value, "quorum", 1, most)


class Bootstrap(NamedTuple):
    """Whom to join through."""

    peers: list[PeerInfo]
    """Those that were given, and those of the public list if that was named."""
    names: list[Multiaddr]
    """Each ``/dnsaddr/HOST`` without a peer id: the peers are whoever it lists."""
    joins_public_list: bool


def bootstrap_argument(values: Addresses, name: str = "bootstrap") -> Bootstrap:
    """The peers to join through: addresses that end in ``/p2p/<peer id>``, ``/dnsaddr/HOST``, or
    ``default`` for the public list."""
    if isinstance(values, str | bytes | Multiaddr) or not isinstance(values, Iterable):
        raise UsageError(f"{name} must be a list of multiaddrs, not {values!r}")
    given = list(values)
    named = DEFAULT_NAME in given
    addrs = [addr for addr in given if addr != DEFAULT_NAME]
    if named:
        addrs += PUBLIC_BOOTSTRAP
    peers: dict[PeerId, PeerInfo] = {}
    names: dict[Multiaddr, None] = {}
    for addr in addrs:
        found = peer_or_name_argument(addr, name)
        if isinstance(found, PeerInfo):
            peers.setdefault(found.peer_id, PeerInfo(found.peer_id)).addrs.extend(found.addrs)
        else:
            names[found] = None
    return Bootstrap(list(peers.values()), list(names), named)


def peer_or_name_argument(value: Multiaddr | str | bytes, name: str) -> PeerInfo | Multiaddr:
    """A dialable address that ends in ``/p2p/<peer id>``, split into the two; or a
    ``/dnsaddr/HOST`` without one, as it is."""
    addr = multiaddr_argument(value, name)
    return addr if dnsaddr_name(addr) is not None else peer_address_argument(addr, name)


def peers_at(addrs: Iterable[Multiaddr]) -> list[PeerInfo]:
    """The peers at addresses that end in ``/p2p/<peer id>``, each once; others are left out."""
    peers: dict[PeerId, PeerInfo] = {}
    for addr in addrs:
        head, peer_id = split_peer_id(addr.to_bytes())
        if peer_id is not None and head:
            peer = PeerId(peer_id)
            peers.setdefault(peer, PeerInfo(peer)).addrs.append(Multiaddr(head))
    return list(peers.values())


def multiaddr_argument(value: Multiaddr | str | bytes, name: str) -> Multiaddr:
    """A multiaddr from text, bytes or a ``Multiaddr``."""
    if isinstance(value, Multiaddr):
        return value
    if isinstance(value, str):
        try:
            return read_multiaddr(value)
        except FormatError as error:
            raise UsageError(f"{name}: {error}") from error
    if not isinstance(value, bytes):
        raise UsageError(f"{name}: {shown(value)} is not a multiaddr (text, bytes or Multiaddr)")
    try:
        addr = Multiaddr(value)
        str(addr)  # bytes are parsed only now
    except ValueError as error:
        raise UsageError(f"{name}: {shown(value)} is not a multiaddr: {error}") from error
    return addr


def multiaddr_list_argument(
    values: Iterable[Multiaddr | str | bytes], name: str
) -> list[Multiaddr]:
    """A list of multiaddrs; a single one given by mistake is refused."""
    if isinstance(values, str | bytes | Multiaddr) or not isinstance(values, Iterable):
        raise UsageError(f"{name} must be a list of multiaddrs, not {values!r}")
    return [multiaddr_argument(value, name) for value in values]


def announce_argument(values: Addresses, name: str) -> list[Multiaddr]:
    """Addresses at which others can dial this node. Whether the peer ids at their ends are its own
    is checked when the node opens (:func:`check_announced`)."""
    addrs = multiaddr_list_argument(values, name)
    check_announced(addrs, name)
    return addrs


def check_announced(addrs: Iterable[Multiaddr], name: str, own: PeerId | None = None) -> None:
    """Refuse what nobody could dial, or, if ``own`` is known, what names another peer.

    Raises:
        UsageError: the message names the address and what is wrong with it.
    """
    for addr in addrs:
        fault = announce_fault(addr, None if own is None else own.to_bytes())
        if fault is not None:
            raise UsageError(f"{name}: {addr} {fault}")


def peer_argument(value: object, name: str = "peer_id") -> PeerId:
    """A peer id from text, bytes, ``PeerId`` or libp2p's ``ID``."""
    try:
        return PeerId.coerce(value)  # type: ignore[arg-type]
    except PeerIdError as error:
        raise UsageError(f"{name}: {error}") from error


def peer_address_argument(value: Multiaddr | str | bytes, name: str) -> PeerInfo:
    """A dialable address that ends in ``/p2p/<peer id>``, split into the two."""
    addr = multiaddr_argument(value, name)
    head, peer_id = split_peer_id(addr.to_bytes())
    if peer_id is None:
        raise UsageError(f"{name}: {addr} does not end in /p2p/<peer id>")
    if not head:
        raise UsageError(f"{name}: {addr} has no address before /p2p")
    return PeerInfo(peer_argument(peer_id, name), [Multiaddr(head)])


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
    return _CHECKS.whole_number(value, name, 1)


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
