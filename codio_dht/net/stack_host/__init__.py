"""The ``Host`` port over our own stack (:mod:`codio_dht.net.stack`), under trio.

``make_stack_host(...)`` makes one for the daemon. Nothing here imports py-libp2p.
"""

from __future__ import annotations

from codio_dht.net.gate import Gate
from codio_dht.net.limits import Limits
from codio_dht.net.stack_host.host import StackHost
from codio_dht.net.stack_host.make_host import make_stack_host

__all__ = ["Gate", "Limits", "StackHost", "make_stack_host"]
