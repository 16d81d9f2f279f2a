"""Use a running daemon from plain code: python examples/client_plain.py CID

Start the daemon first: codio-dht daemon --bootstrap default
"""

import sys

from codio_dht import CodioError
from codio_dht.client import Client


def main(cid: str) -> int:
    client = Client(timeout=60)
    try:
        print("the node:", client.identity().peer_id)
        print("held by", client.provide(cid).holders, "peers")
        for peer in client.iter_providers(cid, count=5):
            print("provided by", peer.peer_id)
    except CodioError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


sys.exit(main(sys.argv[1]))
