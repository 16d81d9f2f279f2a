"""Mount the DHT on a py-libp2p host that finds its peers through it."""

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from codio_dht import DHTManager, Libp2pRouting

LOOPBACK = [Multiaddr("/ip4/127.0.0.1/tcp/0")]


async def main() -> None:
    async with DHTManager.open(listen=LOOPBACK) as seed:
        through = [f"{seed.addrs[0]}/p2p/{seed.peer_id}"]
        routing = Libp2pRouting()
        host = new_host(disc_opt=routing)
        async with (
            DHTManager.open(listen=LOOPBACK, bootstrap=through) as friend,
            host.run(listen_addrs=LOOPBACK),
        ):
            await friend.joined()
            async with DHTManager(host, bootstrap=through) as dht:
                routing.attach(dht)
                await dht.joined()
                # No address is given: the host asks the DHT.
                await host.connect(PeerInfo(friend.peer_id.to_libp2p(), []))
                print("connected:", friend.peer_id in host.get_connected_peers())
            await host.close()


trio.run(main)
