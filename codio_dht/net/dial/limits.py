"""Bounds and times of dialling, each with its unit and its reason.

GO is go-libp2p.
"""

from __future__ import annotations

from typing import Final

# --- how much at once -----------------------------------------------------------------------------

MAX_DIALS_PER_GROUP: Final = 16
"""Addresses of one /24 (IPv6: /48) being dialled at once."""

MAX_DIALS_PER_PEER: Final = 8
"""Addresses of one peer being dialled at once."""

MAX_HEARD_ADDRS_PER_DIAL: Final = 24
"""Addresses of one peer that one dial tries on the word of others; later ones are left out."""

MAX_UNANSWERED_DIALS: Final = 24
"""Addresses of one peer being dialled at once, with those that have not answered for
``GIVE_WAY_AFTER_S``: these do not count as ``MAX_DIALS_PER_PEER``, so that silent addresses do not
hold up a good one."""

MAX_ADDRS_PER_DIAL: Final = 64
"""Addresses of one peer that one dial tries; later ones are left out."""

GIVE_WAY_AFTER_S: Final = 1.0
"""While others wait for a free place, a connect without an answer for this long loses its own,
seconds: in the first second a peer anywhere on earth answers."""

GIVE_WAY_CHECK_S: Final = 0.25
"""Poll interval of a dial that waits for a place, seconds."""

# --- how long -------------------------------------------------------------------------------------

DIAL_STAGGER_S: Final = 0.15
"""Head start of one address before the next of the same peer is tried, seconds (GO 0.25; RFC 8305
recommends 0.1 to 2)."""

CONNECT_TIMEOUT_S: Final = 5.0
"""One TCP connect, seconds (GO 5)."""

UPGRADE_TIMEOUT_S: Final = 10.0
"""From the TCP connection to an authenticated peer, seconds (GO 15 for the whole upgrade)."""

LATE_ADDRS_INTERVAL_S: Final = 0.5
"""How often a dial that has no address left to begin with looks for addresses that have become
known meanwhile, seconds."""

DNS_TIMEOUT_S: Final = 5.0
"""Resolving the names in one peer's addresses, seconds, within the dial's own deadline."""

# --- what is remembered ---------------------------------------------------------------------------

SILENT_AFTER_S: Final = GIVE_WAY_AFTER_S
"""A connect given up after this long, seconds, counts as unanswered."""

SILENT_BACKOFF_S: Final = 5.0
"""First back-off of an address that did not answer, seconds; doubled with each failure in a row."""

REFUSED_BACKOFF_S: Final = 0.5
"""First back-off of an address that refused, seconds; doubled with each failure in a row. Short: a
refusal costs a round trip and nothing else."""

STRANGER_BACKOFF_S: Final = 30.0
"""First back-off of an address where another peer, or no libp2p peer, answered, seconds; doubled
with each failure in a row."""

MAX_REFUSED_BACKOFF_S: Final = 10.0
"""Longest back-off of an address that refused, seconds. Others can provoke refusals: they have this
node dial a machine until that has enough of it. So a refusal counts for no longer than it costs to
try again."""

MAX_BACKOFF_S: Final = 300.0
"""Longest back-off of an address, seconds (GO: 5 s to 5 min)."""

MAX_REMEMBERED_FAILURES: Final = 4_096
"""Addresses whose failures are remembered; the one that failed longest ago is forgotten."""

MAX_REMEMBERED_REFUSALS: Final = 1_024
"""Addresses of listeners that refuse pipelining; the oldest is forgotten."""
