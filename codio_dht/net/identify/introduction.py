"""What we say of ourselves in identify.

The message carries the same addresses in ``listenAddrs`` and in the signed record, without
wildcards and without ``/p2p``: some implementations read only the record, others only the list.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from multiaddr import Multiaddr

from codio_dht.crypto.keys import SigningKey
from codio_dht.crypto.peer_record import seal_peer_record
from codio_dht.formats.protobuf import bytes_field
from codio_dht.formats.varint import length_prefixed
from codio_dht.net.identify.message import IdentifyMessage, encode_identify

PROTOCOL_VERSION: Final = "ipfs/0.1.0"

_OBSERVED_ADDR: Final = 4
_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Introduction:
    """What we say of ourselves; made once for each change, completed for each peer."""

    _body: bytes

    @classmethod
    def of(
        cls,
        key: SigningKey,
        *,
        addrs: Sequence[Multiaddr],
        protocols: Iterable[str],
        agent: str,
        sequence: int | None = None,
    ) -> Self:
        """The message of this host. ``sequence`` orders its signed records; the time is taken
        unless it is given."""
        if sequence is None:
            sequence = int(time.time() * _NANOSECONDS)
        listen_addrs = tuple(addr.to_bytes() for addr in addrs)
        return cls(
            encode_identify(
                IdentifyMessage(
                    public_key=key.public_key().to_protobuf(),
                    listen_addrs=listen_addrs,
                    protocols=tuple(sorted(protocols)),
                    protocol_version=PROTOCOL_VERSION,
                    agent=agent,
                    signed_peer_record=seal_peer_record(key, sequence=sequence, addrs=listen_addrs),
                )
            )
        )

    def to(self, observed_addr: bytes | None) -> bytes:
        """The message for a peer that is seen at ``observed_addr`` (a binary multiaddr), with its
        length before it."""
        body = self._body
        if observed_addr is not None:
            body += bytes_field(_OBSERVED_ADDR, observed_addr)
        return length_prefixed(body)
