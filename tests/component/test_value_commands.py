"""The commands for values, names and keys, against two real nodes that know each other."""

from __future__ import annotations

import io
import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from codio_dht import DHTConfig, DHTManager
from codio_dht.cli.main import run
from codio_dht.core.clock import UnixTime
from codio_dht.crypto.ipns import create_ipns_record
from codio_dht.crypto.keys import PrivateKey
from codio_dht.daemon.control import ControlServer
from codio_dht.daemon.datadir import listening_socket
from codio_dht.daemon.methods import Methods
from codio_dht.daemon.protocol import API_VERSION, Hello
from codio_dht.formats.text import format_name
from value_fakes import ApplicationValidator

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
ONE = "/ipfs/bafkqaddwgevxmmraojswg33smq"
TWO = "/ipfs/bafkqahtwgevxmmrao5uxi2bamjzg623fnyqhg2lhnzqxi5lsmuqhmmi"
CONFIG = DHTConfig(protocol="/myapp/kad/1.0.0", validators={"v": ApplicationValidator()})


async def serve(data_dir: Path, peer_dir: Path, ready: threading.Event) -> None:
    async with (
        DHTManager.open(CONFIG, data_dir=data_dir, listen=LISTEN) as first,
        DHTManager.open(CONFIG, data_dir=peer_dir, listen=LISTEN) as second,
    ):
        await second.connect(f"{first.addrs[0]}/p2p/{first.peer_id}")
        while not (first.routing_table_peers() and second.routing_table_peers()):
            await trio.sleep(0.02)
        with listening_socket(data_dir) as one, listening_socket(peer_dir) as two:
            async with trio.open_nursery() as nursery:
                for dht, listener in ((first, one), (second, two)):
                    hello = Hello(API_VERSION, "9.9", str(dht.peer_id))
                    server = ControlServer(Methods(dht, "9.9", dict).table(), hello)
                    nursery.start_soon(server.serve, listener)
                ready.set()


@contextmanager
def two_nodes(data_dir: Path, peer_dir: Path) -> Iterator[None]:
    ready, scope = threading.Event(), trio.CancelScope()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        with scope:
            await serve(data_dir, peer_dir, ready)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        tokens[0].run_sync_soon(scope.cancel)
        thread.join(20)


