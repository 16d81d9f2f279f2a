"""How a node joins: the public bootstrap list, and when to try again.

Decides whom to dial to get into the network and when; what a joined node looks like, the table's
upkeep decides (:mod:`codio_dht.node.upkeep`).
"""

from __future__ import annotations

from typing import Final

from codio_dht.core.rng import Rng

DEFAULT_NAME: Final = "default"
"""Stands for the public list wherever bootstrap addresses are given."""

PUBLIC_BOOTSTRAP: Final = (
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
    "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZYcW3dwt",
    "/dnsaddr/va1.bootstrap.libp2p.io/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8",
    "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
    "/ip4/104.131.131.82/udp/4001/quic-v1/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
)
"""The public network's bootstrap peers (Kubo's fallback list, 2026)."""

FIRST_RETRY_S: Final = 5.0
"""After a round that reached nobody, seconds."""

LAST_RETRY_S: Final = 300.0
"""The back-off's ceiling, seconds."""

_GROWTH: Final = 2.0
_JITTER: Final = 0.25


class Backoff:
    """Doubling delays with jitter, up to a ceiling; a success starts over."""

    def __init__(
        self, rng: Rng, first_s: float = FIRST_RETRY_S, last_s: float = LAST_RETRY_S
    ) -> None:
        self._rng = rng
        self._first_s = first_s
        self._last_s = last_s
        self._next_s = first_s

    def failed(self) -> float:
        """The delay before the next try, seconds."""
        delay = self._next_s * (1 + _JITTER * (2 * self._rng.random() - 1))
        self._next_s = min(self._next_s * _GROWTH, self._last_s)
        return delay

    def succeeded(self) -> None:
        """Start over."""
        self._next_s = self._first_s
