"""The ledger of origins: who caused which cost, and how much of it one origin may cause.

An origin is charged at three levels: the peer, its subnet (IPv4 /24, IPv6 /56) and its IP group
(:func:`codio_dht.formats.ip.group_of_ip`). Identities cost nothing, addresses in one network cost
little, and networks in many places are what a stranger does not have. So a limit holds at each
level, and each level is limited more tightly, for what it can reach, than all origins together.

Two kinds of costs:

    stocks   what is held at this moment: bytes, streams, records. Charged with
             :meth:`OriginLedger.hold`, and given back with :meth:`OriginLedger.release`.
    flows    what is used up: CPU time, events, disk of records. Charged with
             :meth:`OriginLedger.spend`, where the work is done already and the origin has to wait
             for its next turn, or with :meth:`OriginLedger.afford`, where it can still be refused.

One rule decides about stocks: an origin may hold no more than its limit, and no more than what is
free. So n origins that take all they can get leave ``1 / (n + 1)`` of the whole to everybody else
(dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches", 1998). Nobody's holding has to be taken away to make room for who holds little, and the
heaviest origin is the first to be refused.

One rule decides about flows: each origin has a rate, and may use in one go what it left unused for
a while (a token bucket, kept as the time until which the origin has paid). When the node is short
of time, :attr:`OriginLedger.pressure` divides the rate of CPU time
(:mod:`codio_dht.core.shedding`), but not what an origin may use in one go: that is worth little to
whoever uses much, and a handshake or two to all others.

Never reads a clock, and never refuses anything itself: callers ask, and act.

Bound: ``MAX_ACCOUNTS`` accounts. Past it an old account that holds nothing and has used nothing
lately is forgotten; if there is none among the oldest, the lightest of these is. The accounts of
open connections (:meth:`OriginLedger.keep`), and those of their subnets and groups, are never
forgotten: whoever forgot one would open a second account of the same origin, with limits of its
own. There are at most three for each connection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_network
from math import inf
from typing import Final, NamedTuple

from codio_dht.core.clock import Monotonic
from codio_dht.formats.ip import IPV4_BYTES, group_of_ip, ip_prefix

MAX_ACCOUNTS: Final = 32_768
"""Accounts remembered, of all levels together: some 18 MB. The public network has about 10,000
servers, and the rest are those that came lately."""

_EXAMINED: Final = 16
"""The oldest accounts among which one is chosen to be forgotten."""

_IPV4_SUBNET_BYTES: Final = 3
_IPV6_SUBNET_BYTES: Final = 7


class Level(IntEnum):
    """How much of the internet an account stands for."""

    PEER = 0
    """One peer in one subnet."""
    SUBNET = 1
    """An IPv4 /24 or an IPv6 /56: what one customer of a provider has."""
    GROUP = 2
    """An IP group: about what one provider has (IPv4 /16, IPv6 /32)."""


class Stock(IntEnum):
    """What an origin holds."""

    BYTES = 0
    """Memory that its connections hold, in bytes: unread, unfinished and unsent messages."""
    STREAMS = 1
    """Streams that it opened and that are not over."""


class Flow(IntEnum):
    """What an origin uses up."""

    CPU = 0
    """Time of the event loop, in seconds."""
    EVENTS = 1
    """Messages about itself (identify, and identify push) that were read and passed on."""
    RECORD_BYTES = 2
    """Disk that its records take, in bytes (estimated): provider records and values. A record lives
    48 h, so what an origin may use of this flow in 48 h bounds what is kept of it at any time."""


class Held(NamedTuple):
    """The limits of a stock: what one origin of each level may hold, and all together."""

    peer: int
    subnet: int
    group: int
    total: int


class Rate(NamedTuple):
    """The limits of a flow: units per second of one origin of each level, and how many seconds'
    worth of them may be used in one go."""

    peer: float
    subnet: float
    group: float
    burst_s: float


MIB: Final = 1024 * 1024

RECORD_LIFE_S: Final = 48 * 3600.0
"""How long a record is kept, in seconds: for so long its origin's account must be remembered."""

