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

MAX_K: Final = 1_000
"""Largest replication parameter taken from a configuration."""

ALPHA: Final = 10
"""Requests in flight in one lookup (GO; SPEC says 10)."""

MAX_ALPHA: Final = 100
"""Largest concurrency taken from a configuration."""

MAX_DISJOINT_PATHS: Final = 10
"""Most disjoint paths of one lookup (JS: 10)."""

BETA: Final = 3
"""Closest peers that must have answered before the follow-up starts (GO ``resiliency``)."""

MAX_LOOKUP_TASKS: Final = 256
"""Requests of one lookup that may be open at once, those past their soft deadline included; a peer
past the bound counts as failed."""

LOOKS_BEYOND: Final = 2
"""Peers that are asked for the keys behind the horizon of a lookup's replies, for each CPL."""

MAX_LOOKS_BEYOND: Final = 20
"""... and in all: an honest network needs one to three CPLs, a made-up horizon may lie 200 CPLs
away."""

BEYOND_PRECISION_BITS: Final = 1
"""Bits past that CPL in which such a key agrees with the point wanted: each doubles the search for
it, and halves the part of the CPL that the answers are about."""

MAX_LOOKUPS: Final = 256
"""Lookups that run at once; further ones wait, within their own deadline."""

MAX_CLOSER_PEERS_ACCEPTED: Final = 2 * K
"""Closer peers read from one reply; the rest is cut (GO: 2k, against quadratic stalls)."""

STALL_AFTER_REPLIES: Final = 3
"""Replies in a row that bring nobody among the k nearest: the lookup is stalled, and asks up to k
at once (RS)."""

MAX_LOOKUP_PEERS: Final = 2_000
"""Peers one lookup remembers; then a nearer one replaces the farthest not asked, others are ignored
(a lookup in an honest network hears of 200 to 400)."""

MAX_PROVIDERS_PER_LOOKUP: Final = 10_000
"""Providers one lookup collects; it is over when it has them."""

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
"""A lookup waits no longer than this for a peer, however slow its network is, seconds; a later
answer still counts (RS: 10 s)."""

MIN_SOFT_DEADLINE_S: Final = 0.25
"""... and, unless it is known to be dead or slow, no shorter than this before others are asked in
its place."""

SOFT_DEADLINE_FACTOR: Final = 3.2
"""Soft deadline of a peer nothing is known of: so many times the median of the answer times seen
lately. With lognormal round trips (sigma 0.6, as measured) one living peer in 40 is slower."""

PATIENCE_FACTOR: Final = 4.0
"""How long a lookup that is over otherwise still waits for one of the k closest: so many times that
median (one living peer in 100 is slower; it is returned all the same, as alive)."""

MIN_PATIENCE_S: Final = 0.8
"""... but no shorter than this, seconds."""

REACH_FACTOR: Final = 2.5
"""A peer that has to be dialled takes the connection within so many times the median of whole
requests with a dial, or the lookup does without it: 7.5 times the median of one round trip of the
three (one living peer in 2,500 is slower)."""

MIN_REACH_S: Final = 0.8
"""... but it has at least this long, seconds."""

LOOKUP_HURRY_S: Final = 3.5
"""A lookup that takes longer waits for nobody past ``MIN_SOFT_DEADLINE_S`` any more, seconds, so
that it ends within 5 s."""

LOOKUP_LIMIT_S: Final = 4.8
"""A lookup that takes longer, whatever it still hears of, ends with those that have answered: names
that lead nowhere cost nothing, and a server can make up new ones for ever. Seconds; at least the
time from the hurry on, after a first answer that came late."""

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

MAX_SIZE_MEASUREMENTS: Final = 150
"""Lookups that the estimate of the network's size is made from (GO)."""

MIN_SIZE_MEASUREMENTS: Final = 5
"""With fewer lookups there is no estimate (GO)."""

SIZE_MEASUREMENT_AGE_S: Final = 2 * 3600.0
"""Older lookups do not count for it, seconds (GO)."""

EARLY_DOUBT: Final = 0.5
"""A peer gets the record while the walk still runs if the chance that k others are nearer is at
most this. GO's 0.1 lets 14 of the 20 have it early, so that the quorum has to wait for the end of
the walk every other time (0.44 s in ``benchmarks/wan``; 0.20 s with this). A wrong guess costs one
request: the closest get the record in any case."""

PROVIDE_QUORUM: Final = 15
"""Holders after which ``provide`` returns (GO: three quarters of k); the others follow."""

MAX_BACKGROUND_ANNOUNCEMENTS: Final = 60
"""Announcements that may go on after their callers returned (GO 60 records); past it the callers
wait for the end."""

