"""``scripts/house_rules.py``: each rule is seen red on a planted violation, green without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import house_rules

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """Writes modules of a small package, by name, and gives its root."""

    def write(*, architecture: str = "", **texts: str) -> Path:
        (tmp_path / "ARCHITECTURE.md").write_text(architecture)
        for name, text in texts.items():
            path = tmp_path / "codio_dht" / "core" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("rule", house_rules.RULES)
def test_the_package_keeps_the_rule(rule: Callable[[Path], Iterator[str]]) -> None:
    assert [] == list(rule(ROOT))


def test_a_class_name_is_defined_once(plant: Callable[..., Path]) -> None:
    root = plant(one="class Host:\n    pass\n", two="x = 1\n\n\nclass Host:\n    pass\n")
    [found] = house_rules.class_names(root)
    assert "core/two.py:4: the class Host is also in core/one.py:1" == found


def test_private_classes_and_other_names_are_not_counted(plant: Callable[..., Path]) -> None:
    root = plant(
        one="class _Entry: ...\nclass Host: ...\n", two="class _Entry: ...\nclass Peer: ...\n"
    )
    assert [] == list(house_rules.class_names(root))


@pytest.mark.parametrize(
    "text",
    [
        "... and in all.",
        "And this many seconds more.",
        "but no shorter than this, seconds.",
        "A peer is left alone for this long, seconds ...",
        "As above.",
        "The same above that.",
        "Likewise.",
        "See the module. One of a host.",
    ],
)
def test_a_docstring_that_is_part_of_anothers_sentence_is_found(
    plant: Callable[..., Path], text: str
) -> None:
    root = plant(one=f'A = 1\n"""{text}"""\n\n\nclass B:\n    b = 2\n    """{text}"""\n')
    found = list(house_rules.whole_sentences(root))
    assert ["core/one.py:2", "core/one.py:7"] == [each.partition(": ")[0] for each in found]


@pytest.mark.parametrize(
    "text",
    [
        "Android's limit.",
        "The sum of both, and no more.",
        "An order of peers.",
        "Show PEER.\n\n    codio-dht id 12D3KooW...\n",
    ],
)
def test_a_whole_sentence_is_left_alone(plant: Callable[..., Path], text: str) -> None:
    assert [] == list(house_rules.whole_sentences(plant(one=f'A = 1\n"""{text}"""\n')))


def test_a_long_module_needs_a_reason(plant: Callable[..., Path]) -> None:
    long = "x = 1\n" * (house_rules.MAX_LINES + 1)
    [found] = house_rules.module_lengths(plant(one=long, two=long[:-6]))
    assert "core/one.py: 501 lines, and ARCHITECTURE.md does not say why" == found
    reason = "`core/one.py` is long because it is one table."
    assert [] == list(house_rules.module_lengths(plant(one=long, architecture=reason)))


@pytest.mark.parametrize(
    "line",
    [
        "class Announcer: ...",
        "# The key is announced again.",
        "MAX_ANNOUNCEMENTS = 3",
        "def reannounce(): ...",
    ],
)
def test_keys_are_provided_and_not_announced(plant: Callable[..., Path], line: str) -> None:
    [found] = house_rules.words(plant(one=f"x = 1\ny = 2\n{line}\n"))
    assert found.startswith("core/one.py:3: keys are provided, not announced: ")


@pytest.mark.parametrize(
    "line",
    [
        "# Addresses that are announced come first.",
        "# What is announced:\n# the addresses listened on.",
        "announced_addrs = []",
        "open(listen=a, announce=b)",
    ],
)
def test_addresses_may_be_announced(plant: Callable[..., Path], line: str) -> None:
    assert [] == list(house_rules.words(plant(one=f"{line}\n")))
