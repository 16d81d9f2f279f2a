"""A demonstration with a private network in one process: start, join, provide, ask all, find.

Decides the steps and how each is shown. Ordinary nodes do all the work, over loopback sockets, and
the demonstration calls only what any program may call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import trio
from multiaddr import Multiaddr

from codio_dht import DHTConfig, DHTManager
from codio_dht.core.peer import PeerId
from codio_dht.daemon import logs
from codio_dht.daemon.methods import full_addrs
from codio_dht.daemon.provide_methods import raw_cid
from codio_dht.daemon.stopping import Stopping
from codio_dht.errors import CodioError
from codio_dht.formats.multihash import SHA2_256, encode_multihash
from codio_dht.params import K

LOOPBACK: Final = Multiaddr("/ip4/127.0.0.1/tcp/0")
CONTENT: Final = b"Hello from a small network of codio_dht nodes.\n"

JOIN_LIMIT_S: Final = 60.0
"""How long the nodes may take to know one another, seconds."""

NODE_JOIN_LIMIT_S: Final = 2.0
"""How long the next node waits for the one before it to join, seconds."""

SETTLED_S: Final = 1.5
"""Nobody has learned of another node for this long: the network has formed, seconds."""

_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the demo: ``facts`` for programs, ``text`` for people."""

    name: str
    seconds: float
    text: tuple[str, ...]
    facts: dict[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """One object a step."""
        return {"step": self.name, "seconds": round(self.seconds, 3), **self.facts}

    def as_text(self) -> list[str]:
        """A heading with the time it took, then what happened."""
        head, *rest = self.text
        return [f"[{self.seconds:6.2f} s] {head}", *(f"           {line}" for line in rest)]


Tell = Callable[[Step], None]


def run(nodes: int, tell: Tell, tick: Callable[[], None] = lambda: None) -> bool:
    """Run the demo with ``nodes`` nodes. Return whether everything worked.

    ``tick`` is called now and then while there is nothing to show.

    Raises:
        KeyboardInterrupt: a signal ended it.
        CodioError: the machine did not let it (no loopback network, for example).
    """
    logs.configure("error", as_json=False)
    stopping = Stopping()
    stopping.install()
    stopping.enter()
    try:
        worked = trio.run(_Demo(nodes, tell, tick).run, stopping)
    except BaseExceptionGroup as group:
        raise next(_leaves(group)) from group
    if stopping.begun:
        raise KeyboardInterrupt
    return worked


class _Demo:
    def __init__(self, nodes: int, tell: Tell, tick: Callable[[], None]) -> None:
        self._count = nodes
        self._tell = tell
        self._tick = tick
        self._nodes: list[DHTManager] = []
        self._began = 0.0
        self._multihash = encode_multihash(SHA2_256, sha256(CONTENT).digest())
        self._cid = raw_cid(self._multihash)

    async def run(self, stopping: Stopping) -> bool:
        """Run all steps, until the last one or a signal."""
        stop = stopping.attach()
        worked = False
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave)
            worked = await self._story()
            nursery.cancel_scope.cancel()
        return worked

    async def _story(self) -> bool:
        started = trio.current_time()
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            await self._start(nursery, over)
            joined = await self._join()
            provider, finder = self._nodes[-1], self._nodes[self._count // 2]
            provided = await self._provide(provider)
            holders = await self._ask_all(provider)
            if (outsider := self._node_without(holders, provider)) is not None:
                finder = outsider
            found = await self._find(finder, provider, holders)
            wanted = min(K, self._count - 1)
            worked = joined and provided and found and len(holders) >= wanted
            self._end(worked, wanted, trio.current_time() - started)
            nursery.cancel_scope.cancel()
        return worked

    async def _start(self, nursery: trio.Nursery, over: trio.Event) -> None:
        self._begin()
        bootstrap: list[str] = []
        for _ in range(self._count):
            node = await nursery.start(_live, bootstrap, over)
            self._nodes.append(node)
            bootstrap = bootstrap or full_addrs(node.peer_id, node.addrs)
            await self._quiet(len(self._nodes) > 1)
        self._say(
            "start",
            f"Started {self._count} DHT nodes in this process, one after another, on a port each.",
            f"All but the first know one address only, the first node's: {bootstrap[0]}",
            nodes=self._count,
            bootstrap=bootstrap,
        )

    async def _join(self) -> bool:
        """Wait until every node knows enough others, or until no node learns of another."""
        self._begin()
        wanted = min(K, self._count - 1)
        known, grown_at = self._known(), trio.current_time()
        with trio.move_on_after(JOIN_LIMIT_S):
            while min(known) < wanted and trio.current_time() < grown_at + SETTLED_S:
                await self._look()
                before, known = known, self._known()
                if before != known or self._pending():
                    grown_at = trio.current_time()
        known = self._known()
        self._say(
            "join",
            f"Each node now knows {min(known)} to {max(known)} others: it asked the first node for",
            "its neighbours, and those for theirs.",
            known_min=min(known),
            known_max=max(known),
        )
        return min(known) > 0

    async def _provide(self, provider: DHTManager) -> bool:
        self._begin()
        result = await provider.provide(self._cid, quorum=K)
        self._say(
            "provide",
            f"Node {_short(provider.peer_id)} says that it provides {self._cid}.",
            f"It looked for the {K} nodes closest to that key (by XOR of SHA-256) and gave the"
            f" record to {result.holders}.",
            cid=self._cid,
            provider=str(provider.peer_id),
            holders=result.holders,
            attempted=result.attempted,
        )
        return result.holders > 0

    async def _ask_all(self, provider: DHTManager) -> list[PeerId]:
        """The other nodes that hold the provider's record."""
        self._begin()
        asked = [node for node in self._nodes if node is not provider]
        holders: list[PeerId] = []
        for node in asked:
            records = await node.provider_records(self._cid)
            if any(record.provider.peer_id == provider.peer_id for record in records):
                holders.append(node.peer_id)
        self._say(
            "ask",
            f"Asked each of the {len(asked)} others what it holds: {len(holders)} hold the record.",
            asked=len(asked),
            holders=len(holders),
        )
        return holders

    def _node_without(self, holders: Sequence[PeerId], provider: DHTManager) -> DHTManager | None:
        """A node that has to ask others, if there is one."""
        rest = [n for n in self._nodes if n is not provider and n.peer_id not in holders]
        return random.choice(rest) if rest else None

    async def _find(
        self, finder: DHTManager, provider: DHTManager, holders: Sequence[PeerId]
    ) -> bool:
        self._begin()
        try:
            found = await finder.find_providers(self._cid, count=1)
        except CodioError:
            found = []
        worked = [info.peer_id for info in found] == [provider.peer_id]
        knew = "itself holds the record" if finder.peer_id in holders else "does not hold it"
        self._say(
            "find",
            f"Node {_short(finder.peer_id)}, which {knew}, looked for the key"
            + (f" and found {_short(provider.peer_id)}." if worked else " and did not find it."),
            *(addr for info in found for addr in full_addrs(info.peer_id, info.addrs)),
            finder=str(finder.peer_id),
            found=[str(info.peer_id) for info in found],
        )
        return worked

    def _end(self, worked: bool, wanted: int, seconds: float) -> None:
        text = (
            f"Everything worked: at least {wanted} nodes hold the record and it was found."
            if worked
            else f"Something went wrong: {wanted} holders and a find were expected."
        )
        self._tell(Step("done", seconds, (text,), {"worked": worked}))

    def _known(self) -> list[int]:
        return [len(node.routing_table_peers()) for node in self._nodes]

    def _pending(self) -> int:
        return sum(node.stats().pending_queries for node in self._nodes)

    async def _quiet(self, joining: bool) -> None:
        """Let the newest node join before the next one starts, because all share one processor
        core."""
        with trio.move_on_after(NODE_JOIN_LIMIT_S):
            while self._pending() or (joining and not self._known()[-1]):
                await self._look()

    async def _look(self) -> None:
        self._tick()
        await trio.sleep(_LOOK_S)

    def _begin(self) -> None:
        self._began = trio.current_time()

    def _say(self, name: str, *text: str, **facts: object) -> None:
        self._tell(Step(name, trio.current_time() - self._began, text, facts))


async def _live(
    bootstrap: Sequence[str],
    over: trio.Event,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one node in one task, from start to close. So all nodes close at the same time."""
    async with DHTManager.open(
        DHTConfig(), data_dir=None, listen=[LOOPBACK], bootstrap=bootstrap
    ) as node:
        task_status.started(node)
        await over.wait()


def _short(peer: PeerId) -> str:
    return f"...{str(peer)[-6:]}"


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
