"""The limits that ``tests/conftest.py`` sets on every test, each seen at work in its own run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """An empty suite under our conftest and configuration."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "component").mkdir(parents=True)
    (tmp_path / "tests" / "interop").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    for module in ("peers.py", "peer_builds.py"):
        shutil.copy(ROOT / "tests" / "interop" / module, tmp_path / "tests" / "interop")
    return tmp_path


def run(suite: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (suite / "tests" / "component" / "test_planted.py").write_text(code)
    without_ci = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=suite,
        env=without_ci | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_test_that_waits_for_ever_is_cancelled(suite: Path) -> None:
    result = run(
        suite,
        "import pytest, trio\n"
        "@pytest.mark.deadline_s(0.1)\n"
        "async def test_it():\n    await trio.sleep_forever()\n",
    )
    assert result.returncode == 1
    assert "not done after 0.1 s" in result.stdout


def test_a_test_that_cannot_be_cancelled_gets_an_alarm(suite: Path) -> None:
    result = run(
        suite,
        "import pytest\n"
        "@pytest.mark.deadline_s(0.1)\n"
        "def test_it():\n    while True:\n        pass\n",
    )
    assert result.returncode == 1
    assert "DeadlineExceeded" in result.stdout
    assert "test_planted.py" in result.stderr  # where every thread was


def test_a_test_on_a_virtual_clock_may_take_virtual_hours(suite: Path) -> None:
    result = run(
        suite, "import trio\nasync def test_it(autojump_clock):\n    await trio.sleep(36_000)\n"
    )
    assert result.returncode == 0, result.stdout


SKIPPING = "import pytest\ndef test_it(require_tool):\n    require_tool('no-such-tool')\n"


def test_a_missing_tool_skips_and_says_so(suite: Path) -> None:
    result = run(suite, SKIPPING)
    assert result.returncode == 0
    assert "no-such-tool is not installed" in result.stdout


def test_in_ci_a_missing_tool_is_a_failure(suite: Path) -> None:
    result = run(suite, SKIPPING, CI="true")
    assert result.returncode == 1
    assert "in CI nothing may be: Skipped: no-such-tool is not installed" in result.stdout


def test_in_ci_a_skipped_module_is_a_failure(suite: Path) -> None:
    result = run(suite, "import pytest\npytest.importorskip('no_such_module')\n", CI="true")
    assert result.returncode != 0
    assert "in CI nothing may be" in result.stdout


def test_in_ci_a_skip_that_was_declared_is_a_skip(suite: Path) -> None:
    declared = SKIPPING.replace("def test", "@pytest.mark.skips_in_ci('needs it')\ndef test")
    assert run(suite, declared, CI="true").returncode == 0


def test_a_warning_is_a_failure(suite: Path) -> None:
    result = run(suite, "import warnings\ndef test_it():\n    warnings.warn('odd')\n")
    assert result.returncode == 1


LEAKING = "import socket\ndef test_it():\n    cycle = [socket.socket()]\n    cycle.append(cycle)\n"


def test_a_socket_left_open_fails_the_test_that_left_it(suite: Path) -> None:
    result = run(suite, LEAKING + "def test_the_next():\n    pass\n")
    assert result.returncode == 1
    assert "2 passed, 1 error" in result.stdout
    assert "ERROR at teardown of test_it " in result.stdout


def test_a_socket_may_be_left_open_where_that_is_declared(suite: Path) -> None:
    declared = LEAKING.replace("def test", "@pytest.mark.leaves_sockets('upstream')\ndef test")
    assert run(suite, "import pytest\n" + declared).returncode == 0