DEFAULT_STOCKS: Final[Mapping[Stock, Held]] = {
    # An honest peer holds a few KiB. A /24 of attackers gets 16 MiB, which with what Python needs
    # beside them stays within 64 MiB; the total is what a small machine can spare.
    Stock.BYTES: Held(8 * MIB, 16 * MIB, 48 * MIB, 256 * MIB),
    # A stream costs 3 KiB. rust-libp2p opens at most 512 on a connection, others a few.
    Stock.STREAMS: Held(1_024, 2_048, 8_192, 65_536),
}
"""The limits of a node as shipped."""

DEFAULT_FLOWS: Final[Mapping[Flow, Rate]] = {
    # A request costs 0.1 ms, so a /24 may ask 1,000 times a second, for ever. The busiest servers
    # of the public network see some hundreds a second, from everybody.
    Flow.CPU: Rate(0.08, 0.1, 0.2, 2.0),
    # A peer says who it is when it connects, and when its addresses change.
    Flow.EVENTS: Rate(2.0, 16.0, 64.0, 16.0),
    # In 48 h at most 4.5 MiB in one go and as much again: 9 MiB, some 20,000 records. A peer that
    # provides three million keys, every 22 h, to 10,000 servers stays within it.
    Flow.RECORD_BYTES: Rate(27.0, 27.0, 108.0, RECORD_LIFE_S),
}
"""The limits of a node as shipped."""


class Origin(NamedTuple):
    """Who is charged, from the largest owner to the smallest: the path that queues take turns by
    (:mod:`codio_dht.core.turns`)."""

    group: str
    subnet: bytes
    peer: bytes = b""


def origin_of(ip: bytes, peer: bytes = b"") -> Origin:
    """The origin of a peer at the address ``ip`` (4 or 16 bytes)."""
    return Origin(group_of_ip(ip), subnet_of(ip), peer)


def subnet_of(ip: bytes) -> bytes:
    """The IPv4 /24 or IPv6 /56 of an address, as the first bytes of it."""
    return ip_prefix(ip, _IPV4_SUBNET_BYTES, _IPV6_SUBNET_BYTES)


class Account:
    """What one origin holds and has used. Written by :class:`OriginLedger` alone."""

    __slots__ = ("held", "ip", "key", "level", "paid_until", "parent", "refused", "users")

    def __init__(self, key: object, level: Level, parent: Account | None, ip: bytes) -> None:
        self.key = key
        self.level = level
        self.parent = parent
        self.ip = ip
        """The address that was seen last: of a subnet or group, one of its addresses."""
        self.held = [0] * len(Stock)
        self.paid_until = [-inf] * len(Flow)
        self.users = 0
        """Connections that it is kept for, and accounts of which it is the parent."""
        self.refused = 0
        """How often this account was at a limit since :meth:`OriginLedger.take_refused`."""

    @property
    def subnet(self) -> bytes:
        """Its subnet as :func:`subnet_of` gives it; of a group, one of its subnets."""
        return subnet_of(self.ip)

    @property
    def network(self) -> str:
        """The network that the account stands for, in CIDR form."""
        if self.level is Level.GROUP:
            return group_of_ip(self.ip)
        bits = 24 if len(self.ip) == IPV4_BYTES else 56
        return str(ip_network((self.ip, bits), strict=False))


@dataclass(frozen=True, slots=True)
class Refusals:
    """An account that was at a limit."""

    network: str
    ip: bytes
    """One of its addresses, the one that was seen last."""
    level: Level
    times: int
    """How often it was at a limit."""


