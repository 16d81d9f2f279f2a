"""Mutation testing: plants small faults in copies of the tree, and shows which no test notices.

    scripts/mutate --package core --sample 60     60 faults, one a line; always the same
    scripts/mutate --package core wire --seed 2   another sample, of the size in mutants.toml
    scripts/mutate --module core/horizon.py       every fault of a module
    scripts/mutate --package core --quick         unit tests and vectors only
    scripts/mutate --ci                           the sample that CI runs
    scripts/mutate --check                        mutants.toml fits the tree; plants nothing

A fault is killed when a test fails, when the module's tests pass their limit in time, or when mypy
refuses it. A fault that makes a module fail to load is not counted. What survives is printed with
the fault. A survivor that may stay stands in ``mutants.toml`` with the reason; any other makes the
exit code 1.

A test that uses real time may fail because the machine is busy. So a test that is neither a unit
test nor a vector must fail twice, the second time alone. If it passes then, and no other test
fails, the fault is *doubtful*: it is neither killed nor survived, and it is printed.

``--ci`` plants a small sample of the packages under ``[ci.packages]``, and runs unit tests and
vectors only. So its outcome does not depend on how busy the machine is. It fails if more faults
survive than ``[ci]`` allows: a change of a line may bring a fault into the sample that nobody has
judged yet.

For each module those tests run that import it, the quickest kind first, and then those that
``mutants.toml`` names; a run ends with the first test that fails. Results are kept in
``.mutation`` and used again while module and tests are the same, so an interrupted run goes on
where it was (``--fresh`` forgets them). Which faults there are is in ``mutants.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fitting_tests import FittingTests, modules_of
from mutants import Planted, Tree

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "scripts" / "mutants.toml"

RUN_TIMEOUT_S = 900
"""One run of tests that takes longer is taken for having noticed the fault, seconds. The last
resort: each test has a limit of its own (tests/conftest.py)."""

USAGE_ERROR, NO_TESTS = 4, 5
"""Exit codes of pytest that say nothing of a fault."""

NOT_COPIED = ("__pycache__", ".*cache*", ".git", ".hypothesis", ".venv", "dist", "node_modules")


class Outcome(StrEnum):
    """What became of a planted fault."""

    KILLED = "killed"
    TIMED_OUT = "killed by time"
    TYPES = "killed by mypy"
    SURVIVED = "survived"
    UNLOADABLE = "does not load"
    DOUBTFUL = "doubtful"
    """A test failed, and did not fail when it ran again."""


@dataclass(frozen=True, slots=True)
class Result:
    """A fault and what became of it."""

    outcome: Outcome
    killer: str
    """The first test that failed, or empty."""
    took_s: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """A survivor that may stay."""

    path: str
    old: str
    new: str | None
    """None: any fault of these lines."""
    reason: str

    def covers(self, planted: Planted) -> bool:
        same_lines = (self.path, self.old) == (planted.path, planted.old)
        return same_lines and self.new in (None, planted.new)


class MutateError(Exception):
    """The table, the tree or its tests are not as they must be."""


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """``mutants.toml``, read and checked."""

    packages: dict[str, int]
    """How many faults a sample of the package has."""
    ci: dict[str, int]
    ci_seed: int
    ci_survivors: int
    """More survivors than this, accepted ones left out, fail CI."""
    tests: dict[str, tuple[str, ...]]
    """Test files by module, which may be a pattern; they come after those that import it."""
    accepted: tuple[Accepted, ...]


def read_table() -> Table:
    content = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return Table(
        packages=content["packages"],
        ci=content["ci"]["packages"],
        ci_seed=content["ci"]["seed"],
        ci_survivors=content["ci"]["survivors"],
        tests={path: tuple(files) for path, files in content.get("tests", {}).items()},
        accepted=tuple(
            Accepted(one["file"], one["old"].strip(), _stripped(one.get("new")), one["reason"])
            for one in content.get("accepted", [])
        ),
    )


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()


def problems(table: Table, tree: Path) -> list[str]:
    """What in the table does not fit the tree."""
    found = [
        f"tests of {path}: there is no {file}"
        for path, files in table.tests.items()
        for file in files
        if not (tree / file).exists()
    ]
    found += [
        f"tests of {path}: there is no such module"
        for path in table.tests
        if not list((tree / "codio_dht").glob(path))
    ]
    for one in table.accepted:
        module = tree / one.path
        lines = [line.strip() for line in _lines_of(module)]
        wanted = one.old.splitlines()
        starts = range(len(lines) - len(wanted) + 1)
        if not any(lines[start : start + len(wanted)] == wanted for start in starts):
            found.append(f"accepted: {one.path} has no line {one.old!r}")
        if not one.reason.strip():
            found.append(f"accepted: {one.path}, {one.old!r}: there is no reason")
    return found


def _lines_of(module: Path) -> list[str]:
    return module.read_text(encoding="utf-8").splitlines() if module.exists() else []


# --- running --------------------------------------------------------------------------------------


class Copy:
    """A copy of the tree in which one fault at a time is planted."""

    def __init__(self, place: Path, python: str, mypy_cache: Path) -> None:
        self.place = place
        self._python = python
        self._mypy_cache = mypy_cache

    @contextmanager
    def planted(self, fault: Planted) -> Iterator[None]:
        path = self.place / fault.path
        whole = path.read_text(encoding="utf-8")
        path.write_text(fault.code, encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(whole, encoding="utf-8")

    def test(self, path: str, tests: Sequence[str]) -> tuple[Outcome, str]:
        """Run tests of a module until one fails; which that was."""
        quick = quick_ones(tests)
        doubtful = ""
        for some in [quick, *([test] for test in tests if test not in quick)]:
            if not some:
                continue
            outcome, killer = self._test(path, some)
            if outcome is Outcome.KILLED and killer and some is not quick:
                outcome, _ = self._test(path, [killer])
                doubtful = killer if outcome is Outcome.SURVIVED else doubtful
            if outcome is not Outcome.SURVIVED:
                return outcome, killer
        return (Outcome.DOUBTFUL, doubtful) if doubtful else (Outcome.SURVIVED, "")

    def _test(self, path: str, tests: Sequence[str]) -> tuple[Outcome, str]:
        with tempfile.TemporaryDirectory(prefix="codio-dht-run-") as scratch:
            command = [self._python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
            command += ["--tb=no", "--no-header", "-rfE", f"--basetemp={scratch}/tmp", *tests]
            try:
                done = self._run(command)
            except subprocess.TimeoutExpired:
                return Outcome.TIMED_OUT, ""
        if done.returncode == 0:
            return Outcome.SURVIVED, ""
        failed = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+)", done.stdout, re.MULTILINE)
        killer = failed[1] if failed else ""
        if killer and "::" not in killer and not self._loads(path):
            return Outcome.UNLOADABLE, ""
        if not killer and done.returncode in (USAGE_ERROR, NO_TESTS):
            raise MutateError(f"pytest ended with {done.returncode}:\n{done.stdout}")
        return Outcome.KILLED, killer

    def are_green(self, tests: Sequence[str]) -> bool:
        """Whether all of these tests pass."""
        return self.test("", tests)[0] in (Outcome.SURVIVED, Outcome.DOUBTFUL)

    def _loads(self, path: str) -> bool:
        name = path.removesuffix(".py").replace("/", ".")
        return self._run([self._python, "-c", f"import {name}"]).returncode == 0

    def types_are_right(self, path: str) -> bool:
        """Whether mypy takes the module."""
        command = [self._python, "-m", "mypy", f"--cache-dir={self._mypy_cache}", path]
        return self._run(command).returncode == 0

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.place,
            env={
                **os.environ,
                "HYPOTHESIS_PROFILE": "ci",  # the same examples every time
                "PYTHONDONTWRITEBYTECODE": "1",  # a stale module would hide a fault
                "PYTHONPATH": str(self.place),  # before the tree that is installed
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )


def quick_ones(tests: Iterable[str]) -> list[str]:
    """Those of the test files whose outcome does not depend on how busy the machine is."""
    return [test for test in tests if Path(test).parent.name in ("vectors", "unit")]


class Store:
    """Results of earlier runs, a line each; the last of a fault holds."""

    def __init__(self, file: Path, *, fresh: bool) -> None:
        self._file = file
        self._results: dict[str, Result] = {}
        file.parent.mkdir(exist_ok=True)
        if fresh:
            file.unlink(missing_ok=True)
        for line in _lines_of(file):
            entry = json.loads(line)
            self._results[entry["key"]] = Result(
                Outcome(entry["outcome"]), entry["killer"], entry["took_s"]
            )

    def forget_kills_of(self, tests: Iterable[str]) -> None:
        """Leave out what these tests killed, so that it is tried again."""
        red = set(tests)
        self._results = {k: one for k, one in self._results.items() if one.killer not in red}
        kept = [line for line in _lines_of(self._file) if json.loads(line)["killer"] not in red]
        self._file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def get(self, key: str) -> Result | None:
        return self._results.get(key)

    def put(self, key: str, fault: Planted, result: Result) -> None:
        self._results[key] = result
        told = {"file": fault.path, "line": fault.line, "old": fault.old, "new": fault.new}
        entry = {"key": key, "outcome": result.outcome, "killer": result.killer} | told
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry | {"took_s": round(result.took_s, 1)}) + "\n")


class Run:
    """Plants faults in copies of a tree, several at once."""

    def __init__(
        self, tree: Path, table: Table, store: Store, copies: Sequence[Copy], *, quick: bool
    ) -> None:
        self._tree = tree
        self._quick = quick
        self._tests = FittingTests(tree, table.tests)
        self._store = store
        self._free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        self._count = len(copies)
        for copy in copies:
            self._free.put(copy)

    def all(self, faults: Iterable[Planted]) -> Iterator[tuple[Planted, Result]]:
        """Each with its result, as they come."""
        with ThreadPoolExecutor(self._count) as pool:
            yield from pool.map(self._one, faults)

    def _one(self, fault: Planted) -> tuple[Planted, Result]:
        tests = self._tests.of(fault.path)
        if self._quick:
            tests = quick_ones(tests)
        key = self._key(fault, tests)
        known = self._store.get(key)
        if known is not None:
            return fault, known
        copy = self._free.get()
        started = time.monotonic()
        try:
            with copy.planted(fault):
                outcome, killer = copy.test(fault.path, tests)
                if outcome is Outcome.SURVIVED and not copy.types_are_right(fault.path):
                    outcome = Outcome.TYPES
        finally:
            self._free.put(copy)
        result = Result(outcome, killer, time.monotonic() - started)
        self._store.put(key, fault, result)
        return fault, result

    def red_without_fault(self, tests: Iterable[str]) -> list[str]:
        """Those of the tests that fail in the tree as it is: what they killed does not count."""
        wanted = sorted(set(tests))
        if not wanted:
            return []
        copy = self._free.get()
        try:
            if copy.are_green(wanted):
                return []
            return [test for test in wanted if not copy.are_green([test])]
        finally:
            self._free.put(copy)

    def _key(self, fault: Planted, tests: Sequence[str]) -> str:
        """Names a fault of this module as it is, and these tests as they are."""
        parts = [fault.key, (self._tree / fault.path).read_text(encoding="utf-8")]
        parts += [(self._tree / test).read_text(encoding="utf-8") for test in tests]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@contextmanager
def copies_of(tree: Path, count: int) -> Iterator[list[Copy]]:
    own = tree / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    with tempfile.TemporaryDirectory(prefix="codio-dht-mutants-") as place:
        copies = []
        for number in range(count):
            copy = Path(place) / f"copy-{number}"
            shutil.copytree(tree, copy, ignore=shutil.ignore_patterns(*NOT_COPIED, ".mutation"))
            copies.append(Copy(copy, python, tree / ".mutation" / f"mypy-{number}"))
        yield copies


# --- the command ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What became of a package's sample."""

    outcomes: Counter[Outcome]
    accepted: int = 0

    def line(self, package: str) -> str:
        planted = self.outcomes.total() - self.outcomes[Outcome.UNLOADABLE]
        survived = self.outcomes[Outcome.SURVIVED]
        doubtful = self.outcomes[Outcome.DOUBTFUL]
        killed = planted - survived - doubtful
        ways = ", ".join(
            f"{count} by {way.removeprefix('killed by ')}"
            for way in (Outcome.TYPES, Outcome.TIMED_OUT)
            if (count := self.outcomes[way])
        )
        return (
            f"{package:<8} {planted:4} planted, {killed:4} killed{f' ({ways})' if ways else ''}, "
            f"{survived} survived ({100 * survived / max(1, planted):.1f} %), of which "
            f"{self.accepted} accepted{f'; {doubtful} doubtful' if doubtful else ''}"
        )


