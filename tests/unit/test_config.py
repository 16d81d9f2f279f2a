"""DHTConfig: what is refused, and that what is taken arrives in the parts it is for."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from codio_dht import DHTConfig, PeerId
from codio_dht.core.addresses import KEEP_ALL, PUBLIC_ONLY
from codio_dht.core.clock import Monotonic
from codio_dht.core.disjoint import DisjointLookup
from codio_dht.core.lookup import ClosestPeersLookup
from codio_dht.core.search import Begin
from codio_dht.errors import ConfigError
from codio_dht.net.host import Host
from codio_dht.node.assembly import NetworkPlan, make_node
from codio_dht.node.clock import Clock
from codio_dht.store.interface import Store


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("replication_factor", 19),
        ("replication_factor", 20.0),
        ("replication_factor", True),
        ("replication_factor", 1_001),
        ("query_timeout", 60.1),
        ("query_timeout", 0),
        ("query_timeout", float("nan")),
        ("query_timeout", "60"),
        ("provider_timeout", -1),
        ("provider_timeout", float("inf")),
        ("republish_interval", 24 * 3600),
        ("request_timeout", None),
        ("dial_timeout", 0),
        ("refresh_interval", False),
        ("alpha", 0),
        ("alpha", 101),
        ("disjoint_paths", 0),
        ("disjoint_paths", 11),
        ("beta", 21),
        ("max_provider_records", 0),
        ("max_providers_per_key", -5),
        ("address_policy", "private"),
        ("protocol", "kad"),
        ("protocol", 5),
    ],
)
def test_an_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        DHTConfig(**{field: value})


def test_the_defaults_are_those_of_the_network():
    config = DHTConfig()
    assert config.replication_factor == 20
    assert config.provider_timeout == 24 * 3600
    assert config.republish_interval == 12 * 3600
    assert config.query_timeout == 60


def test_an_unknown_field_is_refused():
    unknown: dict[str, Any] = {"replication": 20}
    with pytest.raises(TypeError, match="replication"):
        DHTConfig(**unknown)


class _Host:
    """As much of a host as assembling a node touches."""

    peer_id = PeerId(b"\x12\x20" + bytes(32))
    addrs = ()

    def is_reached(self, peer_id):
        return False

    def is_connected(self, peer_id):
        return False

    def remote_addrs(self, peer_id):
        return ()

    def account(self, peer_id):
        return None

    def protect(self, peer_id, tag):
        pass


def _node(**settings):
    config = DHTConfig(**settings)
    return make_node(
        cast(Host, _Host()),
        cast(Store, None),
        [NetworkPlan(config)],
        Clock(),
        Random(1),
        public=False,
        provider_ttl_s=config.provider_timeout,
    )


@pytest.mark.parametrize(
    ("settings", "where", "expected"),
    [
        ({"replication_factor": 30}, lambda node: node.main.network.table.bucket_size, 30),
        ({"provider_timeout": 50_000}, lambda node: node.shared.records.ttl_s, 50_000),
        ({"republish_interval": 70}, lambda node: node.providing.sweeping.sweep._interval_s, 70),
        ({"query_timeout": 9}, lambda node: node.main.lookups.searches.timeout_s, 9),
        ({"request_timeout": 4}, lambda node: node.main.rpc._request_timeout_s, 4),
        ({"dial_timeout": 2}, lambda node: node.main.rpc._dial_timeout_s, 2),
        ({"refresh_interval": 99}, lambda node: node.main.network.refresh._interval_s, 99),
        ({"disjoint_paths": 4}, lambda node: node.main.lookups.searches.disjoint_paths, 4),
        ({"alpha": 5}, lambda node: node.main.lookups.searches.rules(looks_beyond=True).alpha, 5),
        ({"provide_quorum": 4}, lambda node: node.providing._quorum, 4),
        ({"beta": 7}, lambda node: node.main.lookups.searches.rules(looks_beyond=True).beta, 7),
        ({"max_provider_records": 10}, lambda node: node.shared.records._max_records, 10),
        ({"max_providers_per_key": 11}, lambda node: node.shared.records._max_per_key, 11),
        ({"address_policy": "public"}, lambda node: node.main.network.address_filter, PUBLIC_ONLY),
        ({"address_policy": "all"}, lambda node: node.main.network.address_filter, KEEP_ALL),
        ({"protocol": "/x/kad/1.0.0"}, lambda node: node.main.network.protocol, "/x/kad/1.0.0"),
    ],
)
def test_a_setting_arrives_where_it_acts(settings, where, expected):
    assert expected == where(_node(**settings))


@pytest.mark.parametrize(("paths", "machine"), [(1, ClosestPeersLookup), (4, DisjointLookup)])
def test_closest_peers_are_looked_up_along_as_many_paths_as_set(paths, machine):
    node = _node(disjoint_paths=paths)
    seed = PeerId(b"\x12\x20" + bytes(31) + b"\x01")
    node.main.network.table.add(seed, Monotonic(0.0))
    search = node.main.lookups.searches.closest(b"a key", Monotonic(0.0))
    assert Begin(Monotonic(60.0)) == search.next(Monotonic(0.0))
    search.next(Monotonic(0.0))
    assert machine is type(search._lookup)
