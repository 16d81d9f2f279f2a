"""The daemon's log: our events, other libraries' noise, what a terminal is shown."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from codio_dht.daemon import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's: leave it as it was."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    own = logging.getLogger("codio_dht").level
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.getLogger("codio_dht").setLevel(own)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def events(stream: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_events_are_json_lines_from_the_level_up() -> None:
    stream = io.StringIO()
    logs.configure("info", as_json=True, stream=stream)
    log = structlog.get_logger("codio_dht.node.x")
    log.debug("unseen")
    log.info("seen", peer="p", count=3)
    (event,) = events(stream)
    assert ("seen", "info", "p", 3, "codio_dht.node.x") == (
        event["event"],
        event["level"],
        event["peer"],
        event["count"],
        event["logger"],
    )


def test_a_library_that_logs_a_remote_failure_as_an_error_is_counted_not_shown() -> None:
    stream = io.StringIO()
    foreign = logs.configure("info", as_json=True, stream=stream)
    logging.getLogger("some.library").error("a peer hung up: %s", "x")
    logging.getLogger().warning("on the root logger")
    assert stream.getvalue() == ""
    assert foreign.stats() == {"some.error": 1, "root.warning": 1}


def test_at_debug_it_is_one_short_line_without_its_traceback() -> None:
    stream = io.StringIO()
    logs.configure("debug", as_json=True, stream=stream)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("some.library").exception("x" * 10_000)
    (event,) = events(stream)
    assert ("debug", logs.MAX_FOREIGN_CHARS) == (event["level"], len(event["event"]))
    assert "exception" not in event


@pytest.mark.parametrize("level", logs.LEVELS)
def test_what_libraries_say_below_warning_is_not_heard_at_any_level(level: str) -> None:
    stream = io.StringIO()
    foreign = logs.configure(level, as_json=True, stream=stream)
    chatty = logging.getLogger("some.library.that.sets.its.own.level")
    chatty.setLevel(logging.DEBUG)
    for library in (chatty, logging.getLogger("some.library")):
        library.debug("parsed an address")
        library.info("connected")
    assert "" == stream.getvalue()
    assert {} == foreign.stats()
    assert not logging.getLogger("some.library").isEnabledFor(logging.INFO)


def test_what_a_library_calls_critical_is_shown() -> None:
    stream = io.StringIO()
    logs.configure("error", as_json=True, stream=stream)
    logging.getLogger("some.library").critical("out of memory")
    assert [event["event"] for event in events(stream)] == ["out of memory"]


def test_a_librarys_broken_format_hurts_nobody() -> None:
    stream = io.StringIO()
    foreign = logs.configure("debug", as_json=True, stream=stream)
    logging.getLogger("some.library").warning("%d of %d", "one")  # noqa: PLE1206 - the fault
    assert [event["event"] for event in events(stream)] == ["%d of %d"]
    assert foreign.stats() == {"some.warning": 1}


def test_counted_names_are_bounded() -> None:
    foreign = logs.configure("error", as_json=True, stream=io.StringIO())
    for number in range(3 * logs.MAX_COUNTED_LOGGERS):
        logging.getLogger(f"library{number}").warning("x")
    counts = foreign.stats()
    assert len(counts) == logs.MAX_COUNTED_LOGGERS + 1
    assert counts["other"] == 2 * logs.MAX_COUNTED_LOGGERS


def test_a_terminal_is_shown_no_control_characters() -> None:
    stream = io.StringIO()
    logs.configure("info", as_json=False, stream=stream)
    structlog.get_logger("codio_dht.x").info("identified", agent="evil\x1b[2J", n=1)
    assert "\x1b" not in stream.getvalue()
    assert "identified" in stream.getvalue()


def test_a_fault_of_ours_has_its_traceback() -> None:
    stream = io.StringIO()
    logs.configure("error", as_json=True, stream=stream)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        structlog.get_logger("codio_dht.x").exception("failed")
    assert "ZeroDivisionError" in events(stream)[0]["exception"]


def test_libp2ps_own_logger_comes_to_us_too() -> None:
    pytest.importorskip("libp2p")
    stream = io.StringIO()
    foreign = logs.configure("info", as_json=True, stream=stream)
    logs.tame_libp2p()
    logging.getLogger("libp2p.network.swarm").error("failed to open stream")
    assert foreign.stats() == {"libp2p.error": 1}
