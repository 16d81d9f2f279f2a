"""Watch a lookup while it runs: every peer that is asked, and how it answers."""

import trio

from codio_dht import DHTManager, multihash_of

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


async def main() -> None:
    async with DHTManager.open(listen=LOOPBACK) as seed:
        through = [f"{seed.addrs[0]}/p2p/{seed.peer_id}"]
        async with DHTManager.open(listen=LOOPBACK, bootstrap=through) as dht:
            await dht.joined()
            key = multihash_of(CID)  # what the DHT knows of a CID
            found = await dht.find_closest_peers(key, watch=print)
            for peer in found:
                print(peer.standing.value, peer.peer_id)


trio.run(main)
