"""Take the first provider that is found, and stop looking."""

import trio

from codio_dht import DHTManager, PeerInfo

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


async def first_provider(dht: DHTManager, cid: str) -> PeerInfo | None:
    async with dht.iter_providers(cid) as providers:  # leaving the block ends the lookup
        async for info in providers:
            if info.addrs:  # a provider may come first without an address, then with one
                return info
    return None


async def main() -> None:
    async with DHTManager.open(listen=LOOPBACK) as seed:
        through = [f"{seed.addrs[0]}/p2p/{seed.peer_id}"]
        async with (
            DHTManager.open(listen=LOOPBACK, bootstrap=through) as provider,
            DHTManager.open(listen=LOOPBACK, bootstrap=through) as finder,
        ):
            await provider.joined()
            await finder.joined()
            await provider.provide(CID)
            found = await first_provider(finder, CID)
            print("found the provider:", found is not None and found.peer_id == provider.peer_id)


trio.run(main)
