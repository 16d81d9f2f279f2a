"""One inbound kad stream: what its end means while a request is still to be answered."""

from __future__ import annotations

from typing import Any

from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.core.messages import GetProviders, MessageType, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.steps import Answer, Load, LoadKind
from codio_dht.net.handlers import Parked, Reset
from codio_dht.node.clock import Clock
from codio_dht.node.server import KadServer, KadStream, Wake
from codio_dht.wire.codec import encode_reply, encode_request

PEER = PeerId(b"\x12\x20" + b"p" * 32)
KEY = b"\x12\x20" + b"k" * 32
NOW = Monotonic(5.0)
REQUEST = encode_request(GetProviders(KEY))
REPLY = Reply(MessageType.GET_PROVIDERS, KEY)
ANSWER = encode_reply(REPLY)


class Responses:
    """Answers from memory once ``loaded``; a fake of the responder."""

    def __init__(self, *, loaded: bool) -> None:
        self.loaded = loaded

    def respond(self, peer: PeerId, request: Request, now: Now) -> Answer:
        return REPLY if self.loaded else Load(LoadKind.PROVIDERS, KEY)


class NoLoader:
    def load(self, load: Load, done: Wake) -> None:
        """Never done."""

    def stop_waiting(self, load: Load, done: Wake) -> None:
        """Nobody waits."""


def stream_over(responder: Any) -> KadStream:
    return KadServer(responder, NoLoader(), Clock(lambda: UnixTime(1.0)))(PEER)


def test_the_end_of_a_stream_on_which_everything_was_answered_says_nothing() -> None:
    stream = stream_over(Responses(loaded=True))
    assert stream.feed(REQUEST, NOW) == ANSWER
    assert stream.eof(NOW) == b""


def test_an_end_that_comes_with_the_request_does_not_take_its_answer() -> None:
    responder = Responses(loaded=False)
    stream = stream_over(responder)
    assert isinstance(stream.feed(REQUEST, NOW), Parked)
    responder.loaded = True
    assert stream.eof(NOW) == ANSWER


def test_an_end_inside_of_a_request_is_a_fault() -> None:
    stream = stream_over(Responses(loaded=True))
    assert stream.feed(REQUEST[:-1], NOW) == b""
    assert isinstance(stream.eof(NOW), Reset)
