"""A py-libp2p host with its own KadDHT, to compare with: says where it is and serves."""

from __future__ import annotations

import json
import logging
import sys

import trio
from libp2p import new_host
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

ALL_ON_LOOPBACK = 1_000_000
"""Peers per subnet: everybody is 127.0.0.1 here."""


async def main(listen: str) -> None:
    logging.disable(logging.CRITICAL)  # it logs every refused peer, at a cost
    quic = "/quic" in listen
    addrs = [Multiaddr(listen)]
    host = new_host(listen_addrs=addrs, enable_quic=quic, enable_tcp=not quic)
    async with host.run(listen_addrs=addrs):
        dht = KadDHT(
            host,
            DHTMode.SERVER,
            max_peers_per_subnet=ALL_ON_LOOPBACK,
            max_peers_per_subnet_table=0,
        )
        async with background_trio_service(dht):
            told = [str(addr) for addr in host.get_addrs()]
            print(json.dumps({"ready": True, "addrs": told}), flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)


trio.run(main, sys.argv[1])
