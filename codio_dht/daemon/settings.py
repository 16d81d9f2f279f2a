"""What a daemon is started with, read from options and files before anything runs.

Decides defaults and what a Kubo configuration contributes; checking addresses and durations in
depth is the node's, which refuses them with the same words wherever they come from.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from codio_dht.checks import Checks
from codio_dht.errors import ConfigError, FormatError, UsageError

ModeName = Literal["auto", "server", "client"]
StackName = Literal["own", "py-libp2p"]

DEFAULT_LISTEN_IP4: Final = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1")
DEFAULT_LISTEN_IP6: Final = ("/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1")
"""Left out where the machine has no IPv6."""

NO_BOOTSTRAP: Final = "none"
DEFAULT_BOOTSTRAP: Final = "default"

_CHECKS: Final = Checks(ConfigError)

MAX_KUBO_CONFIG_BYTES: Final = 4 * 1024 * 1024
"""A larger file is not a Kubo configuration."""

_LISTENABLE = re.compile(r"/ip[46]/[^/]+/(tcp/\d+|udp/\d+/quic-v1)")
"""What this node's stack can listen on."""

_KUBO_AUTO: Final = "auto"
"""Stands for the public network's bootstrap peers in a Kubo configuration (since Kubo 0.37)."""

_KUBO_MODES: Final[dict[str, ModeName]] = {
    "dht": "auto",
    "auto": "auto",
    "autoclient": "client",
    "dhtclient": "client",
    "dhtserver": "server",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run a daemon. ``None`` or empty means: not said, use the default."""

    data_dir: Path
    listen: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    append_announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()
    mode: ModeName | None = None
    stack: StackName = "own"
    as_json: bool = False
    log_level: str = "info"
    provider_timeout_s: float | None = None
    republish_interval_s: float | None = None
    provider_addrs: tuple[str, ...] = ()
    protocol: str | None = None
    deny_lists: tuple[Path, ...] = ()
    kubo_config: str | None = field(default=None, repr=False)
    """Text of a Kubo config whose key becomes this node's identity."""

    @property
    def bootstrap_addrs(self) -> tuple[str, ...]:
        """Whom to join through: addresses, ``default``, or nothing for ``none``.

        Raises:
            ConfigError: ``none`` stands beside others.
        """
        chosen = self.bootstrap or (DEFAULT_BOOTSTRAP,)
        if NO_BOOTSTRAP in chosen:
            if len(set(chosen)) > 1:
                raise ConfigError("--bootstrap none cannot stand beside other bootstrap peers")
            return ()
        return tuple(dict.fromkeys(chosen))


# --- a Kubo configuration -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KuboConfig:
    """What a Kubo configuration file says that this node can use."""

    text: str = field(repr=False)
    """The whole file, for what reads the key."""

    listen: tuple[str, ...]
    announce: tuple[str, ...]
    append_announce: tuple[str, ...]
    bootstrap: tuple[str, ...]
    mode: ModeName | None
    left_out: tuple[str, ...]
    """What the file asks for and this node does not do, a sentence each."""


def read_kubo_config(path: Path) -> KuboConfig:
    """Read a Kubo ``config`` file.

    Raises:
        ConfigError: it cannot be read or is not one; the message names the key at fault.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KUBO_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the Kubo config {path}: {error.strerror}") from error
    if len(data) > MAX_KUBO_CONFIG_BYTES:
        raise ConfigError(f"{path} is too large to be a Kubo config")
    try:
        text = data.decode()
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON, so not a Kubo config") from error
    return _kubo_config(_Section(config, str(path)), text)


def apply_kubo_config(settings: Settings, kubo: KuboConfig) -> Settings:
    """The settings with what the file adds; what was said on the command line stays."""
    return replace(
        settings,
        listen=settings.listen or kubo.listen,
        announce=settings.announce or kubo.announce,
        append_announce=settings.append_announce or kubo.append_announce,
        bootstrap=settings.bootstrap or kubo.bootstrap,
        mode=settings.mode or kubo.mode,
        kubo_config=kubo.text,
    )


class _Section:
    """A JSON object of the file, read by key; complaints name the key's path."""

    def __init__(self, value: object, name: str) -> None:
        self._value = _CHECKS.table(value, name)
        self._name = name

    def section(self, key: str) -> _Section:
        return _Section(self._value.get(key) or {}, key)

    def text(self, key: str) -> str:
        return _CHECKS.text(self._value.get(key) or "", f"{self._name}.{key}")

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(_CHECKS.texts(self._value.get(key) or [], f"{self._name}.{key}"))


def _kubo_config(root: _Section, text: str) -> KuboConfig:
    addresses = root.section("Addresses")
    swarm = tuple(dict.fromkeys(addresses.texts("Swarm")))
    left_out = [f"cannot listen on {addr}" for addr in swarm if not _LISTENABLE.fullmatch(addr)]
    unsupported = (
        ("Addresses.NoAnnounce", addresses.texts("NoAnnounce")),
        ("Swarm.AddrFilters", root.section("Swarm").texts("AddrFilters")),
    )
    left_out += [
        f"{name} is not supported: no address filters apply to {', '.join(values)}"
        for name, values in unsupported
        if values
    ]
    kind = root.section("Routing").text("Type")
    if kind and kind not in _KUBO_MODES:
        left_out.append(f"Routing.Type {kind} is no mode of a DHT node: the mode is auto")
    announce = _announced(addresses.texts("Announce"), left_out)
    append_announce = _announced(addresses.texts("AppendAnnounce"), left_out)
    bootstrap = _kubo_bootstrap(root, left_out)
    return KuboConfig(
        text=text,
        listen=tuple(addr for addr in swarm if _LISTENABLE.fullmatch(addr)),
        announce=announce,
        append_announce=append_announce,
        bootstrap=bootstrap,
        mode=_KUBO_MODES.get(kind),
        left_out=tuple(left_out),
    )


def _announced(addrs: tuple[str, ...], left_out: list[str]) -> tuple[str, ...]:
    """Those of ``addrs`` that others can dial; a sentence on each other one joins ``left_out``."""
    # Slow to import, and no client command needs it.
    from codio_dht.formats.text import read_multiaddr  # noqa: PLC0415
    from codio_dht.net.own_addresses import announce_fault  # noqa: PLC0415

    kept = []
    for addr in dict.fromkeys(addrs):
        try:
            fault = announce_fault(read_multiaddr(addr))
        except FormatError:
            fault = "is not a multiaddr"
        if fault is None:
            kept.append(addr)
        else:
            left_out.append(f"cannot announce {addr}: it {fault}")
    return tuple(kept)


def _kubo_bootstrap(root: _Section, left_out: list[str]) -> tuple[str, ...]:
    """The peers to join through; a sentence on each unreadable one joins ``left_out``."""
    from codio_dht.node.arguments import bootstrap_argument  # noqa: PLC0415 - as above

    kept = []
    for addr in root.texts("Bootstrap"):
        chosen = DEFAULT_BOOTSTRAP if addr == _KUBO_AUTO else addr
        try:
            bootstrap_argument([chosen])
        except UsageError:
            left_out.append(f"cannot join through {addr}: it is not an address with a peer id")
        else:
            kept.append(chosen)
    return tuple(kept) or (NO_BOOTSTRAP,)
