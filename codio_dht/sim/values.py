"""The values of a simulation: those that are right, and the hostile ones that liars spread.

Decides which values there are. Every other key is an IPNS name, whose records are signed and judged
by the code that ships. The others are keys of an application, whose validator fails in every way in
which a validator can. Of each key there are an older and a right value, both genuine.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from random import Random
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.validation import VALIDATOR_TIMEOUT_S, Check, Validators, Verdict
from codio_dht.crypto.ipns import (
    MAX_IPNS_RECORD_BYTES,
    MAX_SEQUENCE,
    IpnsValidator,
    create_ipns_record,
    ipns_key,
)
from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import InvalidValueError
from codio_dht.sim.events import START_UNIX_S, EventQueue

_START: Final = UnixTime(START_UNIX_S)
_DAY_S: Final = 86_400.0
_PATHS: Final = (b"/ipfs/older", b"/ipfs/right", b"/ipfs/wrong")
_LARGE: Final = (bytes(MAX_IPNS_RECORD_BYTES), bytes(MAX_IPNS_RECORD_BYTES + 1), bytes(10 * 2**20))
"""Values of 10 KiB, of one byte more, and of 10 MiB."""

_DIGEST_BYTES: Final = 32


class SlowValidationError(Exception):
    """The validator takes longer than it may."""


class FragileValidator:
    """An application's validator. The right value of a key is a number and a digest of both; the
    higher number is better. Other values make it raise, hang, or choose nonsense."""

    def validate(self, key: bytes, value: bytes) -> None:
        """Return if ``value`` may stand under ``key``, or fail as the value says."""
        if value.startswith(b"hang"):
            raise SlowValidationError
        if value.startswith(b"raise"):
            raise RuntimeError("a fault of the application")
        if value != b"choose" and value != application_value(key, value[:-_DIGEST_BYTES]):
            raise InvalidValueError("not a value of this key")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The index of the value with the highest number; nonsense if one has none."""
        return 7 if b"choose" in values else values.index(max(values))


def application_value(key: bytes, number: bytes) -> bytes:
    """The value ``number`` of an application's ``key``."""
    return number + sha256(key + number).digest()


async def judge(queue: EventQueue, validators: Validators, check: Check) -> Verdict:
    """The application's verdict, as ``node.validating`` gets it: whatever the validator raises, and
    time past its limit, mean that the value is refused."""
    try:
        return validators.perform(check)
    except SlowValidationError:
        await queue.sleep(VALIDATOR_TIMEOUT_S)
        return Verdict.INVALID
    except Exception:  # noqa: BLE001 - an application may raise anything
        return Verdict.INVALID


class SimulatedValues:
    """The values of all keys, made from one seed."""

    def __init__(self, keys: int, seed: int) -> None:
        self._rng = Random(f"{seed}/values")
        self.validators = Validators({"ipns": IpnsValidator()}, {"app": FragileValidator()})
        self.genuine: dict[bytes, tuple[bytes, bytes]] = {}
        """The older and the right value of each key."""
        self.hostile: dict[bytes, tuple[bytes, ...]] = {}
        """What liars hand out for each key."""
        for number in range(keys):
            if number % 2:
                self._add_application_key(b"/app/%d" % number)
            else:
                self._add_name()
        self.keys = list(self.genuine)

    def _add_application_key(self, key: bytes) -> None:
        older, right = (application_value(key, number) for number in (b"1", b"2"))
        of_other_key = application_value(key + b"/other", b"3")
        failing = (b"hang", b"raise", b"choose")
        self.genuine[key] = older, right
        self.hostile[key] = (of_other_key, right[:-1], b"", *failing, *_LARGE)

    def _add_name(self) -> None:
        owner, attacker = (PrivateKey.from_ed25519_seed(self._rng.randbytes(32)) for _ in range(2))
        older, right = (
            create_ipns_record(owner, path, sequence=sequence, now=_START)
            for sequence, path in enumerate(_PATHS[:2], 1)
        )
        expired = create_ipns_record(
            owner, _PATHS[2], sequence=3, now=UnixTime(_START - 9 * _DAY_S)
        )
        of_other_key = create_ipns_record(attacker, _PATHS[2], sequence=3, now=_START)
        newest = create_ipns_record(
            attacker, _PATHS[2], sequence=MAX_SEQUENCE, now=_START, v1_fields=False
        )
        validity = b"2025-06-17T"
        key = ipns_key(owner.peer_id())
        self.genuine[key] = older.encoded, right.encoded
        self.hostile[key] = (
            right.encoded.replace(right.signature, bytes(len(right.signature))),
            of_other_key.encoded,
            expired.encoded,
            right.encoded.replace(validity, b"9999-06-17T"),
            newest.encoded.replace(MAX_SEQUENCE.to_bytes(8), (MAX_SEQUENCE + 1).to_bytes(8)),
            *_LARGE,
        )
