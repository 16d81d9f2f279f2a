"""The door with its replacement cache: any sequence of events, against a brute-force oracle.

The oracle keeps every peer that was ever refused for want of room, with when it was seen and when
it answered, and works out by search who is to take a place that came free.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from codio_dht.core.admission import (
    REPLACEMENT_TRUST_S,
    SETTLE_DELAY_S,
    SETTLE_REFRESHES,
    Admission,
    Probe,
)
from codio_dht.core.clock import Monotonic
from codio_dht.core.keyspace import Key
from codio_dht.core.messages import FailureReason
from codio_dht.core.outage import Outage
from codio_dht.core.peer import PeerId
from codio_dht.core.routing_table import AddOutcome, RoutingTable
from codio_dht.params import KEY_BITS

BUCKET_SIZE = 2
PEERS = st.integers(1, 8)


def peer(number: int, prefix: int = 0) -> PeerId:
    key = (1 << (KEY_BITS - 1 - prefix)) + number
    made = PeerId(b"\x12\x20" + key.to_bytes(32, "big"))
    made._key = Key(key)
    return made


class AdmissionMachine(RuleBasedStateMachine):
    """Peers of one bucket; nobody fails for longer than the machine's own back-off allows."""

    @initialize()
    def settled(self) -> None:
        self.table = RoutingTable(Key(0), bucket_size=BUCKET_SIZE)
        # Outages have tests of their own: here everybody that fails is to lose its place.
        self.admission = Admission(self.table, Outage(failures=10_000))
        self.clock = 0.0
        for number in (101, 102):
            self.table.add(peer(number), Monotonic(0.0))
        # A table that was empty would be joining again.
        self.others = [peer(number, prefix=1) for number in range(BUCKET_SIZE)]
        for other in self.others:
            self.table.add(other, Monotonic(0.0))
        for _ in range(SETTLE_REFRESHES):
            self.admission.on_refreshed(Monotonic(0.0))
        self.clock = SETTLE_DELAY_S
        self.admission.next(self.now)
        self.inside = [peer(101), peer(102)]
        self.refused: dict[PeerId, tuple[float, float | None]] = {}
        """Refused for want of room: when seen last, when answered last."""
        self.probing: list[PeerId] = []
        self.backing_off: dict[PeerId, float] = {}

    @property
    def now(self) -> Monotonic:
        return Monotonic(self.clock)

    # --- the oracle -------------------------------------------------------------------------------

    def refuse(self, who: PeerId, answered: bool) -> None:
        before = self.refused.pop(who, (0.0, None))
        self.refused[who] = (self.clock, self.clock if answered else before[1])

    def best(self) -> PeerId:
        verified = [each for each, (_, answered) in self.refused.items() if answered is not None]
        return (verified or list(self.refused))[-1]

    def fill(self) -> None:
        """Whoever is to come in comes in, or is to be probed."""
        while self.refused and len(self.inside) + len(self.probing) < BUCKET_SIZE:
            who = self.best()
            _, answered = self.refused.pop(who)
            if answered is not None and self.clock < answered + REPLACEMENT_TRUST_S:
                self.inside.append(who)
            elif self.clock >= self.backing_off.get(who, 0.0):
                self.probing.append(who)

    def back_off(self, who: PeerId) -> None:
        self.backing_off[who] = self.admission._failed.blocked_until(who.key)

    def drop(self, who: PeerId) -> None:
        """``who`` is out of the probes, if it was in them."""
        if who in self.probing:
            self.probing.remove(who)

    # --- events -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, REPLACEMENT_TRUST_S / 2]))
    def wait(self, seconds: float) -> None:
        self.clock += seconds

    @rule(number=PEERS)
    def answer(self, number: int) -> None:
        """A request of ours, not a probe, is answered."""
        self.clock += 1
        who = peer(number)
        outcome = self.admission.on_reply(who, self.now)
        self.drop(who)
        self.backing_off.pop(who, None)
        if who in self.inside:
            assert outcome is AddOutcome.KNOWN
        elif len(self.inside) < BUCKET_SIZE:
            assert outcome is AddOutcome.ADDED
            self.inside.append(who)
            self.refused.pop(who, None)
        else:
            assert outcome is AddOutcome.FULL
            self.refuse(who, answered=True)

    @rule(number=PEERS)
    def see(self, number: int) -> None:
        """Identify tells of a server while there is no room."""
        self.clock += 1
        who = peer(number)
        if len(self.inside) < BUCKET_SIZE:
            return
        if who in self.inside or self.clock < self.backing_off.get(who, 0.0):
            return
        self.admission.offer(who, self.now)
        if who not in self.probing:
            self.refuse(who, answered=False)

    @rule(nth=st.integers(0, BUCKET_SIZE - 1), by_failing=st.booleans())
    def leave(self, nth: int, by_failing: bool) -> None:
        self.clock += 1
        if nth >= len(self.inside):
            return
        who = self.inside.pop(nth)
        if by_failing:
            assert self.admission.on_failure(who, FailureReason.BROKEN, self.now) is True
            self.back_off(who)
        else:
            self.admission.withdraw(who, self.now)
        self.fill()

    @rule(answers=st.booleans())
    def probe(self, answers: bool) -> None:
        """The probe that has been waited for longest ends."""
        self.clock += 1
        step = self.admission.next(self.now)
        if not isinstance(step, Probe):
            assert not self.probing or len(self.inside) == BUCKET_SIZE
            while self.probing:  # found the bucket full when its turn came
                self.refuse(self.probing.pop(0), answered=False)
            return
        who = step.peer
        assert who in self.probing
        self.probing.remove(who)
        if answers:
            self.admission.on_probe_answered(who, 1, self.now)
            self.backing_off.pop(who, None)
            if len(self.inside) < BUCKET_SIZE:
                self.inside.append(who)
                self.refused.pop(who, None)
            else:
                self.refuse(who, answered=True)
        else:
            self.admission.on_probe_failed(who, FailureReason.BROKEN, self.now)
            self.back_off(who)
            self.fill()

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def the_table_holds_whom_the_oracle_says(self) -> None:
        assert [each for each in self.table.peers() if each not in self.others] == self.inside

    @invariant()
    def no_place_is_free_while_somebody_waits_for_it(self) -> None:
        free = BUCKET_SIZE - len(self.inside) - len(self.probing)
        assert free <= 0 or self.admission.replacements == 0


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
