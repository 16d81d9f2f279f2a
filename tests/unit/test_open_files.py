"""The limit on open files that the daemon gives itself."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from codio_dht.daemon.open_files import raise_open_files
from codio_dht.net.limits import Limits

UNLIMITED = resource.RLIM_INFINITY


class System:
    """Stands for the system's limits of this process."""

    def __init__(self, soft: int, hard: int, *, refuses: bool = False) -> None:
        self.limits = (soft, hard)
        self.refuses = refuses

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.limits

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        if self.refuses:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1_024, 1_048_576, 9_000),
        (1_024, 4_096, 4_096),
        (1_024, UNLIMITED, 9_000),
        (65_536, 1_048_576, 65_536),
        (UNLIMITED, UNLIMITED, UNLIMITED),
        (4_096, 4_096, 4_096),
    ],
)
def test_the_soft_limit_is_raised_to_what_is_needed_and_the_hard_one_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int
) -> None:
    system = System(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    assert expected == raise_open_files(9_000)
    assert (expected, hard) == system.limits


def test_what_became_of_it_is_logged_and_too_little_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System(1_024, 4_096)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    with capture_logs() as lines:
        raise_open_files(2_000)
        raise_open_files(9_000)
    assert {"event": "open_files", "limit": 2_000, "before": 1_024, "log_level": "info"} == lines[0]
    assert ("warning", 4_096, 9_000) == (
        lines[1]["log_level"],
        lines[1]["limit"],
        lines[1]["wanted"],
    )
    assert "ulimit -Hn" in lines[1]["hint"]


def test_a_system_that_refuses_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(1_024, UNLIMITED, refuses=True)
    monkeypatch.setattr(resource, "getrlimit", system.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", system.setrlimit)
    assert 1_024 == raise_open_files(9_000)


def test_what_the_limits_need_is_what_lets_them_be_as_they_are() -> None:
    limits = Limits()
    assert limits == limits.within(limits.open_files)
    assert limits != limits.within(limits.open_files - 8)
