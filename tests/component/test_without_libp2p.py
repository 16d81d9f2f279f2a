"""The package where the extra ``libp2p`` is not installed.

Blocked is everything that only the extra brings, so that what a node needs must be named in the
base dependencies.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def locked(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {_normal(found) for found in re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def only_of_the_extra() -> list[str]:
    """Top-level modules that are there only because of the extra."""
    extra = locked("libp2p") - locked("run")
    return sorted(
        module
        for module, homes in packages_distributions().items()
        if {_normal(home) for home in homes} <= extra
    )


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process in which nothing of the extra can be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=only_of_the_extra()) + program, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=ROOT,
    )


def test_the_blocker_blocks_py_libp2p() -> None:
    assert {"libp2p", "fastecdsa"} <= set(only_of_the_extra())
    assert not {"trio", "multiaddr", "aioquic", "cryptography"} & set(only_of_the_extra())
    done = run("import libp2p.peer.id")
    assert (1, True) == (done.returncode, "No module named 'libp2p" in done.stderr)


NODES = """
import trio
from codio_dht import DHTConfig, DHTManager
import codio_dht.daemon.service, codio_dht.daemon.demo

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"

async def main():
    listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
    async with DHTManager.open(DHTConfig(), listen=listen, data_dir=sys.argv[1]) as first:
        seed = f"{first.addrs[1]}/p2p/{first.peer_id}"
        async with DHTManager.open(listen=listen, bootstrap=[seed]) as second:
            await second.provide(CID)
            [found] = await first.find_providers(CID)
            assert found.peer_id == second.peer_id
            print(found.peer_id == second.peer_id, first.peer_id == second.peer_id)

trio.run(main)
"""


def test_two_nodes_provide_and_find_without_it(tmp_path: Path) -> None:
    done = run(NODES, str(tmp_path / "node"))
    assert (0, "True False\n", "") == (done.returncode, done.stdout, done.stderr)


def test_every_module_but_those_for_its_programs_can_be_imported_without_it() -> None:
    done = run(
        "import pkgutil, importlib, codio_dht\n"
        "for each in pkgutil.walk_packages(codio_dht.__path__, 'codio_dht.'):\n"
        "    if not each.name.startswith('codio_dht.net.libp2p_host')"
        " and each.name != 'codio_dht.node.libp2p_routing'"
        " and not each.name.endswith('__main__'):\n"
        "        importlib.import_module(each.name)\n",
    )
    assert (0, "") == (done.returncode, done.stderr)


CLI = "from codio_dht.cli.main import main\nsys.argv[0] = 'codio-dht'\nmain()\n"


def test_the_daemon_names_the_extra_that_py_libp2p_needs(tmp_path: Path) -> None:
    options = ["--stack", "py-libp2p", "--bootstrap", "none", "--data-dir", str(tmp_path / "node")]
    done = run(CLI, "daemon", *options)
    assert (2, "") == (done.returncode, done.stdout)
    assert "pip install 'codio-dht[libp2p]'" in done.stderr
    assert "scripts/setup --libp2p" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "make",
    [
        "DHTManager.open(stack='py-libp2p')",
        "await DHTManager(Foreign()).__aenter__()",
    ],
)
def test_a_program_is_told_which_extra_it_lacks(make: str) -> None:
    done = run(
        "import trio\n"
        "from codio_dht import DHTManager\n"
        "from codio_dht.errors import UsageError\n"
        "class Foreign:\n"
        "    def get_id(self): ...\n"
        "    def get_network(self): ...\n"
        "async def main():\n"
        "    try:\n"
        f"        {make}\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
        "trio.run(main)\n"
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert "py-libp2p cannot be loaded (No module named 'libp2p" in done.stdout
    assert "pip install 'codio-dht[libp2p]'" in done.stdout


def test_peer_ids_need_it_only_to_be_turned_into_its_own() -> None:
    program = f"""
from codio_dht import PeerId, PeerInfo

class ID:  # as libp2p.peer.id.ID looks
    def __init__(self, data): self._bytes = data
    def to_bytes(self): return self._bytes

peer = PeerId.from_base58("{NOBODY}")
assert peer == ID(peer.to_bytes()) and PeerId.coerce(ID(peer.to_bytes())) == peer
assert peer != ID(b"other") and PeerInfo(ID(peer.to_bytes())).peer_id == peer
try:
    peer.to_libp2p()
except ModuleNotFoundError as error:
    print(error.name.partition(".")[0])
"""
    done = run(program)
    assert (0, "libp2p\n", "") == (done.returncode, done.stdout, done.stderr)
