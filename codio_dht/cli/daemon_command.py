"""``codio-dht daemon`` and ``codio-dht demo``: turns options into settings for the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from codio_dht import __version__
from codio_dht.cli.options import Duration, chosen_data_dir, data_dir_option
from codio_dht.cli.output import ExitCode, Output, complain
from codio_dht.daemon.settings import (
    KuboConfig,
    ModeName,
    Settings,
    StackName,
    apply_kubo_config,
    read_kubo_config,
)


@click.command()
@data_dir_option
@click.option(
    "--listen",
    multiple=True,
    envvar="CODIO_DHT_LISTEN",
    metavar="MULTIADDR",
    help="Listen here (repeatable).  [default: TCP and QUIC on port 4001, IPv4 and IPv6]",
)
@click.option(
    "--announce",
    multiple=True,
    envvar="CODIO_DHT_ANNOUNCE",
    metavar="MULTIADDR",
    help="Tell others these addresses instead of the ones listened on (repeatable).",
)
@click.option(
    "--append-announce",
    multiple=True,
    envvar="CODIO_DHT_APPEND_ANNOUNCE",
    metavar="MULTIADDR",
    help="Tell others these addresses too (repeatable).",
)
@click.option(
    "--bootstrap",
    multiple=True,
    envvar="CODIO_DHT_BOOTSTRAP",
    metavar="MULTIADDR|default|none",
    help="Join through these peers (repeatable); default is the public network's list.",
)
@click.option(
    "--mode",
    type=click.Choice(["auto", "server", "client"]),
    envvar="CODIO_DHT_MODE",
    help="Serve the DHT, only use it, or decide by reachability.  [default: auto]",
)
@click.option(
    "--stack",
    type=click.Choice(["own", "py-libp2p"]),
    default="own",
    envvar="CODIO_DHT_STACK",
    show_default=True,
    help="The libp2p implementation: our own, or py-libp2p (the extra codio-dht[libp2p]).",
)
@click.option(
    "--provider-timeout",
    type=Duration(),
    envvar="CODIO_DHT_PROVIDER_TIMEOUT",
    help="How long records of others are kept.  [default: 24h; 48h with --bootstrap default]",
)
@click.option(
    "--republish-interval",
    type=Duration(),
    envvar="CODIO_DHT_REPUBLISH_INTERVAL",
    help="How often own keys are provided again.  [default: 12h]",
)
@click.option(
    "--provider-addr",
    "provider_addrs",
    multiple=True,
    envvar="CODIO_DHT_PROVIDER_ADDRS",
    metavar="MULTIADDR",
    help="Where the content is served, if that is not this node (repeatable), such as"
    " /dns/edge.example/tcp/443/https.",
)
@click.option(
    "--protocol",
    envvar="CODIO_DHT_PROTOCOL",
    metavar="ID",
    help="Protocol id of the DHT; another id is another network, such as /ipfs/lan/kad/1.0.0, which"
    " Kubo nodes speak on a LAN.  [default: /ipfs/kad/1.0.0]",
)
@click.option(
    "--deny-list",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CODIO_DHT_DENY_LIST",
    metavar="FILE",
    help="Have no part in the keys, peers and networks of this list (repeatable; badbits.deny"
    " format), which is read again when it changes.",
)
@click.option(
    "--import-kubo-config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CODIO_DHT_IMPORT_KUBO_CONFIG",
    metavar="FILE",
    help="Take identity, addresses, bootstrap and mode from a Kubo config; options go first.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="CODIO_DHT_JSON",
    help="Ready line on stdout and log lines on stderr as JSON.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    envvar="CODIO_DHT_LOG_LEVEL",
    show_default=True,
)
@click.pass_context
def daemon(ctx: click.Context, /, import_kubo_config: Path | None, **options: Any) -> int:
    """Run a DHT node in the foreground. Ctrl-C, SIGTERM or a closed terminal stops it cleanly.

    With --json the first line on stdout is {"ready":true,"peer_id":...,"addrs":[...]}.

    \b
    Examples:
      codio-dht daemon
      codio-dht daemon --listen /ip4/127.0.0.1/tcp/0 --bootstrap none --data-dir /tmp/node1
      codio-dht daemon --bootstrap /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW... --mode server
    """
    settings = _settings(ctx, options)
    kubo = read_kubo_config(import_kubo_config) if import_kubo_config else None
    if kubo is not None:
        settings = _with_kubo(settings, kubo)
    settings.bootstrap_addrs  # noqa: B018 - refused before anything is imported or opened
    from codio_dht.daemon.service import run  # noqa: PLC0415 - trio, which no other command needs

    return run(settings, __version__)


def _settings(ctx: click.Context, options: dict[str, Any]) -> Settings:
    return Settings(
        data_dir=chosen_data_dir(ctx, options["data_dir"]),
        listen=options["listen"],
        announce=options["announce"],
        append_announce=options["append_announce"],
        bootstrap=options["bootstrap"],
        mode=cast("ModeName | None", options["mode"]),
        stack=cast("StackName", options["stack"]),
        as_json=options["as_json"],
        log_level=options["log_level"].lower(),
        provider_timeout_s=options["provider_timeout"],
        republish_interval_s=options["republish_interval"],
        provider_addrs=options["provider_addrs"],
        protocol=options["protocol"],
        deny_lists=options["deny_list"],
    )


def _with_kubo(settings: Settings, kubo: KuboConfig) -> Settings:
    for sentence in kubo.left_out:
        complain(f"from the Kubo config, left out: {sentence}")
    return apply_kubo_config(settings, kubo)


@click.command()
@click.option("--nodes", type=click.IntRange(3, 200), default=25, show_default=True)
@click.option("--json", "as_json", is_flag=True, envvar="CODIO_DHT_JSON", help="NDJSON steps.")
def demo(nodes: int, as_json: bool) -> ExitCode:
    """Watch a private network of 25 nodes in this process provide and find something.

    Nothing outside this machine is contacted. The exit code says whether it worked.
    """
    from codio_dht.daemon import demo as network  # noqa: PLC0415 - as in daemon

    out = Output(as_json=as_json, doing=f"starting {nodes} nodes")
    worked = network.run(nodes, lambda step: out.result(step.as_json(), *step.as_text()), out.tick)
    return ExitCode.OK if worked else ExitCode.FAILED
