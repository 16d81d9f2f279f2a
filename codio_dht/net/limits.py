"""What may be set of a host on our own stack (:class:`Limits`), and the constants beside it.

Each layer below has bounds of its own in a module ``limits``. GO is go-libp2p.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

# --- inbound connections --------------------------------------------------------------------------

GRACE_S: Final = 20.0
"""A connection younger than this is not closed to make room, seconds (Kubo 20)."""

MAX_ARRIVALS_PER_IP: Final = 64
"""Connections that one IPv4 address or IPv6 /56 may begin in one go, after which
``ARRIVALS_PER_IP_PER_S`` bounds it."""

ARRIVALS_PER_IP_PER_S: Final = 8.0
"""Connections that one IPv4 address or IPv6 /56 may begin in each second once it has used up
``MAX_ARRIVALS_PER_IP``: a handshake costs half a millisecond."""

MAX_ARRIVING_IPS: Final = 4_096
"""Addresses whose arrivals are remembered; the one that came least recently is forgotten."""

DOUBT_AFTER_S: Final = 5.0
"""Who gives up waiting after this long, seconds, nothing at all having been heard on the connection
meanwhile, makes it a doubtful one, which is not used where another can be had."""

# --- own addresses --------------------------------------------------------------------------------

MAX_TOLD_ADDRS: Final = 100
"""Own addresses told to others, in identify and in the DHT; past it those that reach farthest are
told. About as many fit into the part of an identify message that every implementation reads."""

# --- own addresses as peers see them --------------------------------------------------------------

MIN_OBSERVER_GROUPS: Final = 4
"""IP groups whose peers must have seen us at an address before it is believed (GO
``ActivationThresh`` 4, but of single IPv4 addresses, which one owner of a /24 has)."""

OBSERVER_SHARE: Final = 4
"""An address is believed only if it has at least one in so many of the votes that the address seen
by most groups has."""

MAX_OBSERVED_TOLD: Final = 3
"""Addresses believed of one transport and IP version because peers see us there (GO 3)."""

OBSERVATION_TTL_S: Final = 40 * 60.0
"""What a peer saw counts for this long after its connection ended, seconds (GO 40 min, until it
took to forgetting with the connection, which makes a DHT's many short visits count for nothing)."""

MAX_PROVEN_OWN_ADDRS: Final = 16
"""Own addresses that a dial-back has proven; past it the one proven longest ago is forgotten."""

MAX_OBSERVATIONS: Final = 4_096
"""Addresses by groups that saw us there; past it the oldest of an ended connection is forgotten."""

MAX_OBSERVATIONS_PER_GROUP: Final = 8
"""Addresses that one IP group may have seen us at; past it the oldest of an ended connection is
forgotten."""

# --- what may be set ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one host; what happens at each is said where it is used."""

    max_connections: int = 8_000
    """Open connections; past it one is closed, or the new one is refused."""
    high_water: int = 6_000
    """Above this many connections, idle ones are closed."""
    low_water: int = 5_000
    """Idle connections are closed down to this many, those first on which nothing happened for
    longest."""
    grace_s: float = GRACE_S
    max_pending: int = 512
    """Inbound connections in their handshake; when one more comes, the oldest is dropped."""
    max_dials: int = 512
    """Addresses being dialled at once; see :mod:`codio_dht.net.dial.budget`."""
    per_ip: int = 8
    """Inbound connections of one IPv4 address or IPv6 /56 (go 8); a further one is refused."""
    per_subnet: int = 64
    """Inbound connections of one IPv4 /24 or IPv6 /48; a further one is refused."""
    exempt_local: bool = True
    """Loopback and private addresses are not counted by IP, subnet and dial group."""
    max_buffered_bytes: int = 256 * 1024 * 1024
    """Bytes held for all connections together; past it those that hold most are closed."""
    max_streams: int = 65_536
    """Streams of all connections together; past it the connections with most are closed."""

    @property
    def open_files(self) -> int:
        """Files that a process must be allowed to have open for all of this."""
        connections = -(-self.max_connections * 4 // 3)
        return _OTHER_FILES + max(connections, 8 * self.max_pending, 8 * self.max_dials)

    def within(self, open_files: int) -> Self:
        """These limits, cut to what a process may have open."""
        usable = max(open_files - _OTHER_FILES, _OTHER_FILES)
        most = min(self.max_connections, usable * 3 // 4)
        scale = most / self.max_connections
        return replace(
            self,
            max_connections=most,
            high_water=int(self.high_water * scale),
            low_water=int(self.low_water * scale),
            max_pending=min(self.max_pending, usable // 8),
            max_dials=min(self.max_dials, usable // 8),
        )


_OTHER_FILES: Final = 64
"""Files that the process has open beside connections: the store, logs, its standard streams."""
