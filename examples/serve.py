"""Run a node until Ctrl-C: python examples/serve.py [BOOTSTRAP ...]

BOOTSTRAP is an address that ends in /p2p/<peer id>, or "default" for the public network.
"""

import sys

import trio

from codio_dht import DHTManager


async def main(bootstrap: list[str]) -> None:
    async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=bootstrap) as dht:
        for addr in dht.addrs:
            print(f"{addr}/p2p/{dht.peer_id}", flush=True)
        if bootstrap:
            with trio.fail_after(60):
                await dht.joined()
            print("joined", flush=True)
        await trio.sleep_forever()


try:
    trio.run(main, sys.argv[1:])
except* KeyboardInterrupt:
    print("stopped")
