"""What a search for a value decides beyond its lookup: the best value, when it is enough, whom to
correct.

The lookup asks peer after peer; each record that it brings is handed in here:

    on_record  a ``Verdict`` on the peer's value, or ``Check``: let the application's validator
               judge, then ``on_verdict``, which may want one more ``Check`` if a better value came
               meanwhile

``best`` is the best valid value so far. It is worth passing on whenever a verdict is ``BETTER``:
values only improve. The search is over (``enough``) as soon as nothing better can come: after the
first valid value of a namespace whose values are immutable (public keys), or after more valid
answers than the quorum asks for (GO: the quorum is passed, not met); a quorum of 0 is never passed,
so the lookup runs to its end. In any case the search ends with its lookup: when the closest peers
have answered, no better value is to be had, however many answers are still missing to the quorum.

Afterwards ``outdated`` names those of the closest peers that do not hold the best value. They are
corrected (PUT_VALUE), unless the quorum ended the search early: then it is not known who is among
the closest (GO).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.messages import Record
from codio_dht.core.peer import PeerId
from codio_dht.core.validation import Check, Validators, Verdict
from codio_dht.core.value_records import MAX_VALUE_BYTES

MAX_KNOWN_VALUES: Final = 64
"""Different values of one search whose verdicts are remembered, so that twenty peers with the same
value cost one signature check; the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class BestValueStats:
    """What a search for a value has seen."""

    valid: int
    """Valid values that peers brought, the same one several times included."""
    invalid: int
    """Values that were of another key, too long, or refused by their validator."""
    missing: int
    """Peers that answered without a value."""


class BestValue:
    """The best value so far of one search, and who is to be corrected. What this node holds itself
    counts as one answer (GO)."""

    def __init__(
        self,
        key: bytes,
        validators: Validators,
        *,
        quorum: int = 0,
        max_value_bytes: int = MAX_VALUE_BYTES,
    ) -> None:
        self.key = key
        self.best: bytes | None = None
        """The best valid value so far."""
        self._validators = validators
        self._quorum = quorum
        self._max_value_bytes = max_value_bytes
        self._holders: dict[PeerId, None] = {}
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        """Values seen before, other than ``best``: INVALID, or WORSE than some best value."""
        self._valid = 0
        self._invalid = 0
        self._missing = 0

    def on_record(
        self, peer: PeerId | None, record: Record | None, now: UnixTime
    ) -> Verdict | Check | None:
        """``peer`` (this node itself if None) answered with ``record``. None: without a value."""
        if record is None:
            self._missing += 1
            return None
        value = record.value
        if record.key != self.key or len(value) > self._max_value_bytes:
            self._invalid += 1
            return Verdict.INVALID
        if value == self.best:
            return self._conclude(peer, value, Verdict.SAME)
        known = self._known.get(value)
        if known is not None:
            return self._conclude(peer, value, known)
        verdict = self._validators.judge(self.key, value, self.best, now)
        if isinstance(verdict, Check):
            return verdict
        return self._conclude(peer, value, verdict)

    def on_verdict(self, peer: PeerId | None, check: Check, verdict: Verdict) -> Verdict | Check:
        """The application's validator says ``verdict`` on what ``peer`` brought. A ``Check`` if the
        best value has changed since and the two must be compared."""
        value = check.value
        if value == self.best:
            return self._conclude(peer, value, Verdict.SAME)
        if check.best != self.best and verdict in (Verdict.BETTER, Verdict.SAME):
            return Check(self.key, value, self.best)
        return self._conclude(peer, value, verdict)

    def _conclude(self, peer: PeerId | None, value: bytes, verdict: Verdict) -> Verdict:
        match verdict:
            case Verdict.INVALID:
                self._invalid += 1
                self._note(value, verdict)
                return verdict
            case Verdict.WORSE:
                self._note(value, verdict)
            case Verdict.BETTER:
                if self.best is not None:
                    self._note(self.best, Verdict.WORSE)
                self._known.pop(value, None)
                self.best = value
                self._holders.clear()
                self._hold(peer)
            case Verdict.SAME:
                self._hold(peer)
        self._valid += 1
        return verdict

    def _hold(self, peer: PeerId | None) -> None:
        if peer is not None:
            self._holders[peer] = None

    def _note(self, value: bytes, verdict: Verdict) -> None:
        self._known[value] = verdict
        while len(self._known) > MAX_KNOWN_VALUES:
            self._known.popitem(last=False)

    @property
    def enough(self) -> bool:
        """Whether the search is over before its lookup is."""
        if self.best is not None and self._validators.is_immutable(self.key):
            return True
        return 0 < self._quorum < self._valid

    def outdated(self, closest: Iterable[PeerId]) -> tuple[PeerId, ...]:
        """Those of the closest peers that do not hold the best value: they brought a worse one, an
        invalid one, or none. ``closest`` are the peers that the finished lookup found."""
        if self.best is None or self.enough:
            return ()
        return tuple([peer for peer in closest if peer not in self._holders])

    def stats(self) -> BestValueStats:
        """Counts at this moment."""
        return BestValueStats(self._valid, self._invalid, self._missing)
