"""``scripts/mutate`` on a small tree of its own: faults are planted in copies, and what survives is
told, accepted where the table says so, and not tried again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import mutate
from mutants import Tree
from mutate import Outcome

SMALL = "codio_dht/core/small.py"
MODULE = """\
LIMIT = int("5")


def double(number: int) -> int:
    return number * 2


def untested(number: int) -> int:
    return number + 5


def shortened(text: str) -> str:
    return text.removeprefix("a")


def endless(number: int) -> bool:
    while number < 5:
        number += 1
    return True
"""
SETTINGS = """\
[tool.pytest.ini_options]
pythonpath = ["."]

[tool.mypy]
strict = true
"""
TEST = """\
from codio_dht.core.small import double, endless


def test_double():
    assert double(4) == 8


def test_endless():
    assert endless(4)
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the small tree needs no plugin
    place = tmp_path / "tree"
    for path, text in {
        "codio_dht/__init__.py": "",
        "codio_dht/core/__init__.py": "",
        SMALL: MODULE,
        "tests/unit/test_small.py": TEST,
        "pyproject.toml": SETTINGS,
    }.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


def run(
    tree: Path,
    *new_lines: str,
    accepted: tuple[mutate.Accepted, ...] = (),
    quick: bool = False,
) -> int:
    """Plant the faults that leave these lines; how many survived that are not accepted."""
    faults = [one for one in Tree(tree).all(SMALL) if one.new in new_lines]
    assert len(new_lines) == len(faults)
    table = mutate.Table({"core": 1}, {"core": 1}, 1, 0, {}, accepted)
    return mutate.mutate(tree, table, {"core": faults}, jobs=2, fresh=False, quick=quick)


def outcomes(tree: Path) -> Counter[str]:
    lines = (tree / ".mutation" / "results.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["outcome"] for line in lines)


def test_what_a_test_or_the_type_checker_notices_is_killed_and_the_rest_survives(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(
        tree,
        "return number / 2",
        "return number - 5",
        "return text.removeprefix(None)",
        'LIMIT = int("XX5XX")',
    )
    unseen = (Outcome.TIMED_OUT, Outcome.DOUBTFUL)
    assert {each: 1 for each in Outcome if each not in unseen} == outcomes(tree)
    told = capsys.readouterr().out
    assert f"{SMALL}:9: survived\n    - return number + 5\n    + return number - 5\n" in told
    assert "core        3 planted,    2 killed (1 by mypy), 1 survived (33.3 %)" in told
    assert MODULE == (tree / SMALL).read_text()


def test_an_accepted_survivor_is_told_with_its_reason_and_no_failure(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = mutate.Accepted(SMALL, "return number + 5", None, "nobody calls it")
    assert not run(tree, "return number - 5", accepted=(accepted,))
    assert "survived, accepted: nobody calls it" in capsys.readouterr().out


def test_tests_that_take_too_long_have_killed_the_fault(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "RUN_TIMEOUT_S", 4)
    assert not run(tree, "number = 1")
    assert {Outcome.TIMED_OUT: 1} == outcomes(tree)


def test_a_result_is_used_again_until_the_module_or_a_test_changes(tree: Path) -> None:
    for _ in range(2):
        assert run(tree, "return number - 5")
    assert 1 == outcomes(tree).total()
    test = tree / "tests/unit/test_small.py"
    test.write_text(TEST.replace("import double,", "import double, untested,"))
    with test.open("a") as out:
        out.write("\n\ndef test_untested():\n    assert untested(1) == 6\n")
    assert not run(tree, "return number - 5")
    assert {Outcome.KILLED: 1, Outcome.SURVIVED: 1} == outcomes(tree)


def test_a_test_that_fails_without_any_fault_kills_nothing(tree: Path) -> None:
    with (tree / "tests/unit/test_small.py").open("a") as out:
        out.write("\n\ndef test_red():\n    assert double(1) == 3\n")
    with pytest.raises(mutate.MutateError, match="test_red"):
        run(tree, "return number - 5")
    assert 0 == outcomes(tree).total()


def add_component_test(tree: Path, text: str) -> None:
    place = tree / "tests/component/test_small_parts.py"
    place.parent.mkdir()
    place.write_text(f"from codio_dht.core.small import untested\n\n\n{text}")


def test_a_component_test_kills_when_it_fails_twice(tree: Path) -> None:
    add_component_test(tree, "def test_slow():\n    assert untested(1) == 6\n")
    assert 0 == run(tree, "return number - 5")
    assert {Outcome.KILLED: 1} == outcomes(tree)


def test_the_sample_of_ci_runs_no_component_test(tree: Path) -> None:
    add_component_test(tree, "def test_slow():\n    assert untested(1) == 6\n")
    assert 1 == run(tree, "return number - 5", quick=True)


def test_a_component_test_that_fails_only_once_leaves_the_fault_doubtful(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "ran"
    add_component_test(
        tree,
        "from pathlib import Path\n\n\ndef test_busy():\n"
        f"    flag = Path({str(flag)!r})\n    again = flag.exists()\n"
        "    flag.touch()\n    assert again\n",
    )
    assert 1 == run(tree, "return number - 5")
    assert {Outcome.DOUBTFUL: 1} == outcomes(tree)
    told = capsys.readouterr().out
    assert "doubtful (tests/component/test_small_parts.py::test_busy failed only once)" in told
    assert "0 killed, 0 survived (0.0 %), of which 0 accepted; 1 doubtful" in told
