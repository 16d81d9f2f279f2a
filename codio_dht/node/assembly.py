"""Puts a node together: which part is made with what.

The only place that knows all constructors. Runs nothing and decides nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

from multiaddr import Multiaddr

from codio_dht.config import DHTConfig
from codio_dht.core.clock import Monotonic
from codio_dht.core.denials import Denials
from codio_dht.core.network import Network, NetworkPolicy
from codio_dht.core.origins import RecordOrigin, origin_of
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.core.records import ProviderRecords
from codio_dht.core.republish import RepublishSchedule
from codio_dht.core.responder import Responder
from codio_dht.core.search import Searches
from codio_dht.core.sweep import Sweep
from codio_dht.core.validation import TimedValidator, Validators
from codio_dht.core.value_records import ValueRecords
from codio_dht.crypto.ipns import IpnsValidator
from codio_dht.crypto.public_key_records import PublicKeyValidator
from codio_dht.formats.text import read_multiaddr
from codio_dht.net.host import Host
from codio_dht.node.arguments import binary, multiaddrs
from codio_dht.node.clock import Clock
from codio_dht.node.deliveries import Deliveries
from codio_dht.node.denying import DenyLists
from codio_dht.node.errands import Errands
from codio_dht.node.lookups import Lookups
from codio_dht.node.names import Names
from codio_dht.node.protection import TableProtection
from codio_dht.node.providing import Providing, told_addrs
from codio_dht.node.republishing import Republishing
from codio_dht.node.rpc import RpcClient
from codio_dht.node.runtime import NetworkRuntime
from codio_dht.node.server import KadServer
from codio_dht.node.serving import Serving
from codio_dht.node.shared import Shared
from codio_dht.node.storage import Storage
from codio_dht.node.sweeping import Sweeping
from codio_dht.node.upkeep import UpkeepDriver
from codio_dht.node.validating import ValidatorRunner, guarded
from codio_dht.node.values import Values
from codio_dht.store.interface import Store
from codio_dht.store.name_keys import NameKeys

BUILT_IN: Final[dict[str, TimedValidator]] = {"ipns": IpnsValidator(), "pk": PublicKeyValidator()}
"""The validators that every node has."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What one network of a node is made from."""

    config: DHTConfig
    bootstrap: Sequence[PeerInfo] = ()
    mode: str = "auto"
    """``auto``, ``server`` or ``client``."""

    public: bool | None = None
    """Whether it is the public network; None lets the node's addresses say."""

    names: Sequence[Multiaddr] = ()
    """Each ``/dnsaddr/HOST`` without a peer id whose peers to join through too."""


@dataclass(frozen=True, slots=True)
class Node:
    """The parts of a node."""

    shared: Shared
    networks: tuple[NetworkRuntime, ...]
    main: NetworkRuntime
    """The first network: what a program asks of the node is asked there."""

    providing: Providing
    """Keeps the own keys provided, on the main network."""

    values: Values
    """Puts and finds values, on the main network."""

    republishing: Republishing
    """Keeps the own values published, on the main network."""

    names: Names
    """Publishes and resolves IPNS names, on the main network."""

    deny_lists: DenyLists
    """Reads the operator's deny lists."""


def make_node(
    host: Host,
    store: Store,
    plans: Sequence[NetworkPlan],
    clock: Clock,
    rng: Random,
    *,
    public: bool,
    provider_ttl_s: float,
    name_keys: NameKeys | None = None,
    deny_lists: DenyLists | None = None,
) -> Node:
    """A node on ``host`` and ``store`` with a network for each plan, the main one first. ``public``
    holds for the plans that do not say. ``name_keys`` sign its IPNS names; None keeps them in
    memory."""
    main_config = plans[0].config
    deny_lists = DenyLists((), ()) if deny_lists is None else deny_lists
    shared = make_shared(
        host,
        store,
        main_config,
        clock,
        rng,
        provider_ttl_s=provider_ttl_s,
        denials=deny_lists.denials,
    )
    networks = tuple(
        make_runtime(
            shared,
            plan,
            public=public if plan.public is None else plan.public,
            keeps_snapshot=plan is plans[0],
        )
        for plan in plans
    )
    main = networks[0]
    providing = make_providing(shared, main)
    values = make_values(shared, main)
    keys, call = name_keys or NameKeys(None), shared.storage.call
    republishing = Republishing(
        values,
        store,
        keys,
        call,
        clock,
        RepublishSchedule(),
        lambda: len(main.network.table),
        k=main_config.replication_factor,
    )
    names = Names(values, republishing, keys, call, clock)
    return Node(shared, networks, main, providing, values, republishing, names, deny_lists)


