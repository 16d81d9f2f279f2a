"""Where log lines go and how they look. Log records of other libraries are counted and shortened.

Decides format and level. Our own lines are structlog events. py-libp2p and its dependencies log
ordinary remote failures as errors with tracebacks, some of them on the root logger. Each such
record becomes one short ``debug`` line here, and a counter that ``stats`` shows. Only records of
level ``critical`` keep their level. Everything goes to stderr, because stdout is for results.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, MutableMapping
from importlib import import_module
from typing import Any, Final, TextIO

import structlog

LEVELS: Final = ("debug", "info", "warning", "error")

MAX_COUNTED_LOGGERS: Final = 64
"""Distinct foreign logger names counted; more are counted as ``other``."""

MAX_FOREIGN_CHARS: Final = 300
"""A foreign message is cut after this many characters: it may quote what a peer sent."""

_OWN: Final = "codio_dht"


class ForeignLogs(logging.Filter):
    """Passes our own records; demotes and counts the records of everybody else."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self._counts: Counter[str] = Counter()

    def stats(self) -> dict[str, int]:
        """Foreign records at warning or above, by library and level, since the start."""
        return dict(self._counts)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _OWN or record.name.startswith(f"{_OWN}."):
            return True
        if record.levelno < logging.WARNING:  # of a library that set a level of its own
            return False
        self._count(record)
        if record.levelno < logging.CRITICAL:
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.exc_info = record.exc_text = record.stack_info = None
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's broken format string must not hurt
            message = str(record.msg)
        record.msg, record.args = message[:MAX_FOREIGN_CHARS], None
        return record.levelno >= self._level

    def _count(self, record: logging.LogRecord) -> None:
        key = f"{record.name.split('.')[0]}.{record.levelname.lower()}"
        if key not in self._counts and len(self._counts) >= MAX_COUNTED_LOGGERS:
            key = "other"
        self._counts[key] += 1


def configure(level: str, *, as_json: bool, stream: TextIO | None = None) -> ForeignLogs:
    """Send structlog's and every library's lines to ``stream`` (stderr), from ``level`` up.

    Returns what counts foreign records. :func:`tame_libp2p` comes after it, before a node opens.
    """
    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    stamps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *stamps,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamps,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(as_json=as_json, colors=stream.isatty()),
            ],
        )
    )
    foreign = ForeignLogs(number)
    handler.addFilter(foreign)
    logging.raiseExceptions = False  # a closed stderr must not print tracebacks
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(number)
    logging.captureWarnings(capture=True)
    return foreign


def tame_libp2p() -> None:
    """Import py-libp2p and route its logger, which its import detaches, back to our handler."""
    import_module("libp2p")
    libp2p = logging.getLogger("libp2p")
    libp2p.handlers[:] = []
    libp2p.propagate = True
    libp2p.setLevel(logging.WARNING)


def _renderers(*, as_json: bool, colors: bool) -> list[structlog.typing.Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        _short_time,
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _short_time(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    # 2026-11-23T05:51:59.123456Z -> 05:51:59
    event["timestamp"] = str(event.get("timestamp", ""))[11:19]
    return event


def _printable(_: object, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Text without control characters. A remote peer may have chosen them, so they must not reach a
    terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key != "exception":
            event[key] = repr(value)
    return event
