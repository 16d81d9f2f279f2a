"""A queue in which owners take turns, and in which the largest owner makes room.

Decides whose item comes next, and whose item is dropped when the queue is full. An owner is a path
from the largest to the smallest, for example an :class:`codio_dht.core.origins.Origin` (IP group,
subnet, peer). At each level owners take turns: first the groups, in a group its subnets, in a
subnet its peers; the items of one peer come in the order in which they were put. So a thousand
items of one owner delay the item of another by one turn.

When one item too many is put, the newest item of the largest owner is dropped: of the largest group
the largest subnet, of that the largest peer; of equally large ones, that which had its turn, or
came, last. That may be the item that was just put.

Never reads a clock. Bound: ``max_items``; owners without items are not held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Path = tuple[Hashable, ...]


class _Owner(Generic[K]):
    """An owner: its smaller owners, the next to have its turn first; or the keys of its items."""

    __slots__ = ("keys", "parts", "size")

    def __init__(self) -> None:
        self.parts: OrderedDict[Hashable, _Owner[K]] = OrderedDict()
        self.keys: OrderedDict[K, None] = OrderedDict()
        self.size = 0


class Turns(Generic[K, T]):
    """A queue of items, each with a key of its own. All paths have the same length."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._items: dict[K, tuple[T, Path]] = {}
        self._root: _Owner[K] = _Owner()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def get(self, key: K) -> T | None:
        """The item of ``key``, if it waits."""
        found = self._items.get(key)
        return None if found is None else found[0]

    def values(self) -> list[T]:
        """Every item that waits."""
        return [item for item, _ in self._items.values()]

    def size(self, owner: Path) -> int:
        """How many items wait of the owner at the path ``owner``, which may be a short one."""
        node = self._root
        for part in owner:
            found = node.parts.get(part)
            if found is None:
                return 0
            node = found
        return node.size

    def put(self, key: K, item: T, owner: Path) -> tuple[K, T] | None:
        """Let ``item`` wait; the key and item that were dropped for it, if that was necessary. If
        ``key`` waits already, the item takes its place."""
        if key in self._items:
            self._items[key] = (item, self._items[key][1])
            return None
        self._items[key] = (item, owner)
        for node in self._path(owner):
            node.size += 1
        node.keys[key] = None
        if len(self._items) <= self._max_items:
            return None
        newest = self._newest_of_the_largest()
        return newest, self._remove(newest)

    def pop(self, key: K) -> T | None:
        """Take the item of ``key`` out of the queue, if it is there."""
        return self._remove(key) if key in self._items else None

    def _remove(self, key: K) -> T:
        item, owner = self._items.pop(key)
        nodes = list(self._path(owner))
        del nodes[-1].keys[key]
        for node in nodes:
            node.size -= 1
        for parent, part, node in zip(nodes, owner, nodes[1:], strict=False):
            if node.size == 0:
                del parent.parts[part]
                break
        return item

    def take(self, may: Callable[[Path], bool] = lambda _owner: True) -> tuple[K, T] | None:
        """The key and item whose turn it is, of an owner that ``may`` have its turn now; None if
        there is none."""
        key = self._next(self._root, (), may)
        return None if key is None else (key, self._remove(key))

    def _next(self, node: _Owner[K], path: Path, may: Callable[[Path], bool]) -> K | None:
        if not node.parts:
            return next(iter(node.keys)) if node.keys and may(path) else None
        for part in list(node.parts):
            key = self._next(node.parts[part], (*path, part), may)
            if key is not None:
                node.parts.move_to_end(part)
                return key
        return None

    def _path(self, owner: Path) -> Iterator[_Owner[K]]:
        """The nodes from the root to ``owner``, made where they are missing."""
        node = self._root
        yield node
        for part in owner:
            found = node.parts.get(part)
            if found is None:
                found = node.parts[part] = _Owner()
            node = found
            yield node

    def _newest_of_the_largest(self) -> K:
        node = self._root
        while node.parts:
            node = max(reversed(node.parts.values()), key=lambda each: each.size)
        return next(reversed(node.keys))
