"""The commands that talk to a running daemon: their requests, and how they show the answers.

Decides text and exit codes. The daemon decides what may be asked: arguments go to it unchanged, and
a refusal comes back with its reason.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import click

from codio_dht import __version__
from codio_dht.checks import cleaned
from codio_dht.cli.client import DaemonDownError
from codio_dht.cli.options import Session, client_command
from codio_dht.cli.output import (
    ExitCode,
    complain,
    exit_code_of,
    milliseconds,
    stat_lines,
    walk_line,
)

_STDIN: Final = "-"
_READ_BYTES: Final = 64 * 1024
_DEFAULT_PROVIDERS: Final = 20
_DEFAULT_PINGS: Final = 5
_CIDS_AT_ONCE: Final = 500
"""CIDs of one request when there are many: it stays within the longest line of the API."""

_verbose = click.option("-v", "--verbose", is_flag=True, help="Show addresses and more.")


@click.command(name="id")
@click.argument("peer", required=False)
@client_command("looking")
def show_id(session: Session, peer: str | None) -> ExitCode:
    """Show this node's identity and addresses, or PEER's.

    \b
    Examples:
      codio-dht id
      codio-dht id --json | jq -r '.addrs[0]'
      codio-dht id 12D3KooW...
    """
    result = session.call("id", {} if peer is None else {"peer": peer})
    fields = {key: value for key, value in result.items() if value not in (None, [])}
    lines = [f"{'peer_id':<10} {fields.pop('peer_id')}"]
    lines += [f"{'addr':<10} {addr}" for addr in fields.pop("addrs", [])]
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"{name.removesuffix('s'):<10} {_plain(each)}" for each in values]
    session.out.result(result, *lines)
    return ExitCode.OK


@click.group()
def provide() -> None:
    """Provide content: keep keys provided, or provide them once.

    A key that is kept is provided now, and again before its records expire, also after a restart,
    until it is removed. CID may be written as ipfs://CID; "-" reads CIDs from standard input, one a
    line.
    """


@provide.command(name="add")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@client_command("providing")
def provide_add(session: Session, cids: Sequence[str]) -> ExitCode:
    """Provide CIDs now and keep them provided.

    \b
    Examples:
      codio-dht provide add bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy
      ipfs pin ls -q --type=recursive | codio-dht provide add -
    """
    return _provide(session, "provide.add", cids)


@provide.command(name="once")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@client_command("providing")
def provide_once(session: Session, cids: Sequence[str]) -> ExitCode:
    """Provide CIDs now and forget them: their records expire."""
    return _provide(session, "provide.once", cids)


@provide.command(name="many")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@client_command("saving")
def provide_many(session: Session, cids: Sequence[str]) -> ExitCode:
    """Keep very many CIDs provided: returns when they are saved.

    They are provided in the background, region by region; "provide stat" shows how far that is.

    \b
    Examples:
      ipfs refs local | codio-dht provide many -
    """
    return _many(session, "provide.many", cids, "added")


@provide.command(name="rm")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@client_command("removing")
def provide_rm(session: Session, cids: Sequence[str]) -> ExitCode:
    """Stop providing CIDs. Records that others hold expire in their time."""
    return _provide(session, "provide.rm", cids)


@provide.command(name="rm-many")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@client_command("removing")
def provide_rm_many(session: Session, cids: Sequence[str]) -> ExitCode:
    """Stop providing very many CIDs; those that are not provided do not matter."""
    return _many(session, "provide.rm_many", cids, "removed")


@provide.command(name="stat")
@click.argument("cid", required=False)
@client_command("asking")
def provide_stat(session: Session, cid: str | None) -> ExitCode:
    """Show how the keys stand that are kept provided, or the one of CID: when it was provided, who
    holds it, and when it is provided next.

    \b
    Examples:
      codio-dht provide stat
      codio-dht provide stat bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy
    """
    result = session.call("provide.stat", {} if cid is None else {"cid": cid})
    session.out.result(result, *stat_lines(result, time.time()))
    return ExitCode.OK


@provide.command(name="ls")
@client_command("listing")
def provide_ls(session: Session) -> ExitCode:
    """List the keys that are kept provided, as they were given.

    The DHT knows a CID only by its multihash: keys of which no more is known are shown as CIDs of
    codec raw.
    """
    session.call("provide.ls", {}, lambda item: session.out.result(item, item["cid"]))
    return ExitCode.OK


@click.command()
@click.argument("cid")
@click.option(
    "-n",
    "--num",
    "count",
    type=click.IntRange(0),
    default=_DEFAULT_PROVIDERS,
    show_default=True,
    help="Stop after this many; 0 finds all.",
)
@_verbose
@client_command("finding providers")
def findprovs(session: Session, cid: str, count: int, verbose: bool) -> ExitCode:
    """Find peers that provide CID, one a line as they are found.

    \b
    Examples:
      codio-dht findprovs bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy
      codio-dht findprovs -n 1 --timeout 10s ipfs://QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG
    """
    show = _peer_line(session, verbose=verbose)
    result = session.call("findprovs", {"cid": cid, "count": count}, show)
    return _found(result, f"no providers of {cid} were found")


@click.command()
@click.argument("peer")
@client_command("finding the peer")
def findpeer(session: Session, peer: str) -> ExitCode:
    """Find the addresses of PEER, one a line."""
    result = session.call("findpeer", {"peer": peer})
    session.out.result(result, *result["addrs"])
    return ExitCode.OK


@click.command()
@click.argument("key")
@click.option("--local", is_flag=True, help="From this node's routing table; asks nobody.")
@click.option("--trace", is_flag=True, help="Show the walk as it happens, then the peers.")
@_verbose
@client_command("looking for the closest peers")
def closest(session: Session, key: str, local: bool, trace: bool, verbose: bool) -> ExitCode:
    """Find the peers closest to KEY, nearest first.

    KEY is a peer id, a CID, or 0x and the bytes of any key in hex. It is the preimage: its SHA-256
    is the point in the keyspace, as for everything else in the DHT.

    \b
    Examples:
      codio-dht closest 12D3KooW...
      codio-dht closest 0x68656c6c6f
      codio-dht closest 0x68656c6c6f --trace
    """
    show_peer = _peer_line(session, verbose=verbose)

    def show(item: Any) -> None:
        if "event" in item:
            session.out.result(item, walk_line(item))
        else:
            show_peer(item)

    params = {"key": key, "local": local, **({"trace": True} if trace else {})}
    result = session.call("closest", params, show)
    if result.get("missed"):
        complain(f"{result['missed']} events of the walk came too fast to be shown")
    return _found(result, "the routing table is empty" if local else "no peer answered")


@click.command()
@click.argument("target", metavar="PEER|MULTIADDR")
@click.option(
    "-c",
    "--count",
    type=click.IntRange(1),
    default=_DEFAULT_PINGS,
    show_default=True,
    help="How many pings.",
)
@click.option("-i", "--interval", type=float, default=1.0, show_default=True, help="Seconds.")
@client_command("pinging")
def ping(session: Session, target: str, count: int, interval: float) -> ExitCode:
    """Measure round trips to a peer, given by id or by address."""

    def show(item: Any) -> None:
        took = item.get("seconds")
        text = f"failed: {item.get('error')}" if took is None else f"time={milliseconds(took)}"
        session.out.result(item, f"{item['peer_id']}: seq={item['seq']} {text}")

    params = {"target": target, "count": count, "interval": interval}
    result = session.call("ping", params, show)
    times = "/".join(milliseconds(result[name]) for name in ("min", "avg", "max"))
    summary = f"{result['received']} of {result['sent']} answered, min/avg/max {times}"
    session.out.result(result, summary)
    return ExitCode.OK


@click.group()
def swarm() -> None:
    """Look at connections, and make them."""


@swarm.command(name="peers")
@_verbose
@client_command("listing")
def swarm_peers(session: Session, verbose: bool) -> ExitCode:
    """List connected peers, one a line."""

    def show(item: Any) -> None:
        line = item["addr"] or item["peer_id"]
        more = f" {item['direction']} {item['agent']}" if verbose else ""
        session.out.result(item, line + more)

    session.call("swarm.peers", {}, show)
    return ExitCode.OK


@swarm.command(name="connect")
@click.argument("addr", metavar="MULTIADDR")
@client_command("connecting")
def swarm_connect(session: Session, addr: str) -> ExitCode:
    """Connect to the peer at MULTIADDR, which ends in /p2p/PEER."""
    result = session.call("swarm.connect", {"addr": addr})
    session.out.result(result, f"connected to {result['peer_id']}")
    return ExitCode.OK


@click.command()
@client_command("asking")
def stats(session: Session) -> ExitCode:
    """Show what the node knows, holds and has done."""
    result = session.call("stats", {})
    rows = list(_flat(result))
    width = max((len(name) for name, _ in rows), default=0)
    session.out.result(result, *(f"{name:<{width}}  {value}" for name, value in rows))
    return ExitCode.OK


@click.command()
@click.argument("addrs", metavar="[MULTIADDR...]", nargs=-1)
@client_command("joining")
def bootstrap(session: Session, addrs: Sequence[str]) -> ExitCode:
    """Join the network through MULTIADDRs, or again through the daemon's own bootstrap peers."""
    result = session.call("bootstrap", {"addrs": list(addrs)})
    session.out.result(
        result,
        f"{result['answered']} bootstrap peers answered; {result['num_peers']} peers connected,"
        f" {result['routing_table_size']} in the routing table, after"
        f" {milliseconds(result['seconds'])}",
    )
    return ExitCode.OK


