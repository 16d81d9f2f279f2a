"""multistream-select 1.0: two peers agree on a protocol, for a connection's layers or for a stream.

Decides what is proposed, echoed and refused. Never decides what an agreed protocol means, and
never buffers more than one message::

    Proposer:   start() -> AWAIT_HEADER -> AWAIT_ANSWER -> Selected | Refused
                                             ^  `na`, next proposal  |
                                             +-----------------------+
    Listener:  AWAIT_HEADER -> AWAIT_PROPOSAL -> Selected
                                 ^  `na`, `ls`  |
                                 +--------------+

The proposer is lazy: header and first proposal leave together, and the caller may pipeline what
follows behind them; on ``na`` that pipelined data was lost, and only the caller knows what to do.
The listener answers a peer that pipelines. Both raise :class:`~codio_dht.errors.ProtocolError` on
a message that is too long, not terminated by a newline, not UTF-8, not the header where the header
belongs, or one proposal too many. After the outcome the machine is used up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from codio_dht.errors import FormatError, ProtocolError
from codio_dht.formats.varint import ONE_BYTE_END, length_prefixed, read_varint
from codio_dht.net.stack.limits import MAX_NEGOTIATION_MESSAGE_BYTES, MAX_NEGOTIATION_ROUNDS

_LAYER: Final = "multistream"
_VERSION: Final = b"/multistream/1.0.0\n"
_NOT_AVAILABLE: Final = b"na\n"
_LIST: Final = b"ls\n"
_MAX_LENGTH_BYTES: Final = 2
"""Longest length of a message, bytes of varint: two reach 2**14."""


@dataclass(frozen=True, slots=True)
class Selected:
    """Both sides agree on ``protocol``; ``rest`` already belongs to it."""

    protocol: str
    rest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The listener speaks none of the proposals. ``rest`` is what it sent after its last answer."""

    rest: bytes


def encode_message(text: bytes) -> bytes:
    """A message of ``text``, newline added, with its length before it."""
    return length_prefixed(text + b"\n")


HEADER: Final = encode_message(_VERSION[:-1])
_NA: Final = encode_message(b"na")
_HEADER_END: Final = len(HEADER)


