"""Keep a key provided over restarts: python examples/keep_providing.py DIRECTORY

The first run provides the key. Every later run goes on by itself, because the key is on disk.
"""

import sys

import trio

from codio_dht import DHTManager, NoPeersError

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


async def main(directory: str) -> None:
    async with DHTManager.open(data_dir=directory, listen=["/ip4/127.0.0.1/tcp/0"]) as dht:
        print("keys at the start:", len(await dht.own_keys()))
        try:
            await dht.provide(CID)
        except NoPeersError:
            print("nobody to tell yet; it is provided as soon as there is")
        print("keys now:", len(await dht.own_keys()))


trio.run(main, sys.argv[1])
