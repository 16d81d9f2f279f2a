"""The library inside somebody's program: it configures nothing, and says nothing unasked.

Each test is a program of its own, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

RUN = """
import trio
from codio_dht import DHTManager

NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"

async def run_until_a_warning_is_due():
    async with DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[NOBODY]) as dht:
        while dht.stats().bootstrap != "unreachable":
            await trio.sleep(0.05)
"""


def run(program: str, *, first: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", first + RUN + program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_that_has_set_up_nothing_sees_nothing() -> None:
    done = run("trio.run(run_until_a_warning_is_due)")
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


SETTINGS = """
import gc, logging, resource, signal, sys, warnings
import structlog

def settings():
    root = logging.getLogger()
    return [
        structlog.get_config(), structlog.is_configured(),
        root.handlers[:], root.level, logging.raiseExceptions, logging.lastResort,
        logging.getLoggerClass(), logging.getLogRecordFactory(), logging.root.manager.disable,
        [warnings.filters[:], warnings.showwarning],
        [signal.getsignal(number) for number in signal.valid_signals()],
        sys.excepthook, sys.unraisablehook, sys.getrecursionlimit(),
        gc.get_threshold(), gc.get_freeze_count(), gc.isenabled(),
        resource.getrlimit(resource.RLIMIT_NOFILE),
    ]

before = settings()
"""


def test_neither_the_import_nor_a_node_changes_a_setting_of_the_process() -> None:
    done = run(
        "trio.run(run_until_a_warning_is_due)\n"
        "print([pair for pair in zip(before, settings(), strict=True) if pair[0] != pair[1]])\n",
        first=SETTINGS,
    )
    assert (0, "[]\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_program_with_a_structlog_configuration_keeps_it_and_gets_our_lines() -> None:
    done = run(
        "import structlog\n"
        "def shout(logger, method, event):\n"
        "    return event | {'by': 'the program', 'level': method}\n"
        "structlog.configure(\n"
        "    processors=[shout, structlog.processors.JSONRenderer()],\n"
        "    logger_factory=structlog.PrintLoggerFactory(),\n"
        ")\n"
        "before = structlog.get_config()\n"
        "trio.run(run_until_a_warning_is_due)\n"
        "assert before == structlog.get_config()\n"
    )
    assert (0, "") == (done.returncode, done.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"the program"} == {line["by"] for line in lines}
    assert ("warning", 1) in [
        (line["level"], line["peers"]) for line in lines if line["event"] == "bootstrap_unreachable"
    ]


def test_a_program_with_logging_gets_our_lines_under_the_names_of_our_modules() -> None:
    done = run(
        "import logging\n"
        "logging.basicConfig(format='%(levelname)s %(name)s %(message)s')\n"
        "trio.run(run_until_a_warning_is_due)\n"
    )
    assert (0, "") == (done.returncode, done.stdout)
    [line, *_] = [line for line in done.stderr.splitlines() if "bootstrap_unreachable" in line]
    assert line.startswith("WARNING codio_dht.node.upkeep event='bootstrap_unreachable' peers=1 ")


def test_a_program_that_sets_a_level_gets_the_lines_from_there_on() -> None:
    done = run(
        "import logging\n"
        "logging.basicConfig(format='%(name)s %(message)s')\n"
        "logging.getLogger('codio_dht').setLevel(logging.ERROR)\n"
        "trio.run(run_until_a_warning_is_due)\n"
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
