"""What holds for every test: a limit in time, skips that are failures in CI, fixed random profiles.

Time: a test on the real clock is cancelled at its limit; one that does not even let itself be
cancelled (or that runs on a virtual clock, where a limit would mean nothing) gets an alarm; and if
that does not help, the whole run ends with every thread's stack. So nothing hangs.

Skips: on a person's machine a test whose tool is missing is skipped, with the reason in the
summary. With ``CI=true`` any skip is a failure, save for tests marked ``skips_in_ci``.

Virtual clocks: one that jumps ahead when nothing happens waits while a thread is at work.

Leaks: garbage is collected after each test that uses sockets, so that a socket left open fails the
test that left it.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import inspect
import json
import math
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing

import peer_builds
from peers import PeerLauncher

IN_CI = os.environ.get("CI") == "true"

DEADLINES_S = {"interop": 180.0, "chaos": 180.0, "component": 90.0}
"""Limit of one test by directory, seconds; ``deadline_s`` marks the exceptions."""

DEFAULT_DEADLINE_S = 60.0
"""Limit of any other test, seconds: a unit test takes milliseconds, a property some seconds."""

ALARM_AFTER_S = 15.0
"""From the limit to the alarm, where cancelling did not end the test, seconds."""

EXIT_AFTER_S = 60.0
"""From the alarm to the end of the run, where that did not end the test either, seconds."""

CLOCK_FIXTURES = frozenset({"autojump_clock", "mock_clock"})

_STDERR = pytest.StashKey[int]()
"""The real standard error, which no test captures."""

hypothesis.settings.register_profile(
    # The same examples in every run, so that a red run is red again; the failing one is printed.
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
)
hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


# --- time ----------------------------------------------------------------------------------------


class DeadlineExceeded(BaseException):
    """The alarm. Not an ``Exception``, so that nothing under test takes it for its own error."""


def _deadline_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("deadline_s")
    if marker is not None:
        return float(marker.args[0])
    return DEADLINES_S.get(_directory(item), DEFAULT_DEADLINE_S)


def _directory(item: pytest.Item) -> str:
    """``unit``, ``component`` and so on."""
    tests = Path(__file__).parent
    return item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""


def _to_be_cancelled(item: pytest.Item) -> bool:
    """Whether the test is asynchronous and on the real clock."""
    return (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(inspect.unwrap(item.obj))
        and not CLOCK_FIXTURES.intersection(item.fixturenames)
    )


def _limited(test: Callable[..., Any], deadline_s: float) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        with trio.move_on_after(deadline_s) as scope:
            await test(*args, **kwargs)
        if scope.cancelled_caught:
            pytest.fail(f"not done after {deadline_s:g} s")

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _directory(item) == "interop":
            item.add_marker(pytest.mark.interop)
        if isinstance(item, pytest.Function) and _to_be_cancelled(item):
            item.obj = _limited(item.obj, _deadline_s(item))


@contextmanager
def _alarm(deadline_s: float, item: pytest.Item) -> Generator[None]:
    stderr = item.config.stash[_STDERR]

    def ring(_signal: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=stderr)
        raise DeadlineExceeded(f"{item.nodeid} not done after {deadline_s:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    faulthandler.dump_traceback_later(deadline_s + EXIT_AFTER_S, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # Around set-up and tear-down too: a fixture can hang as well.
    patience_s = ALARM_AFTER_S if _to_be_cancelled(item) else 0.0
    with _alarm(_deadline_s(item) + patience_s, item):
        return (yield)


class _ClockHolder:
    """Keeps a virtual clock from jumping ahead while at least one thread works."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._at_work = 0

    def begin(self) -> None:
        self._at_work += 1
        self._clock.autojump_threshold = math.inf

    def end(self) -> None:
        self._at_work -= 1
        if self._at_work == 0:
            self._clock.autojump_threshold = 0.0


class _HoldingLimiter:
    """What ``trio.to_thread.run_sync`` takes as its limiter: from the moment it has its place until
    the thread is done, the clock is held. Who waits for a place does not hold it."""

    def __init__(self, limiter: trio.CapacityLimiter, holder: _ClockHolder) -> None:
        self._limiter = limiter
        self._holder = holder

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self._holder.begin()

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)
        self._holder.end()


@pytest.fixture(autouse=True)
def clock_waits_for_threads(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the virtual clock of a test from jumping ahead while a thread works for a task.

    trio's clock jumps as soon as every task waits, and a task that waits for a thread waits too. On
    a busy machine a store that takes a millisecond would then seem to take minutes.
    """
    if "autojump_clock" not in request.fixturenames:
        return
    holder = _ClockHolder(request.getfixturevalue("autojump_clock"))
    run_sync = trio.to_thread.run_sync

    async def run_sync_holding(
        function: Callable[..., Any],
        *args: Any,
        limiter: trio.CapacityLimiter | None = None,
        **options: Any,
    ) -> Any:
        limiter = limiter or trio.to_thread.current_default_thread_limiter()
        holding: Any = _HoldingLimiter(limiter, holder)
        return await run_sync(function, *args, limiter=holding, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync_holding)


# --- skips ---------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected = hasattr(report, "wasxfail") or item.get_closest_marker("skips_in_ci")
    if IN_CI and report.skipped and not expected:
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped:
        _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"Skipped, and in CI nothing may be: {reason}"


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], Path]:
    """Finds a program on PATH; without it the test is skipped (and in CI that is a failure)."""

    def find(name: str) -> Path:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return Path(found)

    return find


# --- leaks ----------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    # What a test with sockets leaves open is found now, and not by whichever test runs when the
    # collector next comes round: a warning of an unclosed socket is an error of this test.
    if _directory(item) in DEADLINES_S and not item.get_closest_marker("ran_before"):
        with warnings.catch_warnings():
            if item.get_closest_marker("leaves_sockets"):
                warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    return (yield)


# --- conformance ----------------------------------------------------------------------------------


class _Report:
    """Writes every test's conformance cases and outcome for ``scripts/conformance``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            cases = [case for mark in item.iter_markers("conformance") for case in mark.args]
            self._tests[item.nodeid] = {"cases": cases, "outcome": "did not run"}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A failure in any phase is the outcome; otherwise the call's, or the skip of the set-up.
        test = self._tests[report.nodeid]
        if test["outcome"] != "failed" and (report.when == "call" or report.outcome != "passed"):
            test["outcome"] = report.outcome

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._tests), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-report", type=Path, help="write cases and outcomes here (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)
    path = config.getoption("--conformance-report")
    if path is not None:
        config.pluginmanager.register(_Report(path))


# --- real peers ----------------------------------------------------------------------------------


def _launcher(name: str, log_dir: Path) -> PeerLauncher:
    try:
        return PeerLauncher(peer_builds.ensure_built(name), log_dir)
    except peer_builds.MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def go(tmp_path: Path) -> PeerLauncher:
    """Real go-libp2p peers: ``async with go.start(count=16, bootstrap=[addr]) as swarm``."""
    return _launcher("go", tmp_path)


@pytest.fixture
def rust(tmp_path: Path) -> PeerLauncher:
    """Real rust-libp2p peers, started as those of ``go``."""
    return _launcher("rust", tmp_path)


@pytest.fixture
def js(tmp_path: Path) -> PeerLauncher:
    """Real js-libp2p peers, started as those of ``go``; a process takes a second to start."""
    return _launcher("js", tmp_path)


@pytest.fixture
def launch(tmp_path: Path) -> Callable[[str], PeerLauncher]:
    """Real peers of the implementation named: ``launch("rust").start()``."""
    return lambda name: _launcher(name, tmp_path)
