"""Which values may stand under a key, and which of two is the better one.

A value's key is ``/namespace/rest``, any bytes after the namespace. Each namespace has a validator
that decides both questions; a key of any other namespace has no valid values. Two kinds are told
apart, because a judgement is made while requests of all peers wait:

    built in           (``TimedValidator``) quick, never raises anything but ``InvalidValueError``,
                       takes the time as an argument: judged at once
    an application's   (``Validator``) may do anything: ``judge`` returns a ``Check``, whose
                       performer runs :meth:`Validators.perform` where nobody waits for it, with a
                       deadline, and reports the verdict

An application's validator harms nobody: whatever it raises, a choice that is no index, and time
past the deadline all mean that the value is refused, and nothing else is held up by it. A value
that cannot be compared even with itself is refused as well: it would keep its place for ever,
because no better one could be compared with it. The driver that hands a validator over here has put
a guard around it, which lets only ``InvalidValueError`` through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from codio_dht.core.clock import UnixTime
from codio_dht.errors import ConfigError, InvalidValueError

if TYPE_CHECKING:  # a configuration needs this module, and no peer
    from codio_dht.core.peer import PeerId

VALIDATOR_TIMEOUT_S: Final = 2.0
"""How long an application's validator may take for one verdict, seconds, waiting for a thread
included."""

_PUBLIC_PREFIX: Final = "/ipfs/"


class Validator(Protocol):
    """What an application adds for a namespace of its own; called on a worker thread.

    Whatever it raises means that the value is invalid. An attribute ``immutable`` that is true says
    that all valid values of one key mean the same, so that a search ends with the first.
    """

    def validate(self, key: bytes, value: bytes) -> None:
        """Return if ``value`` may stand under ``key``.

        Raises:
            Exception: it may not; ``InvalidValueError`` by preference.
        """
        ...

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The index of the best of ``values``, all of which are valid; of equal ones the first. A
        value is compared with itself as well: if that fails, it is refused."""
        ...


class TimedValidator(Protocol):
    """A validator of this package: quick, and without a clock of its own."""

    def validate_at(self, key: bytes, value: bytes, now: UnixTime) -> None:
        """Return if ``value`` may stand under ``key`` at ``now``.

        Raises:
            InvalidValueError: it may not.
        """
        ...

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The index of the best of ``values``, all of which are valid; of equal ones the first.

        Raises:
            InvalidValueError: one of them is no value at all.
        """
        ...


class Verdict(Enum):
    """What a value is, compared with the best one known for its key."""

    INVALID = "invalid"
    """It must not be stored or returned."""
    WORSE = "worse"
    """It is valid, and the known one is better."""
    SAME = "same"
    """It is the known one."""
    BETTER = "better"
    """It is valid and better, or the known one is not valid (any more), or there is none."""


@dataclass(frozen=True, slots=True)
class Check:
    """A judgement that an application's validator has to make: perform it where nobody waits."""

    key: bytes
    value: bytes
    best: bytes | None
    """The best value known when the judgement was asked for."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A step of a search: let the application's validator perform ``check`` on what ``peer``
    brought first (this node itself if None), and report the verdict."""

    check: Check
    peer: PeerId | None


def namespace_of(key: bytes) -> str | None:
    """The namespace of a value's key; None if it has none (go-libp2p-record ``SplitKey``)."""
    if key[:1] != b"/":
        return None
    name, slash, _ = key[1:].partition(b"/")
    return name.decode("ascii", "replace") if name and slash else None


def check_namespaces(protocol_id: str, names: Sequence[str]) -> None:
    """Check that a network of ``protocol_id`` may have validators for ``names``.

    The public network, and whatever calls itself ``/ipfs/...``, has ``pk`` and ``ipns`` and nothing
    else, in every implementation; values of other namespaces need a protocol id of their own (GO).

    Raises:
        ConfigError: it may not, or a name is no namespace.
    """
    for name in names:
        if not name or "/" in name or not name.isascii():
            raise ConfigError(
                f"validators: {name!r} is no namespace; give the part between slashes"
            )
    if names and protocol_id.startswith(_PUBLIC_PREFIX):
        raise ConfigError(
            f"validators: {protocol_id} has the namespaces pk and ipns only, in every "
            "implementation; set protocol_id to an id of your own, such as /myapp/kad/1.0.0"
        )


class Validators:
    """The validators of one network. An application's replaces a built-in one of its namespace."""

    def __init__(
        self,
        built_in: Mapping[str, TimedValidator],
        application: Mapping[str, Validator] | None = None,
    ) -> None:
        self._application = dict(application or {})
        self._built_in = {
            name: validator for name, validator in built_in.items() if name not in self._application
        }

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces whose values are known here, in the order of the alphabet."""
        return tuple(sorted([*self._built_in, *self._application]))

    def knows(self, key: bytes) -> bool:
        """Whether a value under ``key`` could be valid at all."""
        name = namespace_of(key)
        return name in self._built_in or name in self._application

    def is_immutable(self, key: bytes) -> bool:
        """Whether all valid values of ``key`` mean the same, so that the first is the best."""
        name = namespace_of(key)
        validator = self._built_in.get(name or "") or self._application.get(name or "")
        return bool(getattr(validator, "immutable", False))

    def judge(self, key: bytes, value: bytes, best: bytes | None, now: UnixTime) -> Verdict | Check:
        """What ``value`` is, compared with ``best``, the best value known for ``key`` if any.

        ``best`` is judged too: it may have expired since. A ``Check`` means that an application's
        validator has to be asked.
        """
        name = namespace_of(key) or ""
        if name in self._application:
            return Check(key, value, best)
        validator = self._built_in.get(name)
        if validator is None or not _is_valid(validator, key, value, now):
            return Verdict.INVALID
        if value == best:
            return Verdict.SAME
        if best is None or not _is_valid(validator, key, best, now):
            return Verdict.BETTER
        return _choose(validator, key, value, best)

    def perform(self, check: Check) -> Verdict:
        """Ask the application's validator, which may take any time."""
        key, value, best = check.key, check.value, check.best
        validator = self._application[namespace_of(key) or ""]
        if not _passes(validator, key, value):
            return Verdict.INVALID
        if value == best:
            return Verdict.SAME
        if _selected(validator, key, (value, value)) is None:
            return Verdict.INVALID
        if best is None or not _passes(validator, key, best):
            return Verdict.BETTER
        if _selected(validator, key, (best, best)) is None:
            return Verdict.BETTER
        return _choose(validator, key, value, best)


def _is_valid(validator: TimedValidator, key: bytes, value: bytes, now: UnixTime) -> bool:
    try:
        validator.validate_at(key, value, now)
    except InvalidValueError:
        return False
    return True


def _passes(validator: Validator, key: bytes, value: bytes) -> bool:
    try:
        validator.validate(key, value)
    except InvalidValueError:
        return False
    return True


def _choose(
    validator: Validator | TimedValidator, key: bytes, value: bytes, best: bytes
) -> Verdict:
    """The verdict on ``value``, valid like ``best``; a choice that is neither refuses it."""
    match _selected(validator, key, (value, best)):
        case 0:
            return Verdict.BETTER
        case 1:
            return Verdict.WORSE
        case _:
            return Verdict.INVALID


def _selected(
    validator: Validator | TimedValidator, key: bytes, values: Sequence[bytes]
) -> int | None:
    """The validator's choice among ``values``; None if it makes none."""
    try:
        choice = validator.select(key, values)
    except InvalidValueError:
        return None
    return choice if 0 <= choice < len(values) else None
