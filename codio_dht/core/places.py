"""The places of one key: who may be among its providers when they are many.

A key belongs to nobody, so nobody may fill it. One subnet has at most ``MAX_PLACES_PER_SUBNET``
places, one IP group at most ``MAX_PLACES_PER_GROUP``. When all places are taken, a provider of a
group that has fewer takes the place of the newest provider of the largest group, of its largest
subnet: who has been there for long stays, and who comes in numbers makes room.

Providers whose origin is not known (they are exempt from limits, or an older version wrote their
record) are one owner without a limit of its own.

The rows of a key are a dict in the order in which their providers came first; a refresh keeps its
place. ``core.records`` applies the rule to rows in memory and the store to rows on disk, so both
have the same rows.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

MAX_PLACES_PER_SUBNET: Final = 20
"""Providers of one key in one IPv4 /24 or IPv6 /56: a cluster that serves the same content. A reply
has room for few more."""

MAX_PLACES_PER_GROUP: Final = 100
"""Providers of one key in one IP group: a tenth of the places."""

_IPV4_SUBNET_BYTES: Final = 3
_IPV4_GROUP_BYTES: Final = 2
_IPV6_GROUP_BYTES: Final = 4

UNKNOWN: Final = b""
"""The subnet of a provider whose origin is not known or does not count."""


def place_group(subnet: bytes) -> bytes:
    """The IP group of a subnet, as its first bytes: an IPv4 /16 or an IPv6 /32."""
    return subnet[: _IPV4_GROUP_BYTES if len(subnet) == _IPV4_SUBNET_BYTES else _IPV6_GROUP_BYTES]


def is_open(count: int, most: int) -> bool:
    """Whether a key with ``count`` providers takes any other, wherever it is, without a look at
    them."""
    return count < min(MAX_PLACES_PER_SUBNET, most)


def find_place(subnets: dict[bytes, bytes], subnet: bytes, most: int) -> bytes | bool:
    """Whether a new provider in ``subnet`` has a place among the providers of a key, which are in
    ``subnets``, the one that came first first; or the provider whose place it takes. ``most`` are
    the places of the key."""
    if is_open(len(subnets), most):
        return True
    in_subnet = Counter(subnets.values())
    group = place_group(subnet)
    in_group: Counter[bytes] = Counter()
    for each, count in in_subnet.items():
        in_group[place_group(each)] += count
    if subnet != UNKNOWN and (
        in_subnet[subnet] >= MAX_PLACES_PER_SUBNET or in_group[group] >= MAX_PLACES_PER_GROUP
    ):
        return False
    if len(subnets) < most:
        return True
    largest = max(in_group, key=lambda each: in_group[each])
    if in_group[largest] <= in_group[group] + 1:  # else they would push each other out for ever
        return False
    crowd = [each for each in in_subnet if place_group(each) == largest]
    crowded = max(crowd, key=lambda each: in_subnet[each])
    return next(provider for provider in reversed(subnets) if subnets[provider] == crowded)
