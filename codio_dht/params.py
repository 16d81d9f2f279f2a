"""Constants of the DHT: name, unit, meaning and source.

Sources: SPEC is the libp2p kad-dht specification, IPFS the ipfs/specs kad-dht page, GO
go-libp2p-kad-dht 0.42, RS rust libp2p-kad 0.49, JS @libp2p/kad-dht 16. Where the implementations
differ, the comment says whose value this is and why.

Bounds and times that are this project's own stand at the top of the module that goes by them, or in
``limits.py`` of its package where several modules do.
"""

from __future__ import annotations

from typing import Final

# --- protocol -----------------------------------------------------------------------------------

KAD_PROTOCOL: Final = "/ipfs/kad/1.0.0"
"""The public (Amino) DHT's protocol id (SPEC)."""

KEY_BITS: Final = 256
"""Size of the keyspace: a key is a SHA-256 digest (SPEC)."""

# --- lookups ------------------------------------------------------------------------------------

K: Final = 20
"""Replication parameter: bucket size, and the number of closest peers (SPEC)."""

ALPHA: Final = 10
"""Concurrency: requests in flight in one lookup (GO; SPEC says 10)."""

BETA: Final = 3
"""Resiliency: closest peers that must have answered before the follow-up starts (GO)."""

MAX_CLOSER_PEERS_ACCEPTED: Final = 2 * K
"""Closer peers read from one reply; the rest is cut (GO: 2k, against quadratic stalls)."""

QUERY_TIMEOUT_S: Final = 60.0
"""How long a whole lookup may take, seconds (RS ``QueryConfig.timeout``)."""

REQUEST_TIMEOUT_S: Final = 10.0
"""How long reading one reply may take, seconds (GO ``dhtReadMessageTimeout``)."""

DIAL_TIMEOUT_S: Final = 15.0
"""How long connecting to one peer may take, all of its addresses together, seconds (GO 60 s). No
lookup waits for that long, but a peer with a round trip of 3 s is alive, and later lookups should
know."""

PEER_TIMEOUT_S: Final = 25.0
"""How long one request to one peer may take, seconds: a dial, a reply, and one retry (GO: dial,
10 s, 10 s)."""

PROVIDE_QUORUM: Final = 15
"""Holders after which ``provide`` returns (GO: three quarters of k); the others get the record in
the background."""

# --- frames and replies -------------------------------------------------------------------------

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest frame read (GO ``network.MessageSizeMax``, JS; RS reads 16 KiB)."""

REPLY_BUDGET_BYTES: Final = 16 * 1024
"""Largest reply written, length prefix included: RS's ``DEFAULT_MAX_PACKET_SIZE``, so that every
implementation can read every reply."""

MAX_PEER_ENTRY_BYTES: Final = 8 * 1024
"""Largest serialised ``Peer`` entry, read or written; addresses past it are dropped (GO 0.42)."""

MAX_SMALL_FRAME_BYTES: Final = 16 * 1024
"""A frame up to this size is always received: every request and reply of honest use fits (RS)."""

MAX_VARINT_BYTES: Final = 10
"""A varint longer than this is an error: 64 bits in groups of seven (LEB128)."""

MAX_PROVIDER_KEY_BYTES: Final = 80
"""Longest key of GET_PROVIDERS and ADD_PROVIDER (GO, IPFS: 1 to 80 bytes)."""

STREAM_IDLE_TIMEOUT_S: Final = 60.0
"""An inbound kad stream without a request is reset after this many seconds (GO)."""

# --- records ------------------------------------------------------------------------------------

PROVIDER_TTL_S: Final = 24 * 3600.0
"""Default life of a provider record of others, seconds (``DHTConfig.provider_timeout``)."""

PROVIDER_TTL_PUBLIC_S: Final = 48 * 3600.0
"""Life of a provider record on the public network, seconds (IPFS; JS providers return only after
24 h, so a shorter life would lose them)."""

PROVIDER_ADDR_TTL_S: Final = 24 * 3600.0
"""Life of the addresses inside a provider record, seconds (GO ``DefaultProviderAddrTTL``)."""

REPROVIDE_INTERVAL_S: Final = 12 * 3600.0
"""Own keys are provided again this often, seconds (RS; GO 22 h)."""

MAX_PROVIDERS_PER_KEY: Final = 1_000
"""Providers kept for one key; further new ones are refused, refreshes never (RS keeps 20, GO has
no bound: eight public keys have had more than 30,000)."""

MAX_PROVIDER_RECORDS: Final = 2_000_000
"""Provider records of others kept in all; a new one past it is refused, refreshes never."""

# --- routing table ------------------------------------------------------------------------------

REFRESH_INTERVAL_S: Final = 600.0
"""A CPL without a lookup for this long is refreshed, seconds (GO)."""

PROBE_TIMEOUT_S: Final = 10.0
"""How long an admission or liveness probe may take, seconds: FIND_NODE for the peer's id (GO)."""

# --- addresses ----------------------------------------------------------------------------------

MAX_ADDRS_PER_PEER: Final = 32
"""Addresses kept for one peer; later ones are dropped."""

HEARD_ADDR_TTL_S: Final = 120.0
"""Addresses only heard of in a reply live this long, seconds (GO ``TempAddrTTL``)."""

CONNECTED_ADDR_TTL_S: Final = 15 * 60.0
"""Addresses a peer gave itself (identify) live this long after it left, seconds (GO
``RecentlyConnectedAddrTTL``)."""