class OriginLedger:
    """Who caused which cost, and how much of it one origin may cause."""

    def __init__(
        self,
        *,
        stocks: Mapping[Stock, Held] = DEFAULT_STOCKS,
        flows: Mapping[Flow, Rate] = DEFAULT_FLOWS,
        max_accounts: int = MAX_ACCOUNTS,
    ) -> None:
        self._limits = [tuple(stocks[stock][:3]) for stock in Stock]
        self._totals = [stocks[stock].total for stock in Stock]
        self._rates = [tuple(flows[flow][:3]) for flow in Flow]
        self._bursts = [flows[flow].burst_s for flow in Flow]
        self._held = [0] * len(Stock)
        self._max_accounts = max_accounts
        self._accounts: dict[object, Account] = {}
        self._unused: OrderedDict[object, Account] = OrderedDict()
        """Those without users, the one that was asked for longest ago first."""
        self._latest = Monotonic(-inf)
        """The latest time that was given."""
        self.pressure = 1.0
        """By how much the rates of CPU time are divided now; 1 where the node has time enough."""
        self.refusals = 0
        """How often an origin was at a limit, since the start."""

    def __len__(self) -> int:
        return len(self._accounts)

    # --- accounts ---------------------------------------------------------------------------------

    def subnet(self, ip: bytes) -> Account:
        """The account of the subnet that the address ``ip`` is in."""
        key = subnet_of(ip)
        return self._found(key, ip) or self._open(key, Level.SUBNET, self._group(ip), ip)

    def peer(self, ip: bytes, peer: bytes) -> Account:
        """The account of ``peer`` at the address ``ip``."""
        key = (subnet_of(ip), peer)
        return self._found(key, ip) or self._open(key, Level.PEER, self.subnet(ip), ip)

    def _group(self, ip: bytes) -> Account:
        key = group_of_ip(ip)
        return self._found(key, ip) or self._open(key, Level.GROUP, None, ip)

    def keep(self, account: Account) -> None:
        """A connection is charged to ``account``: it is not forgotten before :meth:`let_go` was
        called as often."""
        account.users += 1
        self._unused.pop(account.key, None)

    def let_go(self, account: Account) -> None:
        """A connection that was charged to ``account`` is over."""
        account.users -= 1
        if not account.users:
            self._unused[account.key] = account

    def _found(self, key: object, ip: bytes) -> Account | None:
        account = self._accounts.get(key)
        if account is not None:
            account.ip = ip
            if not account.users:
                self._unused.move_to_end(key)
        return account

    def _open(self, key: object, level: Level, parent: Account | None, ip: bytes) -> Account:
        if parent is not None:
            self.keep(parent)
        while len(self._accounts) >= self._max_accounts and self._unused:
            self._forget_one()
        account = self._accounts[key] = self._unused[key] = Account(key, level, parent, ip)
        return account

    def _forget_one(self) -> None:
        """Forget the lightest of the oldest accounts without users."""
        lightest, least = None, inf
        for count, account in enumerate(self._unused.values()):
            load = max(*self._stock_loads(account), *self._flow_loads(account, self._latest))
            if load < least:
                lightest, least = account, load
            if load == 0 or count + 1 >= _EXAMINED:
                break
        assert lightest is not None
        del self._accounts[lightest.key], self._unused[lightest.key]
        if lightest.parent is not None:
            self.let_go(lightest.parent)

    # --- stocks -----------------------------------------------------------------------------------

    def hold(self, account: Account, stock: Stock, amount: int = 1) -> bool:
        """Charge ``amount`` more. False, and a no-op: that is past a limit of the origin, or more
        than what is free."""
        limits, free = self._limits[stock], self._totals[stock] - self._held[stock]
        owner: Account | None = account
        while owner is not None:
            held = owner.held[stock] + amount
            if held > limits[owner.level] or held > free:
                self._refused(owner)
                return False
            owner = owner.parent
        self._add(account, stock, amount)
        return True

    def force(self, account: Account, stock: Stock, amount: int) -> bool:
        """Charge what is held already, whether it may be or not; whether it may."""
        allowed = self.hold(account, stock, amount)
        if not allowed:
            self._add(account, stock, amount)
        return allowed

    def release(self, account: Account, stock: Stock, amount: int = 1) -> None:
        """Give ``amount`` back."""
        self._add(account, stock, -amount)

    def _add(self, account: Account, stock: Stock, amount: int) -> None:
        self._held[stock] = max(self._held[stock] + amount, 0)
        owner: Account | None = account
        while owner is not None:
            owner.held[stock] = max(owner.held[stock] + amount, 0)
            owner = owner.parent

    def held(self, stock: Stock) -> int:
        """What all origins hold together."""
        return self._held[stock]

    # --- flows ------------------------------------------------------------------------------------

    def spend(self, account: Account, flow: Flow, amount: float, now: Monotonic) -> float:
        """Charge what has been used; for how many seconds the origin should have to wait before it
        uses more. 0 as long as it is within its rate."""
        burst_s = self._bursts[flow]
        if flow is Flow.CPU:
            amount *= self.pressure
            burst_s *= self.pressure  # what was left unused is worth as much as before
        self._latest = now
        rates, earliest = self._rates[flow], now - burst_s
        paid_until: float = now
        owner: Account | None = account
        while owner is not None:
            paid = owner.paid_until[flow]
            if paid < earliest:  # noqa: PLR1730 - max() costs three times that, on every read
                paid = earliest
            owner.paid_until[flow] = paid = paid + amount / rates[owner.level]
            if paid > paid_until:  # noqa: PLR1730 - as above
                paid_until = paid
            owner = owner.parent
        return paid_until - now

    def afford(self, account: Account, flow: Flow, now: Monotonic, amount: float = 1) -> bool:
        """Charge ``amount`` if that is within the rate of the origin. False, and a no-op: it is
        not."""
        affordable = self.affords(account, flow, now, amount)
        if affordable:
            self.spend(account, flow, amount, now)
        return affordable

    def affords(self, account: Account, flow: Flow, now: Monotonic, amount: float = 1) -> bool:
        """Whether ``amount`` is within the rate of the origin. Nothing is charged; if it is not,
        that counts as a refusal."""
        rates, earliest = self._rates[flow], now - self._bursts[flow]
        owner: Account | None = account
        while owner is not None:
            if max(owner.paid_until[flow], earliest) + amount / rates[owner.level] > now:
                self._refused(owner)
                return False
            owner = owner.parent
        return True

    def owed_s(self, account: Account, flow: Flow, now: Monotonic) -> float:
        """How many seconds the origin, at any level, is past its rate; 0 if it is within it."""
        owed = 0.0
        owner: Account | None = account
        while owner is not None:
            owed = max(owed, owner.paid_until[flow] - now)
            owner = owner.parent
        return owed

    # --- who was at a limit -----------------------------------------------------------------------

    def take_refused(self) -> list[Refusals]:
        """The accounts that were at a limit since this was called last, the one that was most often
        first."""
        found = [account for account in self._accounts.values() if account.refused]
        told = [
            Refusals(account.network, account.ip, account.level, account.refused)
            for account in sorted(found, key=lambda account: -account.refused)
        ]
        for account in found:
            account.refused = 0
        return told

    def _refused(self, account: Account) -> None:
        account.refused += 1
        self.refusals += 1

    def _stock_loads(self, account: Account) -> list[float]:
        return [account.held[stock] / self._limits[stock][account.level] for stock in Stock]

    def _flow_loads(self, account: Account, now: Monotonic) -> list[float]:
        return [
            max(0.0, 1 + (account.paid_until[flow] - now) / self._bursts[flow]) for flow in Flow
        ]


class RecordOrigin:
    """Where a record comes from at this moment, and who pays for the disk that it takes."""

    __slots__ = ("_account", "_ledger", "_now")

    def __init__(self, ledger: OriginLedger, account: Account, now: Monotonic) -> None:
        self._ledger = ledger
        self._account = account
        self._now = now

    @property
    def subnet(self) -> bytes:
        """As :func:`subnet_of` gives it."""
        return self._account.subnet

    def affords(self, size: float) -> bool:
        """Whether the origin may have ``size`` bytes of disk more."""
        return self._ledger.affords(self._account, Flow.RECORD_BYTES, self._now, size)

    def pay(self, size: float) -> None:
        """Charge the origin with ``size`` bytes of disk."""
        self._ledger.spend(self._account, Flow.RECORD_BYTES, size, self._now)
