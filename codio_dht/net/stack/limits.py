"""Bounds and times of the protocols of our own stack, each with its unit and its reason.

GO is go-libp2p, RS rust-libp2p, JS js-libp2p, SPEC the libp2p specification of the protocol. A
bound without a source is this project's own.
"""

from __future__ import annotations

from typing import Final

KEEP_ALIVE_INTERVAL_S: Final = 30.0
"""A quiet connection is pinged this often, seconds (GO, JS)."""

KEEP_ALIVE_TIMEOUT_S: Final = 10.0
"""A ping without an answer, and nothing else received, ends the connection after this, seconds (GO
``ConnectionWriteTimeout``)."""

# --- a stream's protocol, and the handshake -------------------------------------------------------

MAX_NEGOTIATION_MESSAGE_BYTES: Final = 512
"""Longest multistream-select message read from an authenticated peer, newline included (GO reads
1,024; protocol ids in use stay under 100)."""

MAX_UNAUTHENTICATED_NEGOTIATION_MESSAGE_BYTES: Final = 128
"""Longest multistream-select message read before the peer is authenticated, newline included: only
security protocols are proposed then."""

MAX_NEGOTIATION_ROUNDS: Final = 32
"""Proposals (or ``ls``) answered in one negotiation; the next one is a protocol error."""

NEGOTIATION_TIMEOUT_S: Final = 10.0
"""Agreeing on a protocol on an inbound stream, seconds (GO 10); then it is reset."""

MESSAGE_TIMEOUT_S: Final = 30.0
"""A request that has begun must be whole after this long, seconds, however slowly its bytes come;
then its stream is reset. The largest one takes 20 s at 3 KB/s."""

HANDSHAKE_STAGE_TIMEOUT_S: Final = 10.0
"""Each stage of a connection's upgrade (security agreed, authenticated, muxer agreed), seconds (GO
15 for all; RS 10). A round trip to a very slow peer takes 3 s, and the first one is two."""

MAX_NOISE_HANDSHAKE_MESSAGE_BYTES: Final = 8 * 1024
"""Longest Noise handshake message: an RSA-8192 key and signature with room for extensions."""

MAX_EARLY_MUXERS: Final = 16
"""Stream muxers read from a peer's Noise extensions; the rest is ignored."""

MAX_TLS_HANDSHAKE_BYTES: Final = 16 * 1024
"""What a peer may send until a TLS handshake is done: two records of the largest certificate taken
and a key share of a kilobyte and more; OpenSSL alone would take ten times that."""

MAX_TLS_EMPTY_BYTES: Final = 64 * 1024
"""Bytes of TLS records without plaintext in a row (a record not yet whole, session tickets, key
updates); more ends the connection."""

# --- streams --------------------------------------------------------------------------------------

YAMUX_WINDOW_BYTES: Final = 256 * 1024
"""Receive window of a stream; the specification fixes its initial size (GO and RS raise it for
bulk transfers, which the DHT has none of)."""

MAX_INBOUND_STREAMS: Final = 512
"""Streams one connection's peer may have open; a further one is reset (RS 512)."""

MAX_INBOUND_BACKLOG: Final = 256
"""Inbound streams that have not agreed on a protocol yet; a further one is reset (GO, SPEC)."""

MAX_OUTBOUND_STREAMS: Final = 384
"""Own streams on one connection: RS ends a connection with more than 512 in both directions."""

MAX_ACK_BACKLOG: Final = 256
"""Own streams the peer has not acknowledged; the specification allows no more (GO, RS)."""

MAX_CONNECTION_UNREAD_BYTES: Final = 4 * 1024 * 1024
"""Bytes received on all streams of a connection and not yet taken by their protocols; the stream
whose data goes past it is reset."""

MAX_STREAM_UNSENT_BYTES: Final = 4 * 1024 * 1024 + 64 * 1024
"""Bytes of one stream that wait for the peer's window: the largest frame, and a bit."""

MAX_CONNECTION_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of all streams of one connection together that wait for the peer's window."""

MAX_UNFLUSHED_CONTROL_BYTES: Final = 64 * 1024
"""Answers to pings and refused streams that wait for a peer that does not read; past it the
connection ends."""

STREAM_SWEEP_INTERVAL_S: Final = 5.0
"""How often a connection looks for streams past their idle time, seconds."""

# --- turns ----------------------------------------------------------------------------------------

MAX_FEEDS_PER_TURN: Final = 32
"""Pieces handed to protocol handlers before a connection lets others run."""

MAX_FEED_BYTES: Final = 2 * 1024
"""Size of such a piece: some 30 small requests, under 2 ms of work."""

MAX_FEED_BYTES_PER_TURN: Final = 8 * 1024
"""All pieces of one turn together."""
