from __future__ import annotations

from codio_dht.core.places import (
    MAX_PLACES_PER_GROUP,
    MAX_PLACES_PER_SUBNET,
    UNKNOWN,
    find_place,
    place_group,
)

MOST = 200


def subnet(group: int, number: int = 0) -> bytes:
    return bytes([20 + (group >> 8), group & 0xFF, number])


def filled(*parts: tuple[bytes, int]) -> dict[bytes, bytes]:
    """So many providers of each subnet, one subnet after the other."""
    return {b"%s-%d" % (each, number): each for each, count in parts for number in range(count)}


def test_the_group_of_a_subnet_is_a_16_or_a_32() -> None:
    assert b"\x05\x06" == place_group(b"\x05\x06\x07")
    assert b"\x2a\x00\x01\x02" == place_group(b"\x2a\x00\x01\x02\x03\x04\x05")


def test_a_subnet_has_its_places_and_no_more() -> None:
    assert find_place(filled((subnet(1), MAX_PLACES_PER_SUBNET - 1)), subnet(1), MOST) is True
    assert find_place(filled((subnet(1), MAX_PLACES_PER_SUBNET)), subnet(1), MOST) is False
    assert find_place(filled((subnet(1), MAX_PLACES_PER_SUBNET)), subnet(2), MOST) is True


def test_a_group_has_its_places_however_many_subnets_it_has() -> None:
    parts = [(subnet(1, number), 10) for number in range(MAX_PLACES_PER_GROUP // 10)]
    assert find_place(filled(*parts), subnet(1, 99), MOST) is False
    assert find_place(filled(*parts), subnet(2), MOST) is True


def test_when_all_are_taken_the_newest_of_the_largest_group_makes_room() -> None:
    rows = filled((subnet(1), 12), (subnet(2, 1), 9), (subnet(2, 2), 10), (subnet(3), 9))
    assert b"%s-9" % subnet(2, 2) == find_place(rows, subnet(4), 40)


def test_nobody_makes_room_for_a_group_that_has_as_many() -> None:
    rows = filled((subnet(1), 14), (subnet(2), 13), (subnet(3), 13))
    assert find_place(rows, subnet(1), 40) is False
    assert find_place(rows, subnet(2), 40) is False


def test_providers_of_unknown_origin_share_the_places_as_before() -> None:
    assert find_place(filled((UNKNOWN, 150)), UNKNOWN, MOST) is True
    assert find_place(filled((UNKNOWN, MOST)), UNKNOWN, MOST) is False
    assert isinstance(find_place(filled((UNKNOWN, MOST)), subnet(1), MOST), bytes)


def test_a_key_with_few_providers_is_open_to_all() -> None:
    assert find_place({}, subnet(1), MOST) is True
    assert find_place(filled((UNKNOWN, 3)), UNKNOWN, 3) is False
