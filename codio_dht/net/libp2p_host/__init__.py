"""The ``Host`` port over a py-libp2p host: one that a program already runs, or one made here.

``Libp2pHost(ihost)`` mounts on a running host; ``make_libp2p_host(...)`` makes one for the
daemon. Both apply the guards of ``guards/``, without which a py-libp2p 0.8.1 host does not
survive the public network.
"""

from __future__ import annotations

from codio_dht.net.libp2p_host.adapter import Libp2pHost
from codio_dht.net.libp2p_host.make_host import make_libp2p_host

__all__ = ["Libp2pHost", "make_libp2p_host"]
