"""What the operator denies: keys, peers and networks that this node has no part in.

Decides what the lines of a deny list mean, and whether a key or a peer is denied. Lists are written
in the Compact Denylist Format (IPIP-383, ``badbits.deny``), one rule a line::

    /ipfs/CID  /ipfs/CID/*  /ipns/NAME    the multihash in it, whatever the codec
    //MULTIHASH                           of base58(multihash): double-hashed
    //HEX                                 sha256 of "CIDv1/": double-hashed, as badbits was at first
    !RULE                                 an exception; of a key's rules the last one counts

and may have lines of this node's own, which name peers and networks::

    /p2p/PEER   192.0.2.7   192.0.2.0/24   2001:db8::/32   /ip4/192.0.2.0/ipcidr/24

A DHT knows multihashes and no paths: rules for paths below a CID and for domains match nothing
here, and are counted as such. The old form of a double hash is that of one codec, so a key is
looked up under each codec of ``_CODECS``. A line that is no rule is reported and does not hide the
others.

Bounds: ``MAX_RULES`` rules of all lists together, ``MAX_NETWORKS`` networks, lines of
``MAX_LINE_CHARS``; what is past them is reported like a line that is no rule. The answers for
``_REMEMBERED`` keys are remembered.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from codio_dht.core.peer import PeerId
from codio_dht.errors import DeniedError, FormatError, PeerIdError
from codio_dht.formats.cid import DAG_CBOR, DAG_PB, LIBP2P_KEY, RAW, format_cid
from codio_dht.formats.multibase import decode_base58, encode_base58
from codio_dht.formats.multihash import encode_multihash, is_multihash
from codio_dht.formats.text import read_cid, read_name, read_peer_id
from codio_dht.formats.varint import read_varint

Network = IPv4Network | IPv6Network

MAX_RULES: Final = 1_000_000
"""Rules for keys and peers, of all lists together; some 150 MB. The public list has half as
many."""

MAX_NETWORKS: Final = 10_000
"""Networks and IP addresses: each network is looked at for every new socket."""

MAX_LINE_CHARS: Final = 4_096
"""A longer line is no rule. (The format allows 2 MiB, for paths, which match nothing here.)"""

MAX_FAULTS: Final = 100
"""Lines of one list that are reported as no rules; further ones are only counted."""

_REMEMBERED: Final = 4_096
_VERSION: Final = "1"
_HEADER_END: Final = "---"
_SHA2_256_HEX_CHARS: Final = 64
_VALUE_NAMESPACES: Final = (b"/ipns/", b"/pk/")
_CODECS: Final = (DAG_PB, RAW, DAG_CBOR, LIBP2P_KEY)
_HASHES: Final[dict[int, Callable[[bytes], bytes]]] = {
    0x12: lambda data: hashlib.sha256(data).digest(),
    0x13: lambda data: hashlib.sha512(data).digest(),
    0x16: lambda data: hashlib.sha3_256(data).digest(),
}
"""Hash functions of double-hashed rules, by their multihash code: SHA2-256, SHA2-512, SHA3-256."""

_PLAIN: Final = b"k"
_DOUBLED: Final = b"d"
_OLD: Final = b"o"
"""What a rule's bytes begin with, by its form."""


@dataclass(frozen=True, slots=True)
class DenyFault:
    """A line that is no rule."""

    source: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class DenyCounts:
    """How many rules there are, by what they deny."""

    keys: int
    peers: int
    networks: int
    without_effect: int
    """Rules for paths and domains, which a DHT does not know."""
    faults: int


