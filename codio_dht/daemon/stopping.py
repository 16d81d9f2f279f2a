"""How a daemon is told to stop, from the first moment of the process to the last.

Decides what each SIGINT, SIGTERM or SIGHUP (the terminal was closed) does::

    STARTING --signal--> the process ends cleanly (imports and checks are interrupted)
    RUNNING  --signal--> STOPPING: the event is set, the clean stop begins
    STOPPING --signal--> the process ends at once
    STOPPING --10 s--> the process ends, saying so

A SIGHUP while STOPPING changes nothing, for a closing terminal sends more than one. Where SIGHUP is
ignored at the start (``nohup``), it stays so. The last two do not rely on the event loop, which may
be what hangs. Ending hard is safe: what was promised durable is on disk already.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Final

import trio

STOP_GRACE_S: Final = 8.0
"""A clean stop is cut short (cancelled) after this, seconds."""

STOP_LIMIT_S: Final = 9.5
"""The process ends after this whatever hangs, seconds: callers wait 10."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OK: Final = 0
_STUCK: Final = 1
_SIGNAL_BASE: Final = 128
"""A shell's code of a process ended by signal n is 128 + n."""


class Stopping:
    """Installs the handlers; one per process, from the main thread.

    ``grace_s`` is the time that a clean stop may take; the caller cancels it afterwards. After
    ``limit_s`` the process ends in any case.
    """

    def __init__(self, *, grace_s: float = STOP_GRACE_S, limit_s: float = STOP_LIMIT_S) -> None:
        self.grace_s = grace_s
        self.begun = False
        """Whether a stop was asked for."""
        self._limit_s = limit_s
        self._token: trio.lowlevel.TrioToken | None = None
        self._event: trio.Event | None = None
        self._entering = False

    def install(self) -> None:
        """Install the handlers: from now on a signal ends the process cleanly."""
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup: a closed terminal is to be outlived
            signal.signal(number, self._on_signal)

    def enter(self) -> None:
        """Hold signals back until :meth:`attach`, because the event loop is about to start."""
        self._entering = True

    def attach(self) -> trio.Event:
        """Return an event that a signal sets from now on. Call it inside the event loop."""
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        if self.begun:
            self._event.set()
        return self._event

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.begun:
            if number == signal.SIGHUP:
                return  # a closing terminal's shell and its system both send it
            _leave(_SIGNAL_BASE + number, "stopped at once")
        if not self._entering:
            raise SystemExit(_OK)
        self.begun = True
        watchdog = threading.Timer(
            self._limit_s,
            _leave,
            (_STUCK, f"did not stop within {self._limit_s:g} s, ended anyway"),
        )
        watchdog.daemon = True
        watchdog.start()
        if self._token is not None and self._event is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._event.set)


def _leave(code: int, why: str) -> None:
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"codio-dht: {why}\n".encode())
    os._exit(code)
