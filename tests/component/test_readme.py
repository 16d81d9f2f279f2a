"""The examples of the README and of the pages in docs/ run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def examples_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


EXAMPLES = examples_of(ROOT / "README.md")
OF_DOCS = {
    f"{page.stem}-{number}": example
    for page in sorted((ROOT / "docs").glob("*.md"))
    for number, example in enumerate(examples_of(page), 1)
}


def run(example: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_readme_has_its_examples():
    assert len(EXAMPLES) == 4
    assert set(SAID) <= set(OF_DOCS)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs_without_an_error(number):
    result = run(EXAMPLES[number])
    assert result.returncode == 0, result.stderr


SAID = {
    "from-py-libp2p-1": "server 0\n",
    "from-py-libp2p-2": "connected: True\n",
    "from-py-libp2p-3": "b'0002 blue'\nrefused: ",
    "values-1": "sequence 0 held by 1\n/ipfs/bafkqaaa\n",
    "values-2": "best: b'9'\nrefused: ",
}
"""What some examples of docs/ print, beside ending without an error."""


@pytest.mark.parametrize("name", OF_DOCS)
def test_an_example_of_the_docs_runs_without_an_error_and_says_what_it_should(name):
    result = run(OF_DOCS[name])
    assert result.returncode == 0, result.stderr
    assert SAID.get(name, "") in result.stdout


def test_the_provide_example_prints_the_provider():
    result = run(next(example for example in EXAMPLES if "find_providers" in example))
    assert "peers that hold the record: 1" in result.stdout
    assert "provides it at ['/ip4/127.0.0.1/tcp/" in result.stdout
