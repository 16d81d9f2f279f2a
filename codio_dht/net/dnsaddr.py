"""Names in multiaddrs: ``/dnsaddr``, ``/dns``, ``/dns4`` and ``/dns6`` become addresses with an IP.

``/dnsaddr/<host>`` stands for the multiaddrs in the TXT records of ``_dnsaddr.<host>``, each
written ``dnsaddr=<multiaddr>``; only those that end with what follows the host in the asked
address (the ``/p2p/<id>``) are meant, and they may be names again (multiformats/multiaddr,
protocols/DNSADDR).

A host name is resolved as the system resolves it. The hosts file comes first, and the search
domains are tried. ``localhost`` is this machine. An IP address in place of a name is taken as it
is. If a file of the system's configuration changes while the node runs, it is read again.

The owner of a name decides what it lists, so everything is bounded. What exceeds a bound is left
out. An entry that names another peer than the one asked for is left out too. A name that fails does
not hide the others. Never blocks the event loop: dnspython on trio asks the servers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.message
import dns.rcode
import dns.resolver
import trio
from dns.rdatatype import RdataType
from multiaddr import Multiaddr

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.errors import AddressError, CodioError, DeadlineError, FormatError, NetworkError
from codio_dht.formats.multiaddr import (
    P_DNS,
    P_DNS4,
    P_DNS6,
    P_DNSADDR,
    is_dns,
    join,
    split,
    split_peer_id,
)
from codio_dht.formats.text import read_multiaddr

MAX_DEPTH: Final = 4
"""Names a ``/dnsaddr`` may lead through (the public bootstrap list needs 2)."""

MAX_LOOKUPS: Final = 16
"""Questions asked for one list of addresses."""

MAX_RESOLVED: Final = 64
"""Addresses that one list of addresses may become."""

MAX_TXT_ENTRIES: Final = 512
"""``dnsaddr=`` entries read of one TXT answer; those that name the wanted peer come first."""

MAX_ENTRY_CHARS: Final = 1_024
"""A longer entry is left out."""

MAX_CACHED_ANSWERS: Final = 1_024
"""DNS answers kept until their TTL ends; then the least used one makes room."""

MAX_HOSTS_BYTES: Final = 256 * 1024
"""Most that is read of the hosts file."""

QUESTION_TIMEOUT_S: Final = 5.0
"""One question, all servers and repetitions together, seconds."""

EDNS_PAYLOAD_BYTES: Final = 1_232
"""Longest answer taken over UDP (RFC 6891; the size of DNS flag day 2020). Without saying so, no
server sends more than 512, and a longer list needs DNS over TCP, which some networks block."""

_PREFIX: Final = "dnsaddr="
_HOSTS_FILE: Final = Path("/etc/hosts")
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LOCALHOST: Final = {4: ["127.0.0.1"], 6: ["::1"]}
_IP_VERSIONS: Final = {P_DNS: (4, 6), P_DNS4: (4,), P_DNS6: (6,)}
_NO_EDNS: Final = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP})
"""How a server answers that does not know EDNS (RFC 6891, section 7)."""


# --- rules ----------------------------------------------------------------------------------------


def is_name(addr: Multiaddr) -> bool:
    """Whether the address begins with a name that has to be resolved."""
    return is_dns(addr.to_bytes())


def entries_of(texts: Iterable[str], peer_id: PeerId | None = None) -> list[Multiaddr]:
    """The multiaddrs of a TXT answer, each once. Other texts are left out. If there are more than
    ``MAX_TXT_ENTRIES``, those that name ``peer_id`` are read first."""
    candidates = [
        text.removeprefix(_PREFIX)
        for text in texts
        if text.startswith(_PREFIX) and len(text) <= MAX_ENTRY_CHARS
    ]
    if peer_id is not None:
        wanted = str(peer_id)
        candidates.sort(key=lambda text: wanted not in text)
    found: dict[Multiaddr, None] = {}
    for text in candidates[:MAX_TXT_ENTRIES]:
        try:
            entry = read_multiaddr(text)
        except FormatError:
            continue
        if entry.to_bytes():
            found[entry] = None
    return list(found)


def matching(entries: Iterable[Multiaddr], suffix: str, peer_id: PeerId | None) -> list[Multiaddr]:
    """The entries that end with the components of ``suffix`` ("" for all) and do not name another
    peer."""
    wanted = split(Multiaddr(suffix).to_bytes()) if suffix else ()
    return [
        entry
        for entry in entries
        if _ends_with(entry, wanted) and (peer_id is None or _peer_of(entry) in (None, peer_id))
    ]


def _ends_with(entry: Multiaddr, wanted: tuple[tuple[int, bytes], ...]) -> bool:
    try:
        parts = split(entry.to_bytes())
    except AddressError:
        return False
    return not wanted or parts[-len(wanted) :] == wanted


def _peer_of(addr: Multiaddr) -> PeerId | None:
    _, peer_id = split_peer_id(addr.to_bytes())
    return None if peer_id is None else PeerId(peer_id)


# --- asking ---------------------------------------------------------------------------------------


class NameServers(Protocol):
    """Answers questions about names."""

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


_T = TypeVar("_T")


class _File(Generic[_T]):
    """The result of ``read`` for a file. The file is read again when it has changed."""

    def __init__(self, path: Path, read: Callable[[Path], _T]) -> None:
        self._path = path
        self._read = read
        self._seen: tuple[int, ...] | None = None
        self._content: _T | None = None

    def content(self) -> _T:
        """What the file says now. Raises as ``read`` does."""
        seen = self._stat()
        if self._content is None or seen != self._seen:
            self._content = self._read(self._path)
            self._seen = seen
        return self._content

    def _stat(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


class SystemNameServers:
    """The system's configuration: its hosts file and its name servers.

    ``resolver`` takes the place of what the system's ``resolv.conf`` says.
    """

    def __init__(
        self, resolver: dns.asyncresolver.Resolver | None = None, hosts: Path = _HOSTS_FILE
    ) -> None:
        self._resolver = None if resolver is None else _with_edns(resolver)
        self._configured = _File(_RESOLV_CONF, _system_resolver)
        self._hosts = _File(hosts, _read_hosts)

    async def texts(self, name: str) -> list[str]:
        """The TXT records of ``name``, each joined to one text.

        Raises:
            NetworkError: no answer, or none that is usable.
        """
        answer = await self._ask(name, RdataType.TXT, search=False)
        return [
            b"".join(record.strings).decode("utf-8", "replace") for record in answer.rrset or ()
        ]

    async def ips(self, name: str, ip_version: int) -> list[str]:
        """The addresses of ``name``, IPv4 or IPv6, of the hosts file or else of the name servers.

        Raises:
            NetworkError: no answer, or none that is usable.
        """
        known = self._known(name, ip_version)
        if known:
            return known
        kind = RdataType.A if ip_version == 4 else RdataType.AAAA
        answer = await self._ask(name, kind, search=True)
        return [record.address for record in answer.rrset or ()]

    async def _ask(self, name: str, kind: RdataType, *, search: bool) -> dns.resolver.Answer:
        try:
            resolver = self._resolver or self._configured.content()
            try:
                return await _answer(resolver, name, kind, search=search)
            except dns.resolver.NoNameservers as error:
                if not _knows_no_edns(error):
                    raise
                return await _answer(_without_edns(resolver), name, kind, search=search)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise NetworkError(
                f"cannot resolve {name}: {reason}", local=_is_local(error)
            ) from error

    def _known(self, name: str, ip_version: int) -> list[str]:
        name = name.rstrip(".").lower()
        known = self._hosts.content().get((name, ip_version), [])
        if not known and (name == "localhost" or name.endswith(".localhost")):
            return _LOCALHOST[ip_version]  # RFC 6761: never asked of a server
        return known


async def _answer(
    resolver: dns.asyncresolver.Resolver, name: str, kind: RdataType, *, search: bool
) -> dns.resolver.Answer:
    return await resolver.resolve(
        name, kind, raise_on_no_answer=False, lifetime=QUESTION_TIMEOUT_S, search=search
    )


def _system_resolver(path: Path) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(filename=str(path))
    resolver.cache = dns.resolver.LRUCache(MAX_CACHED_ANSWERS)
    return _with_edns(resolver)


def _with_edns(resolver: dns.asyncresolver.Resolver) -> dns.asyncresolver.Resolver:
    resolver.use_edns(0, 0, EDNS_PAYLOAD_BYTES)
    return resolver


def _without_edns(resolver: dns.asyncresolver.Resolver) -> dns.asyncresolver.Resolver:
    plain = dns.asyncresolver.Resolver(configure=False)
    plain.nameservers, plain.port = resolver.nameservers, resolver.port
    plain.search, plain.domain, plain.ndots = resolver.search, resolver.domain, resolver.ndots
    plain.cache = resolver.cache
    return plain


def _knows_no_edns(error: dns.resolver.NoNameservers) -> bool:
    """Whether a server refused the question for its EDNS."""
    responses = [each[4] for each in _tries(error)]
    return any(
        isinstance(response, dns.message.Message) and response.rcode() in _NO_EDNS
        for response in responses
    )


def _is_local(error: Exception) -> bool:
    """Whether a question failed because there is no network or no name server. Such a failure says
    nothing about the name."""
    if isinstance(error, dns.resolver.NoNameservers):
        tries = _tries(error)
        return bool(tries) and all(isinstance(each[3], OSError) for each in tries)
    silent = dns.exception.Timeout, dns.resolver.NoResolverConfiguration, OSError
    return isinstance(error, silent)


def _tries(error: dns.resolver.NoNameservers) -> list[tuple[object, ...]]:
    """Of each try: server, over TCP or not, port, exception or text, response if there was one."""
    return list(error.kwargs.get("errors", ()))


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

_Found = list["Multiaddr | _Found"]
"""What is found of a list of addresses, in its order: of each name, a list of its own."""


@dataclass(slots=True)
class _Run:
    """The resolution of one list of addresses: its cost so far, and its failures."""

    servers: NameServers
    peer_id: PeerId | None
    asked: set[str] = field(default_factory=set)
    errors: list[NetworkError] = field(default_factory=list)

    def may_ask(self, question: str) -> bool:
        """Whether ``question`` is new and within the bound; notes it if so."""
        if question in self.asked or len(self.asked) >= MAX_LOOKUPS:
            return False
        self.asked.add(question)
        return True

    def failed(self, reason: str) -> None:
        """Note that a name failed."""
        self.errors.append(NetworkError(reason))

    def result(self, found: _Found, *, out_of_time: bool, otherwise: str) -> list[Multiaddr]:
        """What was ``found``, each address once. Raises as :func:`resolve` if that is nothing."""
        distinct = list(dict.fromkeys(_flat(found)))
        if distinct:
            return distinct[:MAX_RESOLVED]
        if out_of_time:
            raise DeadlineError("no answer from the name servers before the deadline", local=True)
        local = bool(self.errors) and all(error.local for error in self.errors)
        raise NetworkError("; ".join(map(str, self.errors)) or otherwise, local=local)


async def resolve(
    addrs: Sequence[Multiaddr],
    deadline: Monotonic,
    *,
    peer_id: PeerId | None = None,
    servers: NameServers,
) -> list[Multiaddr]:
    """Resolve the names in ``addrs``, all at once. Addresses with an IP are returned as they are.

    With ``peer_id``, addresses that name another peer are left out.

    Raises:
        NetworkError: there is no result; the message says why for each name. ``local`` if every
            name
            failed because there is no network or no name server.
        DeadlineError: the deadline passed first, and nothing was found before.
    """
    run, found = _Run(servers, peer_id), list["Multiaddr | _Found"]()
    with trio.move_on_at(deadline) as scope:
        await _resolve_all(run, matching(addrs, "", peer_id), MAX_DEPTH, found)
    return run.result(found, out_of_time=scope.cancelled_caught, otherwise="no usable address")


async def peers_named_by(
    addr: Multiaddr, deadline: Monotonic, *, servers: NameServers
) -> list[Multiaddr]:
    """The addresses, each with a peer id at its end, that a ``/dnsaddr/HOST`` without one lists.

    Entries that are such names themselves are followed; an address of a peer is kept as it is, also
    where it begins with a name. Entries without a peer id lead to nobody and are left out.

    Raises:
        NetworkError: the name lists no peer; the message says why. ``local`` as for
            :func:`resolve`.
        DeadlineError: the deadline passed first, and nothing was found before.
    """
    run, found = _Run(servers, None), list["Multiaddr | _Found"]()
    with trio.move_on_at(deadline) as scope:
        await _noting_errors(run, _find_named, run, addr, MAX_DEPTH, found)
    otherwise = f"{addr} lists no peer"
    return run.result(found, out_of_time=scope.cancelled_caught, otherwise=otherwise)


async def _find_named(run: _Run, addr: Multiaddr, depth: int, found: _Found) -> None:
    name = dnsaddr_name(addr)
    if name is None or depth == 0 or not run.may_ask(name):
        return
    entries = entries_of(await run.servers.texts(f"_dnsaddr.{name}"))
    async with trio.open_nursery() as nursery:
        for entry in entries:
            if _peer_of(entry) is not None:
                found.append(entry)
                continue
            of_name: _Found = []
            found.append(of_name)
            nursery.start_soon(_noting_errors, run, _find_named, run, entry, depth - 1, of_name)


def dnsaddr_name(addr: Multiaddr) -> str | None:
    """``HOST`` of an address that is nothing but ``/dnsaddr/HOST``; None of any other."""
    _, protocol, *rest = str(addr).split("/")
    return rest[0] if protocol == "dnsaddr" and len(rest) == 1 else None


def _flat(found: _Found) -> Iterable[Multiaddr]:
    for each in found:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield each


async def _resolve_all(run: _Run, addrs: Sequence[Multiaddr], depth: int, found: _Found) -> None:
    async with trio.open_nursery() as nursery:
        for addr in addrs:
            if not is_name(addr):
                found.append(addr)
                continue
            of_name: _Found = []
            found.append(of_name)
            nursery.start_soon(_noting_errors, run, _resolve, run, addr, depth, of_name)


async def _noting_errors(run: _Run, work: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run ``work``, and note its failure without ending the other work."""
    try:
        await work(*args)
    except NetworkError as error:
        run.errors.append(error)
    except CodioError as error:
        run.failed(str(error))


