"""Binary multiaddrs: taken apart and judged. Everything here is about ``bytes``.

Decides what a readable address is and how far it reaches. Never resolves a name and never builds a
``Multiaddr``: this is on the path of every request.

Reach is decided as go does (``manet.IsPublicAddr``): by the first component alone. A relay address
therefore reaches as far as its relay, and one that names its relay only by peer id is not public.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from codio_dht.errors import AddressError, FormatError
from codio_dht.formats.host_names import is_host_name
from codio_dht.formats.ip import ADDRESS_CACHE_ENTRIES, IPV4_BYTES, Reach, group_of_ip, reach_of_ip
from codio_dht.formats.multihash import IDENTITY, is_multihash, is_sha2_256
from codio_dht.formats.varint import encode_varint, length_prefixed, read_varint

MAX_ADDR_BYTES: Final = 1_024
"""Longest multiaddr read; a longer one is dropped (those in use stay under 300)."""

MAX_ADDR_COMPONENTS: Final = 16
"""Components of a multiaddr read; one with more is dropped. Those in use have up to 10 (WebRTC
through a WebTransport relay); a kilobyte of empty ones would take 17 ms to turn into text."""

# --- the protocol table (multiformats/multicodec table.csv, tag "multiaddr") ----------------------

P_IP4: Final = 4
P_TCP: Final = 6
P_DCCP: Final = 33
P_IP6: Final = 41
P_IP6ZONE: Final = 42
P_DNS: Final = 53
P_DNS4: Final = 54
P_DNS6: Final = 55
P_DNSADDR: Final = 56
P_SCTP: Final = 132
P_UDP: Final = 273
P_CIRCUIT: Final = 290
P_UNIX: Final = 400
P_P2P: Final = 421
P_ONION: Final = 444
P_ONION3: Final = 445
P_GARLIC64: Final = 446
P_GARLIC32: Final = 447
P_SNI: Final = 449
P_HTTP_PATH: Final = 481
P_QUIC_V1: Final = 461
P_CERTHASH: Final = 466

_PREFIXED: Final = -1
"""The value is preceded by its length."""

_VALUE_BYTES: Final[dict[int, int]] = {
    P_IP4: 4,
    P_TCP: 2,
    P_DCCP: 2,
    P_IP6: 16,
    P_IP6ZONE: _PREFIXED,
    43: 1,  # ipcidr
    P_DNS: _PREFIXED,
    P_DNS4: _PREFIXED,
    P_DNS6: _PREFIXED,
    P_DNSADDR: _PREFIXED,
    P_SCTP: 2,
    P_UDP: 2,
    275: 0,  # p2p-webrtc-star
    276: 0,  # p2p-webrtc-direct
    280: 0,  # webrtc-direct
    281: 0,  # webrtc
    P_CIRCUIT: 0,
    301: 0,  # udt
    302: 0,  # utp
    P_UNIX: _PREFIXED,
    P_P2P: _PREFIXED,
    443: 0,  # https
    P_ONION: 12,
    P_ONION3: 37,
    P_GARLIC64: _PREFIXED,
    P_GARLIC32: _PREFIXED,
    448: 0,  # tls
    P_SNI: _PREFIXED,
    454: 0,  # noise
    460: 0,  # quic
    P_QUIC_V1: 0,
    465: 0,  # webtransport
    P_CERTHASH: _PREFIXED,
    477: 0,  # ws
    478: 0,  # wss
    479: 0,  # p2p-websocket-star
    480: 0,  # http
    P_HTTP_PATH: _PREFIXED,
    777: 8,  # memory
    7367777: 0,  # plaintextv2
}

_CODES: Final = {code: encode_varint(code) for code in _VALUE_BYTES}
_IPS: Final = frozenset({P_IP4, P_IP6})
_NAMES: Final = frozenset({P_DNS, P_DNS4, P_DNS6, P_DNSADDR})
_HOST_NAMES: Final = _NAMES | {P_SNI}
_ONIONS: Final = frozenset({P_ONION, P_ONION3})
_TEXTS: Final = frozenset({P_IP6ZONE, P_HTTP_PATH, P_UNIX})
_MIN_GARLIC64_BYTES: Final = 386
_GARLIC32_BYTES: Final = 32
_MIN_ENCRYPTED_GARLIC32_BYTES: Final = 35
"""Lengths of I2P destinations (go-multiaddr)."""
_MAX_VARINT_BYTES: Final = 5
"""Longest protocol code or length, bytes: 32 bits in groups of seven."""


def split(addr: bytes) -> tuple[tuple[int, bytes], ...]:
    """The components of ``addr``: protocol code and value (empty where it has none).

    Raises:
        AddressError: empty, longer than ``MAX_ADDR_BYTES``, of more than ``MAX_ADDR_COMPONENTS``, a
            protocol not in the table, a value that is cut off or not one of its protocol, or
            something behind a path.
    """
    return tuple((code, addr[start:end]) for code, _, start, end in _components(addr))


def join(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """The multiaddr of these components, as :func:`split` gives them."""
    data = b""
    for code, value in parts:
        data += _CODES[code]
        data += length_prefixed(value) if _VALUE_BYTES[code] == _PREFIXED else value
    return data


def ip_code(packed: bytes) -> int:
    """The protocol code of an IP address of 4 or 16 bytes."""
    return P_IP4 if len(packed) == IPV4_BYTES else P_IP6


def _components(addr: bytes) -> list[tuple[int, int, int, int]]:
    """Per component: code, where it begins, where its value begins and ends."""
    size = len(addr)
    if not 0 < size <= MAX_ADDR_BYTES:
        raise AddressError(f"an address of {size} bytes")
    found: list[tuple[int, int, int, int]] = []
    offset = 0
    while offset < size:
        if len(found) >= MAX_ADDR_COMPONENTS:
            raise AddressError(f"an address of more than {MAX_ADDR_COMPONENTS} components")
        begin = offset
        code, offset = _varint(addr, offset)
        length = _VALUE_BYTES.get(code)
        if length is None:
            raise AddressError(f"unknown address protocol {code}")
        if length == _PREFIXED:
            length, offset = _varint(addr, offset)
            if length == 0:
                raise AddressError(f"empty value of address protocol {code}")
        end = offset + length
        if end > size:
            raise AddressError(f"address cut off in protocol {code}")
        if length:
            _check_value(code, addr[offset:end])
        found.append((code, begin, offset, end))
        offset = end
        if code == P_UNIX and offset < size:
            raise AddressError("something behind a path")
    return found


def _varint(addr: bytes, offset: int) -> tuple[int, int]:
    try:
        found = read_varint(addr, offset, _MAX_VARINT_BYTES)
    except FormatError as error:
        raise AddressError(f"a length or protocol {error}") from error
    if found is None:
        raise AddressError("address cut off in a varint")
    return found


def _check_value(code: int, value: bytes) -> None:
    """As strict as go, which drops an address whose value is not one of its protocol; and what
    could not be printed is no value either, for addresses are shown to people and to programs."""
    if code in _HOST_NAMES:
        good = is_host_name(value)
    elif code == P_P2P:
        good = is_sha2_256(value) or (value[0] == IDENTITY and is_multihash(value))
    elif code == P_CERTHASH:
        good = is_multihash(value)
    elif code == P_GARLIC64:
        good = len(value) >= _MIN_GARLIC64_BYTES
    elif code == P_GARLIC32:
        good = len(value) == _GARLIC32_BYTES or len(value) >= _MIN_ENCRYPTED_GARLIC32_BYTES
    elif code in _ONIONS:
        good = any(value[-2:])  # its port: go and the Python library refuse port 0
    elif code in _TEXTS:
        good = _is_text(value) and (code != P_IP6ZONE or b"/" not in value)
        good = good and (code != P_UNIX or bool(value.strip(b"/\\")))
    else:
        good = True
    if not good:
        raise AddressError(f"not a value of address protocol {code}: {value[:64]!r}")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- what there is to know of one -----------------------------------------------------------------

_LOCALHOST_NAMES: Final = (".localhost",)
_PRIVATE_NAMES: Final = (
    ".home.arpa",
    ".local",
    ".test",
    # Names that no registry gives, and that many networks use inside (ICANN reserves .internal, and
    # holds the others back because of that use).
    ".corp",
    ".home",
    ".internal",
    ".intranet",
    ".lan",
    ".localdomain",
    ".mail",
    ".private",
)
_DEAD_NAMES: Final = (".in-addr.arpa", ".ip6.arpa", ".invalid")
"""Special-use domain names (IANA registry; RFC 6761, RFC 8375)."""

_TWO_LABELS: Final = 2
"""Dots of a public name, the one before it counted: a single label is a name of the own network."""


_REACH_ORDER: Final = (
    Reach.PUBLIC,
    Reach.PRIVATE,
    Reach.LOOPBACK,
    Reach.NONE,
    Reach.LINK_LOCAL,
    Reach.UNROUTABLE,
)
"""Of many addresses, those kept come in this order: the more use they are, the earlier."""


class _Facts(NamedTuple):
    reach: Reach
    ip: bytes | None
    """The IP address that it begins with."""
    relay: bool
    dns: bool
    dnsaddr: bool
    tail: int
    """Where a trailing ``/p2p`` begins; the address's length if there is none."""
    tail_value: int


@lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def _facts(addr: bytes) -> _Facts | None:
    """What there is to know of ``addr``; None if it is not readable.

    The same few thousand addresses come by all the time, hence the bounded cache.
    """
    try:
        parts = _components(addr)
    except AddressError:
        return None
    head = next((part for part in parts if part[0] != P_IP6ZONE), parts[0])
    code, begin, start, end = parts[-1]
    tail, tail_value = (begin, start) if code == P_P2P else (end, end)
    value = addr[head[2] : head[3]]
    return _Facts(
        reach=_reach(head[0], value),
        ip=value if head[0] in _IPS else None,
        relay=any(part[0] == P_CIRCUIT for part in parts),
        dns=head[0] in _NAMES,
        dnsaddr=head[0] == P_DNSADDR,
        tail=tail,
        tail_value=tail_value,
    )


def _reach(code: int, value: bytes) -> Reach:
    if code in _IPS:
        return reach_of_ip(value)
    if code in _NAMES:
        name = "." + value.decode("latin-1").lower().rstrip(".")
        if name.endswith(_LOCALHOST_NAMES):
            return Reach.LOOPBACK
        if name.endswith(_PRIVATE_NAMES):
            return Reach.PRIVATE
        if code != P_DNSADDR and name.count(".") < _TWO_LABELS:
            return Reach.PRIVATE
        return Reach.UNROUTABLE if name.endswith(_DEAD_NAMES) else Reach.PUBLIC
    return Reach.NONE


