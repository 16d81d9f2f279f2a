from __future__ import annotations

from codio_dht.core.turns import Turns


def fill(queue: Turns[str, str], *items: str) -> list[str | None]:
    """Put each item, ``group/subnet/peer#number``; the key that was dropped for it, if one was."""
    dropped = [queue.put(item, item, tuple(item.split("#")[0].split("/"))) for item in items]
    return [each and each[0] for each in dropped]


def taken(queue: Turns[str, str], without: str = "") -> str | None:
    found = queue.take(lambda owner: owner[0] != without)
    return found and found[1]


def drained(queue: Turns[str, str]) -> list[str]:
    items = []
    while (item := taken(queue)) is not None:
        items.append(item)
    return items


def test_groups_take_turns_then_subnets_then_peers() -> None:
    queue: Turns[str, str] = Turns(100)
    fill(queue, "a/1/x#1", "a/1/x#2", "a/1/y#1", "a/2/z#1", "b/3/w#1", "b/3/w#2")
    expected = ["a/1/x#1", "b/3/w#1", "a/2/z#1", "b/3/w#2", "a/1/y#1", "a/1/x#2"]
    assert expected == drained(queue)


def test_the_items_of_one_peer_come_in_order() -> None:
    queue: Turns[str, str] = Turns(100)
    fill(queue, "a/1/x#3", "a/1/x#1", "a/1/x#2")
    assert ["a/1/x#3", "a/1/x#1", "a/1/x#2"] == drained(queue)


def test_a_thousand_items_of_one_owner_delay_another_by_one_turn() -> None:
    queue: Turns[str, str] = Turns(10_000)
    fill(queue, *[f"a/1/x#{number}" for number in range(1_000)], "b/1/y#1")
    assert ["a/1/x#0", "b/1/y#1"] == [taken(queue), taken(queue)]


def test_a_full_queue_drops_the_newest_item_of_the_largest_owner() -> None:
    queue: Turns[str, str] = Turns(4)
    dropped = fill(queue, "a/1/x#1", "a/1/x#2", "a/1/x#3", "b/1/y#1", "c/1/z#1")
    assert [None] * 4 + ["a/1/x#3"] == dropped
    assert ["a/1/x#4"] == fill(queue, "a/1/x#4")


def test_an_owner_that_may_not_is_passed_over_and_comes_first_later() -> None:
    queue: Turns[str, str] = Turns(100)
    fill(queue, "a/1/x#1", "b/1/y#1")
    assert "b/1/y#1" == taken(queue, without="a")
    assert taken(queue, without="a") is None
    assert "a/1/x#1" == taken(queue)


def test_a_key_that_waits_keeps_its_place() -> None:
    queue: Turns[str, str] = Turns(100)
    fill(queue, "a/1/x#1", "a/1/x#2")
    assert queue.put("a/1/x#1", "changed", ("elsewhere", "1", "x")) is None
    assert ["changed", "a/1/x#2"] == drained(queue)


def test_what_is_taken_out_leaves_nothing_behind() -> None:
    queue: Turns[str, str] = Turns(100)
    fill(queue, "a/1/x#1", "a/1/y#1")
    assert 2 == queue.size(("a",))
    assert "a/1/x#1" == queue.pop("a/1/x#1")
    assert queue.pop("a/1/x#1") is None
    assert (1, 0, 1) == (queue.size(("a",)), queue.size(("a", "1", "x")), len(queue))
    assert ["a/1/y#1"] == drained(queue)
