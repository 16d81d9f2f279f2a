"""Use a running daemon from asyncio: python examples/client_asyncio.py CID ...

Start the daemon first: codio-dht daemon --bootstrap default
"""

import asyncio
import sys

from codio_dht.client import AsyncClient


async def main(cids: list[str]) -> None:
    async with AsyncClient() as client:
        async with asyncio.timeout(60):
            results = await asyncio.gather(*[client.provide(cid) for cid in cids])
        for cid, result in zip(cids, results, strict=True):
            print(cid, "is held by", result.holders, "peers")


asyncio.run(main(sys.argv[1:]))