def reach(addr: bytes) -> Reach | None:
    """How far ``addr`` reaches; None if it is not readable."""
    facts = _facts(addr)
    return None if facts is None else facts.reach


def is_readable(addr: bytes) -> bool:
    """Whether ``addr`` is a multiaddr of known protocols (what ``split`` accepts)."""
    return _facts(addr) is not None


def is_public(addr: bytes) -> bool:
    """Whether ``addr`` begins with a public IP or a name of the public DNS."""
    facts = _facts(addr)
    return facts is not None and facts.reach is Reach.PUBLIC


def is_private(addr: bytes) -> bool:
    """Whether ``addr`` reaches only nearby machines: private, carrier NAT, link-local, loopback."""
    return reach(addr) in (Reach.PRIVATE, Reach.LINK_LOCAL, Reach.LOOPBACK)


def is_loopback(addr: bytes) -> bool:
    """Whether ``addr`` reaches only this machine."""
    return reach(addr) is Reach.LOOPBACK


def is_relay(addr: bytes) -> bool:
    """Whether ``addr`` goes through a relay (``/p2p-circuit``)."""
    facts = _facts(addr)
    return facts is not None and facts.relay


def is_dns(addr: bytes) -> bool:
    """Whether ``addr`` begins with a name that has to be resolved."""
    facts = _facts(addr)
    return facts is not None and facts.dns


def is_dnsaddr(addr: bytes) -> bool:
    """Whether ``addr`` begins with a name whose TXT records list addresses (``/dnsaddr``)."""
    facts = _facts(addr)
    return facts is not None and facts.dnsaddr


def ip_of(addr: bytes) -> bytes | None:
    """The IP address with which ``addr`` begins, as 4 or 16 bytes; None if it begins with none, or
    is not readable."""
    facts = _facts(addr)
    return None if facts is None else facts.ip


@lru_cache(maxsize=ADDRESS_CACHE_ENTRIES)
def ip_group(addr: bytes) -> str | None:
    """The group of the IP address with which ``addr`` begins, public or not
    (:func:`~codio_dht.formats.ip.group_of_ip`); None if it begins with none, or is not readable."""
    packed = ip_of(addr)
    return None if packed is None else group_of_ip(packed)


def is_name(code: int) -> bool:
    """Whether the value of protocol ``code`` is a name that has to be resolved."""
    return code in _NAMES


def usable_addresses(addrs: Iterable[bytes], peer_id: bytes, most: int) -> tuple[bytes, ...]:
    """The addresses of the peer ``peer_id`` among ``addrs``: readable, each once, without
    ``/p2p/<peer_id>`` at the end.

    Up to ``most`` stay in their order. Of more, the first ``most`` of each reach stay, public ones
    first: no number of addresses of one kind hides those of another, whichever a network wants.
    """
    own = [strip_peer_id(addr, peer_id) for addr in addrs]
    distinct = dict.fromkeys([addr for addr in own if addr])
    if len(distinct) <= most:
        return tuple(distinct)
    kept: dict[Reach, list[bytes]] = {each: [] for each in _REACH_ORDER}
    for addr in distinct:
        group = kept[reach(addr) or Reach.UNROUTABLE]
        if len(group) < most:
            group.append(addr)
    return tuple([addr for group in kept.values() for addr in group])


def most_useful_first(addrs: Iterable[bytes]) -> list[bytes]:
    """``addrs`` with those first that reach farthest: public ones, then private ones, then loopback
    and whatever else. Within each of these they stay in their order."""
    return sorted(addrs, key=lambda addr: _REACH_ORDER.index(reach(addr) or Reach.UNROUTABLE))


def split_peer_id(addr: bytes) -> tuple[bytes, bytes | None]:
    """``addr`` without the ``/p2p/<id>`` at its end, and that id; None if there is none, or the
    address is not readable."""
    facts = _facts(addr)
    if facts is None or facts.tail == len(addr):
        return addr, None
    return addr[: facts.tail], addr[facts.tail_value :]


def strip_peer_id(addr: bytes, peer_id: bytes) -> bytes | None:
    """``addr`` as an address of the peer ``peer_id``, without a trailing ``/p2p/<peer_id>``.

    None if there is none to use: it ends in another peer's id, is nothing but the id, or is not
    readable.
    """
    facts = _facts(addr)
    if facts is None:
        return None
    if facts.tail == len(addr):
        return addr
    if facts.tail == 0 or addr[facts.tail_value :] != peer_id:
        return None
    return addr[: facts.tail]
