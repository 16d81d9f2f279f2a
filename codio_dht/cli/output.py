"""The output of a command: results on stdout, everything else on stderr, and exit codes.

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
from typing import Any, Final

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
    """The reader of the results has gone (``| head``). The command stops quietly."""


def exit_code_of(code: ErrorCode) -> ExitCode:
    """The exit code of a request that failed with ``code``."""
    return _EXIT_CODES.get(code, ExitCode.FAILED)


def printable(text: str) -> str:
    """``text`` without control characters, because a remote peer may have chosen the text."""
    return "".join(char if char.isprintable() else "�" for char in text)


def complain(message: str) -> None:
    """Write one line to stderr."""
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
        """Show on a terminal that the command is still working."""
        elapsed = time.monotonic() - self._began
        if self._live and elapsed >= PROGRESS_AFTER_S:
            found = f", {self.count} so far" if self.count else ""
            sys.stderr.write(f"{_ERASE}{self.doing}{found}, {elapsed:.0f} s")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Remove the progress line."""
        if self._shown:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()
            self._shown = False


def discard_stdout() -> None:
    """Discard stdout, so that flushing it at exit cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def walk_line(event: Mapping[str, Any]) -> str:
    """One event of a lookup as a line: time, event, bits in common with the key, peer, details."""
    name = event["event"]
    if "peer_id" not in event:
        return f"{event['at']:7.3f} s  {_WALK.get(name, name):<9}  {_walk_news(event)}"
    where = f"{event['cpl']:>3} bits  {event['peer_id']}"
    more = _walk_news(event)
    return f"{event['at']:7.3f} s  {_WALK.get(name, name):<9}  {where}{more and f'  {more}'}"


_WALK: Final[Mapping[str, str]] = {
    "asked": "ask",
    "answered": "answer",
    "overdue": "late",
    "given_up": "give up",
    "follow_up": "follow up",
    "look_beyond": "beyond",
    "ended": "end",
}


def _walk_news(event: Mapping[str, Any]) -> str:
    """The details of an event beside its peer. An unknown event has none."""
    took = milliseconds(event.get("seconds", 0.0))
    match event["event"]:
        case "asked":
            return "follow-up" if event["follow_up"] else ""
        case "answered":
            late = ", late" if event["late"] else ""
            return f"{took}{late}, named {event['named']}, {event['new']} new"
        case "failed":
            return f"{took}, {event['reason']}"
        case "overdue":
            return "others are asked in its place"
        case "given_up" if event["alive"]:
            return f"{took}, alive {milliseconds(event['alive_ago'])} ago"
        case "given_up":
            return f"{took}, not known to be alive"
        case "follow_up":
            return "the nearest have answered: the rest of the closest are asked"
        case "look_beyond":
            return "who is beyond the replies?"
        case "ended":
            return f"{event['reason'].replace('_', ' ')}, {event['requests']} requests"
        case _:
            return ""


def stat_lines(stat: Mapping[str, Any], now: float) -> list[str]:
    """How one own key stands, or how all of them stand, as lines."""
    if "cid" in stat:
        held = "not known" if stat["holders"] is None else f"{stat['holders']} of {stat['wanted']}"
        rows = [
            ("cid", stat["cid"]),
            ("added", _ago(stat["added"], now)),
            ("provided", _ago(stat["last_provided"], now)),
            ("next", _ahead(stat["due"], now)),
            ("held by", f"{held} peers"),
            *(("", peer) for peer in stat["held_by"] or ()),
        ]
    else:
        per_key = stat["holders_per_key"]
        rows = [
            ("keys", f"{stat['keys']}, {stat['waiting']} of them waiting"),
            ("state", stat["connectivity"]),
            (
                "regions",
                f"{stat['regions']}, {stat['regions_due']} due, {stat['regions_running']} running",
            ),
            ("next", _ahead(stat["next_due"], now)),
            ("rate", f"{stat['keys_per_s']:.1f} keys a second"),
            ("holders", "-" if per_key is None else f"{per_key:.1f} of {stat['wanted']} a key"),
            ("lag", duration(stat["lag_s"])),
        ]
        if stat["lag_s"] > LAG_SHOWN_S:
            rows.append(("", "if this grows, make --republish-interval longer"))
    return [f"{name:<9} {value}" for name, value in rows]


LAG_SHOWN_S: Final = 900.0
"""A longer lag of the sweep is explained, seconds."""


def _ago(moment: float | None, now: float) -> str:
    return "not yet" if moment is None else f"{duration(max(0.0, now - moment))} ago"


def _ahead(moment: float | None, now: float) -> str:
    if moment is None:
        return "never"
    return f"in {duration(moment - now)}" if moment > now else "now"


def duration(seconds: float) -> str:
    """A time as people read it, in its two largest units."""
    whole = round(seconds)
    for unit, size, below, smaller in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {below}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def milliseconds(seconds: float) -> str:
    """A short time as people read it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
