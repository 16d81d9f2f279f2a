r"""One round of joining: its peers are dialled, and those that were reached are probed.

Decides how many are dialled at a time. At most ``MAX_BOOTSTRAP_DIALS`` take a turn; a dial that
takes longer than ``BOOTSTRAP_STAGGER_S`` goes on, but loses its turn to the next one, for a few
dead addresses must not hold up the good ones.

Each peer goes through::

    waiting --next_dial--> dialled --dialled--> reached --next_probe, probed--> probed
                              \--ended: failed                       \--ended

Must never: wait for a step whose end was reported, or count a peer twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.messages import FailureReason, PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Ask, Wait

MAX_BOOTSTRAP_DIALS: Final = 4
"""Bootstrap peers dialled at a time (GO ``maxNBoostrappers``: 2)."""

BOOTSTRAP_DIAL_TIMEOUT_S: Final = 15.0
"""How long connecting to one bootstrap peer may take, name resolution included, in seconds."""

BOOTSTRAP_STAGGER_S: Final = 1.0
"""A bootstrap dial that takes longer lets the next one begin, seconds: a few dead addresses must
not hold up the good ones."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to ``peer`` at ``addrs`` by ``deadline``; report ``dialled`` or ``dial_failed``."""

    peer: PeerId
    addrs: tuple[bytes, ...]
    deadline: Monotonic
    round: JoinRound


@dataclass(frozen=True, slots=True)
class JoinProbe:
    """Ask a peer that was dialled to join through it for its own id."""

    ask: Ask
    round: JoinRound


class JoinRound:
    """One round of joining: who has still to be reached, and how many answered."""

    __slots__ = ("_out", "_reached", "_turns", "_waiting", "answered", "failed_remotely")

    def __init__(self, peers: Sequence[PeerEntry]) -> None:
        self._waiting = deque(peers)
        self._reached: deque[Dial] = deque()
        """Dials that led to a peer which is to be probed now."""
        self._out: dict[PeerId, Dial | JoinProbe] = {}
        """What the end of each peer's part depends on."""
        self._turns: dict[PeerId, Monotonic] = {}
        """Until when each of them may hold up the next one."""
        self.answered = 0
        """Peers that answered their probe."""
        self.failed_remotely = False
        """Whether a peer failed by another fault than this node's own."""

    @property
    def over(self) -> bool:
        """Whether every dial and probe of it has ended."""
        return not self._waiting and not self._out

    def next_probe(self) -> Dial | None:
        """A dial whose peer is to be probed now; report by :meth:`probed`."""
        return self._reached.popleft() if self._reached else None

    def next_dial(self, now: Monotonic) -> Dial | Wait:
        """Whom to dial now."""
        self._turns = {peer: until for peer, until in self._turns.items() if now < until}
        if not self._waiting:
            return Wait(None)
        if len(self._turns) >= MAX_BOOTSTRAP_DIALS:
            return Wait(min(self._turns.values()))
        entry = self._waiting.popleft()
        deadline = Monotonic(now + BOOTSTRAP_DIAL_TIMEOUT_S)
        dial = self._out[entry.peer_id] = Dial(entry.peer_id, entry.addrs, deadline, self)
        self._turns[entry.peer_id] = Monotonic(now + BOOTSTRAP_STAGGER_S)
        return dial

    def dialled(self, dial: Dial) -> None:
        """``dial`` led to its peer. A no-op if it is not out."""
        if self._out.get(dial.peer) is dial and dial not in self._reached:
            self._reached.append(dial)

    def probed(self, dial: Dial, ask: Ask) -> JoinProbe:
        """``ask`` probes the peer that ``dial`` reached."""
        probe = self._out[dial.peer] = JoinProbe(ask, self)
        return probe

    def ended(self, step: Dial | JoinProbe, why: FailureReason | None) -> None:
        """``step`` was the last one for its peer, which answered or failed (``why``). A no-op if it
        is not out."""
        peer = step.peer if isinstance(step, Dial) else step.ask.peer
        if self._out.get(peer) is step and step not in self._reached:
            del self._out[peer]
            self._turns.pop(peer, None)
            self.answered += why is None
            self.failed_remotely |= why not in (None, FailureReason.CAPACITY)

    def abandon(self) -> None:
        """Dial nobody else, and wait for nobody."""
        for each in (self._waiting, self._reached, self._out, self._turns):
            each.clear()