@click.command(name="version")
@client_command("asking")
def show_version(session: Session) -> ExitCode:
    """Show the version of this command, and of the daemon if one runs."""
    own = __version__
    value: dict[str, Any] = {"version": own, "python": platform.python_version(), "daemon": None}
    lines = [f"codio-dht {own} (Python {value['python']})"]
    try:
        value["daemon"] = session.call("version", {})
    except DaemonDownError:
        lines.append("no daemon is running")
    else:
        lines.append(f"daemon {value['daemon']['version']} (Python {value['daemon']['python']})")
    session.out.result(value, *lines)
    return ExitCode.OK


SECTIONS: Final[Sequence[tuple[str, Sequence[click.Command]]]] = (
    ("Provide and find content", (provide, findprovs)),
    ("Find and reach peers", (findpeer, closest, ping, swarm, bootstrap)),
    ("Look at the node", (show_id, stats, show_version)),
)
"""The commands by what they are for, as the help lists them."""


# --- shared ---------------------------------------------------------------------------------------


def _provide(session: Session, method: str, cids: Sequence[str]) -> ExitCode:
    """Make one request for each CID. The first failure decides the exit code. The others go on."""
    worst = ExitCode.OK
    with session.client() as client:
        for outcome in client.call_many(method, _subjects(cids), lambda cid: {"cid": cid}):
            error = outcome.error
            if error is None:
                session.out.result(outcome.value, _provided(outcome.value))
                continue
            worst = worst or exit_code_of(error.code)
            if session.out.as_json:
                fault = {"code": error.code, "message": error.message}
                session.out.result({"cid": outcome.subject, "error": fault})
            session.out.clear()
            complain(f"{outcome.subject}: {error.message}")
    return worst


