"""Which multihash is meant by what a caller passes as a CID.

Decides what counts as the name of some content. A provider record is about a multihash, so two CIDs
of the same multihash (version 0 and 1, raw and dag-pb, whatever base) are one key.

    text     whatever people paste (:func:`codio_dht.formats.text.read_cid`)
    bytes    a binary CIDv1 if the first byte is 1, else a multihash (which a binary CIDv0 is)
    object   another library's CID: whatever has the multihash as the bytes ``multihash``, or is a
             binary CID by ``buffer`` or ``bytes(...)``

Text as bytes is refused, rather than guessed at.
"""

from __future__ import annotations

from typing import Protocol, SupportsBytes, TypeAlias

from codio_dht.checks import shown
from codio_dht.core.own_keys import NewKey
from codio_dht.errors import FormatError, UsageError
from codio_dht.formats.cid import Cid, decode_cid, format_cid
from codio_dht.formats.multihash import is_multihash
from codio_dht.formats.text import read_cid
from codio_dht.params import MAX_PROVIDER_KEY_BYTES


class CidObject(Protocol):
    """A CID of another library, by its multihash."""

    @property
    def multihash(self) -> bytes:
        """The multihash."""
        ...


CidLike: TypeAlias = str | bytes | bytearray | memoryview | CidObject | SupportsBytes
"""What is taken as a CID: see the module."""


def multihash_of(cid: CidLike, name: str = "cid") -> bytes:
    """The multihash that ``cid`` stands for, which is the preimage of its key in the DHT: what
    ``find_closest_peers`` takes. See the module for what ``cid`` may be.

    Raises:
        UsageError: it is none of these, or longer than servers accept; the message begins with
            ``name``, the argument it was passed as.
    """
    return new_key_of(cid, name).key


def new_key_of(cid: CidLike, name: str = "cid") -> NewKey:
    """The key that ``cid`` stands for, and how it was written, so that it can be shown like that: a
    text as it is, a binary CID in base32, and a multihash not at all.

    Raises:
        UsageError: as :func:`multihash_of`.
    """
    found: Cid | None
    written = None
    if isinstance(cid, str):
        try:
            written, found = read_cid(cid)
        except FormatError as error:
            raise UsageError(f"{name}: {error}") from error
    elif isinstance(cid, bytes | bytearray | memoryview):
        found = decode_cid(bytes(cid))
    else:
        found = _of_object(cid)
    if found is None:
        raise UsageError(f"{name}: {shown(cid)} is not a CID (text, bytes or object)")
    size = len(found.multihash)
    if size > MAX_PROVIDER_KEY_BYTES:
        raise UsageError(
            f"{name}: its multihash has {size} bytes, and DHT servers refuse more than "
            f"{MAX_PROVIDER_KEY_BYTES}"
        )
    if written is None and found.version == 1:
        written = format_cid(found.codec, found.multihash)
    return NewKey(found.multihash, written)


def _of_object(cid: object) -> Cid | None:
    """The CID that an object of another library is, by the bytes that it shows."""
    multihash = getattr(cid, "multihash", None)
    if isinstance(multihash, bytes):
        return decode_cid(multihash) if is_multihash(multihash) and multihash[0] != 1 else None
    data = getattr(cid, "buffer", None)
    if not isinstance(data, bytes) and hasattr(cid, "__bytes__"):
        data = bytes(cid)
    return decode_cid(data) if isinstance(data, bytes) else None
