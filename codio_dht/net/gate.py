"""The peers that this node talks to: deny and allow lists by IP, network (CIDR) and peer id.

The allow list wins over the deny lists. A peer on it is not counted by the limits per IP and
subnet. Beside the deny list that is given at first there is one that may be replaced at any time.
So ``Gate(deny=["0.0.0.0/0", "::/0"], allow=["192.0.2.0/24"])`` talks to one network only. The gate
applies to both directions. It is checked before an inbound socket is served, before a dial, and
when a peer has proved its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from codio_dht.core.peer import PeerId
from codio_dht.errors import PeerIdError, UsageError
from codio_dht.net.targets import Ip

_Network = IPv4Network | IPv6Network

MAX_ENTRIES: Final = 10_000
"""Entries of one list: each network is looked at for every new socket."""


class _List:
    """One list, taken apart into what can be looked up."""

    def __init__(self, entries: Iterable[str | PeerId], name: str) -> None:
        self.peers: set[PeerId] = set()
        self.ips: set[bytes] = set()
        self.networks: list[tuple[int, int, int]] = []
        for count, entry in enumerate(entries):
            if count >= MAX_ENTRIES:
                raise UsageError(f"{name}: more than {MAX_ENTRIES} entries")
            self._add(entry, name)

    def _add(self, entry: str | PeerId, name: str) -> None:
        if isinstance(entry, PeerId):
            self.peers.add(entry)
            return
        try:
            network: _Network = ip_network(entry, strict=False)
        except ValueError:
            try:
                self.peers.add(PeerId.from_string(entry))
            except PeerIdError as error:
                raise UsageError(f"{name}: {entry!r} is no IP, network or peer id") from error
            return
        if network.prefixlen == network.max_prefixlen:
            self.ips.add(network.network_address.packed)
        else:
            self.networks.append(
                (
                    network.max_prefixlen // 8,
                    int(network.netmask),
                    int(network.network_address),
                )
            )

    def has_ip(self, packed: bytes) -> bool:
        """Whether an IP, or a network that it is in, is listed."""
        if packed in self.ips:
            return True
        if not self.networks:
            return False
        size, number = len(packed), int.from_bytes(packed, "big")
        return any(
            size == width and number & mask == network for width, mask, network in self.networks
        )


class Gate:
    """Deny and allow lists, which decide which addresses and peers this node talks to.

    Raises:
        UsageError: an entry is neither an IP, nor a network, nor a peer id.
    """

    def __init__(
        self, deny: Iterable[str | PeerId] = (), allow: Iterable[str | PeerId] = ()
    ) -> None:
        self._deny = _List(deny, "deny")
        self._allow = _List(allow, "allow")
        self._denied_now = _List((), "deny")

    def set_denied(self, entries: Iterable[str | PeerId]) -> None:
        """Replace the deny list that may change.

        Raises:
            UsageError: as for the class; the list stays what it was.
        """
        self._denied_now = _List(entries, "deny")

    def admits_ip(self, ip: Ip) -> bool:
        """Whether to talk to this address at all; a peer id may still be allowed or denied."""
        return (
            self.favours_ip(ip)
            or not self._denies_ip(ip)
            or bool(self._allow.peers)  # it may turn out to be one of these
        )

    def admits(self, ip: Ip, peer_id: PeerId) -> bool:
        """Whether to talk to this peer at this address."""
        if self.favours(ip, peer_id):
            return True
        denied = peer_id in self._deny.peers or peer_id in self._denied_now.peers
        return not denied and not self._denies_ip(ip)

    def _denies_ip(self, ip: Ip) -> bool:
        return self._deny.has_ip(ip.packed) or self._denied_now.has_ip(ip.packed)

    def favours_ip(self, ip: Ip) -> bool:
        """Whether the address is on the allow list."""
        return self._allow.has_ip(ip.packed)

    def favours(self, ip: Ip, peer_id: PeerId) -> bool:
        """Whether the address or the peer is on the allow list."""
        return peer_id in self._allow.peers or self._allow.has_ip(ip.packed)
