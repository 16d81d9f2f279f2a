"""Scenarios: what a simulation is told, as TOML that anyone can edit.

Decides which values are possible, and says in which field an impossible one stands. A field that
is not given has its default; a field nobody knows is an error, for it would be without effect.
``scenarios/`` has the presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from math import inf
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from codio_dht import params
from codio_dht.checks import Checks
from codio_dht.config import MAX_K
from codio_dht.errors import ConfigError

_CHECKS: Final = Checks(ConfigError)

MAX_NODES: Final = 1_000_000
"""Nodes of one simulation: more do not fit the memory of one machine."""

MAX_JOINING_NODES: Final = 5_000
"""Nodes that are all active (bootstrap by joining, or churn): each holds a table and a book."""


def _number(default: float, low: float = 0.0, high: float = inf) -> Any:
    """A field for a number from ``low`` to ``high``."""
    return field(default=default, metadata={"low": low, "high": high})


def _share(default: float = 0.0) -> Any:
    """A field for a share, 0 to 1."""
    return _number(default, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPart:
    """``[network]``: who there is. Shares are of all nodes, in the order in which they stand here:
    what is dead cannot be slow."""

    nodes: int = _number(1_000, 2, MAX_NODES)
    k: int = _number(params.K, params.K, MAX_K)
    join_spread_s: float = _number(60.0)
    """join: the nodes begin one after another within this time."""
    diverse: bool = True
    """Nodes limit the peers of one IP group, as on the public network."""
    bootstrap: Literal["oracle", "join"] = "oracle"
    """oracle: tables are filled by exact knowledge with the bucket rule; join: by real lookups."""
    dead: float = _share()
    """In the others' tables, never there."""
    refusing: float = _share(0.5)
    """Share of the dead that refuse a dial at once; the others swallow it."""
    mute: float = _share()
    """Connect, and never answer a request."""
    slow: float = _share()
    slow_one_way_s: float = _number(1.5, 0.0, 60.0)
    nat: float = _share()
    """Servers that only those can reach whom they dialled themselves."""
    far: float = _share()
    """Liars: name peers far from the key."""
    colluding: float = _share()
    """Liars: name nobody but each other."""
    flooding: float = _share()
    """Liars: name hundreds of peers."""
    ghosts: float = _share()
    """Liars: name peers that do not exist."""
    forging: float = _share()
    """Liars: name the right peers, hand out hostile values, and put them to others."""


