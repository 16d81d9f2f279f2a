"""Which inbound connections are served. They are counted before and after their handshake.

Decides, for each socket that is accepted, whether it is served: the gate, the limits per IP and
subnet, how often one IP may come, and the number of handshakes under way, of which the oldest makes
room (so that sockets that say nothing never keep anybody out). What an authenticated peer may have,
and what happens at the maximum, ``Connections`` decides.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Flow
from codio_dht.errors import CapacityError
from codio_dht.net.charging import MAX_OWED_S, Charging
from codio_dht.net.gate import Gate
from codio_dht.net.limits import (
    ARRIVALS_PER_IP_PER_S,
    MAX_ARRIVALS_PER_IP,
    MAX_ARRIVING_IPS,
    Limits,
)
from codio_dht.net.link import Link, now
from codio_dht.net.targets import Ip


class InboundLinks:
    """Counts inbound links and decides which are served. Call ``ended`` once for each admitted
    link."""

    def __init__(
        self, gate: Gate, limits: Limits, charging: Charging, counters: Counter[str]
    ) -> None:
        self._gate = gate
        self._charging = charging
        self._limits = limits
        self._counters = counters
        self._of_ip: Counter[bytes] = Counter()
        self._of_subnet: Counter[bytes] = Counter()
        self._arrivals = Arrivals()
        self._pending: dict[Link, None] = {}  # oldest first
        self._counted: set[Link] = set()

    @property
    def pending(self) -> list[Link]:
        """Inbound links in their handshake, oldest first."""
        return list(self._pending)

    def refusal(self, ip: Ip) -> str | None:
        """Why a socket from ``ip`` is not served; None if it is."""
        if not self._gate.admits_ip(ip):
            return "denied"
        if self._is_counted(ip):
            if self._of_ip[ip.one] >= self._limits.per_ip:
                return "too many of one IP"
            if self._of_subnet[ip.subnet] >= self._limits.per_subnet:
                return "too many of one subnet"
            if not self._arrivals.may_come(ip.one, now()):
                return "too often from one IP"
            origins = self._charging.origins
            if origins.owed_s(origins.subnet(ip.packed), Flow.CPU, now()) > MAX_OWED_S:
                return "too much work for one origin"
        return None

    def admit(self, link: Link) -> None:
        """Serve a link; the oldest handshake makes room if there are too many."""
        if len(self._pending) >= self._limits.max_pending:
            self._counters["inbound_pending_dropped"] += 1
            oldest = next(iter(self._pending))
            oldest.end(CapacityError("too many handshakes"))
        self._pending[link] = None
        if self._is_counted(link.target.ip):
            self._counted.add(link)
            self._of_ip[link.target.ip.one] += 1
            self._of_subnet[link.target.ip.subnet] += 1

    def established(self, link: Link) -> None:
        """Its handshake is over; it stays counted by IP."""
        self._pending.pop(link, None)

    def ended(self, link: Link) -> None:
        """An admitted link is over."""
        self._pending.pop(link, None)
        ip = link.target.ip
        if link in self._counted:
            self._counted.discard(link)
            _decrement(self._of_ip, ip.one)
            _decrement(self._of_subnet, ip.subnet)

    def _is_counted(self, ip: Ip) -> bool:
        return not self._charging.exempts(ip)


def _decrement(counts: Counter[bytes], key: bytes) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


class Arrivals:
    """How often each IP comes: a bucket of ``MAX_ARRIVALS_PER_IP`` that refills with time."""

    def __init__(self, capacity: int = MAX_ARRIVING_IPS) -> None:
        self._capacity = capacity
        self._buckets: OrderedDict[bytes, tuple[float, Monotonic]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def may_come(self, who: bytes, moment: Monotonic) -> bool:
        """Whether one more connection of ``who`` is within the rate; counts it if so."""
        left, since = self._buckets.pop(who, (float(MAX_ARRIVALS_PER_IP), moment))
        left = min(left + (moment - since) * ARRIVALS_PER_IP_PER_S, float(MAX_ARRIVALS_PER_IP))
        comes = left >= 1
        self._buckets[who] = (left - comes, moment)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return comes
