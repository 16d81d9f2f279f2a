"""Validators for tests of values: a value is ``<version>:<anything>``, and the higher is better."""

from __future__ import annotations

from collections.abc import Sequence

from codio_dht.core.clock import UnixTime
from codio_dht.core.validation import Validators
from codio_dht.errors import InvalidValueError


def version_of(value: bytes) -> int:
    head, colon, _ = value.partition(b":")
    if not colon or not head.isdigit():
        raise InvalidValueError("no version")
    return int(head)


class VersionValidator:
    """Valid is what has a version that has not expired: a value with ``until=<time>`` ends then."""

    def __init__(self) -> None:
        self.judged: list[bytes] = []

    def validate_at(self, key: bytes, value: bytes, now: UnixTime) -> None:
        self.judged.append(value)
        version_of(value)
        _, _, until = value.partition(b"until=")
        if until and now >= float(until):
            raise InvalidValueError("expired")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        versions = [version_of(value) for value in values]
        return versions.index(max(versions))


class ApplicationValidator:
    """The same as an application would write it."""

    def validate(self, key: bytes, value: bytes) -> None:
        version_of(value)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return VersionValidator().select(key, values)


class ImmutableValidator(VersionValidator):
    """Every valid value of a key is as good as any other."""

    immutable = True


def make_validators() -> Validators:
    """Namespaces ``v`` (built in), ``fixed`` (immutable) and ``app`` (an application's)."""
    return Validators(
        {"v": VersionValidator(), "fixed": ImmutableValidator()}, {"app": ApplicationValidator()}
    )