def _many(session: Session, method: str, cids: Sequence[str], changed: str) -> ExitCode:
    """Make one request for each ``_CIDS_AT_ONCE`` CIDs, and show how far it is."""
    worst, total = ExitCode.OK, {"keys": 0, changed: 0}
    with session.client() as client:
        chunks = _chunks(_subjects(cids))
        for outcome in client.call_many(method, chunks, lambda chunk: {"cids": chunk.split()}):
            if outcome.error is None:
                total = {name: count + outcome.value[name] for name, count in total.items()}
                session.out.count = total["keys"]
                continue
            worst = worst or exit_code_of(outcome.error.code)
            session.out.clear()
            complain(f"{outcome.error.message} (none of these {len(outcome.subject.split())})")
    session.out.result(total, f"{total['keys']} CIDs, {total[changed]} {changed}")
    return worst


def _chunks(cids: Iterator[str]) -> Iterator[str]:
    """``cids`` joined with blanks, ``_CIDS_AT_ONCE`` at a time."""
    while chunk := list(islice(cids, _CIDS_AT_ONCE)):
        yield " ".join(chunk)


def _provided(value: Any) -> str:
    if "holders" not in value:
        return str(value["cid"])
    took = milliseconds(value["seconds"])
    held = f"{value['cid']} held by {value['holders']}"
    if value.get("pending"):
        return f"{held} peers, {value['pending']} more under way, {took}"
    return f"{held} of {value['attempted']} peers asked, {took}"


def _subjects(arguments: Sequence[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == _STDIN:
            yield from _stdin_lines()
        else:
            yield argument


def _stdin_lines() -> Iterator[str]:
    """Lines of standard input as they come; blank ones and ``#`` comments are left out.

    The reading is unbuffered, because this runs in a thread and the lock of a buffer would block
    the exit of the process.
    """
    pending = b""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        while data := stdin.read(_READ_BYTES):
            *lines, pending = (pending + data).split(b"\n")
            yield from _cids(lines)
    yield from _cids([pending])


def _cids(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        text = cleaned(line.decode("utf-8", "replace"))
        if text and not text.startswith("#"):
            yield text


def _peer_line(session: Session, *, verbose: bool) -> Any:
    shown: set[str] = set()

    def show(item: Any) -> None:
        peer_id = item["peer_id"]
        if peer_id in shown and not (verbose or session.out.as_json):
            return  # come again, now with addresses, which are not shown
        shown.add(peer_id)
        session.out.result(item, " ".join([peer_id, *(item["addrs"] if verbose else [])]))

    return show


def _found(result: Any, nothing: str) -> ExitCode:
    if result["found"]:
        return ExitCode.OK
    complain(nothing)
    return ExitCode.FAILED


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A tree of results as rows: first plain values, then nested ones."""
    nested = []
    for name, item in value.items():
        if isinstance(item, dict):
            nested.append((name, item))
        else:
            yield prefix + name, _plain(item)
    for name, item in nested:
        yield from _flat(item, f"{prefix}{name}.")


def _plain(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value)) or "-"
        case _:
            return str(value)
