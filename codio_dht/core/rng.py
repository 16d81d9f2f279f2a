"""Randomness as an argument: the part of ``random.Random`` that the rules may use."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any, Protocol


class Rng(Protocol):
    """Satisfied by ``random.Random``."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...

    def shuffle(self, x: MutableSequence[Any]) -> None: ...
