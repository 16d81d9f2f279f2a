"""Options that commands share, and the session that a client command runs in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec

import click

from codio_dht.checks import Checks
from codio_dht.cli.client import CommandConnection
from codio_dht.cli.output import ExitCode, Output
from codio_dht.daemon.datadir import default_data_dir
from codio_dht.daemon.protocol import Result
from codio_dht.errors import UsageError

P = ParamSpec("P")

DATA_DIR_ENV: Final = ["CODIO_DHT_DATA", "CODIO_DHT_DATA_DIR"]


class Duration(click.ParamType[float]):
    """Seconds, or a number with a unit: ``90``, ``30s``, ``15m``, ``24h``, ``2d``."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return Checks().duration(str(value), "it")
        except UsageError as error:
            self.fail(str(error), param, ctx)


def data_dir_option(function: Callable[P, Any]) -> Callable[P, Any]:
    """``--data-dir``, the same for the daemon and for the commands that look for it."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar=DATA_DIR_ENV,
        show_envvar=True,
        metavar="DIR",
        help="Directory of the daemon.  [default: ~/.local/share/codio-dht]",
    )(function)


def json_option(function: Callable[P, Any]) -> Callable[P, Any]:
    """``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, envvar="CODIO_DHT_JSON", help="One JSON object a line."
    )(function)


def chosen_data_dir(ctx: click.Context, given: Path | None) -> Path:
    """The directory of this command, of the group before it, or the default."""
    group = ctx.find_root().params.get("data_dir")
    chosen = given if ctx.get_parameter_source("data_dir") is _COMMAND_LINE else group or given
    return Path(chosen) if chosen else default_data_dir(os.environ)


_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE


class Session:
    """One client command: where the daemon is, how to show results, until when to wait."""

    def __init__(self, data_dir: Path, out: Output, timeout_s: float | None) -> None:
        self.data_dir = data_dir
        self.out = out
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    @contextmanager
    def client(self) -> Iterator[CommandConnection]:
        """A connection to the daemon."""
        try:
            with CommandConnection(
                self.data_dir, deadline=self._deadline, tick=self.out.tick
            ) as client:
                yield client
        finally:
            self.out.clear()

    def call(
        self,
        method: str,
        params: Mapping[str, Any],
        show: Callable[[Any], None] | None = None,
    ) -> Any:
        """Make one request. Show each item as it comes, and return the result."""
        with self.client() as client:
            for answer in client.call(method, params):
                if isinstance(answer, Result):
                    return answer.result
                if show is not None:
                    show(answer.item)
        raise AssertionError("a request ends with a result or an error")


def _session_options(options: dict[str, Any]) -> tuple[Path | None, bool, float | None]:
    return options.pop("data_dir"), options.pop("as_json"), options.pop("timeout_s")


def client_command(
    doing: str,
) -> Callable[[Callable[Concatenate[Session, P], ExitCode]], Callable[..., ExitCode]]:
    """Gives a command ``--data-dir``, ``--json`` and ``--timeout``, and calls it with a Session.

    ``doing`` is what the progress line says.
    """

    def decorate(function: Callable[Concatenate[Session, P], ExitCode]) -> Callable[..., ExitCode]:
        @click.pass_context
        @wraps(function)
        def command(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> ExitCode:
            data_dir, as_json, timeout_s = _session_options(kwargs)
            out = Output(as_json=as_json, doing=doing)
            session = Session(chosen_data_dir(ctx, data_dir), out, timeout_s)
            return function(session, *args, **kwargs)

        timed = click.option(
            "--timeout",
            "timeout_s",
            type=Duration(),
            envvar="CODIO_DHT_TIMEOUT",
            help="Give up after this long (exit code 124).",
        )(command)
        return data_dir_option(json_option(timed))

    return decorate
