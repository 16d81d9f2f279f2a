"""What this node can recognise later without having kept anything: Retry and stateless reset.

- :class:`RetryTokens` prove that a dialler gets what is sent to its address (RFC 9000, section
  8.1). Their key lives as long as the process: a dialler that comes back after a restart is asked
  once more.
- :class:`ResetTokens` tell a peer that its connection is gone (RFC 9000, section 10.3). They follow
  from the identity and the socket's own address, so that a node that lost everything but these can
  still say so. Were they the same on all sockets of a node, anybody who sees an id would learn its
  token by asking a socket that does not know the connection (section 21.11).

No token is kept, and none of a peer's bytes makes them raise.
"""

from __future__ import annotations

import hmac
import os
from copy import copy
from ipaddress import ip_address
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from codio_dht.core.clock import Monotonic
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.quic.limits import RETRY_TOKEN_LIFETIME_S
from codio_dht.net.targets import SocketName

RESET_TOKEN_BYTES: Final = 16

_RESET_LABEL: Final = b"codio-dht QUIC stateless reset key"
_NONCE_BYTES: Final = 12
_TIME_BYTES: Final = 8
_MILLISECONDS: Final = 1_000


class ResetTokens:
    """The stateless reset tokens of one identity, at one of its sockets."""

    __slots__ = ("_key",)

    def __init__(self, identity: PrivateKey) -> None:
        self._key = hmac.digest(identity.to_protobuf(), _RESET_LABEL, "sha256")

    def at(self, own: SocketName) -> ResetTokens:
        """The tokens of the socket that is bound to ``own``."""
        there = copy(self)
        key = hmac.digest(self._key, f"{own[0]} {own[1]}".encode(), "sha256")
        there._key = key  # noqa: SLF001 - of the same class
        return there

    def of(self, connection_id: bytes) -> bytes:
        """The token of one of this node's connection ids; the same for ever."""
        return hmac.digest(self._key, connection_id, "sha256")[:RESET_TOKEN_BYTES]


class Proof(NamedTuple):
    """What a good Retry token says."""

    original_id: bytes
    """The id that the dialler's first packet was for."""


class RetryTokens:
    """Retry tokens, made and checked."""

    __slots__ = ("_aead",)

    def __init__(self) -> None:
        self._aead = AESGCM(AESGCM.generate_key(128))

    def make(self, where: SocketName, original_id: bytes, retry_id: bytes, now: Monotonic) -> bytes:
        """A token for the dialler at ``where``, whose first packet was for ``original_id`` and
        which is to come again to ``retry_id``."""
        nonce = os.urandom(_NONCE_BYTES)
        content = int(now * _MILLISECONDS).to_bytes(_TIME_BYTES, "big") + original_id
        return nonce + self._aead.encrypt(nonce, content, _bound_to(where, retry_id))

    def check(
        self, token: bytes, where: SocketName, retry_id: bytes, now: Monotonic
    ) -> Proof | None:
        """What the token proves; None if it is none of ours, not this dialler's, or too old."""
        nonce, sealed = token[:_NONCE_BYTES], token[_NONCE_BYTES:]
        try:
            content = self._aead.decrypt(nonce, sealed, _bound_to(where, retry_id))
        except (InvalidTag, ValueError):  # ValueError: too short for a nonce
            return None
        made_at = int.from_bytes(content[:_TIME_BYTES], "big") / _MILLISECONDS
        if now - made_at > RETRY_TOKEN_LIFETIME_S:
            return None
        return Proof(content[_TIME_BYTES:])


def _bound_to(where: SocketName, retry_id: bytes) -> bytes:
    """What a token holds for: an address and port, and the id that came with it."""
    packed = ip_address(str(where[0]).partition("%")[0]).packed
    return packed + int(where[1]).to_bytes(2, "big") + retry_id