class DenyRules:
    """The rules of some lists, read one after the other. Not changed after that."""

    def __init__(self) -> None:
        self._keys: dict[bytes, tuple[int, bool]] = {}
        """Rules for keys: their place, and whether they deny."""
        self._functions: dict[int, None] = {}
        self._has_old = False
        self._place = 0
        self.peers: set[PeerId] = set()
        self.networks: dict[Network, None] = {}
        self.faults: list[DenyFault] = []
        self._fault_count = 0
        self._without_effect = 0
        self._answers: OrderedDict[bytes, bool] = OrderedDict()

    def counts(self) -> DenyCounts:
        """How many rules there are."""
        return DenyCounts(
            keys=sum(denies for _, denies in self._keys.values()),
            peers=len(self.peers),
            networks=len(self.networks),
            without_effect=self._without_effect,
            faults=self._fault_count,
        )

    # --- reading ----------------------------------------------------------------------------------

    def read(self, source: str, text: str) -> None:
        """Read the list ``text``; ``source`` is what messages call it.

        Raises:
            FormatError: it is of another version of the format.
        """
        lines = text.splitlines()
        begin = _after_header(source, lines)
        for number, line in enumerate(lines[begin:], start=begin + 1):
            try:
                self.add(line)
            except FormatError as error:
                self._fault_count += 1
                if len(self.faults) < MAX_FAULTS:
                    self.faults.append(DenyFault(source, number, str(error)))

    def add(self, line: str) -> None:
        """Read one line.

        Raises:
            FormatError: it is no rule, or there are too many.
        """
        if len(line) > MAX_LINE_CHARS:
            raise FormatError(f"longer than {MAX_LINE_CHARS} characters")
        text = next(iter(line.split()), "#")  # hints may follow
        if text.startswith("#"):
            return
        denies = not text.startswith("!")
        text = text.removeprefix("!")
        self._place += 1
        if text.startswith("//"):
            self._add_key(_double_hash(text.removeprefix("//")), denies)
        elif text.startswith("/ipfs/"):
            self._add_content(text, denies)
        elif text.startswith("/ipns/"):
            self._add_name(text, denies)
        elif text.startswith("/p2p/"):
            self._add_peer(PeerId(_peer_id(text)), denies)
        else:
            self._add_network(text, denies)

    def _add_content(self, text: str, denies: bool) -> None:
        cid, slash, path = text.removeprefix("/ipfs/").partition("/")
        if slash and path not in ("", "*"):
            self._without_effect += 1
            return
        self._add_key(_PLAIN + _multihash(cid), denies)

    def _add_name(self, text: str, denies: bool) -> None:
        name, slash, path = text.removeprefix("/ipns/").partition("/")
        if (slash and path not in ("", "*")) or "." in name:
            self._without_effect += 1
            return
        self._add_key(_PLAIN + read_name(name).multihash, denies)

    def _add_key(self, rule: bytes, denies: bool) -> None:
        if rule not in self._keys and len(self._keys) + len(self.peers) >= MAX_RULES:
            raise FormatError(f"more than {MAX_RULES} rules")
        if rule.startswith(_DOUBLED):
            self._functions[_code(rule[1:])] = None
        self._has_old = self._has_old or rule.startswith(_OLD)
        self._keys[rule] = (self._place, denies)

    def _add_peer(self, peer: PeerId, denies: bool) -> None:
        if not denies:
            self.peers.discard(peer)
        elif len(self._keys) + len(self.peers) >= MAX_RULES:
            raise FormatError(f"more than {MAX_RULES} rules")
        else:
            self.peers.add(peer)

    def _add_network(self, text: str, denies: bool) -> None:
        network = _network(text)
        if not denies:
            self.networks.pop(network, None)
        elif len(self.networks) >= MAX_NETWORKS:
            raise FormatError(f"more than {MAX_NETWORKS} networks")
        else:
            self.networks[network] = None

    # --- questions --------------------------------------------------------------------------------

    def denies_key(self, key: bytes) -> bool:
        """Whether the multihash ``key``, or that in the key of a value, is denied."""
        if not self._keys:
            return False
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._denies(_multihash_in(key))
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        return answer

    def covers(self, other: DenyRules) -> bool:
        """Whether all that the rules of ``other`` name is denied here too. Double hashes name
        nothing that can be looked up, so of these only the same rule counts."""
        return (
            all(map(self._denies_by_rule, other._keys))
            and other.peers <= self.peers
            and all(map(self._denies_network, other.networks))
        )

    def _denies_by_rule(self, rule: bytes) -> bool:
        if rule.startswith(_PLAIN):
            return self.denies_key(rule[1:])
        return self._keys.get(rule, (0, False))[1]

    def _denies_network(self, network: Network) -> bool:
        if isinstance(network, IPv4Network):
            return any(
                isinstance(each, IPv4Network) and network.subnet_of(each) for each in self.networks
            )
        return any(
            isinstance(each, IPv6Network) and network.subnet_of(each) for each in self.networks
        )

    def _denies(self, multihash: bytes) -> bool:
        if not is_multihash(multihash):
            return False
        matching = [self._keys.get(rule) for rule in self._rules_for(multihash)]
        return max((rule for rule in matching if rule is not None), default=(0, False))[1]

    def _rules_for(self, multihash: bytes) -> Iterable[bytes]:
        yield _PLAIN + multihash
        if self._functions:
            text = encode_base58(multihash).encode("ascii")
            for code in self._functions:
                yield _DOUBLED + encode_multihash(code, _HASHES[code](text))
        if self._has_old:
            for codec in _CODECS:
                cid = format_cid(codec, multihash).encode("ascii")
                yield _OLD + hashlib.sha256(cid + b"/").digest()