CHARACTERS: Final = ("mute", "far", "colluding", "flooding", "ghosts", "forging")
"""What a living server may be beside honest, each with a share in ``[network]``, in the order in
which it is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksPart:
    """``[links]``: the way between two nodes."""

    rtt_median_s: float = _number(0.09, 0.0, 60.0)
    rtt_sigma: float = _number(0.6, 0.0, 5.0)
    rtt_max_s: float = _number(0.6, 0.0, 60.0)
    model: Literal["node", "pair"] = "node"
    """node: the longer of both nodes' own delays (client machines have none); pair: each pair has
    its own, drawn from the same distribution."""
    jitter: float = _number(0.0, 0.0, 10.0)
    """Every flight takes up to this share longer."""
    loss: float = _number(0.0, 0.0, 0.9)
    """Chance that a flight is lost and sent again (streams are reliable: loss is delay)."""
    dial_round_trips: float = _number(1.0, 0.0, 10.0)
    """Round trips before the first request may leave: QUIC 1, TCP 2 (measured, our stack)."""
    reached_round_trips: float = _number(1.0, 0.0, 10.0)
    """When the dialler sees that somebody is there, before it knows who: 0 behind a local proxy."""
    refusal_round_trips: float = _number(1.0, 0.0, 10.0)
    """When a refused dial is known: 0 on one machine."""
    max_connections: int = _number(256, 1, 100_000)
    """Open connections of one node; the one used least recently is closed past it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPart:
    """``[[partition]]``: for a while, a share of the nodes cannot reach the others."""

    start_s: float = _number(0.0)
    end_s: float = _number(0.0)
    share: float = _share(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnPart:
    """``[churn]``: nodes that leave and come back with the same identity."""

    share: float = _share()
    """Nodes that churn; the others stay."""
    session: Literal["lognormal", "weibull"] = "lognormal"
    session_median_s: float = _number(5_940.0, 1.0)
    """lognormal: with this median and ``session_shape`` as sigma. The defaults meet 87.6 % of
    sessions under 8 h and 2.5 % over 24 h (Trautwein et al., SIGCOMM 2022)."""
    session_shape: float = _number(1.365, 0.05, 10.0)
    """Sigma of the log-normal, or k of the Weibull distribution."""
    downtime_median_s: float = _number(5_940.0, 1.0)
    """Log-normal with sigma ``downtime_sigma``."""
    downtime_sigma: float = _number(1.0, 0.0, 10.0)
    graceful: float = _share(0.5)
    """Share of leavings where connections are closed; the others just vanish."""
    refusing: float = _share(0.5)
    """Share of nodes whose machine refuses dials while the node is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupsPart:
    """``[lookups]``: closest-peers lookups of random keys."""

    count: int = _number(100, 0, 10_000_000)
    source: Literal["clients", "members"] = "members"
    """clients: ``clients`` nodes that join first, and answer nobody; members: random living
    servers of the network."""
    clients: int = _number(1, 1, 10_000)
    start_s: float = _number(0.0)
    """After the clients have joined."""
    interval_s: float = _number(0.0)
    """Between two beginnings; 0: one begins when the one before is over."""
    target: Literal["random", "attacked"] = "random"
    """attacked: always the key of ``[attack]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsPart:
    """``[records]``: keys that are provided, and searched for. Publishers do not churn."""

    keys: int = _number(0, 0, 1_000_000)
    publishers: int = _number(10, 1, 100_000)
    republish_interval_s: float = _number(params.REPROVIDE_INTERVAL_S, 1.0)
    ttl_s: float = _number(params.PROVIDER_TTL_PUBLIC_S, 1.0)
    find_interval_s: float = _number(3_600.0, 1.0)
    """Every so often, ``finds`` random keys are searched for from random living nodes."""
    finds: int = _number(20, 0, 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesPart:
    """``[values]``: values that are put, and searched for among hostile ones."""

    keys: int = _number(0, 0, 10_000)
    """Every other one is an IPNS name, the others are keys of an application."""
    finds: int = _number(0, 0, 1_000_000)
    """Searches for the value of a random key from random living servers, one after another. A
    ``forging`` server puts a hostile value of the key to its closest servers before each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPart:
    """``[attack]``: attackers whose ids were ground to lie around one key."""

    eclipsing: int = _number(0, 0, 1_000)
    """Attackers nearest to the key; asked for it they name nobody but each other."""
    preimage: str = "attacked"
    """The key under attack is the SHA-256 of this text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """``[run]``: for how long, and how closely it is watched."""

    duration_s: float = _number(0.0)
    """Virtual seconds; 0: until the lookups are over."""
    check_interval_s: float = _number(600.0, 0.0)
    """Invariants of the whole network are checked this often; 0: at the end only."""
    check_one_in: int = _number(50, 1, 1_000_000)
    """Of so many events that touch nodes, one has the invariants of those nodes checked."""
    encode_one_in: int = _number(1, 1, 1_000_000)
    """Messages that really pass the wire's encoder and decoder: 1 is all of them."""
    refresh_interval_s: float = _number(params.REFRESH_INTERVAL_S, 1.0)
    """``DHTConfig.refresh_interval`` of every node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One simulation. See its parts.

    Raises:
        ConfigError: a value is impossible; the message names the field.
    """

    name: str = "unnamed"
    seed: int = _number(1, 0)
    network: NetworkPart = field(default_factory=NetworkPart)
    links: LinksPart = field(default_factory=LinksPart)
    partition: tuple[PartitionPart, ...] = ()
    churn: ChurnPart = field(default_factory=ChurnPart)
    lookups: LookupsPart = field(default_factory=LookupsPart)
    records: RecordsPart = field(default_factory=RecordsPart)
    values: ValuesPart = field(default_factory=ValuesPart)
    attack: AttackPart = field(default_factory=AttackPart)
    run: RunPart = field(default_factory=RunPart)

    def __post_init__(self) -> None:
        shares = ("dead", *CHARACTERS, "slow", "nat")
        total = sum(getattr(self.network, name) for name in shares)
        if total > 1.0:
            raise ConfigError(f"network: the shares {', '.join(shares)} add up to {total:g}")
        if self.all_active and self.network.nodes > MAX_JOINING_NODES:
            raise ConfigError(
                f"network.nodes: at most {MAX_JOINING_NODES} where nodes join or churn, "
                f"not {self.network.nodes}"
            )
        if not self.run.duration_s and (self.churn.share or self.records.keys):
            needing = "churn needs" if self.churn.share else "records need"
            raise ConfigError(f"run.duration_s: {needing} a duration")
        if self.values.finds and not self.values.keys:
            raise ConfigError("values.keys: finds need a key")
        for index, each in enumerate(self.partition):
            if each.end_s <= each.start_s:
                raise ConfigError(f"partition[{index}].end_s: must be after start_s")

    @property
    def all_active(self) -> bool:
        """Whether every node runs the whole of ``core`` and changes its table, or only answers."""
        return self.network.bootstrap == "join" or self.churn.share > 0


# --- reading --------------------------------------------------------------------------------------


def make_scenario(data: Mapping[str, Any]) -> Scenario:
    """The scenario that ``data`` describes (what TOML gives).

    Raises:
        ConfigError: a field nobody knows, of a wrong type, or out of its range.
    """
    made: Scenario = _section(Scenario, data, "")
    return made


def _section(kind: Any, data: object, where: str) -> Any:
    """The part of a scenario that the table ``data`` describes; ``where`` ends with a dot."""
    known = {each.name: each.metadata for each in fields(kind)}
    types = get_type_hints(kind)
    values = {}
    for name, value in _CHECKS.table(data, where.rstrip(".") or "scenario").items():
        if name not in known:
            raise ConfigError(f"{where}{name}: no such field; there are {', '.join(sorted(known))}")
        values[name] = _value(types[name], known[name], value, f"{where}{name}")
    return kind(**values)


def _value(kind: Any, bounds: Mapping[str, float], value: object, where: str) -> Any:
    """``value`` as what the field at ``where`` is annotated with."""
    if is_dataclass(kind):
        return _section(kind, value, f"{where}.")
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _CHECKS.refuse(value, where, "a list of tables")
        part = get_args(kind)[0]
        return tuple(_section(part, each, f"{where}[{i}].") for i, each in enumerate(value))
    if get_origin(kind) is Literal:
        return _CHECKS.choice(value, where, get_args(kind))
    if kind is bool:
        return _CHECKS.flag(value, where)
    if kind is str:
        return _CHECKS.text(value, where)
    check = _CHECKS.whole_number if kind is int else _CHECKS.number
    return check(value, where, bounds["low"], bounds["high"])
