"""The conformance cases: which tests carry each, and which planted fault turned them red.

    scripts/conformance                  print the table, with the last recorded results
    scripts/conformance --plant          plant every fault, see its tests turn red, record it
    scripts/conformance --plant c18 c20  the same for some cases
    scripts/conformance --check          every case has a test and a fault that can be planted

A test says what it carries with ``@pytest.mark.conformance("c18")``. The cases and the faults are
in ``conformance.toml`` beside this file. A fault is planted in a copy of the tree, never in the
tree itself; before any is planted, the tests concerned must be green there. Results are recorded in
``docs/conformance.md``, which this program writes. A result belongs to the exact fault it was seen
with: after a change of the fault it counts as not run.
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
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "scripts" / "conformance.toml"
RECORD = ROOT / "docs" / "conformance.md"

RUN_TIMEOUT_S = 900
"""One run of the tests of one fault, seconds; each test has a limit too (tests/conftest.py)."""

NOT_COPIED = ("__pycache__", ".*cache*", ".git", ".hypothesis", ".venv", "dist", "node_modules")

DIGEST_CHARS = 8
"""Hex digits that name a fault in the record: the record holds fewer than a thousand."""

NOT_RUN = "not run"


class ConformanceError(Exception):
    """Something about the cases, the faults or the tests is not as it must be."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A change of one file that must turn tests red."""

    case: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Every one of these must turn red; if empty, at least one test of the case."""

    @property
    def digest(self) -> str:
        content = json.dumps([self.case, self.file, self.old, self.new, self.tests])
        return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARS]


@dataclass(frozen=True, slots=True)
class Table:
    """``conformance.toml``, read and checked."""

    cases: dict[str, str]
    faults: tuple[Fault, ...]

    def faults_of(self, case: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.case == case]


# --- reading --------------------------------------------------------------------------------------


def read_table() -> Table:
    content = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    cases: dict[str, str] = content["cases"]
    faults = []
    for number, entry in enumerate(content.get("fault", []), 1):
        known = {"case", "what", "file", "old", "new", "tests"}
        required = known - {"tests"}
        if not required <= entry.keys() <= known:
            wrong = sorted((required - entry.keys()) | (entry.keys() - known))
            raise ConformanceError(f"fault {number} of {TABLE.name}: missing or unknown: {wrong}")
        named = entry["case"] if isinstance(entry["case"], list) else [entry["case"]]
        rest = {key: entry[key] for key in ("what", "file", "old", "new")}
        for case in named:
            if case not in cases:
                raise ConformanceError(f"fault {number} of {TABLE.name}: no case {case!r}")
            faults.append(Fault(case=case, tests=tuple(entry.get("tests", ())), **rest))
    return Table(cases, tuple(faults))


def not_plantable(root: Path, faults: Iterable[Fault]) -> list[str]:
    """What is wrong with each fault whose old text is not there exactly once."""
    problems = []
    for fault in faults:
        path = root / fault.file
        found = path.read_text(encoding="utf-8").count(fault.old) if path.is_file() else 0
        if found != 1:
            problems.append(
                f"{fault.case}, {fault.what}: old text is {found} times in {fault.file}"
            )
        elif fault.old == fault.new:
            problems.append(f"{fault.case}, {fault.what}: old and new text are the same")
    return problems


def run_pytest(root: Path, arguments: Sequence[str]) -> tuple[dict[str, dict[str, object]], str]:
    """Each test by node id with its cases and outcome, and what pytest printed."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
        command += [f"--conformance-report={report.name}", *arguments]
        environment = {
            **os.environ,
            "HYPOTHESIS_PROFILE": "ci",  # the same examples every time
            "PYTHONDONTWRITEBYTECODE": "1",  # a stale module would hide a fault
            "PYTHONPATH": str(root),  # before the tree that is installed
        }
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        content = Path(report.name).read_text(encoding="utf-8")
    return (json.loads(content) if content else {}), done.stdout


