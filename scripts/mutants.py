"""Makes mutants of a module: copies with one small fault each. Decides what is a fault worth
planting; runs nothing and writes nothing.

The faults are those of mutmut (its operators on libcst's syntax trees), and four of our own that it
lacks: a statement left out, a filter left out, a raise left out, a condition turned round. mutmut's
own runner is not used: it does not mutate decorated functions, and it needs a run of all tests in a
tree where every function goes through a wrapper before the first mutant, in which property tests
pass their limit in time.

What is not mutated, because no test should notice or the type checker does: annotations,
decorators, docstrings, imports, assertions, messages of exceptions, calls of loggers, ``cast``,
``zip``'s ``strict``, the text that an enum's member stands for. Nor is the figure of a documented
constant (``NAME: Final = 8``): it is a choice, which a test could only repeat.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

ENUMS = frozenset({"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"})

LOGGERS = frozenset({"log", "_log", "logger"})

_EMPTY = cst.Module([])
"""Knows how nodes are written."""

CONVERSIONS = frozenset(
    {
        *("abs", "all", "any", "bool", "bytearray", "bytes", "cast", "chr", "dict", "enumerate"),
        *("float", "frozenset", "getattr", "hash", "id", "int", "isinstance", "iter", "len"),
        *("list", "max", "memoryview", "min", "next", "ord", "print", "range", "repr", "round"),
        *("set", "str", "sum", "super", "tuple", "type"),
    }
)
"""Functions whose argument cannot stand in their place, or would change nothing if it did."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault of one module, not planted yet."""

    path: str
    """The module, relative to the tree."""
    line: int
    """Where the changed expression or statement begins, counted from 1."""
    original: cst.CSTNode
    mutated: cst.CSTNode

    @property
    def text(self) -> str:
        """What is there instead."""
        return _EMPTY.code_for_node(self.mutated)

    @property
    def is_crude(self) -> bool:
        """Whether it only puts None for something, which nearly any test notices."""
        match self.mutated:
            case cst.Assign(value=value) | cst.AnnAssign(value=value):
                return _is_none(value)
            case cst.Call(args=args) if isinstance(self.original, cst.Call):
                before = self.original.args
                return len(args) == len(before) and any(
                    _is_none(new.value) and not _is_none(old.value)
                    for old, new in zip(before, args, strict=True)
                )
            case _:
                return False


def _is_none(value: cst.BaseExpression | None) -> bool:
    return isinstance(value, cst.Name) and value.value == "None"


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault as text."""

    path: str
    line: int
    code: str
    """The whole module with the fault in it."""
    old: str
    new: str
    """The changed lines without their indentation."""

    @property
    def key(self) -> str:
        """Names it, wherever its lines stand in the module."""
        return _digest(self.path, self.old, self.new)[:16]


class Module:
    """One module's source and all its mutants."""

    def __init__(self, tree: Path, path: str) -> None:
        self.path = path
        self.source = (tree / path).read_text(encoding="utf-8")
        self._wrapper = MetadataWrapper(cst.parse_module(self.source), unsafe_skip_copy=True)
        visitor = _Visitor()
        self._wrapper.visit(visitor)
        self._on_line: dict[int, list[Mutant]] = {}
        for line, original in visitor.found:
            on_line = self._on_line.setdefault(line, [])
            on_line += [Mutant(path, line, original, mutated) for mutated in _faults(original)]

    def mutants(self, line: int | None = None) -> list[Mutant]:
        """Those of a line, or all; in the order of the source."""
        if line is not None:
            return self._on_line.get(line, [])
        return [one for line in sorted(self._on_line) for one in self._on_line[line]]

    def plant(self, mutant: Mutant) -> Planted | None:
        """The module with this fault; None if the text is the same."""
        module = self._wrapper.module.deep_replace(mutant.original, mutant.mutated)
        assert isinstance(module, cst.Module)
        old, new = changed(self.source, module.code)
        if old == new:
            return None
        return Planted(self.path, mutant.line, module.code, old, new)


def changed(before: str, after: str) -> tuple[str, str]:
    """The lines from the first to the last that differ, without indentation."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return _joined(old), _joined(new)


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(line.strip() for line in lines)


class Tree:
    """The modules of a source tree, read when they are needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module] = {}

    def module(self, path: str) -> Module:
        if path not in self._modules:
            self._modules[path] = Module(self.root, path)
        return self._modules[path]

    def sample(self, paths: Iterable[str], count: int, seed: int) -> list[Planted]:
        """A mutant of each of ``count`` lines, the same in every run.

        The lines are those with the lowest hash of seed, module and text, and so is the mutant
        among those of a line; crude ones are taken where there is no other. So a change of other
        lines does not change the sample, except that a line may take another one's place.
        """
        chosen: list[Planted] = []
        for _, path, line in sorted(self._ranked(paths, seed)):
            if len(chosen) == count:
                break
            module = self.module(path)
            harder_first = sorted(
                module.mutants(line), key=lambda one: (one.is_crude, _rank(seed, one.text))
            )
            planted = (each for one in harder_first if (each := module.plant(one)))
            chosen += islice(planted, 1)
        return chosen

    def all(self, path: str) -> Iterator[Planted]:
        """Every mutant of a module."""
        module = self.module(path)
        for one in module.mutants():
            if planted := module.plant(one):
                yield planted

    def _ranked(self, paths: Iterable[str], seed: int) -> Iterator[tuple[str, str, int]]:
        for path in paths:
            seen: Counter[str] = Counter()
            text = (self.root / path).read_text(encoding="utf-8")
            for number, line in enumerate(text.splitlines(), 1):
                seen[line.strip()] += 1
                yield _rank(seed, path, line.strip(), str(seen[line.strip()])), path, number


