"""Settings of a daemon: durations, bootstrap lists, Kubo configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from multiaddr import Multiaddr

from codio_dht.daemon.service import adopt_identity
from codio_dht.daemon.settings import (
    Settings,
    apply_kubo_config,
    read_kubo_config,
)
from codio_dht.errors import ConfigError, IdentityError
from codio_dht.net.own_addresses import announce_fault

HERE = Path("/d")
PEER = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"


def test_nobody_named_means_the_public_list_and_none_means_nobody() -> None:
    assert Settings(data_dir=HERE).bootstrap_addrs == ("default",)
    assert Settings(data_dir=HERE, bootstrap=("none",)).bootstrap_addrs == ()
    assert Settings(data_dir=HERE, bootstrap=("/a", "/b", "/a")).bootstrap_addrs == ("/a", "/b")


def test_none_beside_others_is_refused() -> None:
    with pytest.raises(ConfigError):
        _ = Settings(data_dir=HERE, bootstrap=("none", "/a")).bootstrap_addrs


# --- Kubo -----------------------------------------------------------------------------------------


def kubo(path: Path, **changes: Any) -> Path:
    """A Kubo config in ``path``."""
    config: dict[str, Any] = {
        "Identity": {"PeerID": "12D3", "PrivKey": "CAES"},
        "Addresses": {
            "Swarm": [
                "/ip4/0.0.0.0/tcp/4001",
                "/ip6/::/udp/4001/quic-v1",
                "/ip4/0.0.0.0/udp/4001/webrtc-direct",
                "/ip4/0.0.0.0/udp/4001/quic-v1/webtransport",
            ],
            "AppendAnnounce": ["/ip4/192.0.2.1/tcp/4001"],
            "Announce": ["/ip4/192.0.2.2/tcp/4001"],
        },
        "Bootstrap": ["auto", f"/dnsaddr/example.org/ipfs/{PEER}"],
        "Routing": {"Type": "dhtclient"},
        **changes,
    }
    path.write_text(json.dumps(config))
    return path


def test_a_kubo_config_says_what_no_option_said(tmp_path: Path) -> None:
    config = read_kubo_config(kubo(tmp_path / "config"))
    assert config.left_out == (
        "cannot listen on /ip4/0.0.0.0/udp/4001/webrtc-direct",
        "cannot listen on /ip4/0.0.0.0/udp/4001/quic-v1/webtransport",
    )
    settings = apply_kubo_config(Settings(data_dir=HERE), config)
    assert settings.listen == ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/udp/4001/quic-v1")
    assert settings.announce == ("/ip4/192.0.2.2/tcp/4001",)
    assert settings.append_announce == ("/ip4/192.0.2.1/tcp/4001",)
    assert settings.bootstrap_addrs == ("default", f"/dnsaddr/example.org/ipfs/{PEER}")
    assert settings.mode == "client"
    said = Settings(
        data_dir=HERE,
        listen=("/l",),
        announce=("/a",),
        append_announce=("/b",),
        bootstrap=("none",),
        mode="server",
    )
    kept = apply_kubo_config(said, config)
    assert (kept.listen, kept.announce, kept.append_announce, kept.bootstrap, kept.mode) == (
        said.listen,
        said.announce,
        said.append_announce,
        said.bootstrap,
        said.mode,
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("auto", "auto"),
        ("dht", "auto"),
        ("dhtserver", "server"),
        ("dhtclient", "client"),
        ("autoclient", "client"),
        ("none", None),
        ("", None),
    ],
)
def test_the_routing_type_of_a_kubo_config_is_the_mode(
    tmp_path: Path, kind: str, mode: str | None
) -> None:
    config = read_kubo_config(kubo(tmp_path / "config", Routing={"Type": kind}))
    assert mode == config.mode
    said = [sentence for sentence in config.left_out if "Routing.Type" in sentence]
    assert (kind == "none") == bool(said)


def test_a_kubo_config_without_bootstrap_peers_means_none(tmp_path: Path) -> None:
    config = read_kubo_config(kubo(tmp_path / "config", Bootstrap=None))
    assert apply_kubo_config(Settings(data_dir=HERE), config).bootstrap_addrs == ()


def test_what_a_kubo_config_asks_for_and_this_node_does_not_do_is_said(tmp_path: Path) -> None:
    addresses = {
        "Swarm": ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"],
        "Announce": ["/ip4/192.0.2.1/tcp/0", "nonsense", "/ip4/192.0.2.1/tcp/1"],
        "AppendAnnounce": ["/ip4/192.0.2.1"],
        "NoAnnounce": ["/ip4/10.0.0.0/ipcidr/8"],
    }
    path = kubo(
        tmp_path / "config",
        Addresses=addresses,
        Swarm={"AddrFilters": ["/ip4/10.0.0.0/ipcidr/8", "/ip4/100.64.0.0/ipcidr/10"]},
        Bootstrap=["/ip4/192.0.2.1/tcp/1", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"],
    )

    filters = "/ip4/10.0.0.0/ipcidr/8, /ip4/100.64.0.0/ipcidr/10"

    config = read_kubo_config(path)

    assert config.listen == ("/ip4/127.0.0.1/tcp/1",)
    assert config.announce == ("/ip4/192.0.2.1/tcp/1",)
    assert config.append_announce == ()
    assert config.bootstrap == (f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}",)
    assert config.left_out == (
        "Addresses.NoAnnounce is not supported: no address filters apply to /ip4/10.0.0.0/ipcidr/8",
        f"Swarm.AddrFilters is not supported: no address filters apply to {filters}",
        "cannot announce /ip4/192.0.2.1/tcp/0: it has port 0, which nobody can dial",
        "cannot announce nonsense: it is not a multiaddr",
        f"cannot announce /ip4/192.0.2.1: it {announce_fault(Multiaddr('/ip4/192.0.2.1'))}",
        "cannot join through /ip4/192.0.2.1/tcp/1: it is not an address with a peer id",
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"Addresses": []}, None),
        ({"Addresses": "x"}, "Addresses"),
        ({"Addresses": {"Swarm": "x"}}, "Addresses.Swarm"),
        ({"Addresses": {"Swarm": [1]}}, "Addresses.Swarm"),
        ({"Bootstrap": {}}, None),
        ({"Bootstrap": [None]}, "Bootstrap"),
        ({"Routing": {"Type": 3}}, "Routing.Type"),
    ],
)
def test_a_kubo_config_of_the_wrong_shape_names_the_key(
    tmp_path: Path, changes: dict[str, Any], named: str | None
) -> None:
    path = kubo(tmp_path / "config", **changes)
    if named is None:  # empty is as good as absent
        read_kubo_config(path)
        return
    with pytest.raises(ConfigError, match=named):
        read_kubo_config(path)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 60_000, b" " * (5 * 2**20)])
def test_a_file_that_is_no_kubo_config_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config").write_bytes(data)
    with pytest.raises(ConfigError):
        read_kubo_config(tmp_path / "config")


def test_the_private_key_is_in_no_repr(tmp_path: Path) -> None:
    config = read_kubo_config(kubo(tmp_path / "config"))
    assert "CAES" not in repr(config)
    assert "CAES" not in repr(apply_kubo_config(Settings(data_dir=HERE), config))


def test_a_config_without_a_key_is_no_identity(tmp_path: Path) -> None:
    config = read_kubo_config(kubo(tmp_path / "config"))
    with pytest.raises(IdentityError):
        adopt_identity(config.text, tmp_path)
    assert not (tmp_path / "identity.key").exists()
