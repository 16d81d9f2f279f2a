"""Whether the node answers the DHT protocol: server or client, and when that changes.

Decides when to serve and when to stop, as ``core.mode`` judges the node's addresses; a mode that
was asked for never changes. States::

    CLIENT <--addrs_changed--> SERVER

An address that only peers see which we dialled is no reason to serve (it may be a hole in a NAT).
How often addresses change, the host bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from multiaddr import Multiaddr

from codio_dht.core.addresses import is_public
from codio_dht.core.mode import Mode, chosen_mode

log = structlog.get_logger(__name__)


class Serving:
    """See the module. ``serve`` and ``unserve`` are called when the mode changes, and by
    :meth:`start`."""

    def __init__(
        self,
        wanted: str,
        *,
        public: bool,
        addrs: Sequence[Multiaddr],
        serve: Callable[[], None],
        unserve: Callable[[], None],
    ) -> None:
        self._wanted = wanted
        self._public = public
        self._serve = serve
        self._unserve = unserve
        self.mode = self._mode_at(addrs)

    def start(self) -> None:
        """Serve, if that is the mode."""
        if self.mode is Mode.SERVER:
            self._serve()

    def addrs_changed(self, addrs: Sequence[Multiaddr], unproven: Sequence[Multiaddr]) -> None:
        """The node is at ``addrs`` now, of which ``unproven`` may be reached by nobody."""
        mode = self._mode_at([addr for addr in addrs if addr not in unproven])
        if mode is self.mode:
            return
        self.mode = mode
        log.info("mode_changed", mode=mode.value)
        match mode:
            case Mode.SERVER:
                self._serve()
            case Mode.CLIENT:
                self._unserve()

    def _mode_at(self, addrs: Sequence[Multiaddr]) -> Mode:
        return chosen_mode(
            self._wanted,
            public=self._public,
            has_public_address=any(is_public(addr.to_bytes()) for addr in addrs),
        )
