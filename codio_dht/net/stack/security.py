"""What the stack asks of a layer that authenticates and encrypts: Noise now, TLS beside it.

A contract only. A security layer is a machine of two phases::

    handshake -> established
        |
        +------> ProtocolError (the machine is used up)

In the handshake, ``receive`` returns ``b""`` and what has to be sent waits in ``data_to_send``.
Once ``established`` is true, ``receive`` returns plaintext (also that which came in the same piece
as the end of the handshake) and ``seal`` encrypts; ``data_to_send`` may still have something of
the layer's own, to be sent before anything sealed later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Authenticated:
    """What a handshake proved and settled."""

    peer_id: PeerId
    public_key: PublicKey
    muxer: str | None
    """The stream muxer agreed on in the handshake; None: still to be negotiated."""


class SecurityLayer(Protocol):
    """A security layer, which authenticates the peer and encrypts the connection."""

    @property
    def authenticated(self) -> Authenticated | None:
        """The outcome; None until the layer is established."""
        ...

    def receive(self, data: bytes) -> bytes:
        """Take ciphertext, give plaintext.

        Raises:
            ProtocolError: the peer broke the protocol, failed to prove its identity, or is not
                the peer expected.
        """
        ...

    def seal(self, plaintext: bytes) -> bytes:
        """What to send so that the peer receives ``plaintext``."""
        ...

    def data_to_send(self) -> bytes:
        """The layer's own messages since the last call."""
        ...


SecurityFactory = Callable[[bool, PeerId | None, Sequence[str]], SecurityLayer]
"""Makes a layer: is it the initiator, the peer expected (None: anybody), the muxers offered."""


@dataclass(frozen=True, slots=True)
class Security:
    """A security protocol: its id in multistream-select, and how to make its layer."""

    protocol: str
    factory: SecurityFactory
    opens_with_message: bool
    """The initiator speaks first, so its first message may ride behind the proposal."""
