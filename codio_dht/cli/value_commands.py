"""The commands for values, IPNS names and their keys: their requests, and how they show the
answers.

Decides text and exit codes; a refusal of the daemon comes back with its reason.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import click

from codio_dht.cli.options import Duration, Session, client_command
from codio_dht.cli.output import ExitCode, milliseconds
from codio_dht.errors import UsageError

MAX_VALUE_BYTES: Final = 64 * 1024
"""Longest value that a node takes, bytes: more is not even read."""

_quorum = click.option(
    "--quorum",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="End early after more than so many answers; 0 asks all that should know.",
)
_key = click.option(
    "-k", "--key", "label", default="self", show_default=True, help="The key that signs."
)


@click.command()
@click.argument("key")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--keep", is_flag=True, help="Put it again every 4 hours, over restarts too.")
@client_command("putting the value")
def put(session: Session, key: str, file: IO[bytes], keep: bool) -> ExitCode:
    """Store what is in FILE (or standard input) under KEY in the DHT.

    KEY is /namespace/rest. On the public network there are /pk/PEER and /ipns/NAME, whose values
    are public keys and signed records; "name publish" makes those.

    \b
    Examples:
      codio-dht put /ipns/k51... record.ipns-record
      printf hello | codio-dht put /myapp/greeting
    """
    params = {"key": key, "value": b64encode(_content(file)).decode(), "keep": keep}
    result = session.call("value.put", params)
    session.out.result(result, f"{key} {_held(result)}")
    return ExitCode.OK


@click.command()
@click.argument("key")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file."
)
@_quorum
@client_command("looking for the value")
def get(session: Session, key: str, output: Path | None, quorum: int) -> ExitCode:
    """Find the best value of KEY in the DHT, and write it to standard output as it is.

    \b
    Examples:
      codio-dht get /ipns/k51... -o record.ipns-record
      codio-dht get /pk/Qm... | sha256sum
    """
    result = session.call("value.get", {"key": key, "quorum": quorum})
    value = b64decode(result["value"])
    if output is not None:
        output.write_bytes(value)
        session.out.result(result, f"{result['bytes']} bytes in {milliseconds(result['seconds'])}")
    elif session.out.as_json:
        session.out.result(result)
    else:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    return ExitCode.OK


@click.group()
def name() -> None:
    """Publish IPNS names and find out what they stand for.

    A name is the id of a key ("key ls"), written k51...; it stands for a path, which may change.
    """


@name.command(name="publish")
@click.argument("path")
@_key
@click.option(
    "--lifetime", type=Duration(), default="48h", show_default=True, help="How long a record holds."
)
@click.option(
    "--ttl", type=Duration(), default="5m", show_default=True, help="How long others may keep it."
)
@client_command("publishing the name")
def publish(session: Session, path: str, label: str, lifetime: float, ttl: float) -> ExitCode:
    """Let a name stand for PATH, and keep it published until "name unpublish".

    \b
    Examples:
      codio-dht name publish /ipfs/bafybei...
      codio-dht key gen blog && codio-dht name publish --key blog /ipfs/bafybei...
    """
    params = {"path": path, "key": label, "lifetime": lifetime, "ttl": ttl}
    result = session.call("name.publish", params)
    session.out.result(result, f"{result['name']} -> {result['value']}, {_held(result)}")
    return ExitCode.OK


@name.command(name="unpublish")
@_key
@client_command("asking")
def unpublish(session: Session, label: str) -> ExitCode:
    """Stop publishing a name. Records that others hold expire in their time."""
    result = session.call("name.unpublish", {"key": label})
    session.out.result(result, f"{label} is not published any more")
    return ExitCode.OK


@name.command(name="resolve")
@click.argument("name")
@click.option(
    "--recursive/--no-recursive", default=True, show_default=True, help="Follow names of names."
)
@_quorum
@client_command("resolving the name")
def resolve(session: Session, name: str, recursive: bool, quorum: int) -> ExitCode:
    """Find the path that NAME stands for.

    \b
    Examples:
      codio-dht name resolve k51...
      codio-dht name resolve https://k51....ipns.dweb.link/about
    """
    params = {"name": name, "recursive": recursive, "quorum": quorum}
    result = session.call("name.resolve", params)
    session.out.result(result, result["path"])
    return ExitCode.OK


@name.command(name="inspect")
@click.argument("record", metavar="NAME|FILE|-")
@click.option("--name", "verify_with", help="The name that a record in a file should be of.")
@client_command("looking for the record")
def inspect(session: Session, record: str, verify_with: str | None) -> ExitCode:
    """Show everything in an IPNS record: of a name, or in a file ("-" is standard input)."""
    params: dict[str, Any] = {}
    if record == "-" or Path(record).is_file():
        with click.open_file(record, "rb") as file:
            params["record"] = b64encode(_content(file)).decode()
        if verify_with is not None:
            params["name"] = verify_with
    else:
        params["name"] = record
    result = session.call("name.inspect", params)
    shown = {key: value for key, value in result.items() if value not in (None, [])}
    shown.pop("record")
    shown["eol"] = datetime.fromtimestamp(result["eol"], UTC).isoformat(timespec="seconds")
    session.out.result(result, *(f"{key:<10}  {_plain(value)}" for key, value in shown.items()))
    return ExitCode.OK if result["valid"] == "yes" or "name" not in params else ExitCode.FAILED


@click.group(name="key")
def keys() -> None:
    """Make, list and remove the keys of IPNS names."""


@keys.command(name="gen")
@click.argument("label", metavar="KEY")
@client_command("making the key")
def generate(session: Session, label: str) -> ExitCode:
    """Make a new Ed25519 key called KEY, and show its name."""
    result = session.call("key.gen", {"key": label})
    session.out.result(result, result["name"])
    return ExitCode.OK


@keys.command(name="ls")
@client_command("listing")
def list_keys(session: Session) -> ExitCode:
    """List the keys with their names. "self" is this node's own identity."""
    session.call(
        "key.ls", {}, lambda item: session.out.result(item, f"{item['name']}  {item['key']}")
    )
    return ExitCode.OK


@keys.command(name="rm")
@click.argument("labels", metavar="KEY...", nargs=-1, required=True)
@client_command("removing")
def remove(session: Session, labels: Sequence[str]) -> ExitCode:
    """Remove keys for good: whoever has no copy of a key can never publish its name again."""
    for label in labels:
        result = session.call("key.rm", {"key": label})
        session.out.result(result, f"{label} is removed")
    return ExitCode.OK


VALUE_COMMANDS: Final[Sequence[click.Command]] = (put, get, name, keys)


def _content(file: IO[bytes]) -> bytes:
    data = file.read(MAX_VALUE_BYTES + 1)
    if len(data) > MAX_VALUE_BYTES:
        raise UsageError(f"FILE: more than {MAX_VALUE_BYTES} bytes, which no server takes")
    return data


def _held(result: Mapping[str, Any]) -> str:
    more = f", {result['pending']} more under way" if result.get("pending") else ""
    return f"held by {result['holders']} peers{more}, {milliseconds(result['seconds'])}"


def _plain(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)
