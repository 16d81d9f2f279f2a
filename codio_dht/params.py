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
"""Requests in flight in one lookup (GO; SPEC says 10)."""

BETA: Final = 3
"""Closest peers that must have answered before the follow-up starts (GO ``resiliency``)."""

MAX_CLOSER_PEERS_ACCEPTED: Final = 2 * K
"""Closer peers read from one reply; the rest is cut (GO: 2k, against quadratic stalls)."""

QUERY_TIMEOUT_S: Final = 60.0
"""A whole lookup, seconds (RS ``QueryConfig.timeout``)."""

REQUEST_TIMEOUT_S: Final = 10.0
"""Reading one reply, seconds (GO ``dhtReadMessageTimeout``)."""

DIAL_TIMEOUT_S: Final = 15.0
"""Connecting to one peer, all of its addresses together, seconds (GO 60 s). No lookup waits for
that long; but a peer with a round trip of 3 s is alive, and later lookups should know."""

PEER_TIMEOUT_S: Final = 25.0
"""One peer in all, seconds: dialling, a reply, and the one retry (GO: dial, 10 s, 10 s)."""

SOFT_DEADLINE_S: Final = 3.0
"""The longest soft deadline, in seconds: no lookup waits for a peer for longer before it asks
others in its place. A later answer still counts (RS: 10 s)."""

MIN_SOFT_DEADLINE_S: Final = 0.25
"""The shortest soft deadline, in seconds, of a peer that is not known to be dead or slow."""

SOFT_DEADLINE_FACTOR: Final = 3.2
"""The soft deadline of a peer of which nothing is known: so many times the median of the latest
answer times. With lognormal round trips (sigma 0.6, as measured) one living peer in 40 is
slower."""

PATIENCE_FACTOR: Final = 4.0
"""How long a lookup that is over otherwise still waits for one of the k closest: so many times
the median of the latest answer times. (One living peer in 100 is slower. It is returned all the
same, as alive.)"""

MIN_PATIENCE_S: Final = 0.8
"""The shortest time, in seconds, that such a lookup (``PATIENCE_FACTOR``) waits."""

REACH_FACTOR: Final = 2.5
"""A peer that has to be dialled takes the connection within so many times the median of whole
requests with a dial, or the lookup does without it. That is 7.5 times the median of one of the
three round trips (one living peer in 2,500 is slower)."""

MIN_REACH_S: Final = 0.8
"""The shortest time, in seconds, that a dialled peer (``REACH_FACTOR``) has to take the
connection."""

DEFAULT_ANSWER_S: Final = 0.5
"""Answer time assumed while fewer than ``MIN_ANSWER_TIMES`` were seen, seconds."""

MIN_ANSWER_TIMES: Final = 8
"""Answer times that have to be known before they count."""

ANSWER_TIMES_KEPT: Final = 64
"""Latest answer times that are kept, of requests with and without a dial each."""

DIAL_ROUND_TRIPS: Final = 3
"""Round trips of a request to a peer without a connection: TCP, security, muxer and request."""

ALIVE_MEMORY_S: Final = 600.0
"""A peer that gave a sign of life this long ago, and did not fail since, still counts as alive
where it is too slow to be waited for, seconds (the interval of refreshes)."""

DEAD_BACKOFF_S: Final = 30.0
"""A peer that failed is left alone by all lookups for this long, seconds; each further failure in a
row doubles that, up to ``MAX_DEAD_BACKOFF_S``."""

MAX_DEAD_BACKOFF_S: Final = 960.0
"""Longest time for which lookups leave a peer that failed alone, seconds (16 min)."""

SILENT_PEER_BACKOFF_S: Final = 10.0
"""A peer that a lookup gave up on without a sign of life is left alone for this long, seconds: by
then its request has failed or was answered."""

MAX_HEALTH_PEERS: Final = 8_192
"""Peers whose answers and failures are remembered, and as many more of whom none was ever met; of
each kind the one seen least recently is forgotten."""

PROVIDE_QUORUM: Final = 15
"""Holders after which ``provide`` returns (GO: three quarters of k); the others follow."""

