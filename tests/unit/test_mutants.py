"""``scripts/mutate``: which faults are made of a source, which of them a sample holds, which tests
fit, and whether ``mutants.toml`` fits the tree. ``component/test_mutate.py`` plants some."""

from __future__ import annotations

from pathlib import Path

import pytest

import mutate
from fitting_tests import QUICK_FIRST, FittingTests, modules_of
from mutants import Planted, Tree, changed

ROOT = Path(__file__).parents[2]


def faults_of(source: str, tmp_path: Path) -> set[tuple[str, str]]:
    """Old and new lines of every fault."""
    (tmp_path / "module.py").write_text(source)
    return {(one.old, one.new) for one in Tree(tmp_path).all("module.py")}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("if a < b: c()", "if a <= b: c()"),
        ("self.book.heard(peer, addrs)", "pass"),
        ("await trio.sleep(1)", "pass"),
        ("addrs = self.keep(addrs)", "addrs = addrs"),
        ("for key in sorted(keys): c()", "for key in keys: c()"),
        ("if self.public: c()", "if not self.public: c()"),
        ("raise ValueError(key)", "pass"),
        ("with scope(shield=True): c()", "with scope(shield=False): c()"),
        ("x = call(mode=0o600)", "x = call(mode=385)"),
        ("x = call(a, limit=limit)", "x = call(a, )"),
        ("x = 'name'", "x = 'XXnameXX'"),
        ("x = a if b else c", "x = a if (b) and False else c"),
    ],
)
def test_a_fault_of_each_kind_is_made(line: str, fault: str, tmp_path: Path) -> None:
    source = f"async def f():\n    {line}\n"
    assert (line, fault) in faults_of(source, tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "import a.b\nfrom a import b\n",
        "x: dict[str, int | None]\n",
        '"""What it is for."""\n',
        "if TYPE_CHECKING:\n    x = 1\n",
        "__all__ = ['a']\n",
        "class A(Enum):\n    B = 'b'\n",
        "def f(a: int = None) -> int | None: ...\n",
        "@wrapped(1)\nclass A: ...\n",
        "def f():\n    assert a < b, 1\n",
        "def f():\n    log.warning('lost', count=1)\n",
        "def f():\n    self._log.debug('lost')\n",
        "for a in zip(b, strict=True): ...\n",
        "A: Final = 8\nB: Final = 64 * 1024\n",
    ],
)
def test_what_no_test_should_notice_is_left_alone(source: str, tmp_path: Path) -> None:
    assert set() == faults_of(source, tmp_path)


def test_of_a_raise_only_the_whole_is_left_out_and_of_an_enum_the_methods_are_mutated(
    tmp_path: Path,
) -> None:
    source = """\
class A(Enum):
    B = 1

    def f(self):
        raise ValueError("lost", 1)
"""
    assert {('raise ValueError("lost", 1)', "pass")} == faults_of(source, tmp_path)


def test_what_changed_is_told_without_the_lines_around_it() -> None:
    assert ("x\ny", "z") == changed("a\n  x\n  y\nb\n", "a\n  z\nb\n")


SOURCE = "".join(
    f"def f{i}(a):\n    if a == {i}: return a + {i}\n    return {i} - a\n" for i in range(30)
)


def sample(place: Path, source: str, count: int = 8, seed: int = 1) -> list[Planted]:
    (place / "module.py").write_text(source)
    return Tree(place).sample(["module.py"], count, seed)


def test_a_sample_has_at_most_one_fault_of_a_line_and_is_the_same_again(tmp_path: Path) -> None:
    first = sample(tmp_path, SOURCE)
    assert 8 == len({one.line for one in first})
    assert first == sample(tmp_path, SOURCE)
    assert {one.key for one in first} != {one.key for one in sample(tmp_path, SOURCE, seed=2)}


def test_a_change_of_another_line_leaves_the_sample_as_it_was(tmp_path: Path) -> None:
    first = sample(tmp_path, SOURCE)
    untouched = next(i for i in range(30) if f"a == {i}:" not in {one.old for one in first})
    changed_source = "NEW = 1\n" + SOURCE.replace(f"a + {untouched}\n", f"a - {untouched}\n")
    kept = {one.key for one in first} & {one.key for one in sample(tmp_path, changed_source)}
    assert len(kept) >= 6


def test_a_sample_prefers_faults_that_do_more_than_put_none_for_something(tmp_path: Path) -> None:
    crude = [one for one in sample(tmp_path, SOURCE, count=30) if "None" in one.new]
    assert [] == crude
    assert ["x = None"] == [one.new for one in sample(tmp_path, "x = y\n")]


# --- which tests ----------------------------------------------------------------------------------


def test_the_tests_of_a_module_are_those_that_import_it_its_own_and_quick_ones_first() -> None:
    found = FittingTests(ROOT, {}).of("codio_dht/wire/framing.py")
    assert "tests/unit/test_framing.py" == found[0]
    kinds = [Path(test).parent.name for test in found[1:]]
    assert kinds == sorted(kinds, key=QUICK_FIRST.index)


def test_tests_that_are_named_for_a_module_run_after_those_that_import_it() -> None:
    named = {"wire/*": ["tests/chaos/test_store_crash.py"]}
    assert (
        "tests/chaos/test_store_crash.py"
        == FittingTests(ROOT, named).of("codio_dht/wire/framing.py")[-1]
    )


def test_every_module_that_is_sampled_has_tests() -> None:
    table = mutate.read_table()
    fitting = FittingTests(ROOT, table.tests)
    modules = [path for package in table.packages for path in modules_of(ROOT, package)]
    assert len(modules) > 100
    assert [] == [path for path in modules if not fitting.of(path)]


# --- the table ------------------------------------------------------------------------------------


def test_the_table_fits_the_tree() -> None:
    assert [] == mutate.problems(mutate.read_table(), ROOT)


def accepted(old: str, new: str | None = None, reason: str = "nothing changes") -> mutate.Accepted:
    return mutate.Accepted("module.py", old, new, reason)


def test_an_accepted_survivor_is_known_by_its_lines_wherever_they_stand() -> None:
    fault = Planted("module.py", 3, "", "a = 1", "a = 2")
    assert accepted("a = 1", "a = 2").covers(fault)
    assert accepted("a = 1").covers(fault)
    assert not accepted("a = 1", "a = 0").covers(fault)
    assert not accepted("a = 2").covers(fault)
    assert not mutate.Accepted("other.py", "a = 1", None, "x").covers(fault)


def test_an_entry_that_fits_nothing_or_gives_no_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f():\n    a = (\n        1\n    )\n")
    table = mutate.Table(
        packages={},
        ci={},
        ci_seed=1,
        ci_survivors=0,
        tests={"gone.py": ("tests/unit/test_gone.py",)},
        accepted=(accepted("a = (\n1\n)"), accepted("a = 2"), accepted("1", reason=" ")),
    )
    assert [
        "tests of gone.py: there is no tests/unit/test_gone.py",
        "tests of gone.py: there is no such module",
        "accepted: module.py has no line 'a = 2'",
        "accepted: module.py, '1': there is no reason",
    ] == mutate.problems(table, tmp_path)