async def _resolve(run: _Run, addr: Multiaddr, depth: int, found: _Found) -> None:
    (code, value), *rest = split(addr.to_bytes())
    name, suffix = value.decode(), join(rest)
    if code == P_DNSADDR:
        await _resolve_dnsaddr(run, name, str(Multiaddr(suffix)) if suffix else "", depth, found)
    else:
        await _resolve_host(run, code, name, suffix, found)


async def _resolve_dnsaddr(run: _Run, name: str, suffix: str, depth: int, found: _Found) -> None:
    question = f"_dnsaddr.{name}"
    if depth == 0:
        run.failed(f"{name} leads through more than {MAX_DEPTH} names")
        return
    if not run.may_ask(f"{question} {suffix}"):
        return
    texts = await run.servers.texts(question)
    entries = matching(entries_of(texts, run.peer_id), suffix, run.peer_id)
    if not entries:
        run.failed(f"{name} has no dnsaddr for {suffix or 'anyone'}")
    await _resolve_all(run, entries, depth - 1, found)


async def _resolve_host(run: _Run, code: int, name: str, suffix: bytes, found: _Found) -> None:
    """Resolve a host name. Each IP version is asked for separately, because one can fail alone."""
    async with trio.open_nursery() as nursery:
        for version in _IP_VERSIONS[code]:
            of_version: _Found = []
            found.append(of_version)
            nursery.start_soon(
                _noting_errors, run, _resolve_ips, run, name, version, suffix, of_version
            )


async def _resolve_ips(run: _Run, name: str, version: int, suffix: bytes, found: _Found) -> None:
    literal = _ip_version_of(name)
    if literal is not None:  # as go and js take it, whatever the name's protocol says
        ips = [name.rstrip(".")] if literal == version else []
    elif run.may_ask(f"{name} ip{version} {suffix.hex()}"):
        ips = await run.servers.ips(name, version)
    else:
        return
    for ip in ips:
        found.append(Multiaddr(Multiaddr(f"/ip{version}/{ip}").to_bytes() + suffix))


def _ip_version_of(name: str) -> int | None:
    try:
        return ip_address(name.rstrip(".")).version
    except ValueError:
        return None
