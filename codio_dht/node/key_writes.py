"""Writes to this node's own keys, in group commits: many callers share one sync of the disk.

Decides which changes are one transaction, and in which order memory learns of them: in the order in
which the disk did. While one transaction is written, the changes that are asked for meanwhile wait,
and become the next one. A caller goes on when its change is on disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from codio_dht.core.own_keys import NewKey
from codio_dht.errors import StorageError
from codio_dht.node.clock import Clock
from codio_dht.node.storage import Storage


class _Change:
    """What one caller wants. ``done`` says of each key whether it changed anything."""

    def __init__(self, added: Sequence[NewKey] = (), removed: Sequence[bytes] = ()) -> None:
        self.added = added
        self.removed = removed
        self.done: list[bool] | None = None
        self.error: StorageError | None = None


class KeyWrites:
    """Writes the changes of this node's own keys, those of several callers together."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._waiting: dict[_Change, None] = {}
        self._turn = trio.Lock()
        self.commits = 0
        """Transactions so far."""

    async def add(self, keys: Sequence[NewKey]) -> list[bool]:
        """Remember ``keys``; which of them are new.

        Raises:
            StorageError: they could not be written, none of them.
        """
        return await self._written(_Change(added=keys))

    async def remove(self, keys: Sequence[bytes]) -> list[bool]:
        """Forget ``keys``; which of them were there.

        Raises:
            StorageError: they could not be removed, none of them.
        """
        return await self._written(_Change(removed=keys))

    async def _written(self, change: _Change) -> list[bool]:
        """Wait until ``change`` is on disk. A caller that is cancelled before the disk has it takes
        it back."""
        self._waiting[change] = None
        try:
            async with self._turn:
                while change in self._waiting:
                    changes = self._take()
                    with trio.CancelScope(shield=True):
                        await self._commit(changes)
        finally:
            self._waiting.pop(change, None)
        if change.error is not None:
            raise StorageError(str(change.error)) from change.error
        assert change.done is not None
        return change.done

    def _take(self) -> list[_Change]:
        """Take out what is written next: all that waits, the oldest first, up to a change that adds
        a key which one before it removes. For what is added is written first, and whoever adds a
        key last has it."""
        taken: list[_Change] = []
        removed: set[bytes] = set()
        for change in self._waiting:
            if removed and any(new.key in removed for new in change.added):
                break
            removed.update(change.removed)
            taken.append(change)
        for change in taken:
            del self._waiting[change]
        return taken

    async def _commit(self, changes: Sequence[_Change]) -> None:
        """Write ``changes``, what is added before what is removed, and tell memory."""
        self.commits += 1
        try:
            await self._add([each for each in changes if each.added])
            await self._remove([each for each in changes if each.removed])
        except StorageError as error:
            for each in changes:
                each.error = error if each.done is None else None
        for each in changes:
            if each.done is None:  # there was nothing to change
                each.done = []

    async def _add(self, changes: Sequence[_Change]) -> None:
        keys, own, now = self._storage.store.keys, self._storage.own_keys, self._clock.unix()
        added = [new for each in changes for new in each.added]
        if not added:
            return
        is_new = iter(await self._storage.call(lambda: keys.add(added, now)))
        for each in changes:
            each.done = [next(is_new) for _ in each.added]
            for new, was_new in zip(each.added, each.done, strict=True):
                own.added(new.key, is_new=was_new)

    async def _remove(self, changes: Sequence[_Change]) -> None:
        keys, own = self._storage.store.keys, self._storage.own_keys
        removed = [key for each in changes for key in each.removed]
        if not removed:
            return
        were_there = iter(await self._storage.call(lambda: keys.remove(removed)))
        for each in changes:
            each.done = [next(were_there) for _ in each.removed]
            for key, was_there in zip(each.removed, each.done, strict=True):
                if was_there:
                    own.removed(key)
