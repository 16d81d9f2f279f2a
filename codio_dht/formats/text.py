"""What people paste: CIDs, peer ids, IPNS names and addresses, read in one place.

Library, control API, command line and configuration all read text with these functions, so that
the same text means the same everywhere. Blanks and a byte-order mark around it do not count.

    CID      ``Qm...``, version 1 in any base, ``ipfs://CID``, ``/ipfs/CID``, the URL of a gateway
             (``https://host/ipfs/CID``, ``https://CID.ipfs.host``), each with or without a slash,
             query or fragment at its end
    peer id  base58, a CID of codec libp2p-key; also after ``/p2p/``, ``/ipfs/``, ``/ipns/`` or
             ``ipns://``
    name     an IPNS name: a peer id as above (``k51...``), also after ``/ipns/`` or ``ipns://`` or
             in the URL of a gateway, with a path behind it or not
    address  a multiaddr; ``/ipfs/<peer id>``, as peers were named before 2019, is ``/p2p/``

A refusal is a :class:`~codio_dht.errors.FormatError` whose message quotes the text and says what it
is, where that can be told, and what to give instead. No name is resolved and nothing is asked.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from multiaddr import Multiaddr

from codio_dht.checks import cleaned, shown
from codio_dht.errors import FormatError
from codio_dht.formats.cid import LIBP2P_KEY, Cid, parse_cid
from codio_dht.formats.multibase import decode_base58, encode_base36
from codio_dht.formats.multihash import is_multihash
from codio_dht.formats.varint import encode_varint

MAX_TEXT_CHARS: Final = 8_192
"""Longest text looked at, characters."""

_MAX_CID_CHARS: Final = 1_024
"""Longest CID looked at, characters: one of 90 bytes takes 720 digits in base 2."""

_WEB: Final = re.compile(r"(?i)https?://([^/?#]*)([^?#]*)")
_SUBDOMAIN: Final = re.compile(r"(?i)([^.]+)\.(ipfs|ipns)\..+")
_NAMESPACED: Final = re.compile(r"(?i)(?:dweb:|web\+)?/*(ipfs|ipns)(?::/*|/+)([^?#]*)")
_PEER_PREFIXES: Final = re.compile(r"(?i)(?:/(?:p2p|ipfs|ipns)/|ipns:/*)([^/?#]+)/*")
_PEER_ID_STARTS: Final = ("1", "Qm")
"""How every peer id in base58 begins: an inlined key, or a SHA2-256 digest."""


class PastedCid(NamedTuple):
    """A CID that was read from text."""

    text: str
    """The CID's own text, without what stood around it."""
    cid: Cid


def read_cid(text: str) -> PastedCid:
    """The CID that ``text`` names.

    Raises:
        FormatError: it names none, or something inside of a CID's content, or an IPNS name.
    """
    given = _cleaned(text)
    namespace, rest = _namespace_of(given)
    if namespace == "ipns":
        raise FormatError(
            f"{shown(text)} is an IPNS name, and what it stands for may change; give the CID that "
            "it leads to"
        )
    bare = rest.rstrip("/")
    for exact in (rest, bare):  # a slash is a digit of base64 too
        cid = _cid_or_none(exact)
        if cid is not None:
            return PastedCid(exact, cid)
    root = bare.partition("/")[0]
    if _cid_or_none(root) is not None:
        raise FormatError(
            f"{shown(text)} is a path inside of some content, and the DHT knows only whole CIDs; "
            f"the root's is {root}"
        )
    raise FormatError(f"{shown(text)} is not a CID{_instead_of_a_cid(given, root)}")


def read_peer_id(text: str) -> bytes:
    """The bytes of the peer id that ``text`` is.

    Raises:
        FormatError: it is none.
    """
    given = _cleaned(text)
    prefixed = _PEER_PREFIXES.fullmatch(given)
    bare = prefixed[1] if prefixed else given.rstrip("/")
    data = _peer_id_or_none(bare)
    if data is not None:
        return data
    cid = _cid_or_none(bare)
    if cid is not None:
        why = f": it is a CID of codec {cid.codec_name}"
    elif given.startswith("/") and not prefixed:
        why = ": it is an address, or a part of one; give the peer id at its end"
    elif _is_base58_in_small_letters(bare):
        why = ": a peer id in base58 needs its exact letters, small and capital"
    else:
        why = ""
    raise FormatError(f"{shown(text)} is not a peer id{why}")


class PastedName(NamedTuple):
    """An IPNS name that was read from text."""

    multihash: bytes
    """The bytes of the peer id that the name is."""
    path: str
    """What stood behind the name, with a slash at its front; empty if nothing did."""


