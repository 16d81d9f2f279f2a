"""Bounds and times of the host on our own stack, each with its unit and its reason.

They belong to this host and not to the protocols under it (those are in ``codio_dht.params``).
``Limits`` holds what a test or an operator may set; the rest are constants. Where another
implementation has the same bound, its value is named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

# --- the pump -------------------------------------------------------------------------------------

READ_BYTES: Final = 16 * 1024
"""Most bytes taken from a socket in one read: a turn's work stays under 2 ms."""

KEEP_ALIVE_BYTES: Final = 34
"""A piece no longer than this says nothing of use: a sealed keep-alive (30 under Noise, 34 under
TLS), a window update or a reset."""

HOLD_BYTES: Final = 256 * 1024
"""Bytes that the socket did not take; past it the peer gets no more answers until they left."""

MAX_BACKLOG_BYTES: Final = 4 * 1024 * 1024
"""The same; past it the connection ends."""

WRITE_TIMEOUT_S: Final = 30.0
"""What waits for the socket must have left after this long, seconds; else the connection ends."""

WRITE_PIECE_BYTES: Final = 64 * 1024
"""A writer hands over at most this much before it waits for the socket and the peer's window."""

# --- dialling -------------------------------------------------------------------------------------

MAX_DIALS_PER_GROUP: Final = 16
"""Addresses of one /24 (IPv6: /48) being dialled at once."""

MAX_DIALS_PER_PEER: Final = 8
"""Addresses of one peer being dialled at once."""

MAX_ADDRS_PER_DIAL: Final = 64
"""Addresses of one peer that one dial tries; later ones are left out."""

DIAL_STAGGER_S: Final = 0.15
"""Head start of one address before the next of the same peer is tried, seconds (go 0.25; RFC 8305
recommends 0.1 to 2)."""

CONNECT_TIMEOUT_S: Final = 5.0
"""One TCP connect, seconds (go 5)."""

UPGRADE_TIMEOUT_S: Final = 10.0
"""From the TCP connection to an authenticated peer, seconds (go 15 for the whole upgrade)."""

GIVE_WAY_AFTER_S: Final = 1.0
"""While others wait for a free place, a connect without an answer for this long loses its own,
seconds: in the first second a peer anywhere on earth answers."""

GIVE_WAY_CHECK_S: Final = 0.25
"""How often who waits for a place looks for one to take, seconds."""

DNS_TIMEOUT_S: Final = 5.0
"""Resolving the names in one peer's addresses, seconds, within the dial's own deadline."""

SILENT_AFTER_S: Final = GIVE_WAY_AFTER_S
"""A connect given up after this long, seconds, counts as unanswered."""

SILENT_BACKOFF_S: Final = 5.0
"""An address that did not answer is left alone for this long, seconds; doubled each time ..."""

REFUSED_BACKOFF_S: Final = 0.5
"""... one that refused (which costs a round trip and nothing else), for this long ..."""

STRANGER_BACKOFF_S: Final = 30.0
"""... one where somebody else or no libp2p peer answered, for this long ..."""

MAX_BACKOFF_S: Final = 300.0
"""... and none for longer (go: 5 s to 5 min)."""

MAX_REMEMBERED_FAILURES: Final = 4_096
"""Addresses whose failures are remembered; the one that failed longest ago is forgotten."""

MAX_REMEMBERED_REFUSALS: Final = 1_024
"""Addresses of listeners that refuse pipelining; the oldest is forgotten."""

# --- connections ----------------------------------------------------------------------------------

MAX_CONNECTIONS_PER_PEER: Final = 8
"""Connections with one peer; a further inbound one is refused (go 8)."""

GRACE_S: Final = 20.0
"""A connection younger than this is not closed to make room, seconds (Kubo 20)."""

DUPLICATE_IDLE_S: Final = 15.0
"""A surplus connection to a peer is closed when nothing happened on it for this long, seconds."""

IDLE_CONNECTION_S: Final = 600.0
"""A connection without streams and without protection is closed when nothing happened on it for
this long, seconds."""

