"""Name servers: what names stand for, as this machine's configuration says.

A host name that a person gave is resolved as the system resolves it. The hosts file comes first,
and the search domains are tried. These are the operator's own, so a name that a stranger gave is
only asked of the name servers, as it is, and only so often (:func:`for_strangers`). ``localhost``
is this machine. If a file of the system's configuration changes while the node runs, it is read
again.

Never blocks the event loop: dnspython on trio asks the servers.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
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

from codio_dht.errors import NetworkError

MAX_CACHED_ANSWERS: Final = 1_024
"""DNS answers kept until their TTL ends; then the least used one makes room."""

STRANGERS_QUESTIONS: Final = 64
"""Questions about names that strangers gave, within ``STRANGERS_QUESTIONS_WINDOW_S``; a further one
is not asked, which says nothing of the peer. Servers of the public network give IP addresses."""

STRANGERS_QUESTIONS_OF_DOMAIN: Final = 8
"""Of these, questions about names of one domain (their last two labels)."""

STRANGERS_QUESTIONS_WINDOW_S: Final = 16.0
"""See ``STRANGERS_QUESTIONS``, seconds."""

MAX_RATIONED_DOMAINS: Final = 1_024
"""Domains whose questions are counted; the one asked for least recently is forgotten."""

_DOMAIN_LABELS: Final = 2

MAX_HOSTS_BYTES: Final = 256 * 1024
"""Most that is read of the hosts file."""

QUESTION_TIMEOUT_S: Final = 5.0
"""One question, all servers and repetitions together, seconds."""

EDNS_PAYLOAD_BYTES: Final = 1_232
"""Longest answer taken over UDP (RFC 6891; the size of DNS flag day 2020). Without saying so, no
server sends more than 512, and a longer list needs DNS over TCP, which some networks block."""

_HOSTS_FILE: Final = Path("/etc/hosts")
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LOCALHOST: Final = {4: ["127.0.0.1"], 6: ["::1"]}
_NO_EDNS: Final = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP})


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

    ``resolver`` takes the place of what the system's ``resolv.conf`` says. Without ``hosts`` no
    hosts file is read, and no search domain is tried.
    """

    def __init__(
        self, resolver: dns.asyncresolver.Resolver | None = None, hosts: Path | None = _HOSTS_FILE
    ) -> None:
        self._resolver = None if resolver is None else _with_edns(resolver)
        self._configured = _File(_RESOLV_CONF, _system_resolver)
        self._hosts = None if hosts is None else _File(hosts, _read_hosts)

    def for_strangers(self) -> SystemNameServers:
        """The same servers without what the operator has set up for this machine alone."""
        return SystemNameServers(self._resolver, hosts=None)

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
        answer = await self._ask(name, kind, search=self._hosts is not None)
        return [record.address for record in answer.rrset or ()]

    async def _ask(self, name: str, kind: RdataType, *, search: bool) -> dns.resolver.Answer:
        try:
            resolver = self._resolver or self._configured.content()
            try:
                name = name if search else f"{name.rstrip('.')}."
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
        hosts = {} if self._hosts is None else self._hosts.content()
        known = hosts.get((name, ip_version), [])
        if not known and (name == "localhost" or name.endswith(".localhost")):
            return _LOCALHOST[ip_version]  # RFC 6761: never asked of a server
        return known


class RationedNameServers:
    """Name servers that are asked for strangers only so often: their names cost a bounded number of
    questions, of these servers and of the servers of one domain."""

    def __init__(self, servers: NameServers) -> None:
        self._servers = servers
        self._asked: deque[float] = deque(maxlen=STRANGERS_QUESTIONS)
        self._asked_of: OrderedDict[str, deque[float]] = OrderedDict()

    async def texts(self, name: str) -> list[str]:
        """As :meth:`NameServers.texts`; a refusal is this node's own limit."""
        self._take(name)
        return await self._servers.texts(name)

    async def ips(self, name: str, ip_version: int) -> list[str]:
        """As :meth:`NameServers.ips`; a refusal is this node's own limit."""
        self._take(name)
        return await self._servers.ips(name, ip_version)

    def _take(self, name: str) -> None:
        now = trio.current_time()
        domain = ".".join(name.lower().rstrip(".").split(".")[-_DOMAIN_LABELS:])
        asked_of = self._asked_of.pop(domain, None) or deque(maxlen=STRANGERS_QUESTIONS_OF_DOMAIN)
        self._asked_of[domain] = asked_of
        if len(self._asked_of) > MAX_RATIONED_DOMAINS:
            self._asked_of.popitem(last=False)
        for asked in (self._asked, asked_of):
            if len(asked) == asked.maxlen and now - asked[0] < STRANGERS_QUESTIONS_WINDOW_S:
                raise NetworkError(f"too many names of strangers to ask for {name}", local=True)
        self._asked.append(now)
        asked_of.append(now)


def for_strangers(servers: NameServers) -> NameServers:
    """The name servers that are asked what strangers' names stand for: without the operator's hosts
    file and search domains, and only so often."""
    public = servers.for_strangers() if isinstance(servers, SystemNameServers) else servers
    return RationedNameServers(public)


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
