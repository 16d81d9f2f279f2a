"""Which modules are mutated, and which test files are likely to notice a fault of one. Runs
nothing: what a file imports is read from its source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path

PACKAGE = "codio_dht"

LEFT_OUT = ("*/__init__.py", "*_pb2.py")

MOST_FILES = 12
"""Test files that run for one module, where mutants.toml does not name them."""

ENOUGH_FILES = 3
"""Fewer test files than these import a module: those that import its importers run as well."""

WIDEST = 3
"""How far a test may be from the module: 1 imports it, 2 imports what imports it."""

QUICK_FIRST = ("vectors", "unit", "stateful", "sim", "component", "chaos")
"""Directories of tests in the order in which they are tried. interop is left out, as it takes
minutes."""


def modules_of(tree: Path, package: str) -> list[str]:
    """The modules of a package (or one module), relative to the tree; none if it is not there."""
    place = tree / PACKAGE / package
    found = [place] if place.is_file() else sorted(place.rglob("*.py"))
    paths = [path.relative_to(tree).as_posix() for path in found]
    return [path for path in paths if not any(fnmatch(path, left) for left in LEFT_OUT)]


class FittingTests:
    """Which test files are likely to notice a fault of a module: those that import it, by name or
    through helpers beside them, or where they are few, those that import its importers; and those
    that ``mutants.toml`` names."""

    def __init__(self, tree: Path, named: Mapping[str, Sequence[str]]) -> None:
        self._tree = tree
        self._named = named
        files = [
            each for kind in QUICK_FIRST for each in sorted((tree / "tests" / kind).glob("*.py"))
        ]
        self._helpers = {each.stem: each for each in files if not each.stem.startswith("test_")}
        self._imports = {
            each.relative_to(tree).as_posix(): self._imported_by(each)
            for each in files
            if each.stem.startswith("test_")
        }
        self._importers: dict[str, set[str]] = defaultdict(set)
        for module in (tree / "codio_dht").rglob("*.py"):
            for name in imported_names(module):
                self._importers[name].add(_dotted(module.relative_to(tree).as_posix()))

    def of(self, path: str) -> list[str]:
        """Test files, those to be tried first first."""
        found: list[str] = []
        near = {_dotted(path)}
        for _ in range(WIDEST):
            importing = [file for file, names in self._imports.items() if near & names]
            found += sorted(set(importing) - set(found), key=partial(self._place, path))
            if len(found) >= ENOUGH_FILES:
                break
            near = {importer for name in near for importer in self._importers[name]} - {PACKAGE}
        named = [
            file
            for pattern, files in self._named.items()
            if fnmatch(path, f"{PACKAGE}/{pattern}")
            for file in files
        ]
        return list(dict.fromkeys((*found[:MOST_FILES], *named)))

    def _place(self, path: str, test: str) -> tuple[bool, int, int]:
        """Its order: named like the module, then the quick kinds, then those that import little."""
        is_own = Path(path).stem in Path(test).stem
        return not is_own, QUICK_FIRST.index(Path(test).parent.name), len(self._imports[test])

    def _imported_by(self, test: Path) -> set[str]:
        """Names that a test file imports, those of its helpers included."""
        names: set[str] = set()
        unread = [test]
        while unread:
            new = imported_names(unread.pop()) - names
            names |= new
            unread += [self._helpers[name] for name in sorted(new & self._helpers.keys())]
        return names


@cache
def imported_names(module: Path) -> frozenset[str]:
    """Dotted names of all that a file imports: modules, and names that may be modules."""
    names: list[str] = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    return frozenset(names)


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