MAX_ARRIVALS_PER_IP: Final = 64
"""Connections that one IPv4 address or IPv6 /56 may begin in one go ..."""

ARRIVALS_PER_IP_PER_S: Final = 8.0
"""... and in each second from then on: a handshake costs half a millisecond."""

MAX_ARRIVING_IPS: Final = 4_096
"""Addresses whose arrivals are remembered; the one that came least recently is forgotten."""

MAX_CLOSED_AT_ONCE: Final = 32
"""Connections closed to make room before others run."""

REAP_INTERVAL_S: Final = 1.0
"""How often deadlines are looked at, seconds."""

REAP_ROUNDS: Final = 5
"""An open connection is looked at in one of so many rounds."""

REAP_BATCH: Final = 64
"""Connections looked at before others run."""

ACCEPT_BATCH: Final = 16
"""Sockets accepted before others run."""

ACCEPT_PAUSE_S: Final = 0.2
"""How long no sockets are accepted after the system refused to give one, seconds."""

LISTEN_BACKLOG: Final = 1_024
"""Connections that the system keeps for us to accept."""

OWN_ADDRESSES_INTERVAL_S: Final = 30.0
"""How often the machine's addresses, and those that peers see, are looked at, seconds."""

# --- QUIC -----------------------------------------------------------------------------------------

UDP_BATCH: Final = 32
"""Datagrams taken from a UDP socket before its connections answer and others run."""

UDP_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Asked of the system for each direction of a UDP socket (go asks for 7 MiB; Linux gives 208 KiB
unless it is set otherwise)."""

MIN_TIMER_S: Final = 0.001
"""A QUIC timer fires this long after it was set, at the earliest, seconds."""

QUIC_KEEP_ALIVE_BYTES: Final = 48
"""A datagram no longer than this says nothing of use: a ping or an acknowledgement."""

MAX_UNPROVEN_HANDSHAKES: Final = 32
"""Inbound QUIC handshakes whose address is not proven; while there are more, diallers have to prove
theirs first, which costs them a round trip."""

MAX_UNPROVEN_PER_IP: Final = 2
"""The same, of one IPv4 address or IPv6 /56, so that forged ones do not use up its connections."""

# --- streams --------------------------------------------------------------------------------------

MAX_STREAM_TASKS: Final = 1_024
"""Inbound streams that live with a task; one more is reset."""

MAX_STREAM_TASKS_PER_PEER: Final = 64
"""The same, of one peer."""

STREAM_TASK_IDLE_S: Final = 600.0
"""An inbound stream with a task on which nothing arrives is reset after this, seconds."""

# --- identify and ping ----------------------------------------------------------------------------

IDENTIFY_TIMEOUT_S: Final = 10.0
"""Reading the peer's identify message, from opening the stream, seconds."""

MAX_KNOWN_PROTOCOL_BYTES: Final = 8 * 1024
"""Protocol ids kept of one peer, all together; the rest is dropped."""

PUSH_BATCH: Final = 16
"""Peers told of a change before others run."""

PING_IDLE_S: Final = 60.0
"""An inbound ping stream without a ping is reset after this, seconds."""

# --- what may be set ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one host; what happens at each is said where it is used."""

    max_connections: int = 8_000
    """Open connections; past it one is closed, or the new one is refused."""
    high_water: int = 6_000
    """Above this, idle connections are closed ..."""
    low_water: int = 5_000
    """... down to this, those first on which nothing happened for longest."""
    grace_s: float = GRACE_S
    max_pending: int = 512
    """Inbound connections in their handshake; when one more comes, the oldest is dropped."""
    max_dials: int = 512
    """Addresses being dialled at once; see ``dial_budget``."""
    per_ip: int = 8
    """Inbound connections of one IPv4 address or IPv6 /56 (go 8); a further one is refused."""
    per_subnet: int = 64
    """Inbound connections of one IPv4 /24 or IPv6 /48; likewise."""
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
