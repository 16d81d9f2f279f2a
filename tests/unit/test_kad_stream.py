"""One inbound kad stream: what its end means while a request is still to be answered."""

from __future__ import annotations

from typing import Any

from codio_dht.core.clock import Monotonic, Now, UnixTime
from codio_dht.core.messages import GetProviders, MessageType, Reply, Request
from codio_dht.core.peer import PeerId
from codio_dht.core.responder import MAX_LOADS_PER_REQUEST
from codio_dht.core.steps import Answer, Load, LoadKind
from codio_dht.core.turns import Path
from codio_dht.core.validation import Check
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
    def load(self, load: Load, done: Wake, owner: Path) -> None:
        """Never done."""

    def stop_waiting(self, load: Load, done: Wake) -> None:
        """Nobody waits."""


class NoJudges:
    """Remembers who waits for a verdict; gives none by itself."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Check, Wake]] = []

    def begin(self, check: Check, done: Wake) -> None:
        self.waiting.append((check, done))

    def stop_waiting(self, check: Check, done: Wake) -> None:
        self.waiting.remove((check, done))


def stream_over(responder: Any, judges: NoJudges | None = None) -> KadStream:
    return KadServer(responder, NoLoader(), judges or NoJudges(), Clock(lambda: UnixTime(1.0)))(
        PEER
    )


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


CHECK = Check(b"/app/x", b"value", None)


class Undecided(Responses):
    """Wants a verdict of an application's validator before it answers."""

    def respond(self, peer: PeerId, request: Request, now: Now) -> Answer:
        return REPLY if self.loaded else CHECK


def test_a_stream_waits_for_the_verdict_of_an_application_and_is_answered_then() -> None:
    responses, judges, woken = Undecided(loaded=False), NoJudges(), []
    stream = stream_over(responses, judges)
    parked = stream.feed(REQUEST, NOW)
    assert isinstance(parked, Parked)
    parked.on_ready(lambda: woken.append(1))
    [(check, wake)] = judges.waiting
    assert check == CHECK
    responses.loaded = True
    wake()
    assert woken == [1]
    assert stream.feed(b"", NOW) == ANSWER


def test_a_stream_that_ends_takes_no_place_before_a_validator() -> None:
    judges = NoJudges()
    stream = stream_over(Undecided(loaded=False), judges)
    parked = stream.feed(REQUEST, NOW)
    assert isinstance(parked, Parked)
    parked.on_ready(lambda: None)
    stream.closed()
    assert judges.waiting == []


def test_a_verdict_that_never_comes_resets_the_stream_after_a_few_tries() -> None:
    judges = NoJudges()
    stream = stream_over(Undecided(loaded=False), judges)
    answer = stream.feed(REQUEST, NOW)
    tries = 0
    while isinstance(answer, Parked):
        tries += 1
        answer = stream.feed(b"", NOW)
    assert isinstance(answer, Reset)
    assert tries == MAX_LOADS_PER_REQUEST
