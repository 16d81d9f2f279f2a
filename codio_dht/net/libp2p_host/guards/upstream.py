"""What the guards expect of py-libp2p: one version, and symbols with known parameters.

Decides whether a guard may be applied. A guard reaches into another project's internals, so it
names each symbol it relies on, and ``check`` refuses loudly when the installed library differs:
a guard that no longer fits would be worse than the defect it covers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from codio_dht.errors import UsageError

LIBP2P_VERSION: Final = "0.8.1"
"""The py-libp2p release whose source the guards were written against."""


class UpstreamMismatchError(UsageError):
    """The installed py-libp2p is not the one the guards were written for."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or class of py-libp2p and the parameters it must have."""

    module: str
    name: str
    parameters: tuple[str, ...] | None = None
    """Names in order, ``self`` included; None if it is not called by the guard."""


def check(symbols: Sequence[Symbol]) -> None:
    """Make sure that the library is the pinned release and that every symbol is as expected.

    Raises:
        UpstreamMismatchError: naming the symbol and the difference.
    """
    _check_version()
    for symbol in symbols:
        _check_symbol(symbol)


@lru_cache(maxsize=1)
def installed_version() -> str:
    """The installed release of py-libp2p, or "none"."""
    try:
        return version("libp2p")
    except PackageNotFoundError:
        return "none"


def replace(target: object, name: str, substitute: Callable[..., Any]) -> None:
    """Put ``substitute`` in the place of the method ``name`` of this one object.

    Raises:
        UpstreamMismatchError: it has no such method.
    """
    if not callable(getattr(target, name, None)):
        raise UpstreamMismatchError(f"py-libp2p's {type(target).__name__} has no method {name}")
    setattr(target, name, substitute)


def _check_version() -> None:
    found = installed_version()
    if found != LIBP2P_VERSION:
        raise UpstreamMismatchError(
            f"py-libp2p {found} is installed, but codio_dht's guards are written for "
            f"{LIBP2P_VERSION}; install libp2p=={LIBP2P_VERSION}"
        )


def _check_symbol(symbol: Symbol) -> None:
    target: Any = import_module(symbol.module)
    for part in symbol.name.split("."):
        target = getattr(target, part, None)
        if target is None:
            raise UpstreamMismatchError(
                f"py-libp2p has no {symbol.module}.{symbol.name}, which codio_dht guards"
            )
    if symbol.parameters is None:
        return
    found = tuple(inspect.signature(target).parameters)
    if found != symbol.parameters:
        raise UpstreamMismatchError(
            f"{symbol.module}.{symbol.name} takes {found}, expected {symbol.parameters}"
        )
