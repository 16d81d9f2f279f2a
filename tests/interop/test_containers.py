"""The matrix with each node in a container of its own, on a bridge network.

A few triples here; ``scripts/interop --containers`` runs all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import triples_page
from images import FILES
from peer_builds import MissingToolError
from peers import PeerLauncher
from triples import OURS, TCP_NOISE, Triple

pytestmark = pytest.mark.interop

TRIPLES = (Triple(TCP_NOISE, OURS, "go", "go"), Triple(TCP_NOISE, "go", OURS, "go"))


@pytest.mark.deadline_s(600)  # on a new machine the images are built first
def test_nodes_in_containers_of_their_own_find_what_each_other_provides(tmp_path: Path) -> None:
    try:
        outcomes = triples_page.in_containers(TRIPLES, tmp_path)
    except MissingToolError as error:
        pytest.skip(str(error))
    assert len(outcomes) == 5 * len(TRIPLES)
    assert {} == {str(cell): each.error for cell, each in outcomes.items() if each.error}


async def test_the_compose_file_knows_the_id_of_gos_node(go: PeerLauncher) -> None:
    text = (FILES / "compose.yaml").read_text()
    async with go.start(seed="compose") as [peer]:
        assert f"/dns4/go/tcp/4001/p2p/{peer.peer_id}\n" in text
