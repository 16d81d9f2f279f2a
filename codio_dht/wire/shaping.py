"""Which peers and addresses a reply keeps when they do not all fit its budget.

Decides by bytes only; never what a peer or an address is worth, beyond the order it came in. The
budget is RS's frame limit of 16 KiB: a longer reply is an error for every rust peer, and twenty
peers with many addresses, or one popular key, easily pass it.

The rule, in this order:

1. Every closer peer keeps its id and one address: losing a peer can end a lookup, losing its eighth
   address cannot. The address is the shortest (of equals, the first): that is a plain TCP or QUIC
   one, which every implementation dials; relays and certificate hashes are long. Only if even that
   does not fit, peers go from the end of the list, the farthest.
2. Providers have a claim on half of the room, or on what they need if that is less: they are what
   GET_PROVIDERS asks for, and closer peers with many addresses would otherwise take it all. Half,
   because that holds 100 providers, more than any reader wants of one reply, and leaves a closer
   peer 400 bytes, more than nearly all have.
3. Closer peers then get more addresses, in rounds: in each, every peer may add its next one, in its
   own order, so that none gets a second before the others had the chance. One that does not fit is
   passed over.
4. Providers get what is left: as many as fit with their id and their shortest address (if they have
   any), in the order given, which is already random. Only when none was left out do they get more
   addresses, in rounds, as above.

Order is kept, of peers and of addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from codio_dht.core.messages import PeerEntry
from codio_dht.wire.entries import (
    address_bytes,
    encode_entry,
    encode_shortest,
    encode_with,
    shortest,
)

_PROVIDER_SHARE: Final = 2
"""Providers may claim one part in this many of the room."""

_MAX_MISFITS: Final = 8
"""Providers that do not fit before no further one is tried: a thousand need not be measured to fill
the last bytes."""

_SMALLEST_ADDRESS: Final = 4
"""No address that anybody could use takes less: below this no further round begins."""

_ONE_BYTE_LENGTH: Final = 128
"""An encoded entry up to this size has one length byte; one that grows past it takes another."""


class Kept(NamedTuple):
    """What a reply keeps: entries behind their lengths, without tags."""

    closer: list[bytes]
    providers: list[bytes]


def shape(closer: Sequence[PeerEntry], providers: Sequence[PeerEntry], room: int) -> Kept:
    """What of ``closer`` and ``providers`` is kept so that their fields take at most ``room``
    bytes. See the module for the rule."""
    near = [_Draft(entry) for entry in closer]
    left = room - sum(draft.least for draft in near)
    while left < 0:
        left += near.pop().least
    claim = _claim(providers, min(left, room // _PROVIDER_SHARE))
    left = claim + _grow(near, left - claim)
    return Kept([draft.encode() for draft in near], _shape_providers(providers, left))


def _shape_providers(providers: Sequence[PeerEntry], left: int) -> list[bytes]:
    """Rule 4."""
    kept: list[bytes] = []
    misfits = 0
    for entry in providers:
        data = encode_shortest(entry)
        if len(data) < left:
            kept.append(data)
            left -= len(data) + 1
        else:
            misfits += 1
            if misfits == _MAX_MISFITS:
                break
    if misfits:
        return kept
    far = [_Draft(entry) for entry in providers]
    _grow(far, left)
    return [draft.encode() for draft in far]


def _claim(entries: Sequence[PeerEntry], limit: int) -> int:
    """What ``entries`` take in full, at most ``limit``."""
    wanted = 0
    for entry in entries:
        wanted += len(encode_entry(entry)) + 1
        if wanted >= limit:
            return limit
    return wanted


class _Draft:
    """An entry that starts with its shortest address and may be given the others."""

    __slots__ = ("_entry", "_first", "_given", "extra", "least", "others", "sizes")

    def __init__(self, entry: PeerEntry) -> None:
        data = encode_shortest(entry)
        self._entry = entry
        self._first = shortest(entry)
        self._given: list[int] = []
        self.others = [place for place in range(len(entry.addrs)) if place != self._first]
        """Places of the addresses it may still be given, in its own order."""
        self.sizes = [address_bytes(entry.addrs[place]) for place in self.others]
        self.least = len(data) + 1
        """What it takes in its message as it starts, tag included."""
        self.extra = int(len(data) <= _ONE_BYTE_LENGTH < len(encode_entry(entry)))
        """What its length may take more when it is given anything."""

    def give(self, places: Sequence[int]) -> None:
        """Add the addresses at ``places``."""
        self._given += places

    def encode(self) -> bytes:
        """The entry with what it was given."""
        if len(self._given) == len(self.others):
            return encode_entry(self._entry)
        if not self._given:
            return encode_shortest(self._entry)
        return encode_with(self._entry, sorted((self._first, *self._given)))


def _grow(drafts: Sequence[_Draft], room: int) -> int:
    """Give further addresses in rounds while they fit; the room that is left."""
    whole = 0
    for column in zip_longest(*(draft.sizes for draft in drafts), fillvalue=0):
        cost = sum(column)  # of a whole round, which nearly all of them are
        if whole == 0:
            cost += sum(draft.extra for draft in drafts)
        if cost > room:
            break
        room -= cost
        whole += 1
    for draft in drafts:
        draft.give(draft.others[:whole])
        draft.extra = 0 if whole else draft.extra
    rounds = max((len(draft.others) for draft in drafts), default=0)
    for turn in range(whole, rounds):
        if room < _SMALLEST_ADDRESS:
            break
        for draft in drafts:
            if turn < len(draft.others):
                cost = draft.sizes[turn] + draft.extra
                if cost <= room:
                    room -= cost
                    draft.give(draft.others[turn : turn + 1])
                    draft.extra = 0
    return room
