"""The README's examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(example: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_readme_has_its_examples():
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs_without_an_error(number):
    result = run(EXAMPLES[number])
    assert result.returncode == 0, result.stderr


def test_the_provide_example_prints_the_provider():
    result = run(next(example for example in EXAMPLES if "find_providers" in example))
    assert "peers that hold the record: 1" in result.stdout
    assert "provides it at ['/ip4/127.0.0.1/tcp/" in result.stdout
