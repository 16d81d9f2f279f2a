"""Applications' validators that raise, hang or return nonsense, and who is not harmed by it."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import trio

from codio_dht.core.validation import Check, Validators, Verdict
from codio_dht.errors import InvalidValueError
from codio_dht.node.validating import (
    MAX_VALIDATOR_THREADS,
    VALIDATOR_TIMEOUT_S,
    GuardedValidator,
    ValidatorRunner,
)
from value_fakes import ApplicationValidator

CHECK = Check(b"/app/x", b"1:", None)


class Parts:
    """A runner over one application's validator, and what they reported."""

    def __init__(self, validator, **others) -> None:
        self.faults: Counter[str] = Counter()
        self.verdicts: list[tuple[Check, Verdict]] = []
        guarded = {
            name: GuardedValidator(each, name, self.faults)
            for name, each in {"app": validator, **others}.items()
        }
        self.validators = Validators({}, guarded)
        self.checks = ValidatorRunner(
            self.validators, lambda *verdict: self.verdicts.append(verdict), self.faults
        )


class Raising(ApplicationValidator):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def validate(self, key, value) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "faults"),
    [
        (InvalidValueError("no"), 0),
        (ValueError("no"), 0),
        (RuntimeError("broken"), 1),
        (KeyError("broken"), 1),
        (RecursionError(), 1),
        (SystemExit(1), 1),
        (KeyboardInterrupt(), 1),
        (GeneratorExit(), 1),
        (BaseException("broken"), 1),
    ],
)
async def test_whatever_a_validator_raises_refuses_the_value(error, faults: int) -> None:
    parts = Parts(Raising(error))
    assert await parts.checks.perform(CHECK) is Verdict.INVALID
    assert parts.faults.total() == faults


@pytest.mark.parametrize("choice", ["0", None, True, 1.0, 2, -1])
async def test_a_choice_that_is_no_index_refuses_the_value(choice) -> None:
    class Odd(ApplicationValidator):
        def select(self, key, values):
            return choice

    parts = Parts(Odd())
    assert await parts.checks.perform(Check(b"/app/x", b"2:", b"1:")) is Verdict.INVALID


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), BaseException("broken")])
async def test_whatever_a_validator_raises_when_it_chooses_refuses_the_value(error) -> None:
    class Unable(ApplicationValidator):
        def select(self, key, values):
            raise error

    parts = Parts(Unable())
    assert await parts.checks.perform(Check(b"/app/x", b"2:", b"1:")) is Verdict.INVALID
    assert parts.faults.total() == 1


async def test_whatever_counts_as_an_index_is_one() -> None:
    class Index:
        def __index__(self) -> int:
            return 0

    class Odd(ApplicationValidator):
        def select(self, key, values):
            return Index()

    parts = Parts(Odd())
    assert await parts.checks.perform(Check(b"/app/x", b"2:", b"1:")) is Verdict.BETTER
    assert parts.faults.total() == 0


def test_whether_values_change_is_asked_once_when_the_node_is_made() -> None:
    asked: list[None] = []

    class Slow(ApplicationValidator):
        @property
        def immutable(self):
            asked.append(None)
            return True

    guard = GuardedValidator(Slow(), "app", Counter())
    assert [guard.immutable, guard.immutable] == [True, True]
    assert len(asked) == 1


async def test_a_validator_that_works_is_heard_on_another_thread() -> None:
    threads = set()

    class Noting(ApplicationValidator):
        def validate(self, key, value) -> None:
            threads.add(threading.current_thread())
            super().validate(key, value)

    parts = Parts(Noting())
    assert await parts.checks.perform(CHECK) is Verdict.BETTER
    assert await parts.checks.perform(Check(b"/app/x", b"2:", b"1:")) is Verdict.BETTER
    assert await parts.checks.perform(Check(b"/app/x", b"1:", b"2:")) is Verdict.WORSE
    assert await parts.checks.perform(Check(b"/app/x", b"bad", None)) is Verdict.INVALID
    assert threading.current_thread() not in threads
    assert parts.faults == {}


async def test_a_validator_that_hangs_harms_only_its_own_values(monkeypatch) -> None:
    monkeypatch.setattr("codio_dht.node.validating.VALIDATOR_TIMEOUT_S", 0.2)
    release = threading.Event()
    running: list[str] = []

    class Hanging(ApplicationValidator):
        def validate(self, key, value) -> None:
            running.append("one")
            release.wait(20)

    parts = Parts(Hanging(), well=ApplicationValidator())
    verdicts: list[Verdict] = []

    async def perform(check: Check) -> None:
        verdicts.append(await parts.checks.perform(check))

    try:
        async with trio.open_nursery() as nursery:
            for n in range(3 * MAX_VALIDATOR_THREADS):
                nursery.start_soon(perform, Check(b"/app/%d" % n, b"1:", None))
            assert await parts.checks.perform(Check(b"/well/x", b"1:", None)) is Verdict.BETTER
        assert verdicts == [Verdict.INVALID] * (3 * MAX_VALIDATOR_THREADS)
        assert len(running) == MAX_VALIDATOR_THREADS
        assert parts.faults == {"validator:app": 3 * MAX_VALIDATOR_THREADS}
    finally:
        release.set()


async def test_streams_that_want_the_same_verdict_share_it_and_are_woken_after_it() -> None:
    parts = Parts(ApplicationValidator())
    woken: list[tuple[str, int]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.checks.run)
        done = trio.Event()
        left = lambda: woken.append(("left", 0))  # noqa: E731 - one object, to be removed again
        parts.checks.begin(CHECK, lambda: woken.append(("first", len(parts.verdicts))))
        parts.checks.begin(CHECK, left)
        parts.checks.begin(CHECK, done.set)
        parts.checks.stop_waiting(CHECK, left)
        await done.wait()
        assert woken == [("first", 1)]
        assert parts.verdicts == [(CHECK, Verdict.BETTER)]
        again = trio.Event()
        parts.checks.begin(CHECK, again.set)
        await again.wait()
        assert len(parts.verdicts) == 2
        nursery.cancel_scope.cancel()


async def test_a_check_that_nobody_waits_for_any_more_is_not_begun() -> None:
    parts = Parts(ApplicationValidator())

    def wake() -> None: ...

    parts.checks.begin(CHECK, wake)
    parts.checks.stop_waiting(CHECK, wake)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.checks.run)
        done = trio.Event()
        parts.checks.begin(Check(b"/app/y", b"1:", None), done.set)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert [check.key for check, _ in parts.verdicts] == [b"/app/y"]


def test_the_time_for_a_verdict_is_shorter_than_that_for_a_request() -> None:
    assert VALIDATOR_TIMEOUT_S < 10.0


def test_a_guard_passes_on_that_values_do_not_change() -> None:
    class Fixed(ApplicationValidator):
        immutable = True

    assert Parts(Fixed()).validators.is_immutable(b"/app/x")
    assert not Parts(ApplicationValidator()).validators.is_immutable(b"/app/x")