class Denials:
    """The rules that hold now, for all who ask. They may be replaced at any time."""

    def __init__(self, rules: DenyRules | None = None) -> None:
        self.rules = DenyRules() if rules is None else rules

    def denies_key(self, key: bytes) -> bool:
        """Whether ``key`` is denied now."""
        return self.rules.denies_key(key)

    def denies_peer(self, peer: PeerId) -> bool:
        """Whether ``peer`` is denied now."""
        return peer in self.rules.peers

    def check_key(self, key: bytes) -> None:
        """Make sure that ``key`` is not denied.

        Raises:
            DeniedError: it is.
        """
        if self.denies_key(key):
            raise DeniedError("the key is on this node's deny list", local=True)


# --- the parts of a line --------------------------------------------------------------------------


def _after_header(source: str, lines: Sequence[str]) -> int:
    """The place of the first rule: behind the header, if there is one."""
    if _HEADER_END not in lines:
        return 0
    end = lines.index(_HEADER_END)
    for line in lines[:end]:
        name, _, value = line.partition(":")
        if name == "version" and value.strip() != _VERSION:
            raise FormatError(
                f"{source} is a deny list of version {value.strip()[:20]}, and only version"
                f" {_VERSION} is known here"
            )
    return end + 1


def _multihash(text: str) -> bytes:
    bare = decode_base58(text)
    if bare is not None and is_multihash(bare):
        return bare
    return read_cid(text).cid.multihash


def _peer_id(text: str) -> bytes:
    try:
        return PeerId(read_peer_id(text)).to_bytes()
    except PeerIdError as error:
        raise FormatError(str(error)) from error


def _double_hash(text: str) -> bytes:
    if len(text) == _SHA2_256_HEX_CHARS:
        try:
            return _OLD + bytes.fromhex(text)
        except ValueError:
            pass
    multihash = decode_base58(text)
    if multihash is None or not is_multihash(multihash):
        raise FormatError("not a double hash: neither a multihash in base58 nor SHA-256 in hex")
    code = _code(multihash)
    if code not in _HASHES:
        raise FormatError(f"a double hash with a function that is unknown here (0x{code:x})")
    return _DOUBLED + multihash


def _code(multihash: bytes) -> int:
    """The code of the hash function."""
    read = read_varint(multihash)
    assert read is not None
    return read[0]


def _network(text: str) -> Network:
    parts = text.strip("/").split("/")
    if text.startswith(("/ip4/", "/ip6/")) and parts[2:3] in ([], ["ipcidr"]):
        text = "/".join([parts[1], *parts[3:]])
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise FormatError("neither a key, nor a peer, nor a network") from error


def _multihash_in(key: bytes) -> bytes:
    for namespace in _VALUE_NAMESPACES:
        if key.startswith(namespace):
            return key[len(namespace) :]
    return key
