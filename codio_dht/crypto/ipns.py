"""IPNS records (ipfs/specs "IPNS Record and Protocol"): read, verify, order and create them.

Decides which records are valid under which name, and which of several is the newest. A record says
where a name points (``value``), how long that holds (``eol``), and which version it is
(``sequence``). The name is the peer id of the key that signs it; in the DHT its record stands under
``/ipns/`` and the peer id's bytes.

On the wire a record is a protobuf message around a DAG-CBOR document, ``data``. Only ``data``
counts, and ``signatureV2`` over it; the other fields are copies for readers from before 2021 (V1),
and a record in which a copy differs from the document is refused, so that old and new readers never
see two things in one record. A V1 signature is written for those readers and never read.

Verification follows the specification's order: size before anything is parsed; signature and
document present; the key of the record, or the one inside the name, and it must be the name's; the
document; the signature; the copies; the end of life. Where the specification leaves room, boxo's
behaviour (go, the specification's reference) is taken:
- A document without ``TTL`` is valid if there are no copies. A negative ``TTL`` is not.
- Of two records of one sequence and one end of life the one with the larger bytes is newer.
One thing differs: a sequence of 2^63 or more. boxo writes it as a negative number and reads it back
as the large one; the specification says it is unsigned. Here a negative sequence is refused, a
positive one is read, and none that large is created.

Nothing here reads a clock; remote bytes raise only ``InvalidValueError``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey, PublicKey
from codio_dht.errors import InvalidValueError, PeerIdError, ProtocolError, UsageError
from codio_dht.formats.dag_cbor import CborValue, decode_dag_cbor, encode_dag_cbor
from codio_dht.formats.protobuf import bytes_field, read_fields, uint_field
from codio_dht.formats.rfc3339 import NS_PER_S, format_rfc3339, parse_rfc3339

IPNS_PREFIX: Final = b"/ipns/"
"""What the DHT key of every IPNS record begins with."""

MAX_SEQUENCE: Final = (1 << 63) - 1
"""The largest sequence number that every implementation reads as the same number."""

MAX_IPNS_RECORD_BYTES: Final = 10 * 1024
"""Longest IPNS record, bytes (IPNS specification, "Record Size Limit")."""

IPNS_LIFETIME_S: Final = 48 * 3600.0
"""How long an IPNS record is valid after it was made, seconds (IPNS specification: servers keep no
value for longer)."""

IPNS_TTL_S: Final = 300.0
"""How long a resolver may keep an IPNS record before it asks again, seconds (IPNS
specification)."""

_LAYER: Final = "ipns"
_SIGNED_PREFIX: Final = b"ipns-signature:"
_EOL: Final = 0
_EOL_NAME: Final = b"EOL"
_MAX_UINT64: Final = (1 << 64) - 1
_MAX_FIELDS: Final = 1_024
"""Fields read of a record's envelope: nine are known."""

# Field numbers of the envelope.
_VALUE: Final = 1
_SIGNATURE_V1: Final = 2
_VALIDITY_TYPE: Final = 3
_VALIDITY: Final = 4
_SEQUENCE: Final = 5
_TTL: Final = 6
_PUBLIC_KEY: Final = 7
_SIGNATURE_V2: Final = 8
_DATA: Final = 9

_NUMBERS: Final = (_VALIDITY_TYPE, _SEQUENCE, _TTL)
_KNOWN: Final = range(_VALUE, _DATA + 1)

_OWN_ENTRIES: Final = frozenset(("Value", "Validity", "ValidityType", "Sequence", "TTL"))


