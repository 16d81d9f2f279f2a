"""Public key records: under ``/pk/`` and the bytes of a peer id stands that peer's public key.

Decides which value is valid under such a key. The key of an Ed25519 or secp256k1 peer is inside its
peer id, so only RSA and ECDSA peers need such records; all are taken, as GO does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PublicKey
from codio_dht.errors import InvalidValueError, PeerIdError

PUBLIC_KEY_PREFIX: Final = b"/pk/"
"""What the DHT key of every public key record begins with."""


def public_key_key(peer: PeerId) -> bytes:
    """The DHT key of the public key of ``peer``: ``/pk/`` and the bytes of the peer id."""
    return PUBLIC_KEY_PREFIX + peer.to_bytes()


class PublicKeyValidator:
    """The validator of the namespace ``pk``: a ``TimedValidator`` of ``core.validation``."""

    immutable = True
    """All valid values of one key mean the same public key."""

    def validate_at(self, key: bytes, value: bytes, now: UnixTime) -> None:
        """Check that ``value`` is the public key whose peer id stands in ``key``.

        Raises:
            InvalidValueError: it is not.
        """
        if not key.startswith(PUBLIC_KEY_PREFIX):
            raise InvalidValueError("not a public key's key")
        try:
            wanted = PeerId(key[len(PUBLIC_KEY_PREFIX) :])
        except PeerIdError as error:
            raise InvalidValueError("not a public key's key") from error
        try:
            found = PublicKey.from_protobuf(value)
        except PeerIdError as error:
            raise InvalidValueError("not a public key") from error
        if found.peer_id() != wanted:
            raise InvalidValueError("another peer's public key")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The first: all valid values of one key mean the same public key.

        Raises:
            InvalidValueError: ``values`` is empty.
        """
        if not values:
            raise InvalidValueError("no values to select from")
        return 0
