"""The public network's bootstrap peers."""

from __future__ import annotations

from codio_dht.node.arguments import peer_address_argument
from codio_dht.node.bootstrap import PUBLIC_BOOTSTRAP


def test_every_address_of_the_public_list_can_be_dialled() -> None:
    infos = [peer_address_argument(addr, "bootstrap") for addr in PUBLIC_BOOTSTRAP]
    assert len({info.peer_id for info in infos}) == 6
    assert all(info.addrs for info in infos)
