"""How much a stranger's word may make this node dial: bounds for each machine and each network.

Whoever names an address decides whose machine this node knocks at, and a word is cheap. Therefore
an address that only others gave is dialled within these bounds, whoever gave it:

- no port below ``MIN_HEARD_PORT``: behind these are the services of machines, and not peers;
- of one machine at most ``MAX_HEARD_PORTS`` ports within ``HEARD_PORTS_MEMORY_S``;
- one machine once in ``TARGET_INTERVAL_S``, and one network (IPv4 /24, IPv6 /48) once in
  ``NETWORK_INTERVAL_S``, after the few that may go at once.

A dial that comes too early waits its turn, if that is at most ``MAX_TURN_WAIT_S`` away; else it is
refused, which is this node's own limit and says nothing of the peer. An address at which a peer has
proved who it is is no hearsay any more (:meth:`Hearsay.proven`), and what a person gave never was.

No I/O. Bounds: ``MAX_TARGETS`` machines, as many networks, ``MAX_PROVEN_ADDRS`` addresses; past
each the one used least recently is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.net.targets import Carrier, Target

MIN_HEARD_PORT: Final = 1024
"""Ports below it are dialled only where a person gave them, or a peer was met there before: they
are those of mail, name and remote-login services."""

MAX_HEARD_PORTS: Final = 8
"""Ports of one machine, over TCP and UDP together, that are dialled on others' word within
``HEARD_PORTS_MEMORY_S``; a further one is refused. A peer has two."""

HEARD_PORTS_MEMORY_S: Final = 600.0
"""A port of a machine counts for this long after it was dialled, seconds."""

TARGET_INTERVAL_S: Final = 1.0
"""One machine is dialled on others' word once in so many seconds, in the long run."""

TARGET_AT_ONCE: Final = 2
"""Dials of one machine that may go at once: a peer over QUIC and over TCP."""

NETWORK_INTERVAL_S: Final = 0.125
"""One IPv4 /24 or IPv6 /48 is dialled on others' word once in so many seconds, in the long run."""

NETWORK_AT_ONCE: Final = 32
"""Dials of one network that may go at once."""

MAX_TURN_WAIT_S: Final = 2.0
"""A dial whose turn comes later than this, seconds, is refused: whoever wants the peer would not
wait that long."""

MAX_TARGETS: Final = 8_192
"""Machines, and networks, that are remembered; the one dialled least recently is forgotten."""

MAX_PROVEN_ADDRS: Final = 8_192
"""Addresses at which a peer was met; the one where that was longest ago is forgotten."""

_Port = tuple[Carrier, int]


class _Turns:
    """When each of many is next in turn (the generic cell rate algorithm): kept as the time up to
    which turns are taken."""

    def __init__(self, interval_s: float, at_once: int) -> None:
        self._interval_s = interval_s
        self._ahead_s = interval_s * (at_once - 1)
        self._taken_until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._taken_until)

    def wait_s(self, key: bytes, now: Monotonic) -> float:
        """How long it is until the next turn of ``key``."""
        return max(0.0, self._taken_until.get(key, now) - self._ahead_s - now)

    def take(self, key: bytes, now: Monotonic) -> None:
        """Take the next turn of ``key``."""
        taken_until = max(self._taken_until.pop(key, now), now)
        self._taken_until[key] = taken_until + self._interval_s
        if len(self._taken_until) > MAX_TARGETS:
            self._taken_until.popitem(last=False)


class Hearsay:
    """Bounds how often machines and networks are dialled on the word of strangers."""

    def __init__(self) -> None:
        self._of_machine = _Turns(TARGET_INTERVAL_S, TARGET_AT_ONCE)
        self._of_network = _Turns(NETWORK_INTERVAL_S, NETWORK_AT_ONCE)
        self._ports: OrderedDict[bytes, dict[_Port, Monotonic]] = OrderedDict()
        self._proven: OrderedDict[tuple[bytes, PeerId], None] = OrderedDict()

    def __len__(self) -> int:
        """Machines remembered."""
        return len(self._ports)

    def proven(self, addr: bytes, peer_id: PeerId) -> None:
        """The peer proved who it is at this address, where it was dialled."""
        self._proven[addr, peer_id] = None
        self._proven.move_to_end((addr, peer_id))
        if len(self._proven) > MAX_PROVEN_ADDRS:
            self._proven.popitem(last=False)

    def is_proven(self, addr: bytes, peer_id: PeerId) -> bool:
        """Whether the peer was met at this address."""
        return (addr, peer_id) in self._proven

    def turn(self, target: Target, now: Monotonic) -> float | None:
        """Take a turn to dial ``target``: how many seconds it is to wait for; None if it may not be
        dialled for now."""
        machine, network = target.ip.packed, target.ip.subnet
        wait_s = max(self._of_machine.wait_s(machine, now), self._of_network.wait_s(network, now))
        if wait_s > MAX_TURN_WAIT_S or not self._take_port(target, now):
            return None
        self._of_machine.take(machine, now)
        self._of_network.take(network, now)
        return wait_s

    def _take_port(self, target: Target, now: Monotonic) -> bool:
        ports = self._ports.pop(target.ip.packed, {})
        self._ports[target.ip.packed] = ports
        if len(self._ports) > MAX_TARGETS:
            self._ports.popitem(last=False)
        for port in [port for port, dialled_at in ports.items() if _is_over(dialled_at, now)]:
            del ports[port]
        port = target.carrier, target.port
        if port not in ports and len(ports) >= MAX_HEARD_PORTS:
            return False
        ports[port] = now
        return True


def _is_over(dialled_at: Monotonic, now: Monotonic) -> bool:
    return now - dialled_at >= HEARD_PORTS_MEMORY_S
