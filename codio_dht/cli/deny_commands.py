"""The commands about the deny lists of a running daemon.

The daemon judges what a rule is; a refusal comes back with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from codio_dht.cli.options import Session, client_command
from codio_dht.cli.output import ExitCode


@click.group()
def deny() -> None:
    """Deny keys, peers and networks: this node has no part in them.

    A RULE is a CID, /ipns/NAME, a double hash //..., /p2p/PEER, an IP address or a network (CIDR).
    Whole lists are files: codio-dht daemon --deny-list FILE.
    """


@deny.command(name="ls")
@client_command("listing")
def deny_ls(session: Session) -> ExitCode:
    """List the rules that were added, and count those of all lists."""
    result = session.call("deny.ls", {}, lambda item: session.out.result(item, item["rule"]))
    session.out.result(result, _counted(result))
    return ExitCode.OK


@deny.command(name="add")
@click.argument("rule")
@client_command("denying")
def deny_add(session: Session, rule: str) -> ExitCode:
    """Deny what RULE names, also after a restart. Connections to it are closed."""
    result = session.call("deny.add", {"rule": rule})
    session.out.result(result, f"{'denied' if result['added'] else 'denied already'}: {rule}")
    return ExitCode.OK


@deny.command(name="rm")
@click.argument("rule")
@client_command("removing")
def deny_rm(session: Session, rule: str) -> ExitCode:
    """Take back a RULE that was added. Rules of files stay."""
    result = session.call("deny.rm", {"rule": rule})
    if not result["removed"]:
        session.out.result(result, f"no such rule was added: {rule}")
        return ExitCode.FAILED
    session.out.result(result, f"no longer denied by this rule: {rule}")
    return ExitCode.OK


@deny.command(name="check")
@click.argument("subject", metavar="CID|PEER|IP|NETWORK")
@client_command("asking")
def deny_check(session: Session, subject: str) -> ExitCode:
    """Say whether something is denied."""
    result = session.call("deny.check", {"subject": subject})
    session.out.result(result, "denied" if result["denied"] else "not denied")
    return ExitCode.OK


@deny.command(name="reload")
@client_command("reading")
def deny_reload(session: Session) -> ExitCode:
    """Read the files of the deny lists now. Changed files are read within two seconds anyway."""
    result = session.call("deny.reload", {})
    session.out.result(result, _counted(result))
    return ExitCode.OK


DENY_COMMANDS: Final[Sequence[click.Command]] = (deny,)


def _counted(result: Any) -> str:
    counted = (
        f"{result['keys']} keys, {result['peers']} peers, {result['networks']} networks denied"
    )
    if result["without_effect"]:
        counted += f"; {result['without_effect']} rules for paths and domains have no effect here"
    if result["faults"]:
        counted += f"; {result['faults']} lines are no rules"
    return counted
