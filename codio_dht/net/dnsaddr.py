"""Names in multiaddrs: ``/dnsaddr``, ``/dns``, ``/dns4`` and ``/dns6`` become addresses with an IP.

``/dnsaddr/<host>`` stands for the multiaddrs in the TXT records of ``_dnsaddr.<host>``, each
written ``dnsaddr=<multiaddr>``; only those that end with what follows the host in the asked
address (the ``/p2p/<id>``) are meant, and they may be names again (multiformats/multiaddr,
protocols/DNSADDR).

An IP address in place of a name is taken as it is. Who is asked for the others,
:mod:`codio_dht.net.name_servers` says.

The owner of a name decides what it lists, so everything is bounded. What exceeds a bound is left
out. An entry that names another peer than the one asked for is left out too. A name that fails does
not hide the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

import trio
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
from codio_dht.net.name_servers import NameServers

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

_PREFIX: Final = "dnsaddr="
_IP_VERSIONS: Final = {P_DNS: (4, 6), P_DNS4: (4,), P_DNS6: (6,)}


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
    wanted = run.peer_id or (_peer_of(Multiaddr(suffix)) if suffix else None)
    entries = matching(entries_of(texts, wanted), suffix, run.peer_id)
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
