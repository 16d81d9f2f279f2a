"""The oracle: our node, told whom a perfect lookup ends with. It connects to them and asks them.

It joins like ``our_client.py``, so that it is connected to as many servers as that one before it
looks up, and keeps the connections that its lookups make. Instead of a lookup it does what no
lookup can do without: one FIND_NODE for the target to each of the true closest, all at once, over
the same host and the same RPC client. Who fails is tried again at once. So the time until the last
has answered is the least that a lookup of ours that ends with all answers can take.
"""

from __future__ import annotations

from typing import Any

import trio
from multiaddr import Multiaddr
from our_client import LISTEN, options, routing_table, serve

from codio_dht import DHTManager, params
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FindNode
from codio_dht.core.peer import PeerId
from codio_dht.errors import NetworkError, RemoteError
from codio_dht.net.host import Host
from codio_dht.node.hosting import open_host
from codio_dht.node.rpc import RpcClient

AGAIN_S = 0.05
"""From a failure to the next try, seconds."""


class Oracle:
    """Asks the peers it is told of."""

    def __init__(self, host: Host) -> None:
        self._addrs: dict[PeerId, Multiaddr] = {}
        self._rpc = RpcClient(
            host,
            params.KAD_PROTOCOL,
            lambda peer: [self._addrs[peer]],
            dial_timeout_s=params.DIAL_TIMEOUT_S,
            request_timeout_s=params.PEER_TIMEOUT_S,
        )

    async def ask_all(self, _: DHTManager, args: dict[str, Any]) -> dict[str, Any]:
        """Ask every one of ``addrs`` for the peers closest to ``key_hex``. The answer names who
        answered, in that order, and when: seconds after the first was asked."""
        target = FindNode(bytes.fromhex(args["key_hex"]))
        began = trio.current_time()
        answered: dict[PeerId, float] = {}

        async def ask(peer: PeerId) -> None:
            while True:
                deadline = Monotonic(trio.current_time() + params.PEER_TIMEOUT_S)
                try:
                    await self._rpc.request(peer, target, deadline)
                    break
                except (NetworkError, RemoteError):
                    await trio.sleep(AGAIN_S)
            answered[peer] = round(trio.current_time() - began, 4)

        async with trio.open_nursery() as nursery:
            for text in args["addrs"]:
                addr, _, name = text.rpartition("/p2p/")
                peer = PeerId.from_string(name)
                self._addrs[peer] = Multiaddr(addr)
                nursery.start_soon(ask, peer)
        return {
            "peers": [str(peer) for peer in answered],
            "standing": ["answered"] * len(answered),
            "answers_s": list(answered.values()),
        }


async def main(bootstrap: list[str], mode: str) -> None:
    async with open_host(None, [Multiaddr(LISTEN)], []) as host:
        commands = {"ask_all": Oracle(host).ask_all, "routing_table": routing_table}
        await serve(DHTManager(host, bootstrap=bootstrap, mode=mode), "oracle", commands)


if __name__ == "__main__":
    given = options()
    trio.run(main, given.bootstrap, given.mode)
