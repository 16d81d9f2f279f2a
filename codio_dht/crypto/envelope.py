"""Signed envelopes (libp2p RFC 0002): a payload, its type, and a signature over both.

Decides what is signed and whether a signature holds; what a payload means, others decide. The
domain is never on the wire: signer and reader must name the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.crypto.keys import PublicKey, SigningKey
from codio_dht.errors import CodioError, ProtocolError
from codio_dht.formats.protobuf import bytes_field, read_fields
from codio_dht.formats.varint import encode_varint

MAX_ENVELOPE_BYTES: Final = 16 * 1024
"""Largest signed envelope looked at: 32 addresses and an RSA key fit in 8 KiB."""

_LAYER: Final = "envelope"
_PUBLIC_KEY: Final = 1
_PAYLOAD_TYPE: Final = 2
_PAYLOAD: Final = 3
_SIGNATURE: Final = 5
_MAX_FIELDS: Final = 16


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope whose signature holds."""

    public_key: PublicKey
    payload_type: bytes
    payload: bytes


def seal_envelope(key: SigningKey, *, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """The bytes of an envelope around ``payload``, signed by ``key``."""
    signature = key.sign(_signed_bytes(domain, payload_type, payload))
    return (
        bytes_field(_PUBLIC_KEY, key.public_key().to_protobuf())
        + bytes_field(_PAYLOAD_TYPE, payload_type)
        + bytes_field(_PAYLOAD, payload)
        + bytes_field(_SIGNATURE, signature)
    )


def open_envelope(data: bytes, *, domain: str, payload_type: bytes) -> Envelope:
    """The envelope in ``data``, after its type, key and signature are found right.

    Raises:
        ProtocolError: it is too large, not an envelope, of another type, or not signed for
            ``domain`` by the key in it.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise ProtocolError(_LAYER, "too large")
    found = {_PUBLIC_KEY: b"", _PAYLOAD_TYPE: b"", _PAYLOAD: b"", _SIGNATURE: b""}
    for number, value in read_fields(data, max_fields=_MAX_FIELDS, layer=_LAYER):
        if number in found and isinstance(value, bytes):
            found[number] = value
    if found[_PAYLOAD_TYPE] != payload_type:
        raise ProtocolError(_LAYER, "another payload type")
    try:
        public_key = PublicKey.from_protobuf(found[_PUBLIC_KEY])
    except CodioError as error:
        raise ProtocolError(_LAYER, "unusable key") from error
    payload = found[_PAYLOAD]
    if not public_key.verify(_signed_bytes(domain, payload_type, payload), found[_SIGNATURE]):
        raise ProtocolError(_LAYER, "signature does not verify")
    return Envelope(public_key, payload_type, payload)


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    parts = (domain.encode(), payload_type, payload)
    return b"".join(encode_varint(len(part)) + part for part in parts)
