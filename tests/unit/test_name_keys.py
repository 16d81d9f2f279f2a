"""The private keys of IPNS names on disk."""

from __future__ import annotations

import stat

import pytest

from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import IdentityError, UsageError
from codio_dht.store.name_keys import SELF, NameKeys, check_label

IDENTITY = PrivateKey.from_ed25519_seed(b"i" * 32)


@pytest.fixture(params=["disk", "memory"])
def keys(request, tmp_path) -> NameKeys:
    return NameKeys(tmp_path if request.param == "disk" else None, IDENTITY)


def test_a_key_is_made_found_listed_and_removed(keys: NameKeys) -> None:
    blog = keys.generate("blog")
    found = keys.get("blog")
    assert found is not None
    assert found.public_key() == blog.public_key()
    assert keys.get("other") is None
    keys.generate("a.b-c_d")
    assert list(keys.all()) == [SELF, "a.b-c_d", "blog"]
    assert keys.all()[SELF] is IDENTITY
    assert keys.remove("blog")
    assert not keys.remove("blog")
    assert keys.get("blog") is None


def test_a_label_is_used_once_and_self_is_the_identity(keys: NameKeys) -> None:
    keys.generate("blog")
    before = keys.get("blog")
    for label in ("blog", SELF):
        with pytest.raises(UsageError, match=label):
            keys.generate(label)
    after = keys.get("blog")
    assert before is not None
    assert after is not None
    assert after.peer_id() == before.peer_id()
    assert keys.get(SELF) is IDENTITY
    with pytest.raises(UsageError, match="identity"):
        keys.remove(SELF)


@pytest.mark.parametrize(
    "label", ["", ".", "..", ".hidden", "-x", "a/b", "../x", "a\x00", "a\n", "é", "x" * 65, "a b"]
)
def test_a_label_that_could_be_another_file_is_refused(keys: NameKeys, label: str) -> None:
    for call in (keys.get, keys.generate, keys.remove, check_label):
        with pytest.raises(UsageError, match="key: "):
            call(label)


def test_keys_outlive_the_process_and_only_the_owner_may_read_them(tmp_path) -> None:
    made = NameKeys(tmp_path, IDENTITY).generate("blog")
    path = tmp_path / "names" / "blog.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = NameKeys(tmp_path, None)
    assert again.all()["blog"].peer_id() == made.peer_id()
    assert SELF not in again.all()


def test_a_file_that_is_no_key_is_named_and_stays(tmp_path) -> None:
    keys = NameKeys(tmp_path, IDENTITY)
    keys.generate("blog")
    path = tmp_path / "names" / "blog.key"
    path.write_bytes(b"damaged")
    with pytest.raises(IdentityError, match=r"blog\.key"):
        keys.all()
    with pytest.raises(UsageError, match="already"):
        keys.generate("blog")
    assert path.read_bytes() == b"damaged"
    (tmp_path / "names" / "not a label.key").write_bytes(b"x")
    path.unlink()
    assert list(keys.all()) == [SELF]


def test_there_is_a_bound_on_the_number_of_keys(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("codio_dht.store.name_keys.MAX_NAME_KEYS", 2)
    keys = NameKeys(tmp_path, IDENTITY)
    keys.generate("a")
    keys.generate("b")
    with pytest.raises(UsageError, match="2 keys"):
        keys.generate("c")
