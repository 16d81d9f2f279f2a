"""What a user may set, typed and checked at the edge. Decides nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Literal, get_args

from codio_dht import params
from codio_dht.checks import Checks
from codio_dht.core.validation import Validator, check_namespaces
from codio_dht.errors import ConfigError, FormatError

MAX_K: Final = 1_000
"""Largest replication parameter taken from a configuration."""

MAX_ALPHA: Final = 100
"""Largest concurrency taken from a configuration."""

MAX_DISJOINT_PATHS: Final = 10
"""Most disjoint paths of one lookup (JS: 10)."""

AddressPolicy = Literal["auto", "all", "public"]
"""Which addresses of other peers a network keeps and tells. ``public`` drops private and loopback
addresses, ``all`` keeps every one. ``auto`` is ``public`` on a public network, and ``all`` on one
of loopback or LAN addresses."""

_CHECKS: Final = Checks(ConfigError)

_DURATIONS: Final = frozenset(
    {
        "provider_timeout",
        "republish_interval",
        "query_timeout",
        "request_timeout",
        "dial_timeout",
        "refresh_interval",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DHTConfig:
    """Settings of a :class:`~codio_dht.DHTManager`. Durations are seconds.

    Raises:
        ConfigError: a value is impossible; the message names the field and the allowed range.
    """

    replication_factor: int = params.K
    """Peers that hold a record, and bucket size; at least 20 (the network relies on it)."""

    provider_timeout: float = params.PROVIDER_TTL_S
    """Life of other peers' provider records. A node that joined through ``bootstrap="default"``
    keeps them for at least the public network's 48 h."""

    republish_interval: float = params.REPROVIDE_INTERVAL_S
    """How often own keys are provided again; shorter than ``provider_timeout``. 0: each is provided
    once, and never again."""

    provider_addrs: Sequence[str] = ()
    """The addresses that the provider records of this node name, instead of its own: where the
    content is really served, for instance ``/dns/edge.example/tcp/443/https``. The records name
    this node's peer id all the same, as the protocol demands."""

    query_timeout: float = params.QUERY_TIMEOUT_S
    """A lookup never takes longer; at most 60 s."""

    request_timeout: float = params.REQUEST_TIMEOUT_S
    """One reply from a connected peer."""

    dial_timeout: float = params.DIAL_TIMEOUT_S
    """Connecting to one peer, all of its addresses together."""

    refresh_interval: float = params.REFRESH_INTERVAL_S
    """A part of the routing table without a lookup for this long is refreshed."""

    alpha: int = params.ALPHA
    """Requests in flight in one lookup."""

    disjoint_paths: int = 1
    """Walks of a lookup for the closest peers that learn nothing of each other (S/Kademlia), 1 to
    10: a lying peer leads one of them astray. More paths make a few more requests. Where they end
    at different peers the result holds those of each, more than ``replication_factor``."""

    provide_quorum: int = params.PROVIDE_QUORUM
    """Peers that must hold a record before ``provide`` returns; it goes on until
    ``replication_factor`` do."""

    beta: int = params.BETA
    """Closest peers that must have answered before a lookup may end."""

    max_provider_records: int = params.MAX_PROVIDER_RECORDS
    """Provider records of others kept in all."""

    max_providers_per_key: int = params.MAX_PROVIDERS_PER_KEY
    """Provider records of others kept for one key."""

    address_policy: AddressPolicy = "auto"
    """See :data:`AddressPolicy`."""

    protocol: str = params.KAD_PROTOCOL
    """Protocol id; another one is another network."""

    validators: Mapping[str, Validator] = field(default_factory=dict, hash=False)
    """Validators of an application's own values, by namespace
    (:class:`codio_dht.core.validation.Validator`): ``{"v": ...}`` is asked about the keys
    ``/v/...``. ``pk`` and ``ipns`` are built in. The public network has no others, so these need a
    ``protocol`` of your own. What a validator raises, and time past 2 s, mean that the value is
    refused; nothing else waits for it."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name in _DURATIONS:
                value = getattr(self, each.name)
                if each.name == "republish_interval" and value == 0 and value is not False:
                    continue
                object.__setattr__(self, each.name, _CHECKS.seconds(value, each.name))
        object.__setattr__(self, "provider_addrs", _provider_addrs(self.provider_addrs))
        _CHECKS.whole_number(self.replication_factor, "replication_factor", params.K, MAX_K)
        _CHECKS.whole_number(self.alpha, "alpha", 1, MAX_ALPHA)
        _CHECKS.whole_number(self.disjoint_paths, "disjoint_paths", 1, MAX_DISJOINT_PATHS)
        _CHECKS.whole_number(self.provide_quorum, "provide_quorum", 1, self.replication_factor)
        _CHECKS.whole_number(self.beta, "beta", 1, self.replication_factor)
        _CHECKS.whole_number(self.max_provider_records, "max_provider_records", 1)
        _CHECKS.whole_number(self.max_providers_per_key, "max_providers_per_key", 1)
        _CHECKS.seconds(self.query_timeout, "query_timeout", params.QUERY_TIMEOUT_S)
        if self.republish_interval >= self.provider_timeout:
            raise ConfigError(
                f"republish_interval ({self.republish_interval:g} s) must be shorter than "
                f"provider_timeout ({self.provider_timeout:g} s), or records expire in between"
            )
        _CHECKS.choice(self.address_policy, "address_policy", get_args(AddressPolicy))
        for name, validator in self.validators.items():
            if not callable(getattr(validator, "validate", None)) or not callable(
                getattr(validator, "select", None)
            ):
                raise ConfigError(f"validators: that of {name!r} has no validate and select")
        check_namespaces(str(self.protocol), list(self.validators))
        if not str(self.protocol).startswith("/"):
            raise ConfigError(f"protocol must be text that starts with '/', not {self.protocol!r}")


def _provider_addrs(values: object) -> tuple[str, ...]:
    """The texts of addresses, each of which is a multiaddr.

    Raises:
        ConfigError: one of them is none.
    """
    # Slow to import, and hardly any configuration needs it.
    from codio_dht.formats.text import read_multiaddr  # noqa: PLC0415

    given = list(values) if isinstance(values, tuple) else values
    texts = tuple(_CHECKS.texts(given, "provider_addrs"))
    for text in texts:
        try:
            read_multiaddr(text)
        except FormatError as error:
            raise ConfigError(f"provider_addrs: {error}") from error
    return texts
