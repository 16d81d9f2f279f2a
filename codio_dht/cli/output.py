"""What a person or a script sees: results on stdout, everything else on stderr, exit codes.

Decides forms, not contents. Every result is flushed as it comes. With ``--json`` a result is one
JSON object on a line (NDJSON); text gives one result a line. Progress is shown only on a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from codio_dht.daemon.protocol import ErrorCode

PROGRAM: Final = "codio-dht"

PROGRESS_AFTER_S: Final = 0.5
"""Quick answers need no progress line, seconds."""

_ERASE: Final = "\r\x1b[K"


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    """Not found, not reached, refused."""
    USAGE = 2
    NO_DAEMON = 3
    TIMEOUT = 124
    """As of coreutils' ``timeout``."""
    INTERRUPTED = 130
    CLOSED_PIPE = 141


_EXIT_CODES: Final[Mapping[ErrorCode, ExitCode]] = {
    ErrorCode.USAGE: ExitCode.USAGE,
    ErrorCode.TIMEOUT: ExitCode.TIMEOUT,
    ErrorCode.STOPPING: ExitCode.NO_DAEMON,
}


class ClosedPipeError(Exception):
    """Whoever read our results has gone (``| head``): stop quietly."""


def exit_code_of(code: ErrorCode) -> ExitCode:
    """The exit code of a request that failed with ``code``."""
    return _EXIT_CODES.get(code, ExitCode.FAILED)


def printable(text: str) -> str:
    """``text`` without control characters: a remote peer may have chosen it."""
    return "".join(char if char.isprintable() else "�" for char in text)


def complain(message: str) -> None:
    """One line on stderr."""
    try:
        sys.stderr.write(f"{PROGRAM}: {printable(message)}\n")
        sys.stderr.flush()
    except OSError:
        return  # nobody reads it


class Output:
    """Results of one command."""

    def __init__(self, *, as_json: bool, doing: str = "working") -> None:
        self.as_json = as_json
        self.doing = doing
        self.count = 0
        self._began = time.monotonic()
        self._live = not as_json and sys.stderr.isatty()
        self._shown = False

    def result(self, value: object, *lines: str) -> None:
        """One result: ``value`` under ``--json``, else ``lines``.

        Raises:
            ClosedPipeError: nobody reads any more.
        """
        self.count += 1
        self.clear()
        if self.as_json:
            text = json.dumps(value, separators=(",", ":")) + "\n"
        else:
            text = "".join(f"{printable(line)}\n" for line in lines)
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            discard_stdout()
            raise ClosedPipeError from error

    def tick(self) -> None:
        """Show on a terminal that something is going on."""
        elapsed = time.monotonic() - self._began
        if self._live and elapsed >= PROGRESS_AFTER_S:
            found = f", {self.count} so far" if self.count else ""
            sys.stderr.write(f"{_ERASE}{self.doing}{found}, {elapsed:.0f} s")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Take the progress line away."""
        if self._shown:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()
            self._shown = False


def discard_stdout() -> None:
    """Let nothing fail any more when stdout is flushed at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def milliseconds(seconds: float) -> str:
    """A short time for people."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
