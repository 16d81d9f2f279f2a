"""Provide some content on one node, and find its provider from another."""

import trio

from codio_dht import DHTManager

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


async def main() -> None:
    async with DHTManager.open(listen=LOOPBACK) as first:
        seed = f"{first.addrs[0]}/p2p/{first.peer_id}"
        async with DHTManager.open(listen=LOOPBACK, bootstrap=[seed]) as second:
            await second.joined()
            result = await second.provide(CID)
            print("held by", result.holders, "peers")
            [found] = await first.find_providers(CID)
            print("found the provider:", found.peer_id == second.peer_id)


trio.run(main)
