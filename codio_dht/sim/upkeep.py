"""Keeps an active node's table alive: joining, admission, refresh. Counterpart of ``node.upkeep``.

Decides when a node joins again; who is probed, refreshed or admitted only ``core`` decides. Each
loop of the node is a pump here: it asks its machine until that wants to wait, and is called again
at that moment, or when something happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from codio_dht import params
from codio_dht.core import admission, refresh
from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason, FindNode, Reply
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Wait
from codio_dht.sim.exchange import Answer
from codio_dht.sim.node import SimNode
from codio_dht.sim.population import Member
from codio_dht.sim.walk import WalkReport

JOIN_RETRY_S = 5.0
"""After a round of joining that reached nobody (``node.bootstrap``'s first delay)."""


class Upkeep:
    """The background work of one node."""

    def __init__(self, node: SimNode, bootstrap: Sequence[Member]) -> None:
        self._node = node
        self._bootstrap = [each for each in bootstrap if each is not node.member]
        self._queue = node.world.queue
        self._rng = node.world.rng
        self._wakes: dict[str, float] = {}
        self._joined: Callable[[], None] | None = None
        self._remembered: list[Member] = []
        self._pumping = False
        self._pump_again = False

    def begin(self, joined: Callable[[], None] | None = None) -> None:
        """Join, and go on for as long as the node lives. ``joined`` is called when the first
        refresh is over."""
        self._joined = joined
        node = self._node
        node.stir = self.stir
        self._queue.after(0.0, self._keep_joined)
        self._queue.after(params.EXPIRY_INTERVAL_S, self._expire)

    def stir(self) -> None:
        """Something happened that a pump may wait for."""
        if self._pumping:
            self._pump_again = True
            return
        self._pumping = True
        try:
            while True:
                self._pump_again = False
                self._pump_admission()
                self._pump_refresh()
                if not self._pump_again:
                    return
        finally:
            self._pumping = False

    # --- joining ----------------------------------------------------------------------------------

    def remember(self, peers: Sequence[Member]) -> None:
        """Peers of an earlier life: candidates now, and whenever the table is almost empty."""
        self._remembered = list(peers[: params.MAX_REMEMBERED_PEERS])
        self._offer_remembered()

    def _offer_remembered(self) -> None:
        node = self._node
        for member in self._remembered:
            node.network.book.heard(member.peer, (member.addr,), node.now)
            node.network.offer(member.peer, node.now)
        self.stir()

    def _keep_joined(self) -> None:
        node = self._node
        if node.stopped:
            return
        network = node.network
        if len(network.table) < params.LOW_PEERS or network.outage.suspected:
            self._offer_remembered()
            self._join()
        alone = not len(network.table) or network.outage.suspected
        self._queue.after(JOIN_RETRY_S if alone else params.LOW_PEERS_CHECK_S, self._keep_joined)

    def _join(self) -> None:
        """A round of dials, a few at a time; each may hold up the next one only so long."""
        peers = list(self._bootstrap)
        self._rng.shuffle(peers)
        if len(self._node.network.table):
            peers = peers[: params.MAX_BOOTSTRAP_DIALS]
        left = len(peers)
        answered = 0

        def ended(answer: Answer) -> None:
            nonlocal left, answered
            left -= 1
            answered += isinstance(answer, Reply)
            if not left:
                self._look_around(answered)

        for number, member in enumerate(peers):
            delay_s = (number // params.MAX_BOOTSTRAP_DIALS) * params.BOOTSTRAP_STAGGER_S
            self._queue.after(delay_s, partial(self._join_through, member, ended))

    def _look_around(self, answered: int) -> None:
        """Ask for a refresh if the one that the first answer set off does not cover the others."""
        schedule = self._node.network.refresh
        if not schedule.running:
            if answered and len(self._node.network.table) < self._node.network.k:
                schedule.request()
        elif answered > 1:
            schedule.request(all_cpls=False)
        self.stir()

    def _join_through(self, member: Member, ended: Callable[[Answer], None]) -> None:
        node = self._node
        if node.stopped:
            return
        node.network.book.heard(member.peer, (member.addr,), node.now)
        deadline = Monotonic(node.now + params.BOOTSTRAP_DIAL_TIMEOUT_S + params.PROBE_TIMEOUT_S)

        def answered(answer: Answer) -> None:
            self._probed(member.peer, answer)
            ended(answer)

        node.ask(member.peer, FindNode(member.peer.to_bytes()), deadline, answered)

    # --- admission --------------------------------------------------------------------------------

    def _pump_admission(self) -> None:
        node = self._node
        while not node.stopped:
            match node.network.admission.next(node.now):
                case admission.Probe(peer, deadline):
                    node.ask(peer, FindNode(peer.to_bytes()), deadline, partial(self._probed, peer))
                case Wait(until):
                    self._wake("admission", until)
                    return
                case admission.Idle():
                    return

    def _probed(self, peer: PeerId, answer: Answer) -> None:
        network, now = self._node.network, self._node.now
        if isinstance(answer, Reply):
            network.learn(answer.closer_peers, peer, now)
            network.admission.on_probe_answered(peer, len(answer.closer_peers), now)
        else:
            network.admission.on_probe_failed(peer, _why(answer), now)
        self.stir()

    # --- refresh ----------------------------------------------------------------------------------

    def _pump_refresh(self) -> None:
        node = self._node
        schedule = node.network.refresh
        while not node.stopped and len(node.network.table):
            runs = schedule.runs
            step = schedule.next(node.now)
            if schedule.runs != runs:
                node.network.admission.on_refreshed(node.now)
                self._refreshed()
            match step:
                case refresh.SelfLookup() | refresh.CplLookup() as lookup:
                    self._look_up(lookup)
                case refresh.LivenessProbe(peer):
                    self._check_alive(peer)
                case Wait(until):
                    self._wake("refresh", until)
                    return

    def _look_up(self, lookup: refresh.SelfLookup | refresh.CplLookup) -> None:
        def ended(_report: WalkReport | None = None) -> None:
            if not self._node.stopped:
                self._node.network.refresh.lookup_ended(self._node.now, lookup)
                self.stir()

        preimage = self._preimage_of(lookup)
        if preimage is None:
            self._queue.after(0.0, ended)
        else:
            self._node.closest(preimage, ended)

    def _preimage_of(self, lookup: refresh.SelfLookup | refresh.CplLookup) -> bytes | None:
        local = self._node.member.peer
        match lookup:
            case refresh.SelfLookup():
                return local.to_bytes()
            case refresh.CplLookup(cpl):
                return self._node.preimage_near(local.key, cpl)

    def _check_alive(self, peer: PeerId) -> None:
        node = self._node

        def checked(answer: Answer) -> None:
            if isinstance(answer, Reply):
                node.network.answered(peer, node.now)
            else:
                node.network.failed(peer, _why(answer), node.now)
            node.network.refresh.probe_ended(peer)
            self.stir()

        deadline = Monotonic(node.now + params.PROBE_TIMEOUT_S)
        node.ask(peer, FindNode(peer.to_bytes()), deadline, checked)

    def _refreshed(self) -> None:
        if self._joined is not None:
            joined, self._joined = self._joined, None
            self._queue.after(0.0, joined)

    # --- inside -----------------------------------------------------------------------------------

    def _expire(self) -> None:
        if not self._node.stopped:
            if self._node.disk.rows:
                self._node.keeper.expire()
            self._queue.after(params.EXPIRY_INTERVAL_S, self._expire)

    def _wake(self, what: str, until: float | None) -> None:
        """Stir at ``until``, unless an earlier moment is planned for this anyway."""
        if until is None:
            return
        planned = self._wakes.get(what)
        if planned is not None and self._node.now < planned <= until:
            return
        self._wakes[what] = until

        def woken() -> None:
            if self._wakes.get(what) == until:
                del self._wakes[what]
            if not self._node.stopped:
                self.stir()

        self._queue.at(max(until, self._node.now), woken)


def _why(answer: Answer) -> FailureReason:
    return answer if isinstance(answer, FailureReason) else FailureReason.BROKEN
