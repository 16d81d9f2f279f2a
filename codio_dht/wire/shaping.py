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
   own order, so that none gets a second before the others had the chance. Whose next one does not
   fit gets no more, so that the work is bounded by what is kept, and not by what was offered.
4. Providers get what is left: as many as fit with their id and their shortest address (if they have
   any), in the order given, which is already random. Only when none was left out do they get more
   addresses, in rounds, as above.

Order is kept, of peers and of addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from codio_dht.core.messages import PeerEntry
from codio_dht.wire.entries import (
    LONG_FIELD_BYTES,
    address_bytes,
    encode_entry,
    encode_first,
    encode_shortest,
)

_PROVIDER_SHARE: Final = 2
"""Providers may claim one part in this many of the room."""

_MAX_MISFITS: Final = 8
"""Providers that do not fit before no further one is tried: a thousand need not be measured to fill
the last bytes."""


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
        data, _ = encode_shortest(entry)
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
    """An entry that starts with its shortest address and may be given the others, in order."""

    __slots__ = ("_data", "_entry", "_first", "_given", "least", "size")

    def __init__(self, entry: PeerEntry) -> None:
        self._entry = entry
        self._data, self._first = encode_shortest(entry)
        self._given = 0
        self.least = least = len(self._data) + 1
        """What it takes in its message as it starts, tag included."""
        self.size = least - 2 if least <= LONG_FIELD_BYTES + 1 else LONG_FIELD_BYTES
        """Its size without tag and length, or more than one byte of length can say."""

    def others(self) -> Iterator[bytes]:
        """The addresses that it may still be given."""
        addrs = self._entry.addrs
        return chain(addrs[: self._first], addrs[self._first + 1 :])

    def give(self) -> None:
        """Add the next address."""
        self._given += 1

    def encode(self) -> bytes:
        """The entry with what it was given."""
        given, first = self._given, self._first
        if not given:
            return self._data
        # What was given and the shortest are together the first ones, or the shortest comes later.
        count = given + 1 if first <= given else given
        return encode_first(self._entry, count, first)


def _grow(drafts: Sequence[_Draft], room: int) -> int:
    """Give further addresses in rounds while they fit; the room that is left."""
    growing = [(draft, draft.others()) for draft in drafts] if room > 0 else []
    while growing:
        still = []
        for each in growing:
            draft, others = each
            addr = next(others, None)
            if addr is None:
                continue
            cost = address_bytes(addr)
            size = draft.size + cost
            longer = draft.size < LONG_FIELD_BYTES <= size  # its length takes another byte
            if cost + longer <= room:
                room -= cost + longer
                draft.size = size
                draft.give()
                still.append(each)
        growing = still
    return room
