"""Whether one network's protocol is answered: server or client, and when that changes.

Decides when to serve and when to stop, as ``core.mode`` judges the node's addresses; a mode that
was asked for never changes. States::

    CLIENT <--addrs_changed, set_public--> SERVER

An address that only peers see which we dialled is no reason to serve (it may be a hole in a NAT).
How often addresses change, the host bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.core.mode import Mode, chosen_mode
from codio_dht.formats.multiaddr import is_public, is_relay
from codio_dht.logger import get_logger
from codio_dht.net.handlers import StreamHandlerFactory
from codio_dht.net.host import Host

log = get_logger(__name__)


class Serving:
    """Whether one network's protocol is answered. ``wanted`` is ``auto``, ``server`` or ``client``;
    ``public`` says whether the
    network is the public one."""

    def __init__(
        self,
        host: Host,
        protocol: str,
        handler: StreamHandlerFactory,
        wanted: str,
        *,
        public: bool,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._handler = handler
        self._wanted = wanted
        self.public = public
        self._addrs: Sequence[Multiaddr] = host.addrs
        self._started = False
        self.mode = self._mode()

    def start(self) -> None:
        """Follow the mode from now on: answer the protocol while it is SERVER."""
        self._started = True
        if self.mode is Mode.SERVER:
            self._serve()

    def stop(self) -> None:
        """Answer the protocol no more, whatever the mode."""
        self._started = False
        self._host.unserve(self._protocol)

    def addrs_changed(self, addrs: Sequence[Multiaddr]) -> None:
        """The node is at ``addrs`` now."""
        self._addrs = list(addrs)
        self._follow_mode()

    def set_public(self, *, public: bool) -> None:
        """Make the network a public one, or a private one."""
        self.public = public
        self._follow_mode()

    def _follow_mode(self) -> None:
        mode = self._mode()
        if mode is self.mode:
            return
        self.mode = mode
        if not self._started:
            return
        log.info("mode_changed", network=self._protocol, mode=mode.value)
        match mode:
            case Mode.SERVER:
                self._serve()
            case Mode.CLIENT:
                self._host.unserve(self._protocol)

    def _serve(self) -> None:
        self._host.serve(self._protocol, self._handler, idle_timeout_s=params.STREAM_IDLE_TIMEOUT_S)

    def _mode(self) -> Mode:
        return chosen_mode(
            self._wanted,
            public=self.public,
            has_public_address=any(map(_is_reached_directly, self._addrs)),
        )


def _is_reached_directly(addr: Multiaddr) -> bool:
    """Whether anyone can dial ``addr``, and not only by way of a relay, which allows little traffic
    (circuit relay v2 specification, "Reservation")."""
    data = addr.to_bytes()
    return is_public(data) and not is_relay(data)
