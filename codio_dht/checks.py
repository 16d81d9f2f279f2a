"""Values that people give, checked in one place and refused in one voice.

Arguments of the library, fields of a configuration or a scenario, parameters of the control API and
options of the command line all pass through here. A refusal begins with the name of what was given,
says what it must be, and quotes what it was.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final

from codio_dht.errors import UsageError

_INFINITY: Final = float("inf")
_MAX_SHOWN: Final = 80
_AROUND: Final = (
    string.whitespace + "\x85\xa0\u2028\u2029\u202f\u3000\u200b\u200e\u200f\u2060\ufeff"
)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def cleaned(text: str) -> str:
    """Pasted text without blanks, byte-order marks and characters of no width around it."""
    return text.strip(_AROUND)


def shown(value: object) -> str:
    """``value`` as messages quote it: its ``repr``, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class Checks:
    """The checks, with the class of error that a refusal is.

    Every check takes the value and its name, and returns the value as what it must be. It raises
    that error if the value is something else; truth values are no numbers.
    """

    def __init__(self, error: type[UsageError] = UsageError) -> None:
        self._error = error

    def refuse(self, value: object, name: str, must_be: str) -> UsageError:
        """The error of a value that is not what it must be."""
        return self._error(f"{name} must be {must_be}, not {shown(value)}")

    def whole_number(self, value: object, name: str, low: float, high: float = _INFINITY) -> int:
        """A whole number from ``low`` to ``high``."""
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(value, name, f"a whole number{_range(low, high)}")
        return value

    def number(self, value: object, name: str, low: float, high: float = _INFINITY) -> float:
        """A number from ``low`` to ``high``."""
        number = _number(value)
        if number is None or not low <= number <= high:
            raise self.refuse(value, name, f"a number{_range(low, high)}")
        return number

    def seconds(self, value: object, name: str, most: float = _INFINITY) -> float:
        """A positive, finite number of seconds, at most ``most``."""
        number = _number(value)
        if number is None or not 0 < number <= most or number == _INFINITY:
            limit = "" if most == _INFINITY else f", at most {most:g}"
            raise self.refuse(value, name, f"a positive number of seconds{limit}")
        return number

    def duration(self, text: str, name: str) -> float:
        """Seconds, from text such as ``90``, ``1.5s``, ``30m``, ``24h`` or ``2d``."""
        match = _DURATION.fullmatch(text.strip())
        value = float(match[1]) * _UNIT_S[match[2] or "s"] if match else 0.0
        if not 0 < value < _INFINITY:
            raise self.refuse(text, name, "a duration like 30s, 15m, 24h or 2d")
        return value

    def flag(self, value: object, name: str) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            raise self.refuse(value, name, "true or false")
        return value

    def text(self, value: object, name: str, most: int | None = None) -> str:
        """Text; with ``most``, ASCII text of 1 to so many characters."""
        if not isinstance(value, str):
            raise self.refuse(value, name, "text")
        if most is not None and not (value.isascii() and 0 < len(value) <= most):
            raise self.refuse(value, name, f"ASCII text of 1 to {most} characters")
        return value

    def texts(
        self, value: object, name: str, most: int | None = None, most_items: int | None = None
    ) -> list[str]:
        """A list of texts, each as :meth:`text`; at most ``most_items``."""
        if not isinstance(value, list) or (most_items is not None and len(value) > most_items):
            limit = "" if most_items is None else f" at most {most_items}"
            raise self.refuse(value, name, f"a list of{limit} texts")
        return [self.text(item, f"{name}[{place}]", most) for place, item in enumerate(value)]

    def choice(self, value: object, name: str, allowed: Sequence[object]) -> Any:
        """One of ``allowed``."""
        if value not in allowed:
            raise self.refuse(value, name, f"one of {', '.join(map(str, allowed))}")
        return value

    def table(self, value: object, name: str) -> Mapping[str, Any]:
        """Names with values: a table of TOML, an object of JSON."""
        if not isinstance(value, Mapping):
            raise self.refuse(value, name, "a table")
        return value


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return _INFINITY if value > 0 else -_INFINITY


def _range(low: float, high: float) -> str:
    if low == -_INFINITY:
        return ""
    return f" of at least {low:.15g}" if high == _INFINITY else f" from {low:.15g} to {high:.15g}"
