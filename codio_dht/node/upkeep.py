"""Performs the upkeep of the routing table: dials, probes and lookups, one task a step.

Decides nothing: :mod:`codio_dht.core.upkeep` says what to do and what follows from it. A step whose
task is cancelled, or ends by a bug, is reported as dropped, so that the machine waits for nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.join_round import BOOTSTRAP_DIAL_TIMEOUT_S, Dial, JoinProbe, JoinRound
from codio_dht.core.joining import AskNames, Joining, Unreachable
from codio_dht.core.messages import PeerEntry
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerInfo
from codio_dht.core.refresh import CplLookup, SelfLookup
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Wait
from codio_dht.core.upkeep import (
    CandidateProbe,
    CheckAlive,
    OwnIdQuery,
    RefreshLookup,
    Upkeep,
)
from codio_dht.errors import NetworkError, NoPeersError, RemoteError
from codio_dht.logger import get_logger
from codio_dht.net.host import Host
from codio_dht.node.arguments import binary, multiaddrs, peers_at
from codio_dht.node.lookups import Lookups
from codio_dht.node.rpc import RpcClient, failure_reason

log = get_logger(__name__)

_REASONS_COUNTED: Final = 64
"""Different reasons kept, until one round has reached somebody or nobody."""

_REASONS_LOGGED: Final = 8
"""Different reasons in the line that says that nobody was reached, the most frequent first."""


class UpkeepDriver:
    """Performs the upkeep of one network's routing table."""

    def __init__(
        self,
        network: Network,
        host: Host,
        rpc: RpcClient,
        rng: Rng,
        bootstrap: Sequence[PeerInfo],
        names: Sequence[Multiaddr] = (),
    ) -> None:
        """``bootstrap`` are the peers to join through, beside those that ``names`` list."""
        self._machine = Upkeep(network, host, _entries(bootstrap), rng, has_names=bool(names))
        self._names = names
        self._host = host
        self._rpc = rpc
        self._tasks: dict[JoinRound, list[trio.CancelScope]] = {}
        """The dials and probes of each round that a caller waits for."""
        self._failures: Counter[str] = Counter()
        """Why bootstrap peers were not reached since the last round that reached nobody."""
        self._changed = trio.Event()
        """Set, and replaced, whenever something happened that a task here may wait for."""

    @property
    def joining(self) -> Joining:
        """Where joining stands."""
        return self._machine.joiner.state

    def notify_changed(self) -> None:
        """Say that a peer was offered or lost, a request ended, or a refresh is wanted."""
        self._changed.set()
        self._changed = trio.Event()

    # --- what callers wait for --------------------------------------------------------------------

    async def wait_for_peers(self, deadline: Monotonic) -> None:
        """Return once the table has a peer, nobody is being dialled or probed, or at the
        deadline."""
        with trio.move_on_at(deadline):
            while self._machine.joiner.awaits_peers:
                await self._changed.wait()

    async def joined(self) -> None:
        """Return when the table has peers."""
        while self.joining is not Joining.JOINED:
            await self._changed.wait()

    async def with_named(
        self, peers: Sequence[PeerInfo], names: Sequence[Multiaddr]
    ) -> list[PeerInfo]:
        """``peers``, and those that ``names`` list.

        Raises:
            NetworkError: that is nobody; the message says why.
        """
        found, errors = list(peers), []
        for name in names:
            deadline = Monotonic(trio.current_time() + BOOTSTRAP_DIAL_TIMEOUT_S)
            try:
                found += peers_at(await self._host.peers_named_by(name, deadline))
            except NetworkError as error:
                errors.append(str(error))
        if not found:
            raise NetworkError("; ".join(errors) or "nobody was named to join through")
        return found

    async def join(self, peers: Sequence[PeerInfo]) -> int:
        """Join through ``peers``, and return how many of them answered."""
        begun = self._machine.joiner.join(_entries(peers))
        self._tasks[begun] = []
        self.notify_changed()
        try:
            while not begun.over:
                await self._changed.wait()
            return begun.answered
        finally:
            self._machine.joiner.abandon(begun)
            for scope in self._tasks.pop(begun):
                scope.cancel()

    async def refresh_now(self) -> None:
        """Refresh the routing table, and return when that is over.

        Raises:
            NoPeersError: the routing table is empty.
        """
        self._machine.request_refresh()
        self.notify_changed()
        while self._machine.refreshing:
            await self._changed.wait()

    def network_changed(self) -> None:
        """Say that this node's own addresses or routes changed."""
        self._machine.joiner.network_changed(_now())
        self.notify_changed()

    def remember(self, peers: Sequence[PeerInfo]) -> None:
        """Take peers of an earlier run as candidates."""
        self._machine.joiner.remember(_entries(peers), _now())
        self.notify_changed()

    # --- steps ------------------------------------------------------------------------------------

    async def run(self, lookups: Lookups) -> None:
        """Do what the machine says, for ever; it bounds how much is under way."""
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                match step := self._machine.next(_now()):
                    case Wait(until):
                        with trio.move_on_at(math.inf if until is None else until):
                            await changed.wait()
                    case Dial() | JoinProbe():
                        nursery.start_soon(self._join_through, step)
                    case CandidateProbe() | CheckAlive():
                        nursery.start_soon(self._ask, step)
                    case SelfLookup() | CplLookup():
                        nursery.start_soon(self._look_up, step, lookups)
                    case AskNames():
                        nursery.start_soon(self._ask_names, step)
                    case Unreachable():
                        self._log_unreachable(step)

    async def _join_through(self, step: Dial | JoinProbe) -> None:
        """A dial or a probe that ends when the caller who asked for its round goes away."""
        if step.round.over:  # the caller went away before this task began
            self._machine.dropped(step, _now())
            return
        with trio.CancelScope() as scope:
            self._tasks.get(step.round, []).append(scope)
            await (self._dial(step) if isinstance(step, Dial) else self._ask(step))

    async def _dial(self, dial: Dial) -> None:
        try:
            # A person gave these addresses, and the rounds of joining have a back-off of their own.
            await self._host.connect(
                dial.peer, multiaddrs(dial.addrs), dial.deadline, retry_failed=True
            )
        except NetworkError as error:
            log.debug("bootstrap_peer_unreachable", peer=str(dial.peer), error=str(error))
            if len(self._failures) < _REASONS_COUNTED:
                self._failures[str(error)] += 1
            self._machine.dial_failed(dial, failure_reason(error))
        else:
            self._failures.clear()
            self._machine.dialled(dial)
        finally:
            self._machine.dropped(dial, _now())
            self.notify_changed()

    async def _ask(self, query: OwnIdQuery) -> None:
        try:
            ask = query.ask
            at = multiaddrs(query.at) if isinstance(query, CandidateProbe) else None
            reply = await self._rpc.request(ask.peer, ask.request, ask.deadline, addrs=at)
        except (NetworkError, RemoteError) as error:
            self._machine.failed(query, failure_reason(error), _now())
        else:
            self._machine.answered(query, reply, _now())
        finally:
            self._machine.dropped(query, _now())
            self.notify_changed()

    async def _ask_names(self, step: AskNames) -> None:
        try:
            named = await self.with_named((), self._names)
        except NetworkError as error:
            delay_s = self._machine.names_failed(failure_reason(error), _now())
            log.warning(
                "bootstrap_names_unresolved", reason=str(error), retry_in_s=round(delay_s, 1)
            )
        else:
            self._machine.named(_entries(named))
        finally:
            self._machine.dropped(step, _now())
            self.notify_changed()

    async def _look_up(self, lookup: RefreshLookup, lookups: Lookups) -> None:
        try:
            for preimage in self._machine.preimages(lookup):
                if preimage is not None:
                    await lookups.closest(preimage)
                await trio.lowlevel.checkpoint()
        except NoPeersError:
            pass
        finally:
            self._machine.lookup_ended(lookup, _now())
            self.notify_changed()

    def _log_unreachable(self, step: Unreachable) -> None:
        """One line for the whole round, with each reason once."""
        self.notify_changed()
        reasons = [
            error if count == 1 else f"{error} ({count} peers)"
            for error, count in self._failures.most_common(_REASONS_LOGGED)
        ]
        self._failures.clear()
        log.warning(
            "bootstrap_unreachable",
            peers=self._machine.joiner.given_peers,
            remembered=self._machine.joiner.remembered_peers,
            rounds=step.rounds,
            retry_in_s=round(step.retry_in_s, 1),
            reasons=reasons,
        )


def _entries(peers: Sequence[PeerInfo]) -> list[PeerEntry]:
    return [PeerEntry(info.peer_id, binary(info.addrs)) for info in peers]


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
