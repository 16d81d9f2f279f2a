"""All members, and the truth about them: who is nearest to a key, and what a perfect table holds.

Decides, from the scenario's seed alone, ids, addresses, delays and characters. Ids are identity
multihashes of what looks like Ed25519 keys (there is nobody to sign for); addresses are public
IPv4, one host each. Knows no time but whether a member is online, which churn sets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from math import exp
from random import Random
from typing import Final

from codio_dht.core.keyspace import Key, distance, key_of
from codio_dht.core.messages import PeerEntry
from codio_dht.core.peer import PeerId
from codio_dht.formats.multiaddr import P_IP4, P_QUIC_V1, P_UDP, is_public, join
from codio_dht.formats.multihash import IDENTITY
from codio_dht.params import KEY_BITS
from codio_dht.sim.scenario import CHARACTERS, Scenario

_ED25519_ID: Final = bytes((IDENTITY, 0x24, 0x08, 0x01, 0x12, 0x20))
"""Identity multihash of 36 bytes: a protobuf public key of type Ed25519, 32 bytes."""

_QUIC: Final = join(((P_UDP, (4001).to_bytes(2, "big")), (P_QUIC_V1, b"")))
"""/udp/4001/quic-v1"""

_GRIND_MARGIN_BITS: Final = 6
"""Attackers' ids share so many bits more with their key than the nearest of an honest network."""


class Character(Enum):
    """What a member does when it is dialled or asked. Most are called as their share in the
    scenario (:class:`~codio_dht.sim.scenario.NetworkPart`)."""

    HONEST = "honest"
    SILENT = "silent"
    """Dead: a dial is swallowed."""
    REFUSING = "refusing"
    """Dead: a dial is refused."""
    MUTE = "mute"
    FAR = "far"
    COLLUDING = "colluding"
    FLOODING = "flooding"
    GHOSTS = "ghosts"
    FORGING = "forging"
    ECLIPSING = "eclipsing"

    @property
    def is_dead(self) -> bool:
        """Whether the member is never online."""
        return self in (Character.SILENT, Character.REFUSING)

    @property
    def lies(self) -> bool:
        """Whether the member answers with lies."""
        return self not in (Character.HONEST, Character.MUTE) and not self.is_dead


@dataclass(slots=True, eq=False)
class Member:
    """One machine of the simulated network."""

    index: int
    peer: PeerId
    addr: bytes
    character: Character
    one_way_s: float
    nat: bool = False
    is_server: bool = True
    online: bool = field(init=False)
    refuses_when_away: bool = field(init=False)
    entry: PeerEntry = field(init=False)
    """As it stands in messages."""

    def __post_init__(self) -> None:
        self.entry = PeerEntry(self.peer, (self.addr,))
        self.online = not self.character.is_dead
        self.refuses_when_away = self.character is Character.REFUSING

    @property
    def answers(self) -> bool:
        """Whether the member is online and answers every peer that reaches it."""
        return self.online and self.is_server and self.character is not Character.MUTE

    @property
    def serves(self) -> bool:
        """Whether any peer can reach the member now and gets an answer."""
        return self.answers and not self.nat


