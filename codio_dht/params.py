"""Constants of the DHT: name, unit, meaning and source.

Sources: SPEC is the libp2p kad-dht specification, IPFS the ipfs/specs kad-dht page, GO
go-libp2p-kad-dht 0.42, RS rust libp2p-kad 0.49, JS @libp2p/kad-dht 16. Where the implementations
differ, the comment says whose value this is and why. Limits with no source are this project's own.
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
"""Requests in flight in one lookup (GO; SPEC says 10)."""

BETA: Final = 3
"""Closest peers that must have answered before the follow-up starts (GO ``resiliency``)."""

MAX_CLOSER_PEERS_ACCEPTED: Final = 2 * K
"""Closer peers read from one reply; the rest is cut (GO: 2k, against quadratic stalls)."""

QUERY_TIMEOUT_S: Final = 60.0
"""A whole lookup, seconds (RS ``QueryConfig.timeout``)."""

REQUEST_TIMEOUT_S: Final = 10.0
"""Reading one reply, seconds (GO ``dhtReadMessageTimeout``)."""

DIAL_TIMEOUT_S: Final = 5.0
"""Connecting to one peer, all of its addresses together, seconds (GO dials for up to 60 s; a
lookup has better peers to ask by then)."""

PROVIDE_RPC_TIMEOUT_S: Final = 10.0
"""Handing one provider record to one peer, dial included, seconds (GO sweep: 10; classic: 30)."""

# --- frames and replies -------------------------------------------------------------------------

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest frame read (GO ``network.MessageSizeMax``, JS; RS reads 16 KiB)."""

REPLY_BUDGET_BYTES: Final = 16 * 1024
"""Largest reply written, length prefix included: RS's ``DEFAULT_MAX_PACKET_SIZE``, so that every
implementation can read every reply."""

MAX_PEER_ENTRY_BYTES: Final = 8 * 1024
"""One serialised ``Peer`` entry, read or written; addresses past it are dropped (GO 0.42)."""

MAX_VARINT_BYTES: Final = 10
"""A varint longer than this is an error: 64 bits in groups of seven (LEB128)."""

MAX_PROVIDER_KEY_BYTES: Final = 80
"""Key of GET_PROVIDERS and ADD_PROVIDER (GO, IPFS: 1 to 80 bytes)."""

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
"""Own provider records are announced again this often, seconds (RS; GO 22 h)."""

MAX_PROVIDERS_PER_KEY: Final = 1_000
"""Providers kept for one key; further new ones are refused, refreshes never (RS keeps 20, GO has
no bound: eight public keys have had more than 30,000)."""

MAX_PROVIDER_RECORDS: Final = 2_000_000
"""Provider records of others kept in all; a new one past it is refused, refreshes never."""

# --- routing table ------------------------------------------------------------------------------

REFRESH_INTERVAL_S: Final = 600.0
"""A CPL without a lookup for this long is refreshed, seconds (GO)."""

MAX_REFRESH_CPL: Final = 15
"""Deepest CPL refreshed on its own (GO; deeper ones are covered by the self lookup)."""

LOW_PEERS: Final = 10
"""Below this many peers the node bootstraps again (GO ``minRTRefreshThreshold``)."""

LOW_PEERS_CHECK_S: Final = 120.0
"""How often that is looked at, seconds (GO)."""

MAX_BOOTSTRAP_DIALS: Final = 2
"""Bootstrap peers dialled at a time when peers run low (GO ``maxNBoostrappers``)."""

PROBE_TIMEOUT_S: Final = 10.0
"""An admission or liveness probe (FIND_NODE for the peer's own id), seconds (GO)."""

LIVENESS_GRACE_S: Final = 43.2 * 60.0
"""A table entry that has not answered us for this long is probed, seconds (GO:
``ln(1/k) / ln(1 - alpha/k) * refresh``)."""

MAX_ADDRS_PER_PEER: Final = 32
"""Addresses kept for one peer; later ones are dropped."""

HEARD_ADDR_TTL_S: Final = 120.0
"""Addresses only heard of in a reply live this long, seconds (GO ``TempAddrTTL``)."""

CONNECTED_ADDR_TTL_S: Final = 15 * 60.0
"""Addresses a peer gave itself (identify) live this long after it left, seconds (GO
``RecentlyConnectedAddrTTL``)."""