class Shell:
    """Runs commands against the first node, or with ``there`` the second."""

    def __init__(self, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        self.here, self.there = tmp_path / "here", tmp_path / "there"
        self._capture = capfdbinary
        self.raw = b""
        self.err = ""

    def __call__(self, *arguments: str, there: bool = False) -> int:
        directory = self.there if there else self.here
        code = run([*arguments, "--data-dir", str(directory)])
        self.raw, err = self._capture.readouterr()
        self.err = err.decode()
        return code

    @property
    def out(self) -> str:
        return self.raw.decode()

    def json(self, *arguments: str, there: bool = False) -> list[dict[str, Any]]:
        assert self(*arguments, "--json", there=there) == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def shell(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Iterator[Shell]:
    shell = Shell(tmp_path, capfdbinary)
    with two_nodes(shell.here, shell.there):
        yield shell


def test_a_value_is_put_and_got_byte_for_byte(shell: Shell, tmp_path: Path, monkeypatch) -> None:
    value = b"1:\x00\xff\n" + bytes(60_000)
    file = tmp_path / "value"
    file.write_bytes(value)
    (put,) = shell.json("put", "/v/key", str(file))
    assert (put["key"], put["holders"], put["pending"]) == ("/v/key", 1, 0)
    assert shell("get", "/v/key", there=True) == 0
    assert shell.raw == value
    assert shell("get", "/v/key", "-o", str(tmp_path / "got")) == 0
    assert (tmp_path / "got").read_bytes() == value
    (got,) = shell.json("get", "/v/key", there=True)
    assert got["value"] == b64encode(value).decode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"2:from stdin")))
    assert shell("put", "/v/key", "--keep") == 0
    assert "held by 1 peers" in shell.out
    assert shell("get", "/v/key", "--quorum", "0", there=True) == 0
    assert shell.raw == b"2:from stdin"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("get", "/v/nothing"), 1, "no value of /v/nothing"),
        (("get", "/other/x"), 2, "namespace"),
        (("get", "nonsense"), 2, "/namespace/rest"),
        (("name", "resolve", "docs.ipfs.tech"), 2, "_dnslink"),
        (("name", "publish", "ipfs/x"), 2, "path"),
        (("name", "publish", ONE, "--key", "absent"), 2, "absent"),
        (("name", "publish", ONE, "--lifetime", "0s"), 2, "duration"),
        (("name", "unpublish"), 1, "not published"),
        (("key", "rm", "absent"), 1, "absent"),
        (("key", "rm", "self"), 2, "identity"),
        (("key", "gen", "self"), 2, "already"),
        (("key", "gen", "../x"), 2, "key"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(shell: Shell, arguments, code, said) -> None:
    assert shell(*arguments) == code
    assert said in shell.err
    assert shell.err.count("\n") == 1


def test_a_value_too_long_is_not_even_sent(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(bytes(64 * 1024 + 1))
    assert shell("put", "/v/key", str(file)) == 2
    assert "65536 bytes" in shell.err


def test_a_name_is_published_resolved_and_inspected(shell: Shell, tmp_path: Path) -> None:
    assert shell("key", "gen", "blog") == 0
    name = shell.out.strip()
    assert name.startswith("k51")
    (published,) = shell.json("name", "publish", ONE, "--key", "blog", "--ttl", "1m")
    assert (published["name"], published["sequence"], published["ttl"]) == (name, 0, 60.0)
    assert shell("name", "resolve", name, there=True) == 0
    assert shell.out == f"{ONE}\n"
    assert shell("name", "resolve", f"/ipns/{name}/a", there=True) == 0
    assert shell.out == f"{ONE}/a\n"
    assert shell("name", "publish", TWO, "-k", "blog") == 0
    (found,) = shell.json("name", "resolve", name, "--no-recursive", there=True)
    assert (found["path"], found["sequence"]) == (TWO, 1)
    (seen,) = shell.json("name", "inspect", name, there=True)
    assert (seen["valid"], seen["value"], seen["sequence"], seen["v1"]) == ("yes", TWO, 1, True)
    assert shell("name", "unpublish", "-k", "blog") == 0


def test_own_peer_id_is_a_name_too(shell: Shell) -> None:
    (key,) = shell.json("key", "ls")
    assert key["key"] == "self"
    assert shell("name", "publish", ONE) == 0
    assert key["name"] in shell.out
    assert shell("name", "resolve", key["name"], there=True) == 0
    assert shell.out == f"{ONE}\n"


def test_keys_are_listed_and_removed(shell: Shell) -> None:
    for label in ("b", "a"):
        assert shell("key", "gen", label) == 0
    assert [key["key"] for key in shell.json("key", "ls")] == ["self", "a", "b"]
    assert shell("key", "rm", "a", "b") == 0
    assert [key["key"] for key in shell.json("key", "ls")] == ["self"]


def test_a_record_in_a_file_is_inspected_with_the_name_it_should_be_of(
    shell: Shell, tmp_path: Path
) -> None:
    key = PrivateKey.from_ed25519_seed(b"n" * 32)
    record = create_ipns_record(key, ONE, sequence=3, now=UnixTime(2_000_000_000.0))
    file = tmp_path / "record"
    file.write_bytes(record.encoded)
    name = format_name(key.peer_id().to_bytes())
    (seen,) = shell.json("name", "inspect", str(file), "--name", name)
    assert (seen["valid"], seen["sequence"], seen["name"]) == ("yes", 3, name)
    other = format_name(PrivateKey.generate_ed25519().peer_id().to_bytes())
    assert shell("name", "inspect", str(file), "--name", other) == 1
    assert "signature does not verify" in shell.out
    assert shell("name", "inspect", str(file)) == 0
    assert "no name was given" in shell.out
    file.write_bytes(b"no record")
    assert shell("name", "inspect", str(file)) == 2
    assert "no IPNS record" in shell.err