class Population:
    """All members of the simulated network, and the truth about them."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._rng = Random(f"{scenario.seed}/population")
        self.members: list[Member] = []
        """By index: the servers first, clients behind them."""
        self._by_id: dict[PeerId, Member] = {}
        self._by_addr: dict[bytes, Member] = {}
        for _ in range(scenario.network.nodes):
            self._add(self._draw_id(), *self._draw_character())
        self.attacked = key_of(scenario.attack.preimage.encode())
        """The key that eclipsing members lie around."""
        for _ in range(scenario.attack.eclipsing):
            self._add(self._grind(self.attacked), Character.ECLIPSING, self._draw_delay())
        self.servers = len(self.members)
        """How many servers there are; clients come later."""
        self._ordered = sorted(self.members, key=lambda member: member.peer.key)
        self._keys = [member.peer.key for member in self._ordered]

    # --- who there is -----------------------------------------------------------------------------

    def by_id(self, peer: PeerId) -> Member | None:
        """The member called ``peer``; None for a ghost."""
        return self._by_id.get(peer)

    def by_addr(self, addr: bytes) -> Member | None:
        """The member that has this address, or None."""
        return self._by_addr.get(addr)

    def all_of(self, character: Character) -> list[Member]:
        """The members of one character."""
        return [each for each in self.members if each.character is character]

    def add_client(self) -> Member:
        """Add a machine that answers no requests and has no delay of its own."""
        member = self._add(self._draw_id(), Character.HONEST, 0.0)
        member.is_server = False
        return member

    def make_ghost(self, rng: Random) -> PeerEntry:
        """An id and an address that belong to no member."""
        return PeerEntry(PeerId(_ED25519_ID + rng.randbytes(32)), (self._draw_addr(rng),))

    # --- what is true -----------------------------------------------------------------------------

    def nearest(self, key: Key, n: int, keep: Callable[[Member], bool]) -> list[Member]:
        """The exact ``n`` nearest servers to ``key`` that ``keep`` accepts, nearest first.

        Servers that share leading bits with ``key`` are nearer than all others, and are neighbours
        in the order of keys. So the range of shared bits is widened until it has enough servers.
        """
        for bits in range(max(0, self.servers.bit_length() - n.bit_length()), -1, -1):
            sharing = [self._ordered[place] for place in self._sharing(key, bits)]
            found = [member for member in sharing if keep(member)]
            if len(found) >= n or bits == 0:
                found.sort(key=lambda member: distance(member.peer.key, key))
                return found[:n]
        return []

    def table_of(self, member: Member, k: int, *, online_only: bool = False) -> list[Member]:
        """What a perfect routing table of ``member`` holds: of every CPL up to ``k`` servers, a
        random choice where there are more (go's buckets). The same at every call.

        ``online_only`` leaves out members that are away now. Dead members are included in any case.
        """
        rng = Random(f"{self._scenario.seed}/table/{member.index}")
        local = member.peer.key
        table: list[Member] = []
        for cpl in range(KEY_BITS):
            if len(self._sharing(local, cpl)) <= member.is_server:
                break
            places: Sequence[int] = self._sharing(Key(local ^ (1 << (KEY_BITS - 1 - cpl))), cpl + 1)
            if online_only:
                places = [place for place in places if self._ordered[place].online]
            if len(places) > k:
                places = rng.sample(places, k)
            table += [self._ordered[place] for place in places]
        return table

    def _sharing(self, key: Key, bits: int) -> range:
        """The places, in the order of keys, of the servers that share ``bits`` leading bits with
        ``key``."""
        shift = KEY_BITS - bits
        prefix = key >> shift
        low = bisect_left(self._keys, prefix << shift)
        return range(low, bisect_left(self._keys, (prefix + 1) << shift, low))

    # --- drawing ----------------------------------------------------------------------------------

    def _add(
        self, peer: PeerId, character: Character, one_way_s: float, nat: bool = False
    ) -> Member:
        addr = self._draw_addr(self._rng)
        while addr in self._by_addr:
            addr = self._draw_addr(self._rng)
        member = Member(len(self.members), peer, addr, character, one_way_s=one_way_s, nat=nat)
        self.members.append(member)
        self._by_id[peer] = member
        self._by_addr[addr] = member
        return member

    def _draw_id(self) -> PeerId:
        return PeerId(_ED25519_ID + self._rng.randbytes(32))

    def _grind(self, key: Key) -> PeerId:
        """An id that is nearer to ``key`` than honest ids are likely to be."""
        bits = self._scenario.network.nodes.bit_length() + _GRIND_MARGIN_BITS
        shift = KEY_BITS - bits
        while True:
            data = _ED25519_ID + self._rng.randbytes(32)
            if (int.from_bytes(sha256(data).digest(), "big") ^ key) >> shift == 0:
                return PeerId(data)

    def _draw_addr(self, rng: Random) -> bytes:
        while True:
            addr = join(((P_IP4, rng.randbytes(4)),)) + _QUIC
            if is_public(addr):
                return addr

    def _draw_delay(self) -> float:
        links = self._scenario.links
        rtt_s = links.rtt_median_s * exp(links.rtt_sigma * self._rng.gauss())
        return min(rtt_s, links.rtt_max_s) / 2

    def _draw_character(self) -> tuple[Character, float, bool]:
        """Character, one-way delay, whether behind NAT."""
        network, rng = self._scenario.network, self._rng
        delay_s = self._draw_delay()
        draw = rng.random()
        refusing = rng.random() < network.refusing
        dead = Character.REFUSING if refusing else Character.SILENT
        for character in (dead, *map(Character, CHARACTERS)):
            share = network.dead if character.is_dead else getattr(network, character.value)
            if draw < share:
                return character, delay_s, False
            draw -= share
        if draw < network.slow:
            return Character.HONEST, network.slow_one_way_s, False
        return Character.HONEST, delay_s, draw - network.slow < network.nat
