"""The control socket in the data directory: who may use it, and what stands in its place."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from codio_dht.daemon.datadir import (
    MAX_SOCKET_PATH_BYTES,
    SOCKET_NAME,
    DataDirError,
    listening_socket,
    socket_path,
)


def reached(data_dir: Path) -> bool:
    """Whether somebody listens on the control socket."""
    with socket_path(data_dir) as path, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except OSError:
            return False
        return True


def assert_refused(data_dir: Path, why: str) -> None:
    with pytest.raises(DataDirError, match=why), listening_socket(data_dir):
        pass


def test_the_socket_is_its_owners_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with listening_socket(tmp_path):
            mode = (tmp_path / SOCKET_NAME).stat().st_mode
            assert 0o600 == stat.S_IMODE(mode)
            assert reached(tmp_path)
        assert 0 == os.umask(0)  # as it was
    finally:
        os.umask(before)
    assert not (tmp_path / SOCKET_NAME).exists()


def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    with listening_socket(tmp_path):
        assert reached(tmp_path)


def test_a_living_daemons_socket_stays_its_own(tmp_path: Path) -> None:
    with listening_socket(tmp_path):
        with (
            pytest.raises(DataDirError, match="another daemon answers there"),
            listening_socket(tmp_path),
        ):
            pass
        assert reached(tmp_path)


def test_a_daemon_that_accepts_nobody_any_more_is_alive_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as waiting:
        stuck.bind(str(path))
        stuck.listen(0)
        waiting.connect(str(path))  # all that may wait
        with (
            pytest.raises(DataDirError, match="another daemon answers there"),
            listening_socket(tmp_path),
        ):
            pass
        assert stat.S_ISSOCK(path.lstat().st_mode)


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("mine")
    with (
        pytest.raises(DataDirError, match="a file that is not a socket is in its place"),
        listening_socket(tmp_path),
    ):
        pass
    assert "mine" == (tmp_path / SOCKET_NAME).read_text()


def test_a_socket_that_somebody_else_made_meanwhile_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / SOCKET_NAME
    with socket.socket(socket.AF_UNIX) as other:
        with listening_socket(tmp_path):
            path.unlink()
            other.bind(str(path))
        assert path.exists()


@pytest.mark.parametrize("over", [0, 1])
def test_a_path_too_long_for_a_socket_is_reached_all_the_same(tmp_path: Path, over: int) -> None:
    room = MAX_SOCKET_PATH_BYTES - len(os.fsencode(tmp_path / "x" / SOCKET_NAME)) + over
    if room < 0:
        room = 200
    data_dir = tmp_path / ("x" * (1 + room))
    data_dir.mkdir()
    with listening_socket(data_dir):
        assert (data_dir / SOCKET_NAME).exists()
        assert reached(data_dir)
        with socket_path(data_dir) as path:
            assert len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES
    assert not (data_dir / SOCKET_NAME).exists()


def test_a_directory_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with (
        pytest.raises(DataDirError, match=f"cannot make the control socket {tmp_path / 'gone'}"),
        listening_socket(tmp_path / "gone"),
    ):
        pass


def test_a_path_is_measured_in_bytes() -> None:
    with TemporaryDirectory() as short:
        room = MAX_SOCKET_PATH_BYTES - len(str(Path(short) / SOCKET_NAME)) - 1
        data_dir = Path(short) / ("\N{SNOWMAN}" * room)
        data_dir.mkdir()
        assert len(str(data_dir / SOCKET_NAME)) == MAX_SOCKET_PATH_BYTES
        with listening_socket(data_dir):
            assert reached(data_dir)


def test_where_the_system_offers_no_shorter_way_a_long_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codio_dht.daemon.datadir._OPEN_FDS", tmp_path / "none")
    data_dir = tmp_path / ("x" * 120)
    data_dir.mkdir()
    assert_refused(data_dir, "choose a shorter --data-dir")
