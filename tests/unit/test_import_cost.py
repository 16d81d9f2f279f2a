"""What importing costs, in modules: a number that no busy machine changes.

The bounds are what was counted on Python 3.11, and a third more.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "cryptography", "dns", "google", "libp2p", "multiaddr", "structlog", "trio"}

PROGRAM = """
import sys
before = set(sys.modules)
{code}
print(*sorted(set(sys.modules) - before))
"""


def imported(code: str) -> list[str]:
    """The modules that ``code`` brings into a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM.format(code=code)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("code", "bound", "needed"),
    [
        ("import codio_dht", 40, set()),
        ("from codio_dht import DHTConfig, CodioError, Mode", 66, set()),
        ("from codio_dht import PeerId, PeerInfo", 80, {"multiaddr"}),  # addresses are of its type
        ("from codio_dht.client import AsyncClient, Client", 175, {"multiaddr"}),
        ("import codio_dht.cli.main", 130, set()),
        ("from codio_dht.cli.main import run; run(['id', '--data-dir', '/none'])", 130, set()),
    ],
)
def test_what_needs_no_network_loads_nothing_of_it(code: str, bound: int, needed: set[str]) -> None:
    modules = imported(code)
    assert needed == HEAVY & {name.partition(".")[0] for name in modules}
    assert len(modules) <= bound, modules
