"""Our Noise XX handshake beside an independent implementation (``noiseprotocol``): equal bytes."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]

from codio_dht.errors import ProtocolError
from codio_dht.net.stack.noise_xx import CipherState, Handshake

PATTERN = b"Noise_XX_25519_ChaChaPoly_SHA256"

# The reference warns of fixed ephemeral keys, which are what makes its bytes comparable.
pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs:UserWarning")

keys = st.binary(min_size=32, max_size=32)
payloads = st.binary(max_size=300)


class Theirs:
    """The reference behind the names of ours."""

    def __init__(self, *, initiator: bool, static: bytes, ephemeral: bytes, prologue: bytes):
        self.noise: Any = NoiseConnection.from_name(PATTERN)
        if initiator:
            self.noise.set_as_initiator()
        else:
            self.noise.set_as_responder()
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, static)
        self.noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        self.noise.set_prologue(prologue)
        self.noise.start_handshake()

    def write(self, payload: bytes) -> bytes:
        return bytes(self.noise.write_message(payload))

    def read(self, message: bytes) -> bytes:
        return bytes(self.noise.read_message(message))

    @property
    def hash(self) -> bytes:
        return bytes(self.noise.get_handshake_hash())


def ours(*, initiator: bool, static: bytes, ephemeral: bytes, prologue: bytes) -> Handshake:
    return Handshake(
        initiator=initiator,
        static=X25519PrivateKey.from_private_bytes(static),
        ephemeral=X25519PrivateKey.from_private_bytes(ephemeral),
        prologue=prologue,
    )


@given(
    secrets=st.tuples(keys, keys, keys, keys),
    prologue=st.binary(max_size=64),
    handshake=st.tuples(payloads, payloads, payloads),
    transport=st.lists(st.tuples(st.booleans(), payloads), max_size=6),
)
@example(
    secrets=(b"s" * 32, b"e" * 32, b"S" * 32, b"E" * 32),
    prologue=b"",
    handshake=(b"", b"payload of the responder", b"payload of the initiator"),
    transport=[(True, b""), (False, b"answer"), (False, bytes(65_000)), (True, b"last")],
)
def test_every_message_equals_that_of_another_implementation(
    secrets: tuple[bytes, bytes, bytes, bytes],
    prologue: bytes,
    handshake: tuple[bytes, bytes, bytes],
    transport: list[tuple[bool, bytes]],
) -> None:
    """Four machines with the same keys: ours and theirs, as initiator and as responder.

    What either implementation writes is the same, and each side reads what the other wrote.
    """
    initiators: list[Any] = [
        make(initiator=True, static=secrets[0], ephemeral=secrets[1], prologue=prologue)
        for make in (ours, Theirs)
    ]
    responders: list[Any] = [
        make(initiator=False, static=secrets[2], ephemeral=secrets[3], prologue=prologue)
        for make in (ours, Theirs)
    ]
    for turn, payload in enumerate(handshake):
        writers, readers = (initiators, responders) if turn % 2 == 0 else (responders, initiators)
        mine, reference = (writer.write(payload) for writer in writers)
        assert reference == mine
        assert [payload, payload] == [reader.read(mine) for reader in readers]
    assert 1 == len({machine.hash for machine in (*initiators, *responders)})
    assert public(secrets[2]) == initiators[0].remote_static
    assert public(secrets[0]) == responders[0].remote_static
    compare_transport(initiators, responders, transport)


def compare_transport(
    initiators: list[Any], responders: list[Any], messages: list[tuple[bool, bytes]]
) -> None:
    ciphers: dict[bool, tuple[CipherState, CipherState]] = {
        True: initiators[0].split(),
        False: responders[0].split(),
    }
    references = {True: initiators[1].noise, False: responders[1].noise}
    for from_initiator, payload in messages:
        sending, receiving = ciphers[from_initiator][0], ciphers[not from_initiator][1]
        sealed = sending.encrypt(payload)
        assert references[from_initiator].encrypt(payload) == sealed
        assert payload == receiving.decrypt(sealed)
        assert payload == references[not from_initiator].decrypt(sealed)


def test_a_message_made_for_another_prologue_is_refused() -> None:
    mine = ours(initiator=True, static=b"s" * 32, ephemeral=b"e" * 32, prologue=b"one")
    theirs = Theirs(initiator=False, static=b"S" * 32, ephemeral=b"E" * 32, prologue=b"two")
    theirs.read(mine.write(b""))
    with pytest.raises(ProtocolError, match="does not authenticate"):
        mine.read(theirs.write(b""))


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
