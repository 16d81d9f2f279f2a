"""The key file: made whole or not at all, never overwritten, refused with words that help."""

from __future__ import annotations

import errno
import json
import os
import stat
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codio_dht.crypto.keys import KeyType, PrivateKey
from codio_dht.errors import IdentityError
from codio_dht.store.identity import (
    create_identity,
    import_kubo_identity,
    load_or_create_identity,
)


def names_in(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


KEY = PrivateKey.from_ed25519_seed(b"\x01" * 32)
OTHER = PrivateKey.from_ed25519_seed(b"\x02" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "identity.key"


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_the_first_start_makes_a_key_and_the_next_finds_it(path: Path) -> None:
    key = load_or_create_identity(path)
    assert key.type is KeyType.ED25519
    assert path.read_bytes() == key.to_protobuf()
    assert load_or_create_identity(path).peer_id() == key.peer_id()
    assert names_in(path.parent) == ["identity.key"]


def test_the_directories_above_are_made_as_well(path: Path) -> None:
    deep = path.parent / "there" / "and" / "deeper" / path.name
    key = load_or_create_identity(deep)
    assert load_or_create_identity(deep).peer_id() == key.peer_id()


def test_the_file_and_its_directory_are_for_the_owner_only(path: Path, open_umask: None) -> None:
    load_or_create_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mask", [0o277, 0o777])
def test_a_strict_umask_leaves_a_file_that_its_owner_can_use(path: Path, mask: int) -> None:
    path.parent.mkdir(mode=0o700)
    before = os.umask(mask)
    try:
        create_identity(path, KEY)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_never_written_to_a_file_that_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the random name of the new file was guessed."""
    path.parent.mkdir(mode=0o700)
    monkeypatch.setattr("codio_dht.store.identity.token_hex", lambda _: "guessed")
    (path.parent / "theirs").write_bytes(b"")
    (path.parent / "identity.key.guessed.new").symlink_to(path.parent / "theirs")
    with pytest.raises(IdentityError):
        create_identity(path, KEY)
    assert (path.parent / "theirs").read_bytes() == b""
    assert not path.exists()


def test_starts_at_the_same_moment_end_up_with_one_key(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_or_create_identity(path), range(16)))
    assert {key.peer_id() for key in keys} == {load_or_create_identity(path).peer_id()}
    assert names_in(path.parent) == ["identity.key"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"garbage", "holds no key"),
        (KEY.to_protobuf()[:-1], "holds no key"),
        (b64encode(KEY.to_protobuf()), "holds no key"),
        (b"\x00" * 100_000, "holds no key"),
    ],
)
def test_a_file_that_is_no_key_is_refused_and_left_alone(
    path: Path, content: bytes, why: str
) -> None:
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=why) as caught:
        load_or_create_identity(path)
    assert str(path) in str(caught.value)
    assert "restore it from a backup, or move it away" in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o620])
def test_a_file_that_others_may_use_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    create_identity(path, KEY)
    path.chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_or_create_identity(path)
    path.chmod(0o600)
    assert load_or_create_identity(path).peer_id() == KEY.peer_id()


def test_a_stricter_mode_is_fine(path: Path) -> None:
    create_identity(path, KEY)
    path.chmod(0o400)
    assert load_or_create_identity(path).peer_id() == KEY.peer_id()


def test_a_path_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=f"the key file {tmp_path} is not a plain file"):
        load_or_create_identity(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match=str(tmp_path / "file" / "identity.key")):
        load_or_create_identity(tmp_path / "file" / "identity.key")


def test_a_key_that_is_there_is_never_overwritten(path: Path) -> None:
    create_identity(path, KEY)
    with pytest.raises(IdentityError, match="exists already"):
        create_identity(path, OTHER)
    assert load_or_create_identity(path).peer_id() == KEY.peer_id()
    assert names_in(path.parent) == ["identity.key"]


def test_a_write_that_fails_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(IdentityError, match="No space left"):
            load_or_create_identity(path)
    assert names_in(path.parent) == []


def test_a_file_system_without_hard_links_does_as_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    create_identity(path, KEY)
    with pytest.raises(IdentityError, match="exists already"):
        create_identity(path, OTHER)
    assert load_or_create_identity(path).peer_id() == KEY.peer_id()


# --- Kubo -----------------------------------------------------------------------------------------


def kubo(private_key: object, peer_id: object) -> str:
    return json.dumps({"Identity": {"PeerID": peer_id, "PrivKey": private_key}, "Bootstrap": None})


ENCODED = b64encode(KEY.to_protobuf()).decode()


def test_a_kubo_identity_is_taken_over() -> None:
    assert import_kubo_identity(kubo(ENCODED, str(KEY.peer_id()))).peer_id() == KEY.peer_id()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a Kubo config"),
        ("[]", "not a Kubo config"),
        ('{"Identity": {}}', "PrivKey and Identity.PeerID are needed"),
        ("[" * 100_000, "not a Kubo config"),
        (kubo("!!!!", str(KEY.peer_id())), "PrivKey is not base64"),
        (kubo(5, str(KEY.peer_id())), "PrivKey is not base64"),
        (kubo("AAAA", str(KEY.peer_id())), "PrivKey: not a usable"),
        (kubo(ENCODED, str(OTHER.peer_id())), f"PrivKey belongs to {KEY.peer_id()}"),
        (kubo(ENCODED, "nonsense"), f"PrivKey belongs to {KEY.peer_id()}"),
        (kubo(ENCODED, None), f"PrivKey belongs to {KEY.peer_id()}"),
    ],
)
def test_a_config_that_is_not_one_is_refused_by_field_and_without_the_key(
    text: str, why: str
) -> None:
    with pytest.raises(IdentityError, match=why) as caught:
        import_kubo_identity(text)
    assert ENCODED not in str(caught.value)
