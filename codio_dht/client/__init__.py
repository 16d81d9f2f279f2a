"""Talks to a running daemon from any program: plain code, asyncio or trio.

    from codio_dht.client import AsyncClient, Client

    client = Client()                      # the daemon of the default data directory
    for peer in client.find_providers(cid):
        print(peer.peer_id)

Errors are those of :mod:`codio_dht.errors`, as on a node itself. ``NotRunningError`` says that no
daemon answers, and how to start one. Imports neither trio nor libp2p.
"""

from __future__ import annotations

from codio_dht.client.asynchronous import AsyncClient
from codio_dht.client.exchange import DaemonFaultError
from codio_dht.client.plain import Client
from codio_dht.client.results import ConnectedPeer, NameRecord, NodeIdentity, PublishedRecord

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectedPeer",
    "DaemonFaultError",
    "NameRecord",
    "NodeIdentity",
    "PublishedRecord",
]
