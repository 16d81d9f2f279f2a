"""The connected peers that have identified themselves.

Decides what is kept of a peer's message, and what a host tells its subscribers. A peer is *known*
from its first message to the end of its last connection.

The connection has proved who speaks, so what a peer says unsigned is its own word already; the
signed record is opened only for a peer that says its addresses nowhere else (a signature costs more
than all the rest). Which addresses a network wants is decided later, so ``MAX_ADDRS_PER_PEER`` of
each reach are kept. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Final

from multiaddr import Multiaddr

from codio_dht.core.peer import PeerId
from codio_dht.crypto.peer_record import open_peer_record
from codio_dht.errors import ProtocolError
from codio_dht.formats.multiaddr import usable_addresses
from codio_dht.net.event_bus import EventBus
from codio_dht.net.host import PeerGone, PeerIdentified
from codio_dht.net.identify.limits import MAX_KNOWN_PROTOCOL_BYTES
from codio_dht.net.identify.message import IdentifyMessage
from codio_dht.params import MAX_ADDRS_PER_PEER

_KNOWN_SETS: Final = 256
"""Sets of protocols remembered, so that peers of the same program share one."""


class KnownPeers:
    """The peers of one host that have said who they are.

    ``is_connected`` says whether a connection to a peer is open: a message that is read after the
    last one ended counts for nothing.
    """

    def __init__(self, bus: EventBus, is_connected: Callable[[PeerId], bool]) -> None:
        self._bus = bus
        self._is_connected = is_connected
        self._known: dict[PeerId, PeerIdentified] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[PeerIdentified]:
        return iter(list(self._known.values()))

    def get(self, peer_id: PeerId) -> PeerIdentified | None:
        """What the peer said of itself, if it is known."""
        return self._known.get(peer_id)

    def learn(
        self, peer_id: PeerId, message: IdentifyMessage, *, new_connection: bool = False
    ) -> None:
        """A peer's message. Subscribers are told of it if it changes what is known, and whenever it
        is the first one on a ``new_connection``."""
        before = self._known.get(peer_id)
        said = merged(message, peer_id, before)
        if not self._is_connected(peer_id) or (said == before and not new_connection):
            return
        self._known[peer_id] = said
        self._bus.emit(replace(said, new_connection=new_connection))

    def gone(self, peer_id: PeerId) -> None:
        """The last connection to a peer ended. Subscribers are told also of one that was never
        known."""
        self._known.pop(peer_id, None)
        self._bus.emit(PeerGone(peer_id))


def merged(
    message: IdentifyMessage, sender: PeerId, before: PeerIdentified | None
) -> PeerIdentified:
    """The peer as it is known after ``message``. What the message does not mention stays as it was
    ``before``: a push may be partial."""
    known = before or PeerIdentified(sender, frozenset(), (), "")
    addrs = _multiaddrs(message.listen_addrs, sender) or _signed_addrs(message, sender)
    observed = () if message.observed_addr is None else _multiaddrs([message.observed_addr], sender)
    return replace(
        known,
        protocols=_protocols(message.protocols) if message.protocols else known.protocols,
        addrs=addrs or known.addrs,
        agent=known.agent if message.agent is None else _printable(message.agent),
        observed_addr=observed[0] if observed else known.observed_addr,
    )


@lru_cache(maxsize=_KNOWN_SETS)
def _protocols(names: tuple[str, ...]) -> frozenset[str]:
    kept: set[str] = set()
    left = MAX_KNOWN_PROTOCOL_BYTES
    for name in names:
        left -= len(name)
        if left < 0:
            break
        kept.add(name)
    return frozenset(kept)


@lru_cache(maxsize=_KNOWN_SETS)
def _printable(agent: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in agent)


def _multiaddrs(addrs: Iterable[bytes], sender: PeerId) -> tuple[Multiaddr, ...]:
    return tuple(map(Multiaddr, usable_addresses(addrs, sender.to_bytes(), MAX_ADDRS_PER_PEER)))


def _signed_addrs(message: IdentifyMessage, sender: PeerId) -> tuple[Multiaddr, ...]:
    if message.signed_peer_record is None:
        return ()
    try:
        record = open_peer_record(message.signed_peer_record)
    except ProtocolError:
        return ()
    return _multiaddrs(record.addrs, sender) if record.peer_id == sender else ()
