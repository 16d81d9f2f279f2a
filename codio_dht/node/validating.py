"""Applications' validators, run where nobody waits for them.

Decides on which thread an application's validator runs, for how long, and what becomes of its
faults; what a verdict means only ``core`` decides. A validator may raise, hang or return nonsense:

    it raises anything        the value is invalid; ``InvalidValueError`` and ``ValueError`` are how
                              a validator says so, any other exception is counted and logged
    it takes too long         the value is invalid, as far as this node knows; the thread is left
                              behind, and counts against the validator until it returns
    its threads are all busy  further values of its namespace wait for one, and are invalid when
                              the same time is over

Values of other namespaces, and all other requests, go on meanwhile.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from codio_dht.core.validation import (
    VALIDATOR_TIMEOUT_S,
    Check,
    Validator,
    Validators,
    Verdict,
    namespace_of,
)
from codio_dht.errors import InvalidValueError
from codio_dht.logger import get_logger

MAX_VALIDATOR_THREADS: Final = 4
"""Threads on which one namespace's validator runs; a validator that hangs keeps no more."""

log = get_logger(__name__)

Wake = Callable[[], None]
Judged = Callable[[Check, Verdict], None]


class GuardedValidator:
    """An application's validator that raises nothing but ``InvalidValueError``: not even what ends
    a program (``sys.exit``), for it runs on a thread and the node would end with it."""

    def __init__(self, validator: Validator, namespace: str, faults: Counter[str]) -> None:
        self._validator = validator
        self._namespace = namespace
        self._faults = faults
        self.immutable = bool(getattr(validator, "immutable", False))
        """Whether all valid values of one key mean the same. The validator is asked once, because
        searches need it on the event loop."""

    def validate(self, key: bytes, value: bytes) -> None:
        """As the validator says.

        Raises:
            InvalidValueError: it raised.
        """
        try:
            self._validator.validate(key, value)
        except InvalidValueError:
            raise
        except ValueError as error:
            raise InvalidValueError("refused by its validator") from error
        except BaseException as error:
            raise self._fault("validate", error) from error

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """As the validator says.

        Raises:
            InvalidValueError: it raised, or chose none of the values.
        """
        try:
            choice = self._validator.select(key, list(values))
            if isinstance(choice, bool):
                raise TypeError(f"{choice!r} is no index")
            return operator.index(choice)
        except BaseException as error:
            raise self._fault("select", error) from error

    def _fault(self, doing: str, error: BaseException) -> InvalidValueError:
        self._faults[f"validator:{self._namespace}"] += 1
        log.warning("validator_failed", namespace=self._namespace, doing=doing, error=repr(error))
        return InvalidValueError("its validator failed")


def guarded(
    validators: Mapping[str, Validator], faults: Counter[str]
) -> dict[str, GuardedValidator]:
    """Each validator with its guard; ``faults`` counts what they do wrong, by namespace."""
    return {name: GuardedValidator(each, name, faults) for name, each in validators.items()}


class ValidatorRunner:
    """Has values judged by applications' validators. ``judged`` takes each verdict before whoever
    waits is woken."""

    def __init__(self, validators: Validators, judged: Judged, faults: Counter[str]) -> None:
        self._validators = validators
        self._judged = judged
        self._faults = faults
        self._limiters: defaultdict[str, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(MAX_VALIDATOR_THREADS)
        )
        self._wanted: dict[Check, list[Wake]] = {}
        self._new: list[Check] = []
        self._wake = trio.Event()

    async def perform(self, check: Check) -> Verdict:
        """The validator's verdict; INVALID if it takes longer than ``VALIDATOR_TIMEOUT_S``."""
        namespace = namespace_of(check.key) or ""
        verdict: Verdict | None = None
        with trio.move_on_after(VALIDATOR_TIMEOUT_S):
            verdict = await trio.to_thread.run_sync(
                partial(self._validators.perform, check),
                limiter=self._limiters[namespace],
                abandon_on_cancel=True,  # type: ignore[call-arg]  # older stubs
            )
        if verdict is not None:
            return verdict
        self._faults[f"validator:{namespace}"] += 1
        log.warning("validator_too_slow", namespace=namespace, seconds=VALIDATOR_TIMEOUT_S)
        return Verdict.INVALID

    def begin(self, check: Check, done: Wake) -> None:
        """Have ``check`` judged, then call ``done`` (always). Who wants the same shares it; each
        waits for one at a time, and says so when it ends (:meth:`stop_waiting`)."""
        if check not in self._wanted:
            self._wanted[check] = []
            self._new.append(check)
            self._wake.set()
        self._wanted[check].append(done)

    def stop_waiting(self, check: Check, done: Wake) -> None:
        """Nobody waits for ``done`` any more: it is not called. A no-op if it was."""
        waiting = self._wanted.get(check, [])
        if done in waiting:
            waiting.remove(done)

    async def run(self) -> None:
        """Serve :meth:`begin` for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                begun, self._new = self._new, []
                for check in begun:
                    nursery.start_soon(self._serve, check)

    async def _serve(self, check: Check) -> None:
        try:
            if self._wanted[check]:
                self._judged(check, await self.perform(check))
        finally:
            for done in self._wanted.pop(check):
                done()
