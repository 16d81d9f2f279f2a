"""Measures one client in one swarm: how it joins, looks up, searches and provides.

Whatever is said of a client is seen by the swarm or by this process; nothing is the client's own
word but the peers it returns. So one yardstick fits all of them.
"""

from __future__ import annotations

import base64
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from benchmarks.wan.cells import PHASES, USABLE_PEERS, Cell, overstated, preimage
from benchmarks.wan.network import HERE, Swarm
from benchmarks.wan.values import ENOUGH_HOLDERS, name_of, placed, put_facts, search_facts

import peer_builds  # isort: skip - found through network
from peers import Peer, PeerError, PeerLauncher  # isort: skip

Facts = dict[str, Any]

OPERATION_TIMEOUT_S = 20.0
"""What an operation is given, seconds."""

UNCHANGED_S = 5.0
"""A table that has not grown for so long will not, seconds; js stays below 20."""

USABLE_TIMEOUT_S = 30.0
POLL_S = 0.05

QUIET_S = 6.0
"""A client that sends nothing for so long has joined, seconds; longer than go waits for a dial."""

QUIET_TIMEOUT_S = 60.0

SETTLE_S = 5.0
"""From the last operation of a kind until the swarm is asked what it saw, seconds: more than a slow
server's handshake takes from the client's end of it to the server's."""

LATER_S = 10.0
"""When holders are counted again, seconds after a provide returned."""

