"""What a user may set, typed and checked at the edge. Decides nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from codio_dht import params
from codio_dht.errors import ConfigError

AddressPolicy = Literal["auto", "all", "public"]
"""Which addresses of others are kept and told: ``public`` drops private and loopback ones, ``all``
keeps everything, ``auto`` is ``public`` on a public node and ``all`` on a loopback or LAN one."""

_DURATIONS = frozenset(
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
    """How often own keys are announced again; shorter than ``provider_timeout``."""

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

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in _DURATIONS:
                object.__setattr__(
                    self, field.name, _seconds(field.name, getattr(self, field.name))
                )
        _require_int("replication_factor", self.replication_factor, params.K, params.MAX_K)
        _require_int("alpha", self.alpha, 1, params.MAX_ALPHA)
        _require_int("disjoint_paths", self.disjoint_paths, 1, params.MAX_DISJOINT_PATHS)
        _require_int("provide_quorum", self.provide_quorum, 1, self.replication_factor)
        _require_int("beta", self.beta, 1, self.replication_factor)
        _require_int("max_provider_records", self.max_provider_records, 1, None)
        _require_int("max_providers_per_key", self.max_providers_per_key, 1, None)
        if self.query_timeout > params.QUERY_TIMEOUT_S:
            raise ConfigError(
                f"query_timeout must be at most {params.QUERY_TIMEOUT_S:g} s, "
                f"not {self.query_timeout:g}"
            )
        if self.republish_interval >= self.provider_timeout:
            raise ConfigError(
                f"republish_interval ({self.republish_interval:g} s) must be shorter than "
                f"provider_timeout ({self.provider_timeout:g} s), or records expire in between"
            )
        if self.address_policy not in get_args(AddressPolicy):
            raise ConfigError(
                f"address_policy must be one of {', '.join(get_args(AddressPolicy))}, "
                f"not {self.address_policy!r}"
            )
        if not str(self.protocol).startswith("/"):
            raise ConfigError(f"protocol must be text that starts with '/', not {self.protocol!r}")


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be positive and finite, not {value!r}")
    return float(value)


def _require_int(name: str, value: Any, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be an integer, not {value!r}")
    if value < low or (high is not None and value > high):
        upper = "" if high is None else f" and at most {high}"
        raise ConfigError(f"{name} must be at least {low}{upper}, not {value}")
