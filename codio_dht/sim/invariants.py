"""The invariants of the simulation. They hold whatever the network does to a node.

Each check raises ``InvariantError`` and changes nothing. Those of a lookup are made at its every
step; :mod:`codio_dht.sim.simulation` says when those of a node and of the network are.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from random import Random

from codio_dht import params
from codio_dht.core.admission import MAX_ADMISSION_MEMORY, MAX_ADMISSION_PROBES, MAX_ADMISSION_QUEUE
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key, cpl, distance
from codio_dht.core.lookup_states import Done, Standing
from codio_dht.core.messages import Request
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_book import MAX_HEARD_PEERS, MAX_TOLD_PEERS
from codio_dht.core.records import ProviderRecords
from codio_dht.core.routing_table import RoutingTable
from codio_dht.core.unsaved import MAX_UNSAVED_RECORDS
from codio_dht.sim.disk import VirtualDisk
from codio_dht.sim.links import ConnectionTable
from codio_dht.sim.population import Member, Population


class InvariantError(AssertionError):
    """An invariant was broken."""


def require(condition: bool, what: str, *details: object) -> None:
    """Raise ``what`` with ``details`` unless ``condition`` holds."""
    if not condition:
        raise InvariantError(" ".join([what, *map(str, details)]))


# --- a lookup -------------------------------------------------------------------------------------


def check_ask(
    ask: tuple[PeerId, Request], local: PeerId, asked: Container[tuple[PeerId, Request]]
) -> None:
    """Check that no peer is asked twice by a search or given a record twice by a delivery.

    A node never asks itself either.
    """
    peer, _ = ask
    require(ask not in asked, "a lookup asks a peer twice:", peer)
    require(peer != local, "a lookup asks its own node:", peer)


def check_wait(until: Monotonic | None, now: Monotonic, in_flight: int) -> None:
    """Check that a lookup waits for something: for a later moment, or for a report."""
    require(until is None or until > now, "a lookup waits for a moment that is over:", until, now)
    require(until is not None or in_flight > 0, "a lookup waits for nothing, for ever")


def check_done(done: Done, target: Key, local: PeerId, answered: Container[PeerId]) -> None:
    """Check that a result is sorted, has no peer twice, and says only what is true of each peer."""
    peers = [each.peer for each in (*done.closest, *done.next_closest)]
    distances = [distance(peer.key, target) for peer in peers]
    require(distances == sorted(distances), "a lookup's result is not nearest first")
    require(len(dict.fromkeys(peers)) == len(peers), "a lookup's result names a peer twice")
    require(local not in peers, "a lookup's result names its own node")
    for each in (*done.closest, *done.next_closest):
        if each.standing is Standing.ANSWERED:
            require(each.peer in answered, "never answered, but reported so:", each.peer)


# --- a node ---------------------------------------------------------------------------------------


def check_table(table: RoutingTable, rng: Random) -> None:
    """Check that buckets hold the right peers, keep their limits, and are searched exactly."""
    peers = table.peers()
    require(all(peer.key != table.local for peer in peers), "a table holds its own node")
    require(len(dict.fromkeys(peers)) == len(peers), "a table holds a peer twice")
    counts: dict[int, int] = {}
    for peer in peers:
        prefix = cpl(table.local, peer.key)
        counts[prefix] = counts.get(prefix, 0) + 1
    for prefix, count in counts.items():
        require(count <= table.bucket_size, "a table holds too many of CPL", prefix, count)
    told = {prefix: count for prefix, count in enumerate(table.cpl_counts()) if count}
    require(told == counts, "a table counts its peers wrong:", told, counts)
    require(sum(each.peers for each in table.buckets()) == len(peers), "buckets lose peers")
    key = Key(rng.getrandbits(params.KEY_BITS))
    exact = sorted(peers, key=lambda peer: distance(peer.key, key))[: params.K]
    require(table.nearest(key, params.K) == exact, "a table's nearest are not the nearest to", key)


def check_node(network: Network, records: ProviderRecords, rng: Random, now: Monotonic) -> None:
    """Check the state of one active node."""
    check_table(network.table, rng)
    for peer in network.table.peers():
        require(bool(network.book.addrs(peer, now)), "in the table without an address:", peer)
    book = network.book.stats()
    require(book.told <= MAX_TOLD_PEERS, "too many told peers in a book:", book.told)
    require(book.heard <= MAX_HEARD_PEERS, "too much hearsay in a book:", book.heard)
    door = network.admission
    require(door.waiting <= MAX_ADMISSION_QUEUE, "too many candidates:", door.waiting)
    require(door.probing <= MAX_ADMISSION_PROBES, "too many probes:", door.probing)
    require(door.remembered <= MAX_ADMISSION_MEMORY, "too many remembered:", door.remembered)
    require(door.deferred <= MAX_ADMISSION_QUEUE, "too many deferred:", door.deferred)
    held = records.stats()
    require(held.unsaved <= MAX_UNSAVED_RECORDS, "too many unsaved records:", held.unsaved)
    require(held.records <= params.MAX_PROVIDER_RECORDS, "too many records:", held.records)


def check_entries(
    network: Network, population: Population, met: Container[PeerId], given: Container[PeerId]
) -> None:
    """Whoever is in a table exists, is a server, and has answered this node (is in ``met``), save
    for those that the scenario put there (``given``)."""
    for peer in network.table.peers():
        member = population.by_id(peer)
        if member is None:
            raise InvariantError(f"a peer that does not exist is in a table: {peer}")
        require(member.is_server, "a client is in a table:", peer)
        if peer not in given:
            require(peer in met, "a peer that never answered is in a table:", peer)


def check_disk(
    disk: VirtualDisk,
    holder: PeerId,
    publisher_of: Mapping[bytes, Member],
    genuine: Mapping[bytes, Container[bytes]],
) -> None:
    """Check that a holder has only records that their provider handed out, and none of its own;
    and only values that are ``genuine``."""
    for key, rows in disk.rows.items():
        publisher = publisher_of.get(key)
        for row in rows.values():
            require(row.key == key, "a record lies under another key")
            require(row.provider != holder, "a node keeps a record of itself as another's")
            provided = publisher is not None and row.provider == publisher.peer
            require(provided, "nobody provided this record:", row.provider)
    for key, value in disk.values.items():
        require(value.value in genuine.get(key, ()), "a value that is not valid is kept:", key)


# --- the network ----------------------------------------------------------------------------------


def check_connections(
    members: Sequence[Member], connections: ConnectionTable, max_each: int
) -> None:
    """Check that both ends of a connection know of it, and that nobody has more than it may."""
    for one in members:
        others = connections.of(one)
        require(len(others) <= max_each, "too many connections:", one.index, len(others))
        require(one not in others, "a member is connected to itself:", one.index)
        for other in others:
            require(connections.are_open(other, one), "a connection with one end:", one.index)
