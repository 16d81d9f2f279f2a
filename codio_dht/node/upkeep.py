"""Keeps the routing table alive: joining, admission, refresh.

Decides when bootstrap peers are dialled; who is probed, refreshed or admitted only
``core`` decides.

States of joining, for people to look at::

    alone        nobody to join through was given
    joining      a round of dials is under way
    joined       the table has peers
    unreachable  the last round reached nobody; another one follows after a back-off
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

import trio
from multiaddr import Multiaddr

from codio_dht import params
from codio_dht.core import admission, refresh
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FindNode
from codio_dht.core.network import Network
from codio_dht.core.peer import PeerId, PeerInfo
from codio_dht.core.preimages import search_preimage
from codio_dht.core.rng import Rng
from codio_dht.core.steps import Wait
from codio_dht.errors import NetworkError, NoPeersError, RemoteError
from codio_dht.logger import get_logger
from codio_dht.net.host import Host
from codio_dht.node.arguments import binary
from codio_dht.node.bootstrap import Backoff
from codio_dht.node.lookups import Lookups
from codio_dht.node.rpc import RpcClient, failure_reason

log = get_logger(__name__)


class Joining(Enum):
    """See the module."""

    ALONE = "alone"
    JOINING = "joining"
    JOINED = "joined"
    UNREACHABLE = "unreachable"


class Upkeep:
    """The background work on one network's routing table."""

    def __init__(
        self,
        network: Network,
        host: Host,
        rpc: RpcClient,
        rng: Rng,
        bootstrap: Sequence[PeerInfo],
    ) -> None:
        self._network = network
        self._host = host
        self._rpc = rpc
        self._rng = rng
        self._bootstrap = list(bootstrap)
        self._backoff = Backoff(rng)
        self._remembered: list[PeerInfo] = []
        self._joining = 0
        self._reached_nobody = False
        self._moved = trio.Event()
        """Set, and replaced, whenever something happened that a loop here may wait for."""

    # --- state ------------------------------------------------------------------------------------

    @property
    def joining(self) -> Joining:
        """Where joining stands."""
        if len(self._network.table):
            return Joining.JOINED
        if self._joining:
            return Joining.JOINING
        if not self._bootstrap:
            return Joining.ALONE
        return Joining.UNREACHABLE if self._reached_nobody else Joining.JOINING

    def stir(self) -> None:
        """Something happened: a candidate was offered, a probe ended, a refresh is wanted."""
        self._moved.set()
        self._moved = trio.Event()

    async def wait_for_peers(self, deadline: Monotonic) -> None:
        """Until the table has a peer, or nobody is being dialled or probed, or the deadline."""
        with trio.move_on_at(deadline):
            while not len(self._network.table) and (
                self.joining is Joining.JOINING
                or self._network.admission.waiting
                or self._network.admission.probing
            ):
                await self._moved.wait()

    # --- joining ----------------------------------------------------------------------------------

    async def join(self, peers: Sequence[PeerInfo]) -> int:
        """Dial ``peers``, a few at a time, and probe them; how many answered. One that keeps its
        turn for longer than ``BOOTSTRAP_STAGGER_S`` no longer counts: the next one begins."""
        answered = 0
        turns = trio.Semaphore(params.MAX_BOOTSTRAP_DIALS)

        async def one(info: PeerInfo) -> None:
            nonlocal answered
            answered += await self._join_through(info)

        async def in_turn(nursery: trio.Nursery, info: PeerInfo) -> None:
            async with turns:
                ended = trio.Event()

                async def dial() -> None:
                    await one(info)
                    ended.set()

                nursery.start_soon(dial)
                with trio.move_on_after(params.BOOTSTRAP_STAGGER_S):
                    await ended.wait()

        self._joining += 1
        try:
            async with trio.open_nursery() as nursery:
                for info in peers:
                    nursery.start_soon(in_turn, nursery, info)
        finally:
            self._joining -= 1
            self.stir()
        self._look_around(answered)
        return answered

    def _look_around(self, answered: int) -> None:
        """Ask for a refresh if the one that the first answer set off does not cover the others."""
        refresh = self._network.refresh
        if not refresh.running:
            if answered and len(self._network.table) < self._network.k:
                refresh.request()
        elif answered > 1:
            refresh.request(all_cpls=False)
        self.stir()

    def remember(self, peers: Sequence[PeerInfo]) -> None:
        """Peers of an earlier run: candidates now, and again whenever the table is empty. Each is
        probed before it enters the table."""
        self._remembered = list(peers[: params.MAX_REMEMBERED_PEERS])
        self._offer_remembered()

    def _offer_remembered(self) -> None:
        now = _now()
        for info in self._remembered:
            addrs = self._network.address_filter(binary(info.addrs))
            self._network.book.heard(info.peer_id, addrs, now)
            self._network.offer(info.peer_id, now)
        self.stir()

    async def run_bootstrap(self) -> None:
        """Join through the given and the remembered peers, and again whenever peers run low or our
        own network seems to be down, for ever."""
        while True:
            if self._has_somebody and self._is_low():
                await self._rejoin()
                if self._is_cut_off():
                    delay_s = self._backoff.failed()
                    self.stir()
                    log.warning(
                        "bootstrap_unreachable",
                        peers=len(self._bootstrap),
                        remembered=len(self._remembered),
                        retry_in_s=round(delay_s, 1),
                    )
                    await trio.sleep(delay_s)
                    continue
                self._backoff.succeeded()
            with trio.move_on_after(params.LOW_PEERS_CHECK_S):
                while not (self._has_somebody and self._is_cut_off()):
                    await self._moved.wait()

    @property
    def _has_somebody(self) -> bool:
        """Whether there is anybody to join through."""
        return bool(self._bootstrap or self._remembered)

    def _is_cut_off(self) -> bool:
        return not len(self._network.table) or self._network.outage.suspected

    def _is_low(self) -> bool:
        return len(self._network.table) < params.LOW_PEERS or self._is_cut_off()

    async def _rejoin(self) -> None:
        if self._is_cut_off():
            self._offer_remembered()
        peers = list(self._bootstrap)
        self._rng.shuffle(peers)
        if len(self._network.table):
            peers = peers[: params.MAX_BOOTSTRAP_DIALS]
        self._reached_nobody = not await self.join(peers)
        await self.wait_for_peers(Monotonic(_now() + params.PROBE_TIMEOUT_S))

    async def _join_through(self, info: PeerInfo) -> bool:
        peer = info.peer_id
        if peer == self._network.local:
            return False
        now = _now()
        self._network.book.heard(
            peer, self._network.address_filter(binary(_dialable(info.addrs))), now
        )
        try:
            await self._host.connect(
                peer, info.addrs, Monotonic(now + params.BOOTSTRAP_DIAL_TIMEOUT_S)
            )
        except NetworkError as error:
            log.info("bootstrap_peer_unreachable", peer=str(peer), error=str(error))
            return False
        return await self._probe(peer, Monotonic(_now() + params.PROBE_TIMEOUT_S))

    # --- admission --------------------------------------------------------------------------------

    async def run_admission(self) -> None:
        """Probe candidates for ever; the machine bounds how many at once."""
        async with trio.open_nursery() as nursery:
            while True:
                moved = self._moved
                match self._network.admission.next(_now()):
                    case admission.Probe(peer, deadline):
                        nursery.start_soon(self._probe, peer, deadline)
                    case Wait(until):
                        with trio.move_on_at(_at(until)):
                            await moved.wait()
                    case admission.Idle():
                        with trio.move_on_after(params.LOW_PEERS_CHECK_S):
                            await moved.wait()

    async def _probe(self, peer: PeerId, deadline: Monotonic) -> bool:
        """FIND_NODE for the peer's own id (GO); whether it answered."""
        door = self._network.admission
        try:
            reply = await self._rpc.request(peer, FindNode(peer.to_bytes()), deadline)
        except (NetworkError, RemoteError) as error:
            door.on_probe_failed(peer, failure_reason(error), _now())
            return False
        else:
            self._network.learn(reply.closer_peers, peer, _now())
            door.on_probe_answered(peer, len(reply.closer_peers), _now())
            return True
        finally:
            self.stir()

    # --- refresh ----------------------------------------------------------------------------------

    async def run_refresh(self, lookups: Lookups) -> None:
        """Do what the schedule says, for ever."""
        schedule = self._network.refresh
        async with trio.open_nursery() as nursery:
            while True:
                moved = self._moved
                if not len(self._network.table):
                    await moved.wait()
                    continue
                runs = schedule.runs
                step = schedule.next(_now())
                if schedule.runs != runs:
                    self._network.admission.on_refreshed(_now())
                    self.stir()
                match step:
                    case refresh.SelfLookup() | refresh.CplLookup() as lookup:
                        nursery.start_soon(self._refresh_lookup, lookups, lookup)
                    case refresh.LivenessProbe(peer):
                        nursery.start_soon(self._check_alive, peer)
                    case Wait(until):
                        with trio.move_on_at(_at(until)):
                            await moved.wait()

    async def refresh_now(self) -> None:
        """Ask for a refresh, and wait until it is over.

        Raises:
            NoPeersError: the routing table is empty.
        """
        if not len(self._network.table):
            raise NoPeersError("the routing table is empty: there is nobody to refresh from")
        schedule = self._network.refresh
        schedule.request()
        self.stir()
        while schedule.running and len(self._network.table):
            await self._moved.wait()

    async def _refresh_lookup(
        self, lookups: Lookups, lookup: refresh.SelfLookup | refresh.CplLookup
    ) -> None:
        try:
            preimage = await self._preimage_of(lookup)
            if preimage is not None:
                await lookups.closest(preimage)
        except NoPeersError:
            pass
        finally:
            self._network.refresh.lookup_ended(_now(), lookup)
            self.stir()

    async def _preimage_of(self, lookup: refresh.SelfLookup | refresh.CplLookup) -> bytes | None:
        """What to look up; None if no key of the CPL could be found."""
        match lookup:
            case refresh.SelfLookup():
                return self._network.local.to_bytes()
            case refresh.CplLookup(cpl):
                for preimage in search_preimage(self._network.table.local, cpl, self._rng):
                    if preimage is not None:
                        return preimage
                    await trio.lowlevel.checkpoint()
                return None

    async def _check_alive(self, peer: PeerId) -> None:
        deadline = Monotonic(_now() + params.PROBE_TIMEOUT_S)
        try:
            await self._rpc.request(peer, FindNode(peer.to_bytes()), deadline)
        except (NetworkError, RemoteError) as error:
            self._network.failed(peer, failure_reason(error), _now())
        else:
            self._network.answered(peer, _now())
        finally:
            self._network.refresh.probe_ended(peer)
            self.stir()


def _dialable(addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
    """Addresses that others could be told: a dnsaddr names a bootstrap list, not a peer."""
    return [addr for addr in addrs if not str(addr).startswith("/dnsaddr/")]


def _at(until: Monotonic | None) -> float:
    return math.inf if until is None else until


def _now() -> Monotonic:
    return Monotonic(trio.current_time())
