"""The programs in examples/ run as they stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from control_servers import serving
from fake_dht import CID, FakeDht, peer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SAID = {
    "provide_and_find.py": "held by 1 peers\nfound the provider: True\n",
    "first_provider.py": "found the provider: True\n",
    "own_values.py": "best: b'9'\n",
    "publish_name.py": "sequence number 1\nit stands for /ipfs/bafkqaddwgevxmmraojswg33smq\n",
    "on_py_libp2p.py": "connected: True\n",
    "watch_lookup.py": "answered 12D3KooW",
}
"""What the programs say that need nothing."""

NEED_MORE = {"serve.py", "keep_providing.py", "client_plain.py", "client_asyncio.py"}


def run(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, **env},
    )


def test_every_example_is_run_and_named_in_the_list() -> None:
    files = {file.name for file in EXAMPLES.glob("*.py")}
    assert files == {*SAID, *NEED_MORE}
    listed = (EXAMPLES / "README.md").read_text()
    assert len(files) == 10
    assert not [name for name in files if f"| `{name}` |" not in listed]


@pytest.mark.parametrize("name", SAID)
def test_an_example_does_what_it_says(name: str) -> None:
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert SAID[name] in done.stdout


def test_a_key_is_kept_over_restarts(tmp_path: Path) -> None:
    outputs = [run("keep_providing.py", str(tmp_path)).stdout.splitlines() for _ in range(2)]
    assert [lines[0] for lines in outputs] == ["keys at the start: 0", "keys at the start: 1"]
    assert [lines[-1] for lines in outputs] == ["keys now: 1"] * 2


def test_a_node_serves_until_it_is_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "serve.py")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("/ip4/127.0.0.1/tcp/")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0


def test_clients_use_a_running_daemon(tmp_path: Path) -> None:
    with serving(FakeDht(), tmp_path):
        plain = run("client_plain.py", CID, CODIO_DHT_DATA=str(tmp_path))
        on_asyncio = run("client_asyncio.py", CID, CODIO_DHT_DATA=str(tmp_path))
    assert plain.returncode == 0, plain.stderr
    providers = "".join(f"provided by {peer(number)}\n" for number in (2, 3))
    assert f"the node: {peer(1)}\nheld by 20 peers\n{providers}" == plain.stdout
    assert on_asyncio.returncode == 0, on_asyncio.stderr
    assert f"{CID} is held by 20 peers\n" == on_asyncio.stdout


def test_without_a_daemon_a_client_says_how_to_start_one(tmp_path: Path) -> None:
    done = run("client_plain.py", CID, CODIO_DHT_DATA=str(tmp_path))
    assert (1, "") == (done.returncode, done.stdout)
    assert "start one: codio-dht daemon" in done.stderr