def carriers_by_case() -> dict[str, list[str]]:
    """The test functions that carry each case, parametrised ones once."""
    tests, output = run_pytest(ROOT, ["--collect-only"])
    if not tests:
        raise ConformanceError(f"no test could be collected:\n{output}")
    broken = re.findall(r"^ERROR .*$", output, re.MULTILINE)
    if broken:
        listed = "\n".join(broken)
        raise ConformanceError(f"not every test could be collected:\n{listed}")
    carriers: dict[str, list[str]] = {}
    for node_id, test in tests.items():
        cases = test["cases"]
        assert isinstance(cases, list)
        for case in cases:
            names = carriers.setdefault(case, [])
            if function_of(node_id) not in names:
                names.append(function_of(node_id))
    return carriers


def function_of(node_id: str) -> str:
    return node_id.partition("[")[0]


# --- planting -------------------------------------------------------------------------------------


@contextmanager
def copies_of_the_tree(count: int) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="codio-dht-faults-") as place:
        copies = [Path(place) / f"copy-{number}" for number in range(count)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        yield copies


def plant_all(
    faults: Sequence[Fault], carriers: dict[str, list[str]], jobs: int
) -> tuple[dict[str, str], list[str]]:
    """Plant each fault: how many tests turned red by its digest, and what went unnoticed."""
    wanted = {fault.digest: fault.tests or tuple(carriers.get(fault.case, ())) for fault in faults}
    for fault in faults:
        if not wanted[fault.digest]:
            raise ConformanceError(f"{fault.case} has a fault and no test")
    results: dict[str, str] = {}
    green: list[str] = []
    with copies_of_the_tree(jobs) as copies:
        require_green(copies[0], sorted({test for tests in wanted.values() for test in tests}))
        free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for copy in copies:
            free.put(copy)

        def plant_one(fault: Fault) -> tuple[Fault, list[str], str]:
            copy = free.get()
            try:
                red, output = plant(copy, fault, wanted[fault.digest])
            finally:
                free.put(copy)
            return fault, red, output

        with ThreadPoolExecutor(jobs) as pool:
            for fault, red, output in pool.map(plant_one, faults):
                tests = wanted[fault.digest]
                enough = len(red) == len(tests) if fault.tests else bool(red)
                results[fault.digest] = f"{len(red)} of {len(tests)}" if enough else "NOT RED"
                print(f"{fault.case}  {results[fault.digest]:>12} red  {fault.what}", flush=True)
                if not enough:
                    stayed = "\n    ".join(sorted(set(tests) - set(red)))
                    green.append(f"{fault.case}, {fault.what}: not red:\n    {stayed}")
                    print(output, file=sys.stderr)
    return results, green


def require_green(copy: Path, tests: Sequence[str]) -> None:
    outcomes, output = run_pytest(copy, tests)
    not_green = [
        f"{test}: {verdict}"
        for test in tests
        if (verdict := verdict_of(test, outcomes)) != "passed"
    ]
    if not_green:
        listed = "\n".join(not_green)
        raise ConformanceError(f"{output}\nnot green before any fault was planted:\n{listed}")


def plant(copy: Path, fault: Fault, tests: Sequence[str]) -> tuple[list[str], str]:
    """The tests that turned red, and what pytest printed."""
    path = copy / fault.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
    try:
        outcomes, output = run_pytest(copy, tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    return [test for test in tests if verdict_of(test, outcomes) == "failed"], output


def verdict_of(test: str, outcomes: dict[str, dict[str, object]]) -> object:
    """``failed`` if any of its parameter sets failed; a module that no longer loads is not red."""
    seen = [
        outcome["outcome"]
        for node_id, outcome in outcomes.items()
        if test in (node_id, function_of(node_id))
    ]
    if "failed" in seen:
        return "failed"
    return seen[0] if seen else "did not run"


# --- the record -----------------------------------------------------------------------------------

HEAD = """\
# Conformance cases

Written by `scripts/conformance --plant`. Do not edit.

Each case names behaviour that other implementations of the DHT rely on, or that one of them got
wrong. A test carries a case with `@pytest.mark.conformance("c18")`. A test counts once it was seen
red: for each case a fault was planted in a copy of the code, and the last column says how many of
the tests named for it then failed (and the fault's name in this record).

| case | what it demands | tests | planted fault | red |
|---|---|---|---|---|
"""


def recorded_results() -> dict[str, str]:
    if not RECORD.exists():
        return {}
    row = re.compile(rf"\| (?P<result>[^|]+) \(`(?P<digest>[0-9a-f]{{{DIGEST_CHARS}}})`\) \|$")
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    return {found["digest"]: found["result"] for line in lines if (found := row.search(line))}


def write_record(table: Table, carriers: dict[str, list[str]], results: dict[str, str]) -> None:
    rows = []
    for case, demand in table.cases.items():
        carrying = carriers.get(case, [])
        for fault in table.faults_of(case):
            result = results.get(fault.digest, NOT_RUN)
            planted = f"{fault.what} (`{fault.file}`)"
            tests = listed(fault.tests or carrying)
            cells = (case, demand, tests, planted, f"{result} (`{fault.digest}`)")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if not table.faults_of(case):
            rows.append(f"| {case} | {demand} | {listed(carrying)} | none | {NOT_RUN} |")
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def listed(tests: Iterable[str]) -> str:
    return "<br>".join(f"`{short(test)}`" for test in tests) or "none"


def short(test: str) -> str:
    return test.removeprefix("tests/")


def print_table(table: Table, carriers: dict[str, list[str]], results: dict[str, str]) -> None:
    for case, demand in table.cases.items():
        print(f"{case}  {demand}")
        for test in carriers.get(case, ["none"]):
            print(f"     test   {short(test)}")
        for fault in table.faults_of(case):
            result = results.get(fault.digest, NOT_RUN)
            print(f"     fault  {fault.what} ({fault.file}): {result} red")
        if not table.faults_of(case):
            print("     fault  none")


# --- the command ----------------------------------------------------------------------------------


def check(table: Table, carriers: dict[str, list[str]]) -> None:
    problems = [
        f"{case} has no test: {table.cases[case]}" for case in table.cases.keys() - carriers
    ]
    with_fault = {fault.case for fault in table.faults}
    problems += [f"{case} has no planted fault" for case in table.cases.keys() - with_fault]
    problems += [
        f"{case} is carried by a test and is no case" for case in carriers if not known(case)
    ]
    problems += not_plantable(ROOT, table.faults)
    if problems:
        raise ConformanceError("\n".join(sorted(problems)))


def known(case: str) -> bool:
    """c01 to c76, also those that nothing here demands yet."""
    return re.fullmatch(r"c[0-9]{2}", case) is not None and 1 <= int(case[1:]) <= 76


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--plant", nargs="*", metavar="CASE", help="plant the faults (of these cases) and record"
    )
    what.add_argument("--check", action="store_true", help="only say what is missing")
    parser.add_argument("--jobs", type=int, default=2, help="faults planted at once (default 2)")
    options = parser.parse_args()
    try:
        table = read_table()
        carriers = carriers_by_case()
        if options.check:
            check(table, carriers)
        elif options.plant is None:
            print_table(table, carriers, recorded_results())
        else:
            unknown = set(options.plant) - table.cases.keys()
            if unknown:
                raise ConformanceError(f"no such case: {', '.join(sorted(unknown))}")
            cases = set(options.plant) or set(table.cases)
            faults = [fault for fault in table.faults if fault.case in cases]
            problems = not_plantable(ROOT, faults)
            if problems:
                raise ConformanceError("\n".join(problems))
            results, green = plant_all(faults, carriers, options.jobs)
            write_record(table, carriers, recorded_results() | results)
            if green:
                raise ConformanceError("\n".join(green))
    except ConformanceError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
