"""The first module of the program: ``codio-dht`` and ``python -m codio_dht.cli``.

Ctrl-C ends the program without a traceback at any moment. Importing the commands takes a moment,
and so does the end of the process. Without this module Python would print a traceback there.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130
"""A shell's code of a program ended by SIGINT: 128 + 2."""


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if _wanted := signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
    signal.signal(signal.SIGINT, _end)


def main() -> NoReturn:
    """Import the commands and run one. The command handles Ctrl-C while it runs."""
    from codio_dht.cli.main import main as run  # noqa: PLC0415 - what takes the moment

    try:
        if _wanted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        os._exit(_INTERRUPTED)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end)


if __name__ == "__main__":
    main()
