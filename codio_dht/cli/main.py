"""``codio-dht``: the group of all commands, and how each command ends.

Decides exit codes (:class:`~codio_dht.cli.output.ExitCode`) and that an error is one line on
stderr, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

from codio_dht import __version__
from codio_dht.cli.client import DaemonDownError, OutOfTimeError
from codio_dht.cli.commands import SECTIONS
from codio_dht.cli.daemon_command import daemon, demo
from codio_dht.cli.deny_commands import DENY_COMMANDS
from codio_dht.cli.options import DATA_DIR_ENV
from codio_dht.cli.output import (
    PROGRAM,
    ClosedPipeError,
    ExitCode,
    complain,
    exit_code_of,
)
from codio_dht.cli.value_commands import VALUE_COMMANDS
from codio_dht.daemon.protocol import ControlError
from codio_dht.errors import CodioError, UsageError

_EPILOG = """\b
Shell completion (put it into your shell's start-up file):
  eval "$(_CODIO_DHT_COMPLETE=bash_source codio-dht)"
  eval "$(_CODIO_DHT_COMPLETE=zsh_source codio-dht)"
  _CODIO_DHT_COMPLETE=fish_source codio-dht | source

\b
Exit codes: 0 done, 1 not found or failed, 2 wrong usage, 3 no daemon runs, 124 out of time,
130 interrupted, 141 nobody reads the output.
"""


_SECTIONS: Final[Sequence[tuple[str, Sequence[click.Command]]]] = (
    ("Run a node", (daemon, demo)),
    *SECTIONS,
    ("Store and find values", VALUE_COMMANDS),
    ("Deny keys, peers and networks", DENY_COMMANDS),
)

_WHOLE: Final = 200
"""Characters of a command's first line that help shows: all of them."""


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


class _Sections(click.Group):
    """A group whose help lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each purpose, instead of one alphabetical list."""
        for title, commands in _SECTIONS:
            with formatter.section(title):
                rows = [(str(each.name), each.get_short_help_str(_WHOLE)) for each in commands]
                formatter.write_dl(rows)


@click.group(
    cls=_Sections,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=DATA_DIR_ENV,
    metavar="DIR",
    help="Directory of the daemon; also an option of each command.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version)
def cli(data_dir: Path | None) -> None:
    """A libp2p Kademlia DHT node: run one, and talk to it.

    \b
    Start here:
      codio-dht demo                  watch 25 nodes find something, with no network
      codio-dht daemon                join the public network
      codio-dht stats                 how is it going? (in another terminal)
    """


for _, _commands in _SECTIONS:
    for _command in _commands:
        cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command. Return its exit code."""
    try:
        code = cli.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except (ClosedPipeError, BrokenPipeError):
        return ExitCode.CLOSED_PIPE
    except click.exceptions.NoArgsIsHelpError as bare:
        return _show_help(bare)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        message = error.format_message().rstrip(".").replace("\n", " ")
        complain(f"{message} (see: {path} --help)")
        return ExitCode.USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return ExitCode.FAILED
    except (CodioError, OSError) as error:
        return _failed(error)
    return int(code or ExitCode.OK)


def _show_help(bare: click.exceptions.NoArgsIsHelpError) -> ExitCode:
    """Print the help of a group that was called without a command. The program's own name asks for
    it; anything longer wants a command, and scripts should notice."""
    assert bare.ctx is not None
    click.echo(bare.ctx.get_help())
    return ExitCode.USAGE if bare.ctx.parent else ExitCode.OK


def _failed(error: CodioError | OSError) -> ExitCode:
    complain(str(error))
    match error:
        case DaemonDownError():
            return ExitCode.NO_DAEMON
        case OutOfTimeError():
            return ExitCode.TIMEOUT
        case ControlError():
            return exit_code_of(error.code)
        case UsageError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED


def main() -> NoReturn:
    """Run the program."""
    sys.exit(run(sys.argv[1:]))
