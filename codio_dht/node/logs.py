"""Where this package's log lines go in a program that did not say.

structlog, left alone, prints to stdout. A library must not: lines then go to the standard library's
``logging``, under the name of the module, and only what is a warning or worse is shown unless the
program asks for more. A program (or our daemon) that has configured structlog is not touched.
"""

from __future__ import annotations

import structlog


def quiet_by_default() -> None:
    """Send structlog's lines to ``logging`` unless somebody has configured it. Idempotent."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