def read_name(text: str) -> PastedName:
    """The IPNS name that ``text`` is.

    Raises:
        FormatError: it is none: content that cannot change, a domain, or something else.
    """
    given = _cleaned(text)
    namespace, rest = _namespace_of(given)
    first, slash, path = rest.strip("/").partition("/")
    data = _peer_id_or_none(first)
    if data is not None and (namespace == "ipns" or given.strip("/").startswith(first)):
        return PastedName(data, slash + path)
    cid = _cid_or_none(first)
    if namespace == "ipfs" and cid is not None:
        why = ": it is a CID, whose content never changes, so there is nothing to resolve"
    elif "." in first:
        why = f": {first} is a domain; its name is in the DNS, in a TXT record of _dnslink.{first}"
    elif given.startswith("/p2p/") and _peer_id_or_none(given[5:].rstrip("/")) is not None:
        return PastedName(read_peer_id(given), "")
    else:
        why = "; give a peer id, or the CID of a public key (k51...)"
    raise FormatError(f"{shown(text)} is not an IPNS name{why}")


def format_name(multihash: bytes) -> str:
    """An IPNS name as text: a version 1 CID of codec libp2p-key in base36 (``k51...``), as the
    specification wants it, so that it fits into a host name."""
    return encode_base36(b"\x01" + encode_varint(LIBP2P_KEY) + multihash)


def read_multiaddr(text: str) -> Multiaddr:
    """The multiaddr that ``text`` is.

    Raises:
        FormatError: it is none.
    """
    given = _with_p2p(_cleaned(text))
    try:
        return Multiaddr(given.rstrip("/") or given)
    except Exception as error:  # multiaddr lets its codecs' errors through
        raise FormatError(f"{shown(text)} is not a multiaddr: {error}") from error


def _cleaned(text: str) -> str:
    """``text`` without what may stand around it; refused if it is too long to be looked at."""
    if len(text) > MAX_TEXT_CHARS:
        raise FormatError(f"{shown(text)} has {len(text)} characters, more than {MAX_TEXT_CHARS}")
    return cleaned(text)


def _namespace_of(given: str) -> tuple[str, str]:
    """``ipfs`` or ``ipns``, and what follows it; a text without any of them is ``ipfs``."""
    web = _WEB.fullmatch(given.partition("#")[0].partition("?")[0])
    if web:
        host, path = web[1], web[2]
        within = _NAMESPACED.fullmatch(path) if path.startswith("/") else None
        if within:
            return within[1].lower(), within[2]
        subdomain = _SUBDOMAIN.fullmatch(host)
        if subdomain:
            return subdomain[2].lower(), subdomain[1] + path
        raise FormatError(f"{shown(given)} is a web address, and none of an IPFS gateway")
    namespaced = _NAMESPACED.match(given)
    return (namespaced[1].lower(), namespaced[2]) if namespaced else ("ipfs", given)


def _cid_or_none(text: str) -> Cid | None:
    return parse_cid(text) if len(text) <= _MAX_CID_CHARS else None


def _peer_id_or_none(text: str) -> bytes | None:
    if text.startswith(_PEER_ID_STARTS):
        data = decode_base58(text) if len(text) <= _MAX_CID_CHARS else None
        return data if data is not None and is_multihash(data) else None
    cid = _cid_or_none(text)
    return (
        cid.multihash if cid is not None and cid.version == 1 and cid.codec == LIBP2P_KEY else None
    )


def _instead_of_a_cid(given: str, bare: str) -> str:
    """What ``given`` is instead, as the end of a message."""
    if _peer_id_or_none(bare) is not None:
        return ": it is a peer id"
    if given.startswith("/"):
        return ": it is an address or a path"
    if bare.lower().startswith("qm") and _is_base58_in_small_letters(bare.lower()):
        return ": a CID that begins with Qm needs its exact letters, small and capital"
    return ""


def _is_base58_in_small_letters(text: str) -> bool:
    """Whether ``text`` looks as if the capital letters of a peer id or a CID had been lost."""
    lengths = {"qm": 46, "12d3koow": 52, "16uiu2ha": 53}
    return any(text.startswith(start) and len(text) == n for start, n in lengths.items())


def _with_p2p(given: str) -> str:
    """``given`` with ``/p2p/`` where ``/ipfs/`` stands before a peer id."""
    if "/ipfs/" not in given or given.startswith("/unix/"):
        return given
    parts = given.split("/")
    for place, part in enumerate(parts[:-1]):
        if part == "ipfs" and _peer_id_or_none(parts[place + 1]) is not None:
            parts[place] = "p2p"
    return "/".join(parts)
