"""Bounds and times of QUIC, each with its unit and its reason.

GO is go-libp2p on quic-go, RS rust-libp2p on quinn.
"""

from __future__ import annotations

from typing import Final

CONNECTION_ID_BYTES: Final = 8
"""Length of this node's connection ids: a packet is found by so many of its bytes."""

# --- the machine ----------------------------------------------------------------------------------

QUIC_DATAGRAM_BYTES: Final = 1_232
"""Payload of a datagram: the smallest MTU of IPv6, less the headers of IPv6 and UDP. Paths are not
probed for more."""

QUIC_IDLE_TIMEOUT_S: Final = 30.0
"""A QUIC connection on which nothing arrives ends after this, seconds (GO 30; RS 10; the smaller of
both sides' counts)."""

QUIC_KEEP_ALIVE_INTERVAL_S: Final = 15.0
"""A quiet QUIC connection is pinged this often, seconds (GO 15), or twice within a peer's shorter
idle time-out."""

QUIC_ACK_DELAY_S: Final = 0.02
"""How long an acknowledgement waits for something to go with, seconds (we tell peers 25 ms)."""

QUIC_STREAM_WINDOW_BYTES: Final = 256 * 1024
"""Bytes a peer may send on a QUIC stream ahead of what was taken (GO 512 KiB, growing)."""

QUIC_CONNECTION_WINDOW_BYTES: Final = 2 * 1024 * 1024
"""Bytes a QUIC peer may send on all streams of a connection together ahead of what was taken; it
bounds what reassembly holds, too (GO 768 KiB,
growing to 15 MiB)."""

QUIC_HOLD_BYTES: Final = 256 * 1024
"""Bytes sent on a QUIC connection that the peer does not have yet; past it no more requests are
answered until it has half of them."""

MAX_QUIC_STREAMS: Final = 256
"""Streams a QUIC peer may have open; more it cannot open (GO, RS 256)."""

QUIC_STREAM_BYTES: Final = 1_024
"""What a stream takes that the peer opened (with one frame, and many below it with the same), and
wrote nothing on, bytes: as measured, and a bit."""

MAX_QUIC_GAPS: Final = 64
"""Gaps in one stream's received data; more end the connection. Loss on a long path makes a few
dozen at most, and every frame is compared with all of them."""

MAX_QUIC_LATE_CRYPTO_BYTES: Final = 64 * 1024
"""Handshake data after the handshake, such as session tickets (RS sends some hundred bytes); more
ends the connection."""

MAX_QUIC_CONNECTION_IDS: Final = 4_096
"""Connection ids that a peer issues in the life of a connection, as far as they are remembered;
more end it."""

# --- the sockets ----------------------------------------------------------------------------------

UDP_BATCH: Final = 32
"""Datagrams taken from a UDP socket before its connections answer and others run."""

DRAIN_S: Final = 3.0
"""Packets for a connection that is over get no answer for so long, seconds: its peer sent them
before it knew (RFC 9000, section 10.2). Stateless resets in answer to those, and to each other,
would go to and fro."""

MAX_DRAINED_IDS: Final = 4_096
"""Ids of connections that are over, remembered for that; the oldest are forgotten."""

MAX_WAITING_STRANGERS: Final = 256
"""Datagrams of no connection that wait to be looked at, of one socket; more are dropped and
counted. A dialler sends its first packet again."""

STRANGERS_PER_TURN: Final = 8
"""Of these, so many are looked at after each batch: one costs as much as reading several."""

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
"""Inbound QUIC handshakes of one IPv4 address or IPv6 /56 whose address is not proven; past it that
address has to be proven first, so that forged ones do not use up its connections."""

MAX_FORGED_INITIALS_PER_S: Final = 64
"""First packets in a second that are not genuine. Past it, and for the second after, every dialler
has to prove its address: somebody sends packets with forged sources, and may send genuine ones
next."""

RETRY_TOKEN_LIFETIME_S: Final = 30.0
"""A dialler has so long to come again after a Retry, seconds."""

MAX_RESETS_PER_S: Final = 512
"""Stateless resets sent in a second, all of a socket together; past it packets of connections that
are gone get no answer. They are forged as easily as genuine ones."""

MAX_RESETS_PER_IP_PER_S: Final = 16
"""The same to one IPv4 address or IPv6 /56, so that one stranger does not use up all of them."""
