"""Where this package's log lines go, without configuring anything.

A library leaves logging to the program. Decides, at each line:

- The program has configured structlog: the line goes through that configuration.
- It has not: the line goes to the standard library's ``logging``, under the name of its module
  (``codio_dht.node.upkeep``). It is shown if the program has set up ``logging``, and nowhere
  otherwise.

The handler added here is ``logging.NullHandler`` on this package's own logger, which keeps
``logging`` from printing warnings to stderr in a program that has set up nothing. Only the daemon
configures logging (:mod:`codio_dht.daemon.logs`), because the process is its own.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

logging.getLogger("codio_dht").addHandler(logging.NullHandler())


class Logger:
    """Writes events with fields: ``log.info("mode_changed", mode="server")``."""

    __slots__ = ("_plain", "_structured")

    def __init__(self, name: str) -> None:
        self._structured = structlog.get_logger(name)
        self._plain = structlog.wrap_logger(
            logging.getLogger(name),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
        )

    def debug(self, event: str, **fields: Any) -> None:
        """Something that only a developer looks for."""
        self._target.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something ordinary that a person may want to know."""
        self._target.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that a person may have to see to."""
        self._target.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that failed and should not have."""
        self._target.error(event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """A bug of ours, with the traceback of the exception that is being handled."""
        self._target.exception(event, **fields)

    @property
    def _target(self) -> Any:
        return self._structured if structlog.is_configured() else self._plain


def get_logger(name: str) -> Logger:
    """The logger of the module ``name``."""
    return Logger(name)
