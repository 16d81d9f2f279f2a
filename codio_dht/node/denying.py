"""The operator's deny lists: read from files, read again when these change, and applied.

Decides when a list is read, and where the rules that were given while the node runs are kept:
``deny.list`` in the data directory, one rule a line. What the rules mean,
:mod:`codio_dht.core.denials` says. A list that cannot be read at the start stops the start; later
the rules stay what they were, and the log says why.

Rules are applied to all at once: what is asked for and answered (:class:`Denials`), connections
(the host), and the routing tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final

import trio

from codio_dht.core.clock import Monotonic
from codio_dht.core.denials import Denials, DenyCounts, DenyRules
from codio_dht.core.network import Network
from codio_dht.errors import FormatError, StorageError, UsageError
from codio_dht.logger import get_logger
from codio_dht.net.host import Host
from codio_dht.store.private_files import NotPrivateError, open_private

OWN_LIST: Final = "deny.list"
"""Name of the file in the data directory with the rules that were given while the node ran."""

RELOAD_INTERVAL_S: Final = 2.0
"""How often the files are looked at for changes, seconds."""

MAX_LIST_BYTES: Final = 256 * 1024 * 1024
"""A larger file is no deny list."""

MAX_OWN_RULES: Final = 10_000
"""Rules that may be given while the node runs; past it none is taken: they belong into a file."""

_Stamp = tuple[int, ...]

log = get_logger(__name__)


class DenyLists:
    """The deny lists of one node.

    ``files`` are lists, ``lines`` rules that the program gave, and ``own_file`` is where rules are
    kept that are given later; without it they are kept in memory.
    """

    def __init__(
        self, files: Sequence[Path], lines: Sequence[str], own_file: Path | None = None
    ) -> None:
        self.denials = Denials()
        self._files = tuple(files)
        self._lines = tuple(lines)
        self._own_file = own_file
        self._own: list[str] = []
        self._stamps: list[_Stamp] = []
        self._one_at_a_time = trio.Lock()
        self._apply: Callable[[DenyRules], None] = lambda _rules: None

    # --- life -------------------------------------------------------------------------------------

    async def open(self, host: Host, networks: Sequence[Network]) -> None:
        """Read all lists, and apply them.

        Raises:
            UsageError: a list cannot be read, or a rule that the program gave is none.
            StorageError: the list in the data directory cannot be read.
        """
        self._apply = partial(_apply, self.denials, host, networks)
        self._own = await trio.to_thread.run_sync(_read_own, self._own_file)
        await self.reload()

    async def run(self) -> None:
        """Read the lists again when a file has changed, for ever."""
        while True:
            await trio.sleep(RELOAD_INTERVAL_S)
            if [_stamp(path) for path in self._files] == self._stamps:
                continue
            try:
                await self.reload()
            except UsageError as error:
                log.error("deny_list_not_read", error=str(error))  # noqa: TRY400 - no fault of ours

    async def reload(self) -> DenyCounts:
        """Read all lists again, and apply them; how many rules there are.

        Raises:
            UsageError: a list cannot be read; the rules stay what they were.
        """
        async with self._one_at_a_time:
            return await self._reload()

    # --- rules that are given while the node runs -------------------------------------------------

    @property
    def own_rules(self) -> list[str]:
        """The rules that were given while the node ran, the oldest first."""
        return list(self._own)

    async def add(self, rule: str) -> bool:
        """Apply ``rule`` from now on, also after a restart; False if it was given before.

        Raises:
            UsageError: it is no rule, there are too many, or a list cannot be read.
            StorageError: it could not be saved, and is not applied.
        """
        rule = checked_rule(rule)
        async with self._one_at_a_time:
            if rule in self._own:
                return False
            if len(self._own) >= MAX_OWN_RULES:
                raise UsageError(f"rule: there are {MAX_OWN_RULES} already; put them into a file")
            await self._set_own([*self._own, rule])
        return True

    async def remove(self, rule: str) -> bool:
        """Apply ``rule`` no more; False if it was not given while the node ran.

        Raises:
            UsageError: it is no rule, or a list cannot be read; it is applied still.
            StorageError: that could not be saved; it is applied still.
        """
        rule = checked_rule(rule)
        async with self._one_at_a_time:
            if rule not in self._own:
                return False
            await self._set_own([each for each in self._own if each != rule])
        return True

    async def _set_own(self, rules: list[str]) -> None:
        stamps, read = await self._read(rules)  # before they are saved: it may be impossible
        await trio.to_thread.run_sync(_write_own, self._own_file, rules)
        self._own = rules
        self._use(stamps, read)

    async def _reload(self) -> DenyCounts:
        return self._use(*await self._read(self._own))

    async def _read(self, own: list[str]) -> tuple[list[_Stamp], DenyRules]:
        """All rules, with ``own`` as those that were given while the node ran, and the stamps of
        the files."""
        stamps = [_stamp(path) for path in self._files]
        lines = [*self._lines, *own]
        return stamps, await trio.to_thread.run_sync(_read_all, self._files, lines)

    def _use(self, stamps: list[_Stamp], rules: DenyRules) -> DenyCounts:
        self._stamps = stamps
        self._apply(rules)
        counts = rules.counts()
        if self._files:
            log.info("deny_lists_read", files=len(self._files), **_fields(counts))
        for fault in rules.faults[:10]:
            log.warning(
                "deny_rule_ignored", file=fault.source, line=fault.line, reason=fault.reason
            )
        return counts


def checked_rule(text: str) -> str:
    """``text`` as a rule of one line. A CID, a peer id with ``/p2p/`` before it, an IP address or a
    network is a rule as it is.

    Raises:
        UsageError: it is none.
    """
    rule = text.strip()
    if len(rule.split()) != 1 or rule.startswith("#"):
        raise UsageError(f"rule: {text[:80]!r} is not one rule")
    for candidate in (rule, f"/ipfs/{rule}"):
        with suppress(FormatError):
            DenyRules().add(candidate)
            return candidate
    raise UsageError(
        f"rule: {text[:80]!r} is none; give a CID, /ipfs/CID, /ipns/NAME, //DOUBLE-HASH,"
        " /p2p/PEER, an IP address or a network"
    )


def _apply(denials: Denials, host: Host, networks: Sequence[Network], rules: DenyRules) -> None:
    denials.rules = rules
    host.set_denied([*rules.peers, *map(str, rules.networks)])
    now = Monotonic(trio.current_time())
    for network in networks:
        for peer in network.table.peers():
            if peer in rules.peers:
                network.admission.withdraw(peer, now)


# --- files, on a thread ---------------------------------------------------------------------------


def _read_all(files: Sequence[Path], lines: Sequence[str]) -> DenyRules:
    rules = DenyRules()
    for path in files:
        try:
            rules.read(str(path), _read(path))
        except FormatError as error:
            raise UsageError(f"deny: {error}") from error
        except OSError as error:
            raise UsageError(f"deny: cannot read the deny list {path}: {error.strerror}") from error
    for line in lines:
        try:
            rules.add(line)
        except FormatError as error:
            raise UsageError(f"deny: {line[:80]!r} is no rule: {error}") from error
    return rules


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise FormatError(f"{path} is too large to be a deny list")
    return data.decode("utf-8", "replace")


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _read_own(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
            lines = file.read(MAX_LIST_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except NotPrivateError as error:
        raise StorageError(f"{path} {error}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    kept = []
    for line in lines:
        try:
            kept.append(checked_rule(line))
        except UsageError as error:
            log.warning("deny_rule_ignored", file=str(path), reason=str(error))
    return kept


def _write_own(path: Path | None, rules: Sequence[str]) -> None:
    if path is None:
        return
    made = path.with_name(f"{path.name}.{token_hex(8)}.new")
    try:
        descriptor = open_private(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as file:
            file.write("".join(f"{rule}\n" for rule in rules).encode())
            file.flush()
            os.fsync(descriptor)
        made.replace(path)
    except (OSError, NotPrivateError) as error:
        made.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}") from error


def _fields(counts: DenyCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in DenyCounts.__dataclass_fields__}