@dataclass(frozen=True, slots=True)
class IpnsRecord:
    """A record that is well formed. Whether it is valid under a name, :meth:`verify` says."""

    value: bytes
    """The path that the name stands for, such as ``/ipfs/<cid>``."""
    sequence: int
    """The version: of two valid records the one with the higher sequence is newer."""
    eol_ns: int
    """The moment from which the record is invalid, nanoseconds of Unix time."""
    ttl_ns: int
    """How long a resolver may keep the record before it asks again, nanoseconds; a hint."""
    public_key: bytes
    """The signer's public key as protobuf; empty if the name itself holds the key."""
    signature: bytes
    """``signatureV2``: over the document."""
    document: bytes
    """``data``: the DAG-CBOR document that is signed."""
    metadata: Mapping[str, CborValue]
    """What the document holds beside the entries of the specification."""
    has_v1: bool
    """Whether the record carries the copies for readers from before 2021."""
    encoded: bytes
    """The record as it stands in the DHT."""

    @property
    def eol(self) -> UnixTime:
        """The moment from which the record is invalid, to the precision of a float."""
        return UnixTime(self.eol_ns / NS_PER_S)

    @property
    def order(self) -> tuple[int, int, bytes]:
        """Sorts records of one name: the newest has the largest (boxo's ``compare``)."""
        return self.sequence, self.eol_ns, self.encoded

    def verify(self, name: PeerId, now: UnixTime) -> None:
        """Check that the record is signed by the key of ``name`` and has not expired at ``now``.

        Raises:
            InvalidValueError: it is of another key, not signed by it, or expired.
        """
        key = self._signer(name)
        if not key.verify(_SIGNED_PREFIX + self.document, self.signature):
            raise InvalidValueError("the signature does not verify")
        if self.eol_ns <= int(now * NS_PER_S):
            raise InvalidValueError("expired")

    def _signer(self, name: PeerId) -> PublicKey:
        """The key in the record, or the one inside ``name``; in both cases the name's own."""
        data = self.public_key or _inlined_key(name)
        if data is None:
            raise InvalidValueError("neither the record nor the name holds the public key")
        try:
            key = PublicKey.from_protobuf(data)
        except PeerIdError as error:
            raise InvalidValueError("unusable public key") from error
        if key.peer_id() != name:
            raise InvalidValueError("the public key is not the name's")
        return key


def ipns_key(name: PeerId) -> bytes:
    """The DHT key of the record of ``name``: ``/ipns/`` and the bytes of the peer id."""
    return IPNS_PREFIX + name.to_bytes()


def parse_ipns_record(data: bytes) -> IpnsRecord:
    """The record in ``data``, without its signature and end of life being checked.

    Raises:
        InvalidValueError: longer than ``MAX_IPNS_RECORD_BYTES``, not a record, or one whose copies
            differ from its document.
    """
    if len(data) > MAX_IPNS_RECORD_BYTES:
        raise InvalidValueError("larger than 10 KiB")
    fields = _read_envelope(data)
    document = _bytes_of(fields, _DATA)
    signature = _bytes_of(fields, _SIGNATURE_V2)
    if not document or not signature:
        raise InvalidValueError("no V2 signature or no document")
    try:
        entries = decode_dag_cbor(document)
    except ProtocolError as error:
        raise InvalidValueError("the document is not DAG-CBOR") from error
    if not isinstance(entries, dict):
        raise InvalidValueError("the document is not a map")
    value, validity = _bytes_entry(entries, "Value"), _bytes_entry(entries, "Validity")
    sequence = _number_entry(entries, "Sequence")
    has_v1 = _SIGNATURE_V1 in fields or _VALUE in fields
    ttl = _number_entry(entries, "TTL") if has_v1 or "TTL" in entries else 0
    if _number_entry(entries, "ValidityType") != _EOL:
        raise InvalidValueError("unknown validity type")
    if has_v1:
        copies = (
            _bytes_of(fields, _VALUE),
            _bytes_of(fields, _VALIDITY),
            *[fields.get(number, 0) for number in _NUMBERS],
        )
        if copies != (value, validity, _EOL, sequence, ttl):
            raise InvalidValueError("the V1 fields differ from the signed document")
    return IpnsRecord(
        value,
        sequence,
        _eol_of(validity),
        ttl,
        _bytes_of(fields, _PUBLIC_KEY),
        signature,
        document,
        {name: entry for name, entry in entries.items() if name not in _OWN_ENTRIES},
        has_v1,
        data,
    )


