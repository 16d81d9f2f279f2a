"""What a program may do with the node's deny lists: a base class of ``DHTManager``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from codio_dht.core.denials import DenyCounts, DenyRules
from codio_dht.errors import UsageError
from codio_dht.node.denying import DenyLists, checked_rule
from codio_dht.node.life import NodeLife

DenySource = str | Path
"""A rule, or a file with rules."""


class DenyCalls:
    """The calls about deny lists (:mod:`codio_dht.core.denials` says what a rule is)."""

    _life: NodeLife

    @property
    def _deny_lists(self) -> DenyLists:
        return self._life.node.deny_lists

    async def deny(self, rule: str) -> bool:
        """Have no part in what ``rule`` names, from now on: a CID, ``/ipns/NAME``, a double hash
        ``//...``, ``/p2p/PEER``, an IP address or a network. With a data directory it holds after a
        restart too. Connections to it are closed. False if the rule was given before.

        Raises:
            UsageError: it is no rule, or there are too many.
            StorageError: it could not be saved, and is not applied.
        """
        return await self._deny_lists.add(rule)

    async def stop_denying(self, rule: str) -> bool:
        """Take back a rule that was given with :meth:`deny`; False if there is none. Rules of files
        stay.

        Raises:
            UsageError: it is no rule.
            StorageError: that could not be saved.
        """
        return await self._deny_lists.remove(rule)

    def deny_rules(self) -> list[str]:
        """The rules that were given with :meth:`deny`, the oldest first."""
        return self._deny_lists.own_rules

    def deny_counts(self) -> DenyCounts:
        """How many rules of all lists hold now."""
        return self._deny_lists.denials.rules.counts()

    async def reload_deny_lists(self) -> DenyCounts:
        """Read the files of the deny lists now. A file that has changed is read again within two
        seconds anyway.

        Raises:
            UsageError: one cannot be read; the rules stay what they were.
        """
        return await self._deny_lists.reload()

    def is_denied(self, subject: str) -> bool:
        """Whether what ``subject`` names is denied now: a CID, ``/ipns/NAME``, ``/p2p/PEER``, an IP
        address or a network.

        Raises:
            UsageError: it names none of these.
        """
        return self._deny_lists.denials.rules.covers(_only_rule(subject))


def _only_rule(subject: str) -> DenyRules:
    rules = DenyRules()
    rules.add(checked_rule(subject))
    return rules


def deny_argument(values: Iterable[DenySource]) -> tuple[list[Path], list[str]]:
    """The files and the rules among ``values``.

    Raises:
        UsageError: a value is neither a path nor a rule.
    """
    if isinstance(values, str | Path):
        raise UsageError("deny must be a list of rules and pathlib.Path objects, not one of them")
    files: list[Path] = []
    lines: list[str] = []
    for value in values:
        if isinstance(value, Path):
            files.append(value)
        elif isinstance(value, str):
            lines.append(checked_rule(value))
        else:
            raise UsageError(f"deny: {value!r} is neither a rule nor a pathlib.Path")
    return files, lines
