"""The data directory as daemon and commands share it: where it is, and its socket.

Decides the default place, and how a socket whose path is too long for the system is reached. The
store makes sure that one node at a time owns a directory. Imports neither trio nor libp2p, because
every command uses it.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from codio_dht.errors import CodioError, UsageError

SOCKET_NAME: Final = "control.sock"

MAX_SOCKET_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
"""Longest path of a Unix socket (``sun_path`` less its NUL)."""

_LISTEN_BACKLOG: Final = 64
"""Control connections that may wait for accept."""

_PROBE_TIMEOUT_S: Final = 1.0
"""How long an existing socket may take to accept before it counts as alive and stuck."""

_OPEN_FDS = Path("/proc/self/fd")
"""Where Linux shows a process its own open files, directories included."""


class DataDirError(CodioError):
    """The data directory cannot be used; the message says why and names it."""


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """The default directory: ``$CODIO_DHT_DATA``, or ``codio-dht`` in the user's data directory
    (XDG).

    Raises:
        UsageError: the user has no home directory, as in many containers.
    """
    if chosen := environ.get("CODIO_DHT_DATA"):
        return Path(chosen)
    data_home = environ.get("XDG_DATA_HOME", "")
    if Path(data_home).is_absolute():  # the XDG specification: relative values are ignored
        return Path(data_home) / "codio-dht"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute() or home == Path(home.anchor):  # what containers give a bare uid
        raise UsageError(
            "this user has no home directory: say with --data-dir or CODIO_DHT_DATA where the node"
            " keeps its data"
        )
    return home / ".local" / "share" / "codio-dht"


def start_command(data_dir: Path) -> str:
    """The command that starts a daemon in ``data_dir``."""
    with suppress(UsageError):
        if data_dir == default_data_dir(os.environ):
            return "codio-dht daemon"
    return f"codio-dht daemon --data-dir {shlex.quote(str(data_dir))}"


def absolute_data_dir(data_dir: Path) -> Path:
    """The full path of ``data_dir``, the same for whoever uses it.

    Raises:
        UsageError: it begins with the home directory of somebody who has none.
    """
    try:
        return data_dir.expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(
            f"cannot use the data directory {data_dir}: {error}; give --data-dir a full path"
        ) from error


@contextmanager
def socket_path(data_dir: Path) -> Iterator[str]:
    """A path of the control socket that is short enough, valid while the context lasts.

    Raises:
        DataDirError: the path is too long and this system offers no shorter one.
        UsageError: as :func:`absolute_data_dir`.
        OSError: the directory cannot be opened (only for a path that is too long).
    """
    data_dir = absolute_data_dir(data_dir)
    path = str(data_dir / SOCKET_NAME)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield path
        return
    if not _OPEN_FDS.is_dir():
        msg = (
            f"the path {path} is longer than the {MAX_SOCKET_PATH_BYTES} bytes a Unix socket may"
            " have; choose a shorter --data-dir"
        )
        raise DataDirError(msg)
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(_OPEN_FDS / str(directory) / SOCKET_NAME)
    finally:
        os.close(directory)


@contextmanager
def listening_socket(data_dir: Path) -> Iterator[socket.socket]:
    """A listening control socket of mode 0600, removed when the context ends.

    A socket of a dead daemon is removed. The socket of a running daemon, and any other file, is
    kept.

    Raises:
        DataDirError: the socket is alive or cannot be made.
    """
    try:
        with socket_path(data_dir) as path:
            _remove_stale(path)
            listener = _bind(path)
            made = Path(path).lstat()
    except OSError as error:
        msg = f"cannot make the control socket {data_dir / SOCKET_NAME}: {_reason(error)}"
        raise DataDirError(msg) from error
    try:
        yield listener
    finally:
        listener.close()
        with suppress(OSError):
            there = (data_dir / SOCKET_NAME).lstat()
            if (there.st_dev, there.st_ino) == (made.st_dev, made.st_ino):
                (data_dir / SOCKET_NAME).unlink()


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # the socket must never be open to others, not even for a moment
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(_LISTEN_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "a file that is not a socket is in its place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):  # alive, but it accepts nobody
            pass
    raise FileExistsError(errno.EADDRINUSE, "another daemon answers there")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
