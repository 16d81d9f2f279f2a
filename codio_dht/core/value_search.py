"""A search for the value of a key: a lookup whose replies bring records (GET_VALUE).

Decides when an application's validator must be asked, when the search has to wait for it, and whom
to correct when it is over. Which value is best, and when that is sure, decides
:mod:`codio_dht.core.best_value`; the walk itself is :mod:`codio_dht.core.search`'s.

Beside the steps of every search there is one more::

    next(now) -> Judge(check, ...)   let the validator judge, and report by ``on_verdict``

The search passes on each value that is better than all before, as it comes. Its end waits for the
verdicts that are still out.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from codio_dht.core.best_value import BestValue
from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.core.keyspace import key_of
from codio_dht.core.lookup_states import Done, StopReason
from codio_dht.core.messages import GetValue, Record, Reply
from codio_dht.core.peer import PeerId
from codio_dht.core.search import Search, Searches, SearchStep
from codio_dht.core.steps import Ask, Wait
from codio_dht.core.validation import Check, Judge, Validators, Verdict

VALUE_QUORUM: Final = 16
"""Valid answers that a search for a value has to pass before it may end early (Kubo for IPNS)."""


class ValueSearch(Search[bytes]):
    """Searches the best value of ``key``. See the module.

    ``local`` is what this node holds itself: it counts as an answer, and if there is nobody to ask,
    as the only one. ``quorum`` is as in :class:`~codio_dht.core.best_value.BestValue`.
    """

    def __init__(
        self,
        searches: Searches,
        key: bytes,
        validators: Validators,
        *,
        quorum: int,
        local: Record | None,
        now: Now,
    ) -> None:
        super().__init__(searches, key_of(key), GetValue(key), now.monotonic)
        self.best = BestValue(key, validators, quorum=quorum)
        """What the search has found so far."""
        self._ahead_s = now.unix - now.monotonic
        self._now = now.monotonic
        self._to_judge: deque[Judge] = deque()
        self._judging: dict[Judge, None] = {}
        self._awaiting: dict[Check, list[PeerId | None]] = {}
        """Who brought each value that is being judged, so that it is judged once for all of them.
        Bounded by the peers that the lookup asks."""
        if local is not None:
            self._take(None, local)
            if self.best.enough or not len(self._network.table):
                self._result = Done(StopReason.FOUND)

    def next(self, now: Monotonic) -> SearchStep:
        """What to do now. Call it until it returns ``Wait`` or ``Done``, and again after each
        report."""
        if self._to_judge:
            judge = self._to_judge.popleft()
            self._judging[judge] = None
            return judge
        step = super().next(now)
        return Wait(None) if isinstance(step, Done) and self._judging else step

    def on_reply(self, ask: Ask, reply: Reply, now: Monotonic) -> None:
        """The peer answered ``ask``."""
        self._now = now
        super().on_reply(ask, reply, now)

    def on_verdict(self, judge: Judge, verdict: Verdict) -> None:
        """The validator has judged. A no-op if that was not asked for."""
        if judge not in self._judging:
            return
        del self._judging[judge]
        check = judge.check
        for peer in self._awaiting.pop(check):
            self._apply(peer, check.value, self.best.on_verdict(peer, check, verdict))
        if self.best.enough:
            if self._lookup is None:
                self._result = Done(StopReason.FOUND)
            else:
                self._lookup.stop(StopReason.FOUND)

    def outdated(self) -> tuple[PeerId, ...]:
        """Those of the closest peers that do not hold the best value, once the search is over; none
        if it ended early."""
        done = self._result
        if done is None or done.reason is not StopReason.COMPLETED:
            return ()
        return self.best.outdated(done.alive)

    def _read(self, peer: PeerId, reply: Reply) -> bool:
        if self._result is not None:
            return False
        self._take(peer, reply.record)
        return self.best.enough

    def _take(self, peer: PeerId | None, record: Record | None) -> None:
        verdict = self.best.on_record(peer, record, UnixTime(self._now + self._ahead_s))
        if record is not None and verdict is not None:
            self._apply(peer, record.value, verdict)

    def _apply(self, peer: PeerId | None, value: bytes, verdict: Verdict | Check) -> None:
        match verdict:
            case Check():
                bringers = self._awaiting.setdefault(verdict, [])
                bringers.append(peer)
                if len(bringers) == 1:
                    self._to_judge.append(Judge(verdict, peer))
            case Verdict.BETTER:
                self._found.append(value)
            case Verdict.SAME | Verdict.WORSE | Verdict.INVALID:
                pass
