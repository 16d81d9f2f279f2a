"""Publish an IPNS name on one node, and resolve it from another."""

import trio

from codio_dht import DHTManager

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


async def main() -> None:
    async with DHTManager.open(listen=LOOPBACK) as first:
        seed = f"{first.addrs[0]}/p2p/{first.peer_id}"
        async with DHTManager.open(listen=LOOPBACK, bootstrap=[seed]) as second:
            await second.joined()
            name = await second.generate_name_key("blog")
            for path in ("/ipfs/bafkqaaa", "/ipfs/bafkqaddwgevxmmraojswg33smq"):
                published = await second.publish_name(path, key="blog")
                print("published with sequence number", published.record.sequence)
            found = await first.resolve_name(name)
            print("it stands for", found.path if found else None)


trio.run(main)