def create_ipns_record(
    key: PrivateKey,
    value: str | bytes,
    *,
    sequence: int,
    now: UnixTime,
    lifetime_s: float = IPNS_LIFETIME_S,
    ttl_s: float = IPNS_TTL_S,
    metadata: Mapping[str, CborValue] | None = None,
    v1_fields: bool = True,
) -> IpnsRecord:
    """A record by which the name of ``key`` stands for ``value`` for ``lifetime_s`` from ``now``.

    ``sequence`` must be higher than that of every earlier record of the name. ``ttl_s`` says how
    long resolvers may keep the record, seconds. ``v1_fields`` adds the copies and the signature for
    readers from before 2021, as Kubo does. The public key is added where the name does not hold it.

    Raises:
        UsageError: ``value`` is not a path, a number is out of range, ``metadata`` uses a name of
            the specification, or the record would be larger than 10 KiB.
    """
    path = value.encode() if isinstance(value, str) else value
    if len(path) < 2 or not path.startswith(b"/"):
        raise UsageError(f"value: {path[:80]!r} is not a path; give /ipfs/<cid> or /ipns/<name>")
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise UsageError(f"sequence: {sequence} is not between 0 and {MAX_SEQUENCE}")
    if ttl_s < 0 or ttl_s * NS_PER_S > MAX_SEQUENCE:
        raise UsageError(f"ttl_s: {ttl_s} is negative or too long")
    extra = dict(metadata or {})
    if clash := sorted(_OWN_ENTRIES & extra.keys()) or ([""] if "" in extra else []):
        raise UsageError(f"metadata: {clash[0]!r} is a name of the specification, or empty")
    validity = _validity(now, lifetime_s)
    ttl = round(ttl_s * NS_PER_S)
    entries: dict[str, CborValue] = {
        "Value": path,
        "Validity": validity,
        "ValidityType": _EOL,
        "Sequence": sequence,
        "TTL": ttl,
    }
    document = encode_dag_cbor(entries | extra)
    copies = b""
    if v1_fields:
        copies = (
            bytes_field(_VALUE, path)
            + bytes_field(_SIGNATURE_V1, key.sign(path + validity + _EOL_NAME))
            + uint_field(_VALIDITY_TYPE, _EOL)
            + bytes_field(_VALIDITY, validity)
            + uint_field(_SEQUENCE, sequence)
            + uint_field(_TTL, ttl)
        )
    public = key.public_key()
    if _inlined_key(public.peer_id()) is None:
        copies += bytes_field(_PUBLIC_KEY, public.to_protobuf())
    signature = key.sign(_SIGNED_PREFIX + document)
    data = copies + bytes_field(_SIGNATURE_V2, signature) + bytes_field(_DATA, document)
    try:
        return parse_ipns_record(data)
    except InvalidValueError as error:
        raise UsageError(f"value: such a record would be invalid: {error}") from error


class IpnsValidator:
    """The validator of the namespace ``ipns``: a ``TimedValidator`` of ``core.validation``."""

    def validate_at(self, key: bytes, value: bytes, now: UnixTime) -> None:
        """Check that ``value`` is a record of the name in ``key`` and holds at ``now``.

        Raises:
            InvalidValueError: it is not.
        """
        if len(value) > MAX_IPNS_RECORD_BYTES:  # before anything is parsed (specification)
            raise InvalidValueError("larger than 10 KiB")
        if not key.startswith(IPNS_PREFIX):
            raise InvalidValueError("not an IPNS key")
        try:
            name = PeerId(key[len(IPNS_PREFIX) :])
        except PeerIdError as error:
            raise InvalidValueError("not an IPNS key") from error
        parse_ipns_record(value).verify(name, now)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """The index of the newest record; of equal ones the first.

        Raises:
            InvalidValueError: ``values`` is empty, or one of them is not a record.
        """
        if not values:
            raise InvalidValueError("no records to select from")
        orders = [parse_ipns_record(value).order for value in values]
        return orders.index(max(orders))


# --- the envelope ---------------------------------------------------------------------------------

_Fields = dict[int, int | bytes]


def _read_envelope(data: bytes) -> _Fields:
    """The known fields; of one that stands twice the last, as protobuf has it."""
    fields: _Fields = {}
    try:
        for number, value in read_fields(data, max_fields=_MAX_FIELDS, layer=_LAYER):
            if number in _KNOWN and isinstance(value, int) == (number in _NUMBERS):
                fields[number] = value
    except ProtocolError as error:
        raise InvalidValueError("not a protobuf message") from error
    return fields


def _bytes_of(fields: _Fields, number: int) -> bytes:
    value = fields.get(number, b"")
    assert isinstance(value, bytes)
    return value


# --- the document ---------------------------------------------------------------------------------


def _bytes_entry(entries: Mapping[str, CborValue], name: str) -> bytes:
    value = entries.get(name)
    if not isinstance(value, bytes):
        raise InvalidValueError(f"{name} is missing or not bytes")
    return value


def _number_entry(entries: Mapping[str, CborValue], name: str) -> int:
    value = entries.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_UINT64:
        raise InvalidValueError(f"{name} is missing or not an unsigned number")
    return value


def _eol_of(validity: bytes) -> int:
    moment = parse_rfc3339(validity.decode("ascii", "replace"))
    if moment is None:
        raise InvalidValueError("Validity is not a time")
    return moment


def _validity(now: UnixTime, lifetime_s: float) -> bytes:
    try:
        return format_rfc3339(int(now * NS_PER_S) + round(lifetime_s * NS_PER_S)).encode()
    except OverflowError as error:
        raise UsageError("lifetime_s: the record would outlive the year 9999") from error


def _inlined_key(name: PeerId) -> bytes | None:
    """The public key inside a name that is an identity multihash; None if it is a digest."""
    data = name.to_bytes()
    return data[2:] if data[:1] == b"\x00" and len(data) < 0x80 else None