RAW_CID_V1 = bytes([0x01, 0x55])


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client is put through."""

    operations: int
    cold: int
    client: str
    """Its name: names that it searches and puts are its own."""
    phases: tuple[str, ...] = PHASES
    provides_only: bool = False
    is_oracle: bool = False
    """It is told whom a lookup should end with, and only looks up."""


def programs(tree: Path | None = None) -> dict[str, tuple[str, ...]]:
    """The clients' commands, of those that can be built here; ours and the oracle run the code of
    ``tree``."""
    path = ("env", f"PYTHONPATH={tree.resolve()}") if tree else ()
    found: dict[str, tuple[str, ...]] = {
        name: (*path, sys.executable, str(HERE / f"{file}.py"))
        for name, file in (("ours", "our_client"), ("oracle", "oracle_client"))
    }
    for name in ("go", "rust", "js"):
        try:
            found[name] = peer_builds.ensure_built(name)
        except peer_builds.MissingToolError as error:
            print(f"{name} left out: {error}", file=sys.stderr)
    if "go" in found:
        found["go-optimistic"] = (*found["go"], "--optimistic-provide")
    return found


async def measure(
    swarm: Swarm, cell: Cell, program: tuple[str, ...], plan: Plan, log_dir: Path
) -> Facts:
    """Everything about one client in this network."""
    launcher = PeerLauncher(program, log_dir)
    options: Facts = {"bootstrap": swarm.bootstrap, "mode": "client"}
    result: Facts = {"cold": []}
    first: list[tuple[Subject, bytes]] = []
    cold = plan.cold if "closest" in plan.phases and not plan.provides_only else 0
    for index in range(cold):
        async with launcher.start(**options) as process:
            subject = Subject(swarm, cell, process[0], plan)
            await subject.until_usable()
            first.append((subject, preimage(cell, "cold", index)))
            result["cold"].append(await subject.look_up(first[-1][1]))
    launched = trio.current_time()
    async with launcher.start(**options) as process:
        subject = Subject(swarm, cell, process[0], plan)
        result["join"] = await subject.join(launched)
        result |= await subject.operate()
    for (subject, key), facts in zip(first, result["cold"], strict=True):
        await subject.look_back(key, facts)
    return result


class Subject:
    """A client that runs."""

    def __init__(self, swarm: Swarm, cell: Cell, peer: Peer, plan: Plan) -> None:
        self._swarm, self._cell, self._peer, self._plan = swarm, cell, peer, plan

    async def account(self) -> Facts:
        return await self._swarm.ask("account", client=self._peer.peer_id)

    async def until_usable(self) -> float:
        """When its table was full enough, or grew no more, on trio's clock."""
        size, since = 0, trio.current_time()
        until = since + USABLE_TIMEOUT_S
        while (now := trio.current_time()) < until:
            count = len(await self._peer.routing_table())
            if count != size:
                size, since = count, now
            if count >= USABLE_PEERS or (count and now - since > UNCHANGED_S):
                break
            await trio.sleep(POLL_S)
        return since

    async def join(self, launched: float) -> Facts:
        usable = await self.until_usable()
        at_once = await self.account()
        facts: Facts = {
            "usable_s": usable - launched,
            "usable_after_contact_s": usable - trio.current_time() + time.time() - at_once["first"],
            "usable_table_size": len(await self._peer.routing_table()),
            "at_usable": at_once,
            "settled": False,
        }
        with trio.move_on_after(QUIET_TIMEOUT_S):
            while time.time() - (await self.account())["last"] < QUIET_S:  # noqa: ASYNC110 - not ours
                await trio.sleep(QUIET_S / 10)
            facts["settled"] = True
        facts["at_end"] = await self.account()
        facts["settled_after_contact_s"] = facts["at_end"]["last"] - facts["at_end"]["first"]
        facts["table_size"] = len(await self._peer.routing_table())
        facts["cpu_s"] = self._peer.process.cpu_seconds()
        return facts

    async def operate(self) -> Facts:
        plan = self._plan
        result: Facts = {"cost": {}}
        phases: dict[str, Callable[[bytes, int], Awaitable[Facts]]] = {
            "closest": lambda key, _: self.look_up(key),
            "search": self.search,
            "provide": lambda key, _: self.provide(key),
            "value_search": self.search_value,
            "value_put": self.put_value,
        }
        phases = {name: operation for name, operation in phases.items() if name in plan.phases}
        if plan.provides_only:
            # After as many lookups as the others had: it needs them for its estimate of the size.
            warm_up = {"warm_up": lambda key, _: self.look_up(key)}
            phases = warm_up | {name: phases[name] for name in ("provide",) if name in phases}
        if plan.is_oracle:
            phases = {name: phases[name] for name in ("closest",) if name in phases}
        for name, operation in phases.items():
            cpu_s, before = self._peer.process.cpu_seconds(), await self.account()
            result[name] = await self._phase(name, operation, plan.operations)
            after = await self.account()
            result["cost"][name] = {
                "cpu_s": self._peer.process.cpu_seconds() - cpu_s,
                **{
                    what: after[what] - before[what]
                    for what in ("bytes_sent", "bytes_received", "connections", "requests")
                },
            }
        return result

    async def _phase(
        self, name: str, operation: Callable[[bytes, int], Awaitable[Facts]], count: int
    ) -> list[Facts]:
        done: list[Facts] = []
        later = {
            "provide": self._count_holders,
            "value_search": self._count_corrected,
            "value_put": self._count_puts,
        }
        keys = [preimage(self._cell, name, index) for index in range(count)]
        async with trio.open_nursery() as nursery:
            for index, key in enumerate(keys):
                done.append(await operation(key, index))
                if name in later:
                    nursery.start_soon(later[name], key, done[-1])
        await trio.sleep(SETTLE_S)
        for key, facts in zip(keys, done, strict=True):
            await self.look_back(facts.pop("key", key), facts)
        return done

    async def look_up(self, key: bytes) -> Facts:
        if self._plan.is_oracle:
            addrs = (await self._swarm.ask("closest", key=key))["addrs"]
            facts, found = await self._timed("ask_all", key_hex=key.hex(), addrs=addrs)
            facts["answers_s"] = found.get("answers_s", [])
        else:
            facts, found = await self._timed("get_closest", key_hex=key.hex())
        return facts | {"peers": found.get("peers", []), "said": found.get("standing", [])}

    async def look_back(self, key: bytes, facts: Facts) -> None:
        """Add what the swarm knows some time after an operation: what it left running counts."""
        returned: list[str] | None = facts.pop("peers", None)
        truth: list[str] = (await self._swarm.ask("closest", key=key))["peers"]
        missed = [] if returned is None else [peer for peer in truth if peer not in returned]
        seen = await self._swarm.ask(
            "operation",
            client=self._peer.peer_id,
            key=key,
            start=facts.pop("began"),
            end=facts.pop("ended"),
            peers=(returned or []) + missed,
        )
        facts |= {"requests": seen["by_type"], "servers_asked": seen["servers_asked"]}
        if returned is None:
            return
        marks, unreturned = seen["marks"][: len(returned)], seen["marks"][len(returned) :]
        said: list[str] = facts.pop("said") or ["-"] * len(returned)
        ages = [mark["age_s"] for mark in marks if mark["mark"] == "alive"]
        facts |= {
            "returned": len(returned),
            "true_found": len(truth) - len(missed),
            "true_known": sum(
                peer in truth and mark["mark"] != "heard"
                for peer, mark in zip(returned, marks, strict=True)
            ),
            "true_answered": sum(
                peer in truth and mark["mark"] == "answered"
                for peer, mark in zip(returned, marks, strict=True)
            ),
            "true_in_all": len(truth),
            "marks": Counter(mark["mark"] for mark in marks),
            "oldest_sign_s": max(ages, default=None),
            "overstated": overstated(said, [mark["mark"] for mark in marks]),
            "dead_returned": sum(mark["state"] in ("refusing", "black_hole") for mark in marks),
            "unanswered": Counter(
                f"{mark['state']}, {mark['mark']}, said {word}"
                for mark, word in zip(marks, said, strict=True)
                if mark["mark"] != "answered"
            ),
            "missed": Counter(f"{mark['state']}, {mark['mark']}" for mark in unreturned),
        }

    async def search(self, key: bytes, index: int) -> Facts:
        wanted = (await self._swarm.ask("place", key=key, index=index * 7))["provider"]
        facts, found = await self._timed("find_providers", cid=cid(key), count=1)
        providers = [provider["peer_id"] for provider in found.get("providers", [])]
        return facts | {"found": wanted in providers}

    async def provide(self, key: bytes) -> Facts:
        facts, _ = await self._timed("provide", cid=cid(key))
        return facts | {"at_return": await self._holders(key)}

    async def _count_holders(self, key: bytes, facts: Facts) -> None:
        await trio.sleep(LATER_S)
        facts["later"] = await self._holders(key)

    async def search_value(self, _: bytes, index: int) -> Facts:
        name = name_of(self._cell, f"search {self._plan.client}", index, time.time())
        closest = (await self._swarm.ask("closest", key=name.key))["peers"]
        there = placed(closest)
        for value, peers in ((name.newer, there["newer"]), (name.older, there["older"])):
            await self._swarm.ask("store", key=name.key, value=value.hex(), peers=peers)
        facts, found = await self._timed("search_value", key_hex=name.key.hex())
        facts |= search_facts(found.get("values", []), name)
        return facts | {"key": name.key, "placed": there}

    async def _count_corrected(self, _: bytes, facts: Facts) -> None:
        """Of the servers with an older record, or with none, how many were given the newer."""
        key, there = facts["key"], facts.pop("placed")
        await trio.sleep(LATER_S)
        given = (await self._swarm.ask("puts", key=key, client=self._peer.peer_id))["peers"]
        for which, peers in (("corrected", there["older"]), ("filled", there["nothing"])):
            facts[which] = [sum(peer in given for peer in peers), len(peers)]

    async def put_value(self, _: bytes, index: int) -> Facts:
        name = name_of(self._cell, f"put {self._plan.client}", index, time.time())
        value = name.newer.hex()
        count = {"count": ENOUGH_HOLDERS}  # rust's quorum
        facts, _found = await self._timed(
            "put_value", key_hex=name.key.hex(), value_hex=value, **count
        )
        return facts | {"key": name.key, "at_return": await self._puts(name.key, facts["began"])}

    async def _count_puts(self, _: bytes, facts: Facts) -> None:
        key, began = facts["key"], facts["began"]
        await trio.sleep(LATER_S)
        facts["later"] = await self._puts(key, began)

    async def _puts(self, key: bytes, began: float) -> Facts:
        seen = await self._swarm.ask("puts", key=key, client=self._peer.peer_id)
        return put_facts(seen["arrived"], seen["among_closest"], began)

    async def _holders(self, key: bytes) -> Facts:
        return await self._swarm.ask("holders", key=key, client=self._peer.peer_id)

    async def _timed(self, command: str, **arguments: Any) -> tuple[Facts, Facts]:
        started = trio.current_time()
        facts: Facts = {"began": time.time()}
        answer: Facts = {}
        try:
            answer = await self._peer.command(command, OPERATION_TIMEOUT_S, **arguments)
        except PeerError as error:
            facts["error"] = str(error).partition("\n")[0]  # what follows is its log
        facts |= {"s": round(trio.current_time() - started, 4), "ended": time.time()}
        return facts, answer


def cid(multihash: bytes) -> str:
    """A CID version 1 of raw bytes, as text."""
    return "b" + base64.b32encode(RAW_CID_V1 + multihash).decode().lower().rstrip("=")
