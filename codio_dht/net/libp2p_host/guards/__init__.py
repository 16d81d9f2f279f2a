"""Guards for the defects of py-libp2p 0.8.1, one module for each or for a closely related group.

| defect | module | what upstream does | on a live host |
|---|---|---|---|
| R1 | ``own_keys`` | evicts the host's own keys at 1,000 known peers | yes |
| R2 | ``containment`` | an exception in one stream stops the host | yes |
| R3 | ``multistream`` | invalid UTF-8 raises past the negotiation; no bound on a message | yes |
| R4, R12 | ``inbound`` | inbound slots never given back; idle sockets hold them | from then on |
| R16 | ``inbound`` | no address of IPv6 peers, so no gate for them | from then on |
| R5 | ``frame_writer``, ``yamux`` | a cancelled write kills the connection | yes |
| R6 to R9 | ``dialing`` | no dial timeout, 32 shared slots, one address, 250 ms | yes |
| R10, R11 | ``frame_gate``, ``yamux`` | no window and no bound on streams | from then on |
| R13 | ``frame_gate``, ``yamux`` | FIN and RST beside ACK are lost | from then on |
| R14 | ``yamux`` | a cancelled open keeps its slot | yes |
| R15 | (``codio_dht.net.libp2p_host.stream``) | a reset looks like a clean end | our streams |
| R20 | ``quic`` | a reset ends one direction; 128 of them and no stream is left | from then on |
| R21 | ``quic`` | STOP_SENDING from the peer ends our reading too | from then on |
| R22 | ``quic`` | an answer may be lost at its end; 30 s of silence reset | from then on |
| R23 | ``quic`` | streams fail when not written to in the order of opening | from then on |
| R24 | ``quic`` | closing a connection finishes streams cut short | from then on |
| R17, R18 | (``make_host``) | offers secio and plaintext; ignores the muxer's class | no |
| R19 | (``make_host``) | sockets stay open after the host | no |

The last column says whether a host that the program already runs gets it: "from then on" means for
connections made after the guard was applied.

``apply.guard_host`` applies all that a running host can take; it is idempotent, and what it
applied stays with that host until it ends. ``upstream.check`` refuses another release of the
library.
"""

from __future__ import annotations