def mutate(
    tree: Path,
    table: Table,
    samples: dict[str, list[Planted]],
    *,
    jobs: int,
    fresh: bool,
    quick: bool = False,
) -> int:
    """Plant every sample, and print what came of it; how many survivors are not accepted."""
    store = Store(tree / ".mutation" / "results.jsonl", fresh=fresh)
    lines, bad = [], 0
    with copies_of(tree, jobs) as copies:
        run = Run(tree, table, store, copies, quick=quick)
        for package, faults in samples.items():
            tally = Tally(Counter())
            killers: list[str] = []
            for fault, result in run.all(faults):
                reasons = [one.reason for one in table.accepted if one.covers(fault)]
                tally.outcomes[result.outcome] += 1
                if result.outcome in (Outcome.SURVIVED, Outcome.DOUBTFUL):
                    tally.accepted += bool(reasons)
                    bad += not reasons
                    show(fault, result, reasons)
                elif result.killer:
                    killers.append(result.killer)
            if red := run.red_without_fault(killers):
                store.forget_kills_of(red)
                raise MutateError(f"red without any fault, run again without: {', '.join(red)}")
            lines.append(tally.line(package))
            print(lines[-1], flush=True)
    if len(lines) > 1:
        print("\n".join(("", *lines)))
    return bad


