"""A data directory is its owner's alone: what other users could have put there is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import CodioError
from codio_dht.store.identity import create_identity, load_or_create_identity
from codio_dht.store.name_keys import NameKeys
from codio_dht.store.sqlite import SqliteStore

KEY = PrivateKey.from_ed25519_seed(b"\x01" * 32)

PRECIOUS = b"do not touch\n" * 5


def open_store(data_dir: Path) -> None:
    SqliteStore(data_dir).close()


def open_identity(data_dir: Path) -> None:
    load_or_create_identity(data_dir / "identity.key")


def open_names(data_dir: Path) -> None:
    names = NameKeys(data_dir)
    if names.get("site") is None:
        names.generate("site")
    assert list(names.all()) == ["site"]


OPENERS = [open_store, open_identity, open_names]


def assert_refused(opener: Callable[[Path], None], data_dir: Path, why: str) -> None:
    with pytest.raises(CodioError, match=why):
        opener(data_dir)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    return directory


@pytest.mark.parametrize(
    ("opener", "name"),
    [
        *(
            (open_store, f"{stem}{suffix}")
            for stem in ("records.db", "keys.db")
            for suffix in ("", "-wal", "-shm", "-journal")
        ),
        (open_store, "store.lock"),
        (open_identity, "identity.key"),
        (open_names, "names/site.key"),
    ],
)
@pytest.mark.parametrize("dangling", [False, True])
def test_no_link_in_the_directory_is_followed(
    data_dir: Path, tmp_path: Path, opener: Callable[[Path], None], name: str, dangling: bool
) -> None:
    target = tmp_path / "precious"
    if not dangling:
        target.touch(mode=0o600)
        target.write_bytes(PRECIOUS)
    (data_dir / name).parent.mkdir(mode=0o700, exist_ok=True)
    (data_dir / name).symlink_to(target)
    assert_refused(opener, data_dir, f"{name} is a symbolic link")
    assert target.exists() is not dangling
    assert dangling or target.read_bytes() == PRECIOUS


def test_a_link_in_place_of_the_directory_of_names_is_not_followed(
    data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (data_dir / "names").symlink_to(tmp_path / "elsewhere")
    names = NameKeys(data_dir)
    for use in (names.generate, names.get, names.remove):
        with pytest.raises(CodioError, match=f"{data_dir / 'names'} is a symbolic link"):
            use("site")
    with pytest.raises(CodioError, match="is a symbolic link"):
        names.all()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_that_leads_to_the_directory_is_the_operators_and_is_followed(
    data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(data_dir)
    for opener in OPENERS:
        opener(tmp_path / "link")
    assert {"store.lock", "identity.key", "names"} <= {path.name for path in data_dir.iterdir()}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused_with_the_remedy(
    data_dir: Path, opener: Callable[[Path], None], mode: int
) -> None:
    (data_dir / "names").mkdir(mode=0o700)
    (data_dir if opener is not open_names else data_dir / "names").chmod(mode)
    assert_refused(opener, data_dir, rf"written to by others \(mode {mode:04o}\): run chmod 700")
    assert not [path for path in data_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("opener", OPENERS)
def test_a_directory_that_others_may_read_is_taken(
    data_dir: Path, opener: Callable[[Path], None]
) -> None:
    data_dir.chmod(0o755)
    opener(data_dir)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in data_dir.rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.parametrize("opener", OPENERS)
def test_what_belongs_to_another_user_is_refused(
    data_dir: Path, opener: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by root, which could use it."""
    opener(data_dir)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(CodioError, match=rf"belongs to another user \(uid {other - 1}"):
        opener(data_dir)


@pytest.mark.parametrize("name", ["records.db", "keys.db", "store.lock", "records.db-wal"])
@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
def test_a_file_that_others_may_use_is_refused_with_the_remedy(
    data_dir: Path, name: str, mode: int
) -> None:
    open_store(data_dir)
    (data_dir / name).touch(mode=0o600)
    (data_dir / name).chmod(mode)
    assert_refused(open_store, data_dir, rf"{name} is open to others \(mode {mode:04o}\)")
    (data_dir / name).chmod(0o600)
    open_store(data_dir)


@pytest.mark.parametrize("name", ["store.lock", "records.db", "identity.key"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(
    data_dir: Path, name: str
) -> None:
    os.mkfifo(data_dir / name, 0o600)
    opener = open_identity if name == "identity.key" else open_store
    assert_refused(opener, data_dir, "is not a plain file")


def test_a_key_is_not_written_where_others_could_replace_it(data_dir: Path) -> None:
    data_dir.chmod(0o777)
    with pytest.raises(CodioError, match=rf"the directory {data_dir} may be written to by others"):
        create_identity(data_dir / "identity.key", KEY)
    assert list(data_dir.iterdir()) == []