class _Messages:
    """Cuts what arrives into messages; keeps at most one unfinished message."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._buffer = b""
        self._max_bytes = max_bytes

    def push(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data

    def next(self) -> bytes | None:
        """The next message with its newline, or None until more arrives."""
        buffer = self._buffer
        if not buffer:
            return None
        try:
            found = read_varint(buffer, 0, _MAX_LENGTH_BYTES, shortest=False)
        except FormatError as error:
            raise ProtocolError(_LAYER, "message too long") from error
        if found is None:
            return None
        length, at = found
        if length > self._max_bytes:
            raise ProtocolError(_LAYER, "message too long")
        if len(buffer) < at + length:
            return None
        message = buffer[at : at + length]
        if not message.endswith(b"\n"):
            raise ProtocolError(_LAYER, "message without a newline")
        self._buffer = buffer[at + length :]
        return message

    def rest(self) -> bytes:
        rest, self._buffer = self._buffer, b""
        return rest


class ProtocolTable:
    """What a listener speaks: protocol ids, kept as they stand on the wire.

    One table serves every stream and connection of a host; changes are seen at once.
    """

    __slots__ = ("_by_message", "_listing")

    def __init__(self, protocols: Iterable[str] = ()) -> None:
        self._by_message: dict[bytes, str] = {}
        self._listing: bytes | None = None
        for protocol in protocols:
            self.add(protocol)

    def add(self, protocol: str) -> None:
        """Speak ``protocol`` from now on."""
        self._by_message[protocol.encode() + b"\n"] = protocol
        self._listing = None

    def remove(self, protocol: str) -> None:
        """Stop; unknown ones are ignored."""
        self._by_message.pop(protocol.encode() + b"\n", None)
        self._listing = None

    def find(self, message: bytes) -> str | None:
        """The protocol that ``message`` (newline included) proposes, if it is spoken."""
        return self._by_message.get(message)

    def listing(self) -> bytes:
        """The answer to ``ls``."""
        if self._listing is None:
            names = b"".join(encode_message(message[:-1]) for message in self._by_message)
            self._listing = encode_message(names)
        return self._listing


class Listener:
    """The side that is asked."""

    __slots__ = ("_greeted", "_messages", "_out", "_rounds", "_table")

    def __init__(
        self, table: ProtocolTable, *, max_message_bytes: int = MAX_NEGOTIATION_MESSAGE_BYTES
    ) -> None:
        self._table = table
        self._messages = _Messages(max_message_bytes)
        self._greeted = False
        self._rounds = 0
        self._out = b""

    def receive(self, data: bytes) -> Selected | None:
        """Take ``data``; the outcome once there is one. Answers wait in ``data_to_send``.

        Raises:
            ProtocolError: see the module.
        """
        self._messages.push(data)
        while (message := self._messages.next()) is not None:
            if not self._greeted:
                if message != _VERSION:
                    raise ProtocolError(_LAYER, "no multistream header")
                self._greeted = True
                self._out += HEADER
                continue
            self._rounds += 1
            if self._rounds > MAX_NEGOTIATION_ROUNDS:
                raise ProtocolError(_LAYER, "too many proposals")
            protocol = self._table.find(message)
            if protocol is not None:
                self._out += encode_message(message[:-1])
                return Selected(protocol, self._messages.rest())
            if message == _LIST:
                self._out += self._table.listing()
                continue
            _check_text(message)
            self._out += _NA
        return None

    def data_to_send(self) -> bytes:
        """What to send since the last call."""
        out, self._out = self._out, b""
        return out


def accept_at_once(table: ProtocolTable, data: bytes) -> tuple[bytes, str, int] | None:
    """The whole of a listener's work when header and a known proposal arrive in one piece.

    Returns the answer, the protocol, and where the protocol's own data starts; None means that a
    :class:`Listener` has to look at ``data``. The request path of a server takes this way.
    """
    if len(data) > _HEADER_END and data.startswith(HEADER):
        length = data[_HEADER_END]
        end = _HEADER_END + 1 + length
        if length < ONE_BYTE_END and end <= len(data):
            protocol = table.find(data[_HEADER_END + 1 : end])
            if protocol is not None:
                return data[:end], protocol, end
    return None


def _check_text(message: bytes) -> None:
    if len(message) == 1:
        raise ProtocolError(_LAYER, "empty protocol id")
    try:
        message.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(_LAYER, "protocol id is not UTF-8") from error


class Proposer:
    """The side that proposes, in order of preference."""

    __slots__ = ("_greeted", "_messages", "_out", "_proposals", "_turn")

    def __init__(
        self,
        proposals: Sequence[str],
        *,
        max_message_bytes: int = MAX_NEGOTIATION_MESSAGE_BYTES,
    ) -> None:
        self._proposals = tuple(proposals)
        self._messages = _Messages(max_message_bytes)
        self._turn = 0
        self._greeted = False
        self._out = HEADER + encode_message(self._proposals[0].encode())

    @property
    def proposed(self) -> str:
        """What was proposed last."""
        return self._proposals[self._turn]

    def receive(self, data: bytes) -> Selected | Refused | None:
        """Take ``data``; the outcome once there is one.

        Raises:
            ProtocolError: see the module; also an answer that is neither an echo nor ``na``.
        """
        self._messages.push(data)
        while (message := self._messages.next()) is not None:
            if not self._greeted:
                if message != _VERSION:
                    raise ProtocolError(_LAYER, "no multistream header")
                self._greeted = True
                continue
            if message == self.proposed.encode() + b"\n":
                return Selected(self.proposed, self._messages.rest())
            if message != _NOT_AVAILABLE:
                raise ProtocolError(_LAYER, "answer to another proposal")
            if self._turn + 1 == len(self._proposals):
                return Refused(self._messages.rest())
            self._turn += 1
            self._out += encode_message(self.proposed.encode())
        return None

    def data_to_send(self) -> bytes:
        """What to send since the last call; the first call gives header and first proposal."""
        out, self._out = self._out, b""
        return out
