"""Programs of their own that a test starts and kills."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Run the Python text ``program`` in the root of the project."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_after(lines: int, program: str, *arguments: object) -> list[str]:
    """What the program had said when it was killed, ``lines`` lines or a few more into its work."""
    child = start(program, *arguments)
    assert child.stdout is not None
    try:
        said = [child.stdout.readline() for _ in range(lines)]
    finally:
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
        child.stdout.close()
        assert child.wait(30) == -signal.SIGKILL
    return [line for line in said if line.endswith("\n")]