def make_providing(shared: Shared, main: NetworkRuntime) -> Providing:
    """Keeps the own keys provided on ``main``."""
    network, config = main.network, main.config
    sweep = Sweep(
        network.local.key,
        shared.rng,
        interval_s=config.republish_interval,
        k=config.replication_factor,
    )

    def told() -> tuple[bytes, ...]:
        return told_addrs(network, lambda: shared.host.addrs, main.provided_at)

    sweeping = Sweeping(main.lookups, shared.storage, sweep, shared.clock, told)
    return Providing(
        network,
        main.deliveries,
        shared.storage,
        sweeping,
        shared.clock,
        told,
        quorum=config.provide_quorum,
    )


def provider_addrs(config: DHTConfig) -> tuple[bytes, ...]:
    """The addresses that the provider records of this node name, if not its own."""
    return tuple(read_multiaddr(addr).to_bytes() for addr in config.provider_addrs)


def make_values(shared: Shared, network: NetworkRuntime) -> Values:
    """The values of ``network``."""
    storage = shared.storage.values
    assert storage is not None
    return Values(
        network.lookups,
        network.deliveries,
        storage,
        shared.validators,
        shared.errands,
        shared.clock,
    )


def make_shared(
    host: Host,
    store: Store,
    config: DHTConfig,
    clock: Clock,
    rng: Random,
    *,
    provider_ttl_s: float,
    denials: Denials,
) -> Shared:
    """What the networks of one node share."""
    records = ProviderRecords(
        ttl_s=provider_ttl_s,
        max_per_key=config.max_providers_per_key,
        max_records=config.max_provider_records,
    )
    own_keys = OwnKeys()
    failures: Counter[str] = Counter()
    storage = Storage(store, records, own_keys, clock)
    validators = Validators(BUILT_IN, guarded(config.validators, storage.counters))
    values = ValueRecords(host.peer_id.key, validators)
    runner = ValidatorRunner(validators, values.judged, storage.counters)
    storage.keep_values(values, runner)
    return Shared(
        host=host,
        storage=storage,
        records=records,
        values=values,
        validators=validators,
        runner=runner,
        own_keys=own_keys,
        denials=denials,
        clock=clock,
        rng=rng,
        errands=Errands(failures),
        failures=failures,
    )


def make_runtime(
    shared: Shared, plan: NetworkPlan, *, public: bool, keeps_snapshot: bool
) -> NetworkRuntime:
    """One network as planned."""
    config, host, clock = plan.config, shared.host, shared.clock
    protection = TableProtection(host, config.protocol)
    network = Network(
        host.peer_id,
        protocol=config.protocol,
        policy=NetworkPolicy.of(config.address_policy, config.protocol, public=public),
        k=config.replication_factor,
        refresh_interval_s=config.refresh_interval,
        observer=protection,
        seen_at=lambda peer: binary(host.remote_addrs(peer)),
        denies=shared.denials.denies_peer,
        is_counted=lambda peer: host.account(peer) is not None,
    )
    rpc = RpcClient(
        host,
        config.protocol,
        lambda peer: multiaddrs(network.book.addrs(peer, clock.monotonic())),
        lambda: network.address_filter,
        dial_timeout_s=config.dial_timeout,
        request_timeout_s=config.request_timeout,
    )
    upkeep = UpkeepDriver(network, host, rpc, shared.rng, plan.bootstrap, plan.names)
    searches = Searches(
        network,
        host,
        shared.rng,
        alpha=config.alpha,
        beta=config.beta,
        disjoint_paths=config.disjoint_paths,
        timeout_s=config.query_timeout,
    )
    lookups = Lookups(
        searches,
        rpc,
        shared.errands,
        upkeep.wait_for_peers,
        upkeep.notify_changed,
        shared.runner,
        shared.denials,
    )
    provided_at = provider_addrs(config)
    responder = Responder(
        host.peer_id,
        table=network.table,
        book=network.book,
        records=shared.records,
        rng=shared.rng,
        address_filter=network.address_filter,
        own_keys=shared.own_keys,
        provider_addrs=provided_at,
        values=shared.values,
        k=config.replication_factor,
        origin_of=partial(_record_origin, host),
        denies=shared.denials.denies_key,
    )
    responder.set_own_addrs(binary(host.addrs))
    server = KadServer(responder, shared.storage, shared.runner, clock, partial(_owner, host))
    return NetworkRuntime(
        shared=shared,
        config=config,
        network=network,
        server=server,
        serving=Serving(host, config.protocol, server, plan.mode, public=public),
        rpc=rpc,
        lookups=lookups,
        upkeep=upkeep,
        deliveries=Deliveries(lookups, shared.errands),
        protection=protection,
        keeps_snapshot=keeps_snapshot,
        provided_at=provided_at,
    )


def _record_origin(host: Host, peer: PeerId, now: Monotonic) -> RecordOrigin | None:
    """Who pays for the records of ``peer``; None if nobody does."""
    account = host.account(peer)
    return None if account is None else RecordOrigin(host.origins, account, now)


def _owner(host: Host, peer: PeerId) -> tuple[str, bytes, bytes]:
    """The owner by which the loads of ``peer`` take turns."""
    account = host.account(peer)
    return ("", b"", peer.to_bytes()) if account is None else origin_of(account.ip, peer.to_bytes())
