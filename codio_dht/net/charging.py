"""Charges the ledger of origins with what connections cost: event loop time, memory and streams.

Decides who is charged at all, and what follows where an origin is at a limit:

    CPU time         the connection is read again when its origin has paid (``pause_s``)
    bytes, streams   the connection that goes past the limit is closed
    CPU time owed    no more connections are accepted (:mod:`codio_dht.net.inbound_links`)

Exempt are addresses on the operator's allow list and loopback. Private addresses are exempt as
well, unless the host is at a public address: there they are as good as any other, for packets that
claim to come from them may be forged, or come from other customers of the same provider.
"""

from __future__ import annotations

from typing import Final

from codio_dht.core.clock import Monotonic
from codio_dht.core.origins import Account, Flow, OriginLedger, Stock
from codio_dht.core.peer import PeerId
from codio_dht.formats.ip import Reach, reach_of_ip
from codio_dht.net.gate import Gate
from codio_dht.net.limits import Limits
from codio_dht.net.targets import Ip

MAX_PAUSE_S: Final = 5.0
"""The longest time for which one connection is not read because its origin has not paid, in
seconds: keep-alives are answered within it. What is owed beyond that is owed still."""

MAX_OWED_S: Final = 1.0
"""An origin that is this far behind with its payment of CPU time may begin no more connections, in
seconds."""

BYTES_STEP: Final = 4 * 1024
"""The bytes that one connection holds are charged in steps of so many, so that most reads change
nothing."""

STREAMS_STEP: Final = 16
"""The streams of one connection are charged in steps of so many."""


class Charging:
    """Charges the ledger of origins with what the connections of one host cost."""

    def __init__(self, origins: OriginLedger, gate: Gate, limits: Limits) -> None:
        self.origins = origins
        self.public = False
        """Whether the host is at a public address."""
        self._gate = gate
        self._exempt_local = limits.exempt_local

    def exempts(self, ip: Ip) -> bool:
        """Whether connections with this address are charged to nobody."""
        if self._gate.favours_ip(ip):
            return True
        if not (ip.local and self._exempt_local):
            return False
        return not self.public or reach_of_ip(ip.packed) is Reach.LOOPBACK

    def subnet(self, ip: Ip) -> Account | None:
        """Who pays for a connection with this address before its peer is known."""
        return None if self.exempts(ip) else self.origins.subnet(ip.packed)

    def peer(self, ip: Ip, peer_id: PeerId) -> Account | None:
        """Who pays for a connection of this peer."""
        return None if self.exempts(ip) else self.origins.peer(ip.packed, peer_id.to_bytes())


class Charges:
    """What one connection costs. Charges to nobody while its account is None.

    States: open, closed (:meth:`close`). While it is closed it holds nothing; the time of its last
    turn is charged still.
    """

    __slots__ = ("_account", "_bytes", "_closed", "_kept", "_origins", "_streams")

    def __init__(self, origins: OriginLedger, account: Account | None) -> None:
        self._origins = origins
        self._account = account
        self._kept: Account | None = None
        """The account that must not be forgotten, as this connection is charged to it."""
        self._closed = False
        self._bytes = 0
        self._streams = 0

    @property
    def account(self) -> Account | None:
        """Who pays."""
        return self._account

    def move(self, account: Account | None) -> None:
        """``account`` pays from now on, also for what is held. A no-op once closed."""
        if self._closed:
            return
        held, streams = self._bytes, self._streams
        self._give_back()
        self._account = self._kept = account
        if account is not None:
            self._origins.keep(account)
            self._bytes, self._streams = held, streams
            self._origins.force(account, Stock.BYTES, held)
            self._origins.force(account, Stock.STREAMS, streams)

    def pause_s(self, spent_s: float, now: Monotonic) -> float:
        """The connection took ``spent_s`` seconds of the event loop; how long it may not be read
        now."""
        account = self._account
        if account is None:
            return 0.0
        return min(self._origins.spend(account, Flow.CPU, spent_s, now), MAX_PAUSE_S)

    def within(self, held_bytes: int, streams: int) -> str | None:
        """The connection holds this much now; what it holds too much of, if it does."""
        account = self._account
        if account is None or self._closed:
            return None
        grown = held_bytes - self._bytes
        if grown >= BYTES_STEP or (grown < 0 and -grown >= BYTES_STEP):
            self._bytes = held_bytes
            if not self._charge(account, Stock.BYTES, grown):
                return "bytes"
        grown = streams - self._streams
        if grown >= STREAMS_STEP or (grown < 0 and -grown >= STREAMS_STEP):
            self._streams = streams
            if not self._charge(account, Stock.STREAMS, grown):
                return "streams"
        return None

    def close(self) -> None:
        """The connection is over: give everything back. Idempotent."""
        self._closed = True
        self._give_back()

    def _give_back(self) -> None:
        account = self._account
        if account is not None:
            self._origins.release(account, Stock.BYTES, self._bytes)
            self._origins.release(account, Stock.STREAMS, self._streams)
        self._bytes = self._streams = 0
        if self._kept is not None:
            self._origins.let_go(self._kept)
            self._kept = None

    def _charge(self, account: Account, stock: Stock, grown: int) -> bool:
        if grown > 0:
            return self._origins.force(account, stock, grown)
        self._origins.release(account, stock, -grown)
        return True