def show(fault: Planted, result: Result, reasons: Sequence[str]) -> None:
    accepted = f", accepted: {reasons[0]}" if reasons else ""
    doubt = f" ({result.killer} failed only once)" if result.killer else ""
    print(f"{fault.path}:{fault.line}: {result.outcome}{doubt}{accepted}")
    for mark, text in (("-", fault.old), ("+", fault.new)):
        for line in text.splitlines():
            print(f"    {mark} {line}")
    sys.stdout.flush()


def existing_modules(tree: Path, package: str) -> list[str]:
    """Its modules.

    Raises:
        MutateError: there are none.
    """
    paths = modules_of(tree, package)
    if not paths:
        raise MutateError(f"there is no codio_dht/{package}")
    return paths


def chosen(options: argparse.Namespace, table: Table) -> dict[str, list[Planted]]:
    """The faults that the command asks for, by package."""
    tree = Tree(options.tree)
    if options.ci:
        return {
            package: tree.sample(existing_modules(options.tree, package), count, table.ci_seed)
            for package, count in table.ci.items()
        }
    if options.module:
        paths = existing_modules(options.tree, options.module)
        return {options.module: [fault for path in paths for fault in tree.all(path)]}
    return {
        package: tree.sample(
            existing_modules(options.tree, package),
            options.sample or table.packages.get(package, min(table.packages.values())),
            options.seed,
        )
        for package in options.package or table.packages
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/mutate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--package", nargs="+", help="of codio_dht (default: those of mutants.toml)"
    )
    parser.add_argument("--module", help="every fault of this module, as core/horizon.py")
    parser.add_argument("--sample", type=int, help="faults of each package")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    parser.add_argument("--ci", action="store_true", help="the sample that CI runs")
    parser.add_argument(
        "--quick", action="store_true", help="unit tests and vectors only, as in CI"
    )
    parser.add_argument("--check", action="store_true", help="only whether mutants.toml fits")
    parser.add_argument("--jobs", type=int, default=2, help="faults planted at once (default 2)")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--tree", type=Path, default=ROOT, help="another tree of the project")
    options = parser.parse_args()
    options.tree = options.tree.resolve()
    try:
        table = read_table()
        wrong = problems(table, options.tree) if options.tree == ROOT else []
        if wrong:
            raise MutateError("\n".join(wrong))
        if options.check:
            return 0
        survivors = mutate(
            options.tree,
            table,
            chosen(options, table),
            jobs=options.jobs,
            fresh=options.fresh,
            quick=options.ci or options.quick,
        )
        return int(survivors > (table.ci_survivors if options.ci else 0))
    except MutateError as error:
        print(f"mutate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
