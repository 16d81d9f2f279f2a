"""CIDs: content identifiers, binary and as text (multiformats/cid).

    version 0   the multihash alone, SHA2-256; as text ``Qm...``, 46 characters of base58btc
    version 1   the byte 1, a codec, a multihash; as text in any multibase

Bytes are never ambiguous: 1 is the version of a CID and reserved among hash functions, so that no
multihash begins with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codio_dht.errors import FormatError
from codio_dht.formats.multibase import decode_base58, decode_multibase, encode_base32
from codio_dht.formats.multihash import is_multihash, is_sha2_256
from codio_dht.formats.varint import encode_varint, read_varint

RAW: Final = 0x55
DAG_PB: Final = 0x70
DAG_CBOR: Final = 0x71
LIBP2P_KEY: Final = 0x72
"""Codecs (multiformats/multicodec): content as it is, UnixFS directories and files, public keys."""

_VERSION_1: Final = b"\x01"
_V0_CHARS: Final = 46

_CODEC_NAMES: Final = {RAW: "raw", DAG_PB: "dag-pb", DAG_CBOR: "dag-cbor", LIBP2P_KEY: "libp2p-key"}


@dataclass(frozen=True, slots=True)
class Cid:
    """A content identifier: its version, what kind of content it is, the content's multihash."""

    version: int
    codec: int
    multihash: bytes

    @property
    def codec_name(self) -> str:
        """The codec's name where it is a common one, else its number in hexadecimal."""
        return _CODEC_NAMES.get(self.codec, hex(self.codec))


def decode_cid(data: bytes) -> Cid | None:
    """The CID in ``data``: a binary version 1, or a multihash alone; None if it is neither.

    A multihash of another function than SHA2-256 is no CID of version 0, but it names its content
    as well, so it is read as one.
    """
    if data[:1] != _VERSION_1:
        return Cid(0, DAG_PB, data) if is_multihash(data) else None
    try:
        codec = read_varint(data, 1)
    except FormatError:
        return None
    if codec is None:
        return None
    multihash = data[codec[1] :]
    if multihash[:1] == _VERSION_1 or not is_multihash(multihash):
        return None
    return Cid(1, codec[0], multihash)


def parse_cid(text: str) -> Cid | None:
    """The CID that exactly ``text`` spells; None if it is none."""
    if len(text) == _V0_CHARS and text.startswith("Qm"):
        data = decode_base58(text)
        return Cid(0, DAG_PB, data) if data is not None and is_sha2_256(data) else None
    data = decode_multibase(text)
    # A version 0 in multibase is invalid (the CID specification), so only version 1 is left.
    return decode_cid(data) if data is not None and data[:1] == _VERSION_1 else None


def format_cid(codec: int, multihash: bytes) -> str:
    """The text of a version 1 CID, in base32."""
    return encode_base32(_VERSION_1 + encode_varint(codec) + multihash)
