"""The record of conformance cases fits the tests. It collects all of them: one Python is enough."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.deadline_s(300)
def test_every_conformance_case_has_a_test_and_a_fault_that_can_be_planted() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/conformance.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
