"""Host names in addresses: which names systems resolve, and so may stand in a multiaddr.

Wider than the check of the multiaddr library, which refuses the underscores of container and
service names and the asterisk of a certificate's name, and narrower than go's, which takes any
bytes: whatever is a name here can be printed, and nothing else is one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from multiaddr.codecs import CODEC_CACHE, LENGTH_PREFIXED_VAR_SIZE, CodecBase
from multiaddr.codecs.domain import Codec as StrictCodec

_ASCII: Final = re.compile(rb"[A-Za-z0-9_*-]+(?:\.[A-Za-z0-9_*-]+)*\.?")
"""Labels of letters, digits, hyphens, underscores, or an asterisk; with or without the last dot.
How long they may be is for name servers to say."""

_NAMES_REMEMBERED: Final = 1_024
"""Names beyond ASCII whose check is remembered: one takes some 100 us."""


def is_host_name(value: bytes) -> bool:
    """Whether ``value`` is a host name: ASCII labels, or a name of RFC 5890 in UTF-8."""
    if value.isascii():
        return _ASCII.fullmatch(value) is not None
    return _is_international(value)


@lru_cache(maxsize=_NAMES_REMEMBERED)
def _is_international(value: bytes) -> bool:
    try:
        StrictCodec().to_bytes(None, value.decode())
    except ValueError:
        return False
    return True


class HostNameCodec(CodecBase):  # type: ignore[misc]  # it has no types
    """How the multiaddr library reads and prints host names, by the rule of this module."""

    SIZE = LENGTH_PREFIXED_VAR_SIZE
    IS_PATH = False

    def to_bytes(self, proto: Any, string: str) -> bytes:
        """The bytes of a name.

        Raises:
            ValueError: it is none.
        """
        value = string.encode()
        if not is_host_name(value):
            raise ValueError(f"not a host name: {string[:64]!r}")
        return value

    def to_string(self, proto: Any, buf: bytes) -> str:
        """The text of a name.

        Raises:
            ValueError: it is none.
        """
        if not is_host_name(buf):
            raise ValueError("not a host name")
        return buf.decode()


CODEC_CACHE["domain"] = HostNameCodec()
"""The library's type is the ecosystem's, and there is one of it in a process. Where it refused
names that systems resolve, it takes them from here on; names that it took stay what they were."""
