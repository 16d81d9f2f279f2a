"""Names in multiaddrs: ``/dnsaddr``, ``/dns``, ``/dns4`` and ``/dns6`` become addresses with an IP.

``/dnsaddr/<host>`` stands for the multiaddrs in the TXT records of ``_dnsaddr.<host>``, each
written ``dnsaddr=<multiaddr>``; only those that end with what follows the host in the asked
address (the ``/p2p/<id>``) are meant, and they may be names again (multiformats/multiaddr,
protocols/DNSADDR).

Whoever owns a name decides what it says, so everything is bounded: ``MAX_DEPTH`` names deep,
``MAX_LOOKUPS`` questions, ``MAX_RESOLVED`` results, ``MAX_TXT_ENTRIES`` of one answer; past a
bound the rest is left out. An entry that names another peer than the one asked for is left out
too. Never blocks the event loop: dnspython on trio asks the servers of the system's
configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.resolver
import trio
from dns.rdatatype import RdataType
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import CodioError, DeadlineError, FormatError, NetworkError
from codio_dht.formats.multiaddr import split_peer_id
from codio_dht.formats.text import read_multiaddr

MAX_DEPTH: Final = 4
"""Names a ``/dnsaddr`` may lead through (the public bootstrap list needs 2)."""

MAX_LOOKUPS: Final = 16
"""Questions asked for one list of addresses."""

MAX_RESOLVED: Final = 64
"""Addresses that one list of addresses may become."""

MAX_TXT_ENTRIES: Final = 128
"""Entries read of one TXT answer."""

MAX_ENTRY_CHARS: Final = 1_024
"""A longer entry is left out."""

MAX_CACHED_ANSWERS: Final = 1_024
"""DNS answers kept until their TTL ends; then the least used one makes room."""

MAX_HOSTS_BYTES: Final = 256 * 1024
"""Most that is read of the hosts file."""

QUESTION_TIMEOUT_S: Final = 5.0
"""One question, all servers and repetitions together, seconds."""

NAME_PROTOCOLS: Final = frozenset({"dns", "dns4", "dns6", "dnsaddr"})

_PREFIX: Final = "dnsaddr="
_HOSTS_FILE: Final = Path("/etc/hosts")
_LOCALHOST: Final = {4: ["127.0.0.1"], 6: ["::1"]}


# --- rules ----------------------------------------------------------------------------------------


def is_name(addr: Multiaddr) -> bool:
    """Whether the address begins with a name that has to be resolved."""
    return str(addr)[1:].partition("/")[0] in NAME_PROTOCOLS


def entries_of(texts: Iterable[str]) -> list[Multiaddr]:
    """The multiaddrs of a TXT answer; what is not one is left out."""
    found: dict[Multiaddr, None] = {}
    for _, text in zip(range(MAX_TXT_ENTRIES), texts, strict=False):
        if not text.startswith(_PREFIX) or len(text) > MAX_ENTRY_CHARS:
            continue
        try:
            entry = read_multiaddr(text.removeprefix(_PREFIX))
        except FormatError:
            continue
        if entry.to_bytes():
            found[entry] = None
    return list(found)


def matching(entries: Iterable[Multiaddr], suffix: str, peer_id: PeerId | None) -> list[Multiaddr]:
    """The entries that end with ``suffix`` ("" for all) and do not name another peer."""
    return [
        entry
        for entry in entries
        if str(entry).endswith(suffix) and (peer_id is None or _peer_of(entry) in (None, peer_id))
    ]


def _peer_of(addr: Multiaddr) -> PeerId | None:
    _, peer_id = split_peer_id(addr.to_bytes())
    return None if peer_id is None else PeerId(peer_id)


# --- asking ---------------------------------------------------------------------------------------


class NameServers(Protocol):
    """Who answers questions about names."""

    async def texts(self, name: str) -> list[str]:
        """The TXT records of ``name``, each joined to one text.

        Raises:
            NetworkError: no answer, or none that is usable.
        """
        ...

    async def ips(self, name: str, ip_version: int) -> list[str]:
        """The addresses of ``name``, IPv4 or IPv6; may be empty.

        Raises:
            NetworkError: no answer, or none that is usable.
        """
        ...


class SystemNameServers:
    """The system's configuration: its hosts file and its name servers."""

    def __init__(
        self, resolver: dns.asyncresolver.Resolver | None = None, hosts: Path = _HOSTS_FILE
    ) -> None:
        self._resolver = resolver
        self._hosts_file = hosts
        self._hosts: dict[tuple[str, int], list[str]] | None = None

    async def texts(self, name: str) -> list[str]:
        """The TXT records of ``name``."""
        answer = await self._ask(name, RdataType.TXT)
        return [
            b"".join(record.strings).decode("utf-8", "replace") for record in answer.rrset or ()
        ]

    async def ips(self, name: str, ip_version: int) -> list[str]:
        """The addresses of ``name``."""
        known = self._known(name, ip_version)
        if known:
            return known
        answer = await self._ask(name, RdataType.A if ip_version == 4 else RdataType.AAAA)
        return [record.address for record in answer.rrset or ()]

    async def _ask(self, name: str, kind: RdataType) -> dns.resolver.Answer:
        try:
            if self._resolver is None:
                self._resolver = _system_resolver()
            return await self._resolver.resolve(
                name, kind, raise_on_no_answer=False, lifetime=QUESTION_TIMEOUT_S
            )
        except (dns.exception.DNSException, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise NetworkError(f"cannot resolve {name}: {reason}") from error

    def _known(self, name: str, ip_version: int) -> list[str]:
        name = name.rstrip(".").lower()
        if self._hosts is None:
            self._hosts = _read_hosts(self._hosts_file)
        known = self._hosts.get((name, ip_version), [])
        if not known and (name == "localhost" or name.endswith(".localhost")):
            return _LOCALHOST[ip_version]  # RFC 6761: never asked of a server
        return known


def _system_resolver() -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver()
    resolver.cache = dns.resolver.LRUCache(MAX_CACHED_ANSWERS)
    return resolver


def _read_hosts(path: Path) -> dict[tuple[str, int], list[str]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(MAX_HOSTS_BYTES).splitlines()
    except OSError:
        return {}
    hosts: dict[tuple[str, int], list[str]] = {}
    for line in lines:
        ip, *names = line.partition("#")[0].split() or [""]
        try:
            version = ip_address(ip).version
        except ValueError:
            continue
        for name in names:
            hosts.setdefault((name.lower(), version), []).append(ip)
    return hosts


# --- resolving ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """One list of addresses being resolved: what is found, and what was spent on it."""

    servers: NameServers
    peer_id: PeerId | None
    found: dict[Multiaddr, None] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.found) >= MAX_RESOLVED

    def may_ask(self, question: str) -> bool:
        """Whether ``question`` is new and within the bound; notes it if so."""
        if question in self.asked or len(self.asked) >= MAX_LOOKUPS:
            return False
        self.asked.add(question)
        return True


async def resolve(
    addrs: Sequence[Multiaddr],
    deadline: Monotonic,
    *,
    peer_id: PeerId | None = None,
    servers: NameServers,
) -> list[Multiaddr]:
    """``addrs`` without names: those with an IP as they are, the names resolved.

    With ``peer_id``, addresses that name another peer are left out.

    Raises:
        NetworkError: nothing came of it; the message says why for each name.
        DeadlineError: the deadline passed first, and nothing was found before.
    """
    run = _Run(servers, peer_id)
    with trio.move_on_at(deadline) as scope:
        for addr in matching(addrs, "", peer_id):
            await _resolve(run, addr, MAX_DEPTH)
    if run.found:
        return list(run.found)[:MAX_RESOLVED]
    if scope.cancelled_caught:
        raise DeadlineError("no answer from the name servers before the deadline")
    raise NetworkError("; ".join(run.errors) or "no usable address")


async def peers_named_by(
    addr: Multiaddr, deadline: Monotonic, *, servers: NameServers
) -> list[Multiaddr]:
    """The addresses, each with a peer id at its end, that a ``/dnsaddr/HOST`` without one lists.

    Entries that are such names themselves are followed; an address of a peer is kept as it is, also
    where it begins with a name. Entries without a peer id lead to nobody and are left out.

    Raises:
        NetworkError: the name lists no peer; the message says why.
        DeadlineError: the deadline passed first, and nothing was found before.
    """
    run = _Run(servers, None)
    with trio.move_on_at(deadline) as scope:
        await _find_named(run, addr, MAX_DEPTH)
    if run.found:
        return list(run.found)[:MAX_RESOLVED]
    if scope.cancelled_caught:
        raise DeadlineError("no answer from the name servers before the deadline")
    raise NetworkError("; ".join(run.errors) or f"{addr} lists no peer")


async def _find_named(run: _Run, addr: Multiaddr, depth: int) -> None:
    name = dnsaddr_name(addr)
    if name is None or depth == 0 or not run.may_ask(name):
        return
    try:
        entries = entries_of(await run.servers.texts(f"_dnsaddr.{name}"))
    except CodioError as error:
        run.errors.append(str(error))
        return
    for entry in entries:
        if _peer_of(entry) is not None:
            run.found[entry] = None
        else:
            await _find_named(run, entry, depth - 1)


def dnsaddr_name(addr: Multiaddr) -> str | None:
    """``HOST`` of an address that is nothing but ``/dnsaddr/HOST``; None of any other."""
    _, protocol, *rest = str(addr).split("/")
    return rest[0] if protocol == "dnsaddr" and len(rest) == 1 else None


async def _resolve(run: _Run, addr: Multiaddr, depth: int) -> None:
    if run.is_full:
        return
    if not is_name(addr):
        run.found[addr] = None
        return
    _, protocol, name, *rest = str(addr).split("/", 3)
    suffix = f"/{rest[0]}" if rest else ""
    try:
        if protocol == "dnsaddr":
            await _resolve_dnsaddr(run, name, suffix, depth)
        else:
            await _resolve_ips(run, protocol, name, suffix)
    except CodioError as error:
        run.errors.append(str(error))


async def _resolve_dnsaddr(run: _Run, name: str, suffix: str, depth: int) -> None:
    question = f"_dnsaddr.{name}"
    if depth == 0:
        run.errors.append(f"{name} leads through more than {MAX_DEPTH} names")
        return
    if not run.may_ask(f"{question} {suffix}"):
        return
    entries = matching(entries_of(await run.servers.texts(question)), suffix, run.peer_id)
    if not entries:
        run.errors.append(f"{name} has no dnsaddr for {suffix or 'anyone'}")
    for entry in entries:
        await _resolve(run, entry, depth - 1)


async def _resolve_ips(run: _Run, protocol: str, name: str, suffix: str) -> None:
    versions = {"dns": (4, 6), "dns4": (4,), "dns6": (6,)}[protocol]
    for version in versions:
        if not run.may_ask(f"{name} ip{version} {suffix}"):
            continue
        for ip in await run.servers.ips(name, version):
            if not run.is_full:
                run.found[Multiaddr(f"/ip{version}/{ip}{suffix}")] = None