def _rank(seed: int, *parts: str) -> str:
    return _digest(str(seed), *parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


# --- which nodes, and which faults ----------------------------------------------------------------


class _Visitor(cst.CSTVisitor):
    """Collects the nodes that may be mutated, each with the line where it begins."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.ClassDef) and _is_enum(node):
            for statement in node.body.body:
                if isinstance(statement, cst.FunctionDef):
                    statement.visit(self)
            return False
        if _is_left_alone(node):
            return False
        position = self.get_metadata(PositionProvider, node, None)
        if position is not None:
            self.found.append((position.start.line, node))
        return not isinstance(node, cst.Raise)


def _is_enum(node: cst.ClassDef) -> bool:
    names = {base.value.value for base in node.bases if isinstance(base.value, cst.Name)}
    return not names.isdisjoint(ENUMS)


def _is_left_alone(node: cst.CSTNode) -> bool:
    """Whether neither the node nor what is in it is mutated."""
    match node:
        case cst.Annotation() | cst.Decorator() | cst.Import() | cst.ImportFrom():
            return True
        case cst.Assert() | cst.TypeAlias() | cst.If(test=cst.Name(value="TYPE_CHECKING")):
            return True
        case cst.SimpleStatementLine(body=[cst.Expr(value=cst.SimpleString() | cst.Ellipsis())]):
            return True
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name("__all__" | "__slots__"))]):
            return True
        case cst.AnnAssign(annotation=cst.Annotation(annotation=cst.Name("Final")), value=value):
            return isinstance(value, cst.BaseNumber | cst.UnaryOperation | cst.BinaryOperation)
        case cst.Call(func=cst.Name("cast" | "TypeVar" | "NewType")):
            return True
        case cst.Arg(keyword=cst.Name("strict")) | cst.Param(default=cst.Name("None")):
            return True
        case _:
            return _is_logging(node)


def _is_logging(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Attribute(value=cst.Name(name))):
            return name in LOGGERS
        case cst.Call(func=cst.Attribute(value=cst.Attribute(attr=cst.Name(name)))):
            return name in LOGGERS
        case _:
            return False


def _faults(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if isinstance(node, cst.BaseString):
        # The first of mutmut's only: in another case a text means the same to people.
        yield from islice(operator_string(node), 1)
    elif not _is_zip(node):
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                yield from operator(node)
    yield from _own_faults(node)


def _is_zip(node: cst.CSTNode) -> bool:
    """Whether it is a call of ``zip``: without ``strict`` nothing changes but for what is wrong."""
    return (
        isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "zip"
    )


def _own_faults(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    match node:
        case cst.Expr(value=cst.Call() | cst.Await(expression=cst.Call())):
            called = node.value.expression if isinstance(node.value, cst.Await) else node.value
            if not _is_logging(called):
                yield cst.Pass(semicolon=node.semicolon)
        case cst.Raise() | cst.Del():
            yield cst.Pass(semicolon=node.semicolon)
        case cst.Call(args=[cst.Arg(keyword=None, star="", value=inner)]) if _may_be_left_out(node):
            yield _in_brackets(inner)
        case (
            cst.If(test=cst.Name() | cst.Attribute() | cst.Call() | cst.Await())
            | cst.While(test=cst.Attribute() | cst.Call() | cst.Await())
        ):
            yield node.with_changes(
                test=cst.UnaryOperation(operator=cst.Not(), expression=_in_brackets(node.test))
            )
        case _:
            pass


def _may_be_left_out(call: cst.Call) -> bool:
    """Whether the call reads like a filter, or a change of order, of its one argument."""
    match call.func:
        case cst.Name(value=name):
            return name not in CONVERSIONS and not name.lstrip("_")[:1].isupper()
        case cst.Attribute(attr=cst.Name(value=name)):
            return not name[:1].isupper()
        case _:
            return False


def _in_brackets(expression: cst.BaseExpression) -> cst.BaseExpression:
    if isinstance(expression, cst.Name | cst.Attribute | cst.Call | cst.Subscript):
        return expression
    return expression.with_changes(
        lpar=[cst.LeftParen(), *expression.lpar], rpar=[*expression.rpar, cst.RightParen()]
    )
