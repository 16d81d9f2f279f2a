"""R3: bytes that are not multistream-select must fail the negotiation and nothing else.

Upstream: ``MultiselectCommunicator.read`` (libp2p/protocol_muxer/multiselect_communicator.py:58,
0.8.1) lets ``UnicodeDecodeError`` through, which its callers take for a defect of ours, and
``read_delim`` (libp2p/utils/varint.py) has no bound on a message, before authentication too.

Guard: every negotiator of the host (streams, security, muxer; both roles) reads through a
communicator with a bound, whose every failure is a ``MultiselectCommunicatorError``. Applies to a
live host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libp2p.abc import IMultiselectCommunicator
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient

from codio_dht.formats.varint import length_prefixed, read_varint
from codio_dht.net.libp2p_host.guards.counters import Counters
from codio_dht.net.libp2p_host.guards.upstream import Symbol, check, replace
from codio_dht.net.libp2p_host.limits import MAX_MULTISTREAM_MESSAGE_BYTES

SYMBOLS = (
    Symbol(
        "libp2p.protocol_muxer.multiselect_communicator",
        "MultiselectCommunicator.read",
        ("self",),
    ),
    Symbol(
        "libp2p.protocol_muxer.multiselect",
        "Multiselect.negotiate",
        ("self", "communicator", "negotiate_timeout"),
    ),
    Symbol(
        "libp2p.protocol_muxer.multiselect_client",
        "MultiselectClient.select_one_of",
        ("self", "protocols", "communicator", "negotiate_timeout"),
    ),
)

_MAX_LENGTH_BYTES = 2  # a varint of two bytes covers the bound


class BoundedCommunicator(IMultiselectCommunicator):
    """Multistream messages over a reader, bounded; fails with one exception only."""

    def __init__(self, read_writer: Any, counters: Counters) -> None:
        self.read_writer = read_writer
        self._counters = counters

    async def write(self, msg_str: str) -> None:
        """Send one message."""
        body = (msg_str or "").encode() + b"\n"
        try:
            await self.read_writer.write(length_prefixed(body))
        except Exception as error:
            raise MultiselectCommunicatorError("cannot write a multistream message") from error

    async def read(self) -> str:
        """Receive one message."""
        try:
            body = await self._exactly(await self._length())
            if body[-1:] != b"\n":
                raise ValueError("no newline at the end")
            return body[:-1].decode("utf-8")
        except Exception as error:
            self._counters.add("multistream_errors")
            raise MultiselectCommunicatorError("not a multistream message") from error

    async def _length(self) -> int:
        data, found = b"", None
        while found is None:
            data += await self._exactly(1)
            found = read_varint(data, 0, _MAX_LENGTH_BYTES, shortest=False)
        length = found[0]
        if not 0 < length <= MAX_MULTISTREAM_MESSAGE_BYTES:
            raise ValueError("length out of bounds")
        return length

    async def _exactly(self, number: int) -> bytes:
        data = b""
        while len(data) < number:
            more = await self.read_writer.read(number - len(data))
            if not more:
                raise EOFError("the stream ended")
            data += more
        return data


def bound_listener(multiselect: Multiselect, counters: Counters) -> None:
    """Guard the accepting side of one negotiator."""
    check(SYMBOLS)
    negotiate = multiselect.negotiate

    async def bounded(
        communicator: IMultiselectCommunicator, negotiate_timeout: int = 10
    ) -> tuple[TProtocol | None, StreamHandlerFn | None]:
        return await negotiate(_bounded(communicator, counters), negotiate_timeout)

    replace(multiselect, "negotiate", bounded)


def bound_dialer(client: MultiselectClient, counters: Counters) -> None:
    """Guard the asking side of one negotiator."""
    check(SYMBOLS)
    select_one_of = client.select_one_of

    async def bounded(
        protocols: Sequence[TProtocol],
        communicator: IMultiselectCommunicator,
        negotiate_timeout: int = 10,
    ) -> TProtocol:
        return await select_one_of(protocols, _bounded(communicator, counters), negotiate_timeout)

    replace(client, "select_one_of", bounded)


def _bounded(communicator: Any, counters: Counters) -> IMultiselectCommunicator:
    read_writer = getattr(communicator, "read_writer", None)
    if read_writer is None or isinstance(communicator, BoundedCommunicator):
        checked: IMultiselectCommunicator = communicator
        return checked
    return BoundedCommunicator(read_writer, counters)
