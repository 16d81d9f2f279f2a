"""Rules of this project that no linter knows. ``scripts/lint`` runs them; each violation is a line.

- One meaning for a class name: no public class of the package has the name of another one.
- A docstring stands alone, because a tooltip shows it without its neighbours: none begins or ends
  as a part of another one's sentence.
- A module is a whole concept of at most 500 lines. ARCHITECTURE.md names each that is longer, with
  the reason.
- A word has one meaning: keys are provided, only addresses are announced.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

MAX_LINES: Final = 500

_PART_OF_A_SENTENCE: Final = re.compile(
    r"\A\s*(\.\.\.|\u2026|(and|but|or|likewise|ditto|see the module)\b|(the same|as) above\b)"
    r"|\s(\.\.\.|\u2026)\s*\Z",
    re.IGNORECASE,
)

_ANNOUNCE: Final = re.compile(r"announc", re.IGNORECASE)

_OF_ADDRESSES: Final = re.compile(
    r"addr|listen|--announce|\bannounce[=:,)]|append[_-]announce|check_announced", re.IGNORECASE
)
"""A sentence or a line of code with one of these may speak of announcing."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the package that people wrote."""

    name: str
    """Its path in the package, such as ``core/lookup.py``."""

    text: str

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)


def modules(root: Path) -> list[Module]:
    """The modules below ``root``/codio_dht, without generated ones."""
    package = root / "codio_dht"
    return [
        Module(str(path.relative_to(package)), path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    ]


def class_names(root: Path) -> Iterator[str]:
    """Public classes that have the name of another one."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module in modules(root):
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(f"{module.name}:{node.lineno}")
    for name, places in sorted(homes.items()):
        if len(places) > 1:
            yield f"{places[-1]}: the class {name} is also in {', '.join(places[:-1])}"


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those below constants and fields among them."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(text := statement.value.value, str)
            ):
                yield statement.lineno, text


def whole_sentences(root: Path) -> Iterator[str]:
    """Docstrings that need their neighbour to be understood."""
    for module in modules(root):
        for line, text in docstrings(module.tree):
            if _PART_OF_A_SENTENCE.search(text):
                first = text.strip().splitlines()[0]
                yield f"{module.name}:{line}: a docstring that does not stand alone: {first}"


def module_lengths(root: Path) -> Iterator[str]:
    """Modules of more than ``MAX_LINES`` lines that ARCHITECTURE.md does not name."""
    architecture = (root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for module in modules(root):
        lines = module.text.count("\n")
        if lines > MAX_LINES and module.name not in architecture:
            yield f"{module.name}: {lines} lines, and ARCHITECTURE.md does not say why"


def words(root: Path) -> Iterator[str]:
    """Lines that speak of announcing something other than addresses."""
    for module in modules(root):
        lines = module.text.splitlines()
        for number, line in enumerate(lines, 1):
            around = " ".join(lines[max(0, number - 2) : number + 1])
            if _ANNOUNCE.search(line) and not _OF_ADDRESSES.search(around):
                yield f"{module.name}:{number}: keys are provided, not announced: {line.strip()}"


RULES: Final[tuple[Callable[[Path], Iterator[str]], ...]] = (
    class_names,
    whole_sentences,
    module_lengths,
    words,
)


def main() -> int:
    found = [f"codio_dht/{each}" for rule in RULES for each in rule(ROOT)]
    print("\n".join(found), end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