MAX_STRAGGLERS: Final = 128
"""Requests of lookups that are over which may go on, so that late answers are learnt from; past it
they are cancelled with their lookup."""

PROVIDE_RPC_TIMEOUT_S: Final = 10.0
"""Handing one provider record to one peer, dial included, seconds (GO sweep: 10; classic: 30)."""

PROVIDE_CONFIRM_TIMEOUT_S: Final = 3.0
"""How long a sent provider record waits for the peer to end the stream, seconds; without that it
counts as sent, not as confirmed."""

# --- frames and replies -------------------------------------------------------------------------

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Largest frame read (GO ``network.MessageSizeMax``, JS; RS reads 16 KiB)."""

REPLY_BUDGET_BYTES: Final = 16 * 1024
"""Largest reply written, length prefix included: RS's ``DEFAULT_MAX_PACKET_SIZE``, so that every
implementation can read every reply."""

MAX_PEER_ENTRY_BYTES: Final = 8 * 1024
"""One serialised ``Peer`` entry, read or written; addresses past it are dropped (GO 0.42)."""

MAX_REPLY_CLOSER_ENTRIES: Final = 4 * K
"""Closer-peer entries of one reply that are looked at, broken ones included; later ones are ignored
(twice what a lookup accepts)."""

MAX_REPLY_PROVIDER_ENTRIES: Final = 1_000
"""Provider entries of one reply that are looked at; later ones are ignored (GO has sent 30,000 in
one reply: decoding them all would stop everything else for 0.1 s)."""

MAX_REQUEST_PROVIDER_ENTRIES: Final = 32
"""Provider entries of one ADD_PROVIDER that are looked at; later ones are ignored (all that count
are the sender's own, and every implementation sends exactly one)."""

MAX_ENTRY_ADDRS_EXAMINED: Final = 128
"""Addresses of one peer entry that are looked at, broken ones included; later ones are ignored."""

MAX_MESSAGE_ADDRS_EXAMINED: Final = 4_096
"""Addresses of one message's provider (or closer) entries that are looked at, all entries together;
the entries after it are kept without addresses. Judging an unknown address takes about 5 us."""

MAX_SMALL_FRAME_BYTES: Final = 16 * 1024
"""A frame up to this size is always received: every request and reply of honest use fits (RS)."""

MAX_LARGE_FRAMES_BYTES: Final = 64 * 1024 * 1024
"""What frames larger than that may hold while they arrive, all streams of one direction together;
the stream that goes past it is reset. 512 streams of one connection could hold 2 GiB otherwise."""

MAX_LOOKUP_KEY_BYTES: Final = 8 * 1024
"""Longest preimage of a key that is looked up: the request stays within what RS reads."""

MAX_VARINT_BYTES: Final = 10
"""A varint longer than this is an error: 64 bits in groups of seven (LEB128)."""

MAX_PROVIDER_KEY_BYTES: Final = 80
"""Key of GET_PROVIDERS and ADD_PROVIDER (GO, IPFS: 1 to 80 bytes)."""

STREAM_IDLE_TIMEOUT_S: Final = 60.0
"""An inbound kad stream without a request is reset after this many seconds (GO)."""

KEPT_STREAM_MAX_AGE_S: Final = 50.0
"""A kept outbound stream idle for longer is not reused: GO's servers reset it after 60 s."""

MAX_KEPT_STREAMS: Final = 1_000
"""Idle outbound kad streams kept in all; the least recently used one is closed past it."""

MAX_REUSE_FAILURES: Final = 3
"""After this many dead reused streams a peer gets one stream per request (GO
``streamReuseTries``)."""

MAX_REQUESTS_PER_TURN: Final = 32
"""Requests answered from one stream before others run (design: 32 requests or 2 ms)."""

MAX_SECONDS_PER_TURN: Final = 0.002
"""Time spent on one stream's requests before others run, seconds."""

MAX_LOADS_PER_REQUEST: Final = 3
"""Times one request may wait for the store (the rows may be evicted again before it is answered);
then its stream is reset."""

FLUSH_INTERVAL_S: Final = 1.0
"""Unsaved provider records of others are written this often, seconds: what a crash may lose."""

EXPIRY_INTERVAL_S: Final = 600.0
"""Expired provider rows are deleted this often, seconds (GO: hourly)."""

EXPIRY_BATCH: Final = 5_000
"""Rows deleted in one transaction, so that loads and flushes get their turn."""

RESTART_DELAY_S: Final = 1.0
"""Background work that failed by a bug begins again after this many seconds."""

REPROVIDE_CHECK_S: Final = 60.0
"""The reprovide schedule is looked at least this often, seconds: the Unix clock may jump."""

THIN_KEYS_CHECK_S: Final = 5.0
"""While keys were announced to too few peers, the table is looked at this often for more of them,
seconds."""

RECONCILE_INTERVAL_S: Final = 300.0
"""What is believed of connections is compared with the host this often, seconds: events get lost
where too many come at once."""

SNAPSHOT_INTERVAL_S: Final = 300.0
"""The routing table is remembered on disk this often, seconds."""

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

MAX_RECORD_ADDR_BYTES: Final = 4 * 1024
"""Addresses of one provider record together; later ones are dropped."""

MAX_PROVIDERS_PER_REPLY: Final = 300
"""Providers of one key put into a reply, chosen at random: at 54 bytes for an Ed25519 peer with one
IPv4 address, no more fit into ``REPLY_BUDGET_BYTES``."""

MAX_CACHED_PROVIDER_BYTES: Final = 32 * 1024 * 1024
"""Memory of provider rows read from the store, bytes (estimated); the keys that were not asked for
for longest leave it."""

MAX_UNSAVED_RECORDS: Final = 65_536
"""Provider records not yet written to the store. Past it new ones are refused until a flush
succeeds: they could not be kept anyway."""

MAX_UNSAVED_BYTES: Final = 32 * 1024 * 1024
"""Memory of those records, bytes (estimated); likewise."""

FLUSH_BATCH_ROWS: Final = 512
"""Rows written in one transaction, so that its bookkeeping stays near 2 ms."""

MAX_OVERTAKING_ROWS: Final = 4_096
"""Rows of one key written while it is being read that are merged into what is read; past it the
load counts for nothing and the key is read again."""

MAX_TRACKED_LOADS: Final = 1_024
"""Loads under way whose key is watched for writes that overtake them; past it the oldest is no
longer watched, and its rows may be missing those writes until they leave the cache."""

LOAD_RETRY_S: Final = 10.0
"""A key whose rows could not be read is answered from memory for this long, seconds."""

KEY_FILTER_BITS_PER_KEY: Final = 16
"""Bits of the filter of keys on disk, per key it is made for: with 4 probes, 0.24 % false hits
(Bloom 1970), each of which costs one read of the store."""

KEY_FILTER_PROBES: Final = 4
"""Bits set per key."""

MAX_REPROVIDES_AT_ONCE: Final = 8
"""Own keys announced at once, each with a lookup of its own (JS 10)."""

PROVIDE_RETRY_S: Final = 60.0
"""A failed announcement is tried again after this many seconds, doubled each time ..."""

PROVIDE_RETRY_MAX_S: Final = 3_600.0
"""... up to this many."""

# --- routing table ------------------------------------------------------------------------------

REFRESH_INTERVAL_S: Final = 600.0
"""A CPL without a lookup for this long is refreshed, seconds (GO)."""

MAX_REFRESH_CPL: Final = 15
"""Deepest CPL refreshed on its own (GO; deeper ones are covered by the self lookup)."""

LOW_PEERS: Final = 10
"""Below this many peers the node bootstraps again (GO ``minRTRefreshThreshold``)."""

LOW_PEERS_CHECK_S: Final = 120.0
"""How often that is looked at, seconds (GO)."""

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
"""A candidate that failed is not probed again for this long, seconds; doubles with each failure."""

MAX_ADMISSION_BACKOFF_S: Final = 300.0
"""The back-off's ceiling, seconds (NIM 5 min)."""

MAX_ADMISSION_MEMORY: Final = 2_048
"""Failed candidates remembered; the one that failed longest ago is forgotten when it is full."""

SETTLE_REFRESHES: Final = 2
"""Peers that enter while the node joins can be replaced until this many refreshes are over ..."""

SETTLE_DELAY_S: Final = 60.0
"""... and this many seconds more (GO)."""

MAX_REPLACEMENTS_PER_CPL: Final = K
"""Candidates of one full bucket remembered for when a place comes free (Maymounkov and Mazieres
2002, 4.1); one that was only seen makes way for one that answered, else the one not seen for
longest."""

REPLACEMENT_MAX_AGE_S: Final = 15 * 60.0
"""A candidate not seen for longer is not tried, seconds: its addresses are forgotten by then."""

REPLACEMENT_TRUST_S: Final = 60.0
"""A candidate that answered within this time enters without another probe, seconds."""

OUTAGE_FAILURES: Final = 8
"""Table entries that fail in a row, nobody at all answering in between: from this one on it is our
own network that is suspected, and nobody is evicted. With 40 % dead peers, independent of each
other, this comes by chance once in 1,500 requests, and costs no more than a second probe."""

OUTAGE_PROBE_INTERVAL_S: Final = 5.0
"""While our own network is suspected, one suspect is probed this often, seconds ..."""

OUTAGE_WITNESSES: Final = 3
"""... and with it this many entries that have not failed yet, those that answered last first. In an
outage they soon become suspects too; if they answer there is none: peers that fall silent together,
by accident or on purpose, would else keep their places for ever."""

CLOSE_LOOKUP_DELAY_S: Final = 10.0
"""When one of the k nearest entries has left, the local key is looked up again after this many
seconds, once for all that leave meanwhile ..."""

CLOSE_LOOKUP_INTERVAL_S: Final = 120.0
"""... but not within this many seconds of the last such lookup."""

MAX_JOIN_LOOKUPS: Final = 4
"""Lookups of the refresh by which a node joins that are out at once: one at a time would wait for
the slow peers of each in turn. Later refreshes have time."""

BOOTSTRAP_STAGGER_S: Final = 1.0
"""A bootstrap dial that takes longer lets the next one begin, seconds: a few dead addresses must
not hold up the good ones."""

MAX_REMEMBERED_PEERS: Final = MAX_ADMISSION_QUEUE
"""Peers taken from the snapshot of an earlier run, nearest first; the rest is ignored."""

# --- IP diversity -------------------------------------------------------------------------------

IPV4_GROUP_BITS: Final = 16
"""IPv4 addresses with this prefix in common are one group (GO) ..."""

IPV4_LEGACY_GROUP_BITS: Final = 8
"""... or with this one in the networks below."""

IPV4_LEGACY_NETWORKS: Final = (12, 17, 19, 38, 48, 53, 56, 73)
"""First bytes of IPv4 networks that belong to one owner as a whole (GO)."""

IPV6_GROUP_BITS: Final = 32
"""IPv6 addresses with this prefix in common are one group: what a registry allots to one provider.
(GO groups by AS number, from a table of 3 MB that ages.)"""

MAX_GROUP_PEERS_PER_CPL: Final = 2
"""Peers of one IP group among those of one CPL (GO)."""

MAX_GROUP_PEERS_PER_TABLE: Final = 3
"""Peers of one IP group in the table (GO)."""

MAX_GROUP_PEERS_PER_REPLY: Final = 3
"""A reply that names more peers of one IP group than this loses all of that group (GO)."""

MAX_PREIMAGE_EFFORT: Final = 64
"""A preimage search ends after this many times the expected tries (it then fails once in e**64)."""

PREIMAGE_TRIES_PER_SLICE: Final = 1_000
"""Tries between two chances for others to run: under 1 ms."""

MAX_ADDRS_PER_PEER: Final = 32
"""Addresses kept for one peer; later ones are dropped."""

HEARD_ADDR_TTL_S: Final = 120.0
"""Addresses only heard of in a reply live this long, seconds (GO ``TempAddrTTL``)."""

CONNECTED_ADDR_TTL_S: Final = 15 * 60.0
"""Addresses a peer gave itself (identify) live this long after it left, seconds (GO
``RecentlyConnectedAddrTTL``)."""

MAX_ADDR_BYTES: Final = 1_024
"""Longest multiaddr read; a longer one is dropped (those in use stay under 300)."""

MAX_ADDR_COMPONENTS: Final = 16
"""Components of a multiaddr read; one with more is dropped. Those in use have up to 10 (WebRTC
through a WebTransport relay); a kilobyte of empty ones would take 17 ms to turn into text."""

ADDRESS_CACHE_ENTRIES: Final = 8_192
"""Addresses whose classification is remembered; the least recently met is forgotten."""

MAX_HEARD_PEERS: Final = 8_192
"""Peers in the book that are only hearsay; the one heard of least recently is forgotten."""

MAX_TOLD_PEERS: Final = 8_192
"""Peers in the book that gave an address themselves and are neither connected nor in the table;
the one that did so least recently is forgotten."""

# --- the libp2p stack, as far as more than ``net`` needs it ---------------------------------------

KEEP_ALIVE_INTERVAL_S: Final = 30.0
"""A quiet connection is pinged this often, seconds (GO, JS)."""

KEEP_ALIVE_TIMEOUT_S: Final = 10.0
"""A ping without an answer, and nothing else received, ends the connection after this, seconds (GO
``ConnectionWriteTimeout``)."""

MAX_MULTIADDR_BYTES: Final = 512
"""A binary multiaddr longer than this is dropped; the longest in use (WebTransport behind a relay)
have some 200."""

MAX_ENVELOPE_BYTES: Final = 16 * 1024
"""Largest signed envelope looked at: 32 addresses and an RSA key fit in 8 KiB."""
