"""What a message says of an argument that cannot be taken: the argument's own name, and what it
must be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from codio_dht.core.peer import PeerId
from codio_dht.errors import UsageError
from codio_dht.node import arguments

MOST = arguments.MAX_LOOKUP_KEY_BYTES
PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


@pytest.mark.parametrize(
    ("reader", "value", "message"),
    [
        (arguments.key_argument, "text", r"key must be bytes \(the preimage of a key\) or"),
        (arguments.key_argument, 5, r"key must be bytes \(the preimage of a key\) or"),
        (arguments.key_argument, b"", "key must not be empty"),
        (arguments.key_argument, b"k" * (MOST + 1), f"key must have at most {MOST} bytes, not"),
        (arguments.count_argument, 0, "count must be a whole number of at least 1, not 0"),
        (arguments.peer_argument, "nobody", "peer_id"),
        (arguments.data_dir_argument, 5, "data_dir must be a path or None, not 5"),
        (arguments.mode_argument, "proxy", "mode must be .*, not 'proxy'"),
        (arguments.bootstrap_argument, ["nowhere"], "bootstrap"),
    ],
)
def test_a_message_names_the_argument_and_says_what_it_must_be(
    reader: Callable[[object], object], value: object, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        reader(value)


def test_a_key_is_bytes_of_any_kind_or_the_bytes_of_a_peer_id() -> None:
    assert arguments.key_argument(bytearray(b"k")) == b"k"
    assert arguments.key_argument(memoryview(b"k")) == b"k"
    assert arguments.key_argument(PEER) == PEER.to_bytes()


def test_no_count_is_no_limit() -> None:
    assert arguments.count_argument(None) is None
    assert arguments.count_argument(3) == 3