# --- frames and replies -------------------------------------------------------------------------

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest frame read (GO ``network.MessageSizeMax``, JS; RS reads 16 KiB)."""

REPLY_BUDGET_BYTES: Final = 16 * 1024
"""Largest reply written, length prefix included: RS's ``DEFAULT_MAX_PACKET_SIZE``, so that every
implementation can read every reply."""

MAX_PEER_ENTRY_BYTES: Final = 8 * 1024
"""One serialised ``Peer`` entry, read or written; addresses past it are dropped (GO 0.42)."""

MAX_SMALL_FRAME_BYTES: Final = 16 * 1024
"""A frame up to this size is always received: every request and reply of honest use fits (RS)."""

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
"""Own keys are provided again this often, seconds (RS; GO 22 h)."""

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
"""How often it is looked whether the table has fewer than ``LOW_PEERS``, in seconds (GO)."""

MAX_BOOTSTRAP_DIALS: Final = 4
"""Bootstrap peers dialled at a time (GO ``maxNBoostrappers``: 2)."""

BOOTSTRAP_DIAL_TIMEOUT_S: Final = 15.0
"""Connecting to one bootstrap peer, name resolution included, seconds: there are few of them."""

PROBE_TIMEOUT_S: Final = 10.0
"""An admission or liveness probe (FIND_NODE for the peer's own id), seconds (GO)."""

LIVENESS_GRACE_S: Final = 43.2 * 60.0
"""A table entry that has not answered us for this long is probed, seconds (GO:
``ln(1/k) / ln(1 - alpha/k) * refresh``)."""

MAX_LIVENESS_PROBES: Final = 16
"""Liveness probes of table entries in flight at once; the others wait."""

MAX_ADMISSION_PROBES: Final = 64
"""Admission probes in flight at once (GO 256, NIM 50, ZK 3); further candidates wait."""

MAX_ADMISSION_QUEUE: Final = 512
"""Candidates waiting for a probe; a new one is refused while it is full."""

ADMISSION_BACKOFF_S: Final = 10.0
"""A candidate that failed is not probed again for this long, in seconds. Each further failure
doubles that, up to ``MAX_ADMISSION_BACKOFF_S``."""

MAX_ADMISSION_BACKOFF_S: Final = 300.0
"""The longest time for which a candidate that failed is not probed again, in seconds (NIM 5
min)."""

MAX_ADMISSION_MEMORY: Final = 2_048
"""Failed candidates remembered; the one that failed longest ago is forgotten when it is full."""

SETTLE_REFRESHES: Final = 2
"""Peers that enter while the node joins can be replaced until this many refreshes are over, and
``SETTLE_DELAY_S`` more (GO)."""

SETTLE_DELAY_S: Final = 60.0
"""How long peers can still be replaced after the last of ``SETTLE_REFRESHES``, in seconds (GO)."""

MAX_REPLACEMENTS_PER_CPL: Final = K
"""Candidates of one full bucket remembered for when a place comes free (Maymounkov and Mazieres
2002, 4.1); one that was only seen makes way for one that answered, else the one not seen for
longest."""

REPLACEMENT_MAX_AGE_S: Final = 15 * 60.0
"""A candidate not seen for longer is not tried, seconds: its addresses are forgotten by then."""

REPLACEMENT_TRUST_S: Final = 60.0
"""A candidate that answered within this time enters without another probe, seconds."""

OUTAGE_FAILURES: Final = 8
"""If so many table entries fail in a row, and nobody answers in between, our own network is
suspected and nobody is evicted. With 40 % dead peers, independent of each other, this happens by
chance once in 1,500 requests, and costs no more than a second probe."""

OUTAGE_PROBE_INTERVAL_S: Final = 5.0
"""How often one suspect is probed while our own network is suspected, in seconds."""

OUTAGE_WITNESSES: Final = 3
"""So many entries that have not failed yet are probed with each suspect, those that answered
last first. In an outage they soon become suspects too. If they answer there is no outage: peers
that fall silent together, by accident or on purpose, would otherwise keep their places for ever."""

CLOSE_LOOKUP_DELAY_S: Final = 10.0
"""How long after one of the k nearest entries has left the local key is looked up again, in
seconds: once for all that leave meanwhile."""

CLOSE_LOOKUP_INTERVAL_S: Final = 120.0
"""The shortest time between two such lookups (``CLOSE_LOOKUP_DELAY_S``), in seconds."""

MAX_JOIN_LOOKUPS: Final = 4
"""Lookups of the refresh by which a node joins that are out at once: one at a time would wait for
the slow peers of each in turn. Later refreshes have time."""

JOIN_FOLLOW_UP_S: Final = 3.0
"""While the table holds less than a bucket after joining, the local key is looked up again this
many seconds later, then after twice as long each time: whoever joined at the same moment is known
to others then."""

MAX_JOIN_FOLLOW_UP_S: Final = 48.0
"""Longest time between two such lookups, seconds."""

MAX_JOIN_FOLLOW_UPS: Final = 5
"""How many of them follow one joining run: they end a minute and a half after it."""

BOOTSTRAP_STAGGER_S: Final = 1.0
"""A bootstrap dial that takes longer lets the next one begin, seconds: a few dead addresses must
not hold up the good ones."""

MAX_REMEMBERED_PEERS: Final = MAX_ADMISSION_QUEUE
"""Peers taken from the snapshot of an earlier run, nearest first; the rest is ignored."""

# --- IP diversity -------------------------------------------------------------------------------

MAX_ADDRS_PER_PEER: Final = 32
"""Addresses kept for one peer; later ones are dropped."""

HEARD_ADDR_TTL_S: Final = 120.0
"""Addresses only heard of in a reply live this long, seconds (GO ``TempAddrTTL``)."""

CONNECTED_ADDR_TTL_S: Final = 15 * 60.0
"""Addresses a peer gave itself (identify) live this long after it left, seconds (GO
``RecentlyConnectedAddrTTL``)."""

# --- the libp2p stack, as far as more than ``net`` needs it ---------------------------------------

KEEP_ALIVE_INTERVAL_S: Final = 30.0
"""A quiet connection is pinged this often, seconds (GO, JS)."""

KEEP_ALIVE_TIMEOUT_S: Final = 10.0
"""A ping without an answer, and nothing else received, ends the connection after this, seconds (GO
``ConnectionWriteTimeout``)."""
