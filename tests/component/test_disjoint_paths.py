"""Disjoint paths in a whole node: a liar in the table, and peers in its pay that do answer."""

from __future__ import annotations

import pytest

from codio_dht import DHTConfig
from codio_dht.core.keyspace import key_of
from codio_dht.params import K
from hostile_host import answering, closer, entry_of, hostile, lab_node, numbered_id, plant
from memory_host import MemoryNet
from nodes import memory_net

KEY = b"some key"


def by_distance(count: int) -> list[int]:
    """Numbers of peers, nearest to the key first."""
    target = key_of(KEY)
    return sorted(range(1, count + 1), key=lambda number: numbered_id(number).key ^ target)


def answering_with(net: MemoryNet, members: list[int], named: list[int]):
    """Peers that answer a request for the key with ``named``; for others, as those of the upkeep,
    with nobody, so that the table has only whom the test puts there."""
    entries = [entry_of(each) for each in named]
    script = answering(lambda request: closer(request, entries if request.key == KEY else []))
    return [hostile(net, number, script) for number in members]


@pytest.mark.conformance("c39")
@pytest.mark.parametrize(("paths", "found"), [(1, 0), (2, K), (3, K)])
async def test_a_liar_hides_the_honest_from_one_path_and_not_from_disjoint_ones(
    autojump_clock, paths, found
):
    numbers = by_distance(4 * K)
    colluders, honest = numbers[:K], numbers[K : 2 * K]
    liar, *others = numbers[-3:]
    async with memory_net(0.05) as net:
        answering_with(net, colluders, colluders)
        answering_with(net, honest, honest)
        first = answering_with(net, [liar], colluders)
        first += answering_with(net, others, honest)
        config = DHTConfig(disjoint_paths=paths)
        async with lab_node(net, config=config) as node:
            await plant(node, first)
            closest = [each.peer_id for each in await node.find_closest_peers(KEY)]
        assert found == sum(numbered_id(each) in closest for each in honest)
        assert closest[:K] == [numbered_id(each) for each in colluders]
