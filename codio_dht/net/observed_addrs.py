"""The addresses at which peers see us, which of them are believed, and which are proven.

A peer says in identify from where it sees our packets come. Decides when that becomes an address of
ours: when peers of ``MIN_OBSERVER_GROUPS`` IP groups say the same. Identities and single addresses
cost nothing, so a group, whatever it holds, has one vote for an address.

What counts:

- only what was seen of a socket that we listen on (the caller knows). A QUIC dial leaves from such
  a socket. A TCP dial leaves from a port of its own, so what its peer saw says nothing of a port
  at which we could be reached: of TCP only inbound connections count;
- only public addresses, seen by peers at public addresses: our own networks the interfaces tell,
  and a neighbour does not see what the internet sees;
- only the same transport and IP version as the connection's.

That many say so is no proof: strangers in a few networks can make a node tell everybody the address
of somebody else, and an honest peer may see a hole in a NAT that lets nobody else in. What is
believed is worth a try, and no more. An address is *proven* when somebody whom this node asked
dialled it there (:meth:`ObservedAddrs.prove`, for AutoNAT); only then is it told to others.

A vote counts as long as a connection that cast it is open, and ``OBSERVATION_TTL_S`` more. Bounds:
one vote per connection, ``MAX_OBSERVATIONS_PER_GROUP``, ``MAX_OBSERVATIONS``; where one is reached
the oldest vote without a connection is forgotten, and if there is none, the new one is. No I/O.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.errors import AddressError
from codio_dht.formats.multiaddr import (
    P_IP4,
    P_IP6,
    P_QUIC_V1,
    P_TCP,
    P_UDP,
    ip_group,
    is_public,
    split,
)
from codio_dht.net import limits

_Kind = tuple[int, ...]
"""The protocols of an address, in order: its IP version and transport."""

_KINDS: Final = frozenset(
    (ip, *transport) for ip in (P_IP4, P_IP6) for transport in ((P_TCP,), (P_UDP, P_QUIC_V1))
)
_NAT64: Final = bytes.fromhex("0064ff9b")
"""Of peers behind a NAT64 (RFC 6052): good for nobody but the peer that saw it."""


@dataclass(frozen=True, slots=True)
class ObservedAddr:
    """An address at which enough peers see us, or which is proven."""

    addr: bytes
    proven: bool
    """A dial-back reached us there."""


@dataclass(slots=True)
class _Vote:
    open: int = 0
    """Connections that stand for it."""
    until: Monotonic = Monotonic(0.0)  # noqa: RUF009 - a number
    """When it is forgotten if none does."""

    def is_over(self, now: Monotonic) -> bool:
        return not self.open and self.until <= now


class ObservedAddrs:
    """The addresses at which peers see this node, with the votes for each. A connection is any key
    that stands for it until :meth:`ended`."""

    def __init__(self) -> None:
        self._votes: dict[tuple[str, bytes], _Vote] = {}  # group and address; oldest first
        self._of_group: dict[str, int] = {}
        self._cast_by: dict[Hashable, tuple[str, bytes]] = {}
        self._proven: OrderedDict[bytes, Monotonic] = OrderedDict()
        """Until when each proven address is told."""

    def __len__(self) -> int:
        return len(self._votes)

    def saw(self, connection: Hashable, *, remote: bytes, observed: bytes, now: Monotonic) -> bool:
        """The peer at ``remote`` sees us at ``observed`` (binary multiaddrs, without ``/p2p``);
        whether that counts. What it said before, on the same connection, is as of one that ended.
        """
        group = ip_group(remote)
        if group is None or not is_public(remote) or not _is_useful(observed, remote):
            return False
        key = (group, observed)
        if self._cast_by.get(connection) == key:
            return True
        self.ended(connection, now)
        vote = self._votes.pop(key, None)
        if vote is None:
            if not self._has_room_for(group):
                return False
            vote = _Vote()
            self._of_group[group] = self._of_group.get(group, 0) + 1
        vote.open += 1
        self._votes[key] = vote
        self._cast_by[connection] = key
        return True

    def ended(self, connection: Hashable, now: Monotonic) -> None:
        """The connection is over; a no-op if it cast no vote."""
        key = self._cast_by.pop(connection, None)
        if key is not None:
            vote = self._votes[key]
            vote.open -= 1
            vote.until = Monotonic(now + limits.OBSERVATION_TTL_S)

    def prove(self, addr: bytes, now: Monotonic) -> None:
        """Somebody whom this node asked has dialled it at ``addr``; that holds for
        ``OBSERVATION_TTL_S``."""
        self._proven[addr] = Monotonic(now + limits.OBSERVATION_TTL_S)
        self._proven.move_to_end(addr)
        if len(self._proven) > limits.MAX_PROVEN_OWN_ADDRS:
            self._proven.popitem(last=False)

    def addrs(self, now: Monotonic) -> list[ObservedAddr]:
        """The addresses that are proven, and those that are believed, of which those seen by most
        groups come first, by kind."""
        for key in [key for key, vote in self._votes.items() if vote.is_over(now)]:
            self._forget(key)
        for addr in [addr for addr, until in self._proven.items() if until <= now]:
            del self._proven[addr]
        groups = Counter(addr for _, addr in self._votes)
        seen = [addr for addr in _believed(groups) if addr not in self._proven]
        return [
            *(ObservedAddr(addr, proven=True) for addr in self._proven),
            *(ObservedAddr(addr, proven=False) for addr in seen),
        ]

    def _has_room_for(self, group: str) -> bool:
        if self._of_group.get(group, 0) >= limits.MAX_OBSERVATIONS_PER_GROUP:
            return self._forget_one(key for key in self._votes if key[0] == group)
        if len(self._votes) >= limits.MAX_OBSERVATIONS:
            return self._forget_one(iter(self._votes))
        return True

    def _forget_one(self, keys: Iterator[tuple[str, bytes]]) -> bool:
        found = next((key for key in keys if not self._votes[key].open), None)
        if found is not None:
            self._forget(found)
        return found is not None

    def _forget(self, key: tuple[str, bytes]) -> None:
        del self._votes[key]
        self._of_group[key[0]] -= 1
        if not self._of_group[key[0]]:
            del self._of_group[key[0]]


def _believed(groups: Mapping[bytes, int]) -> Iterator[bytes]:
    """Those that are told, given how many groups see us at each."""
    of_kind: dict[_Kind | None, list[bytes]] = {}
    for addr in sorted(groups, key=lambda addr: (-groups[addr], addr)):
        of_kind.setdefault(_kind(addr), []).append(addr)
    for addrs in of_kind.values():
        most = groups[addrs[0]]
        for addr in addrs[: limits.MAX_OBSERVED_TOLD]:
            enough = groups[addr] >= limits.MIN_OBSERVER_GROUPS
            if enough and groups[addr] * limits.OBSERVER_SHARE >= most:
                yield addr


def _is_useful(observed: bytes, remote: bytes) -> bool:
    """Whether ``observed`` may be an address of ours that leads to a socket which the peer at
    ``remote`` is connected to."""
    kind = _kind(observed)
    if kind is None or kind != _kind(remote) or not is_public(observed):
        return False
    (_, ip), (_, port), *_ = split(observed)
    return any(port) and not (kind[0] == P_IP6 and ip.startswith(_NAT64))


def _kind(addr: bytes) -> _Kind | None:
    """None if it is not an address of a transport that we have."""
    try:
        codes = tuple(code for code, _ in split(addr))
    except AddressError:
        return None
    return codes if codes in _KINDS else None
