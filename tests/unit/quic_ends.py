"""Two QUIC machines and the wire between them, for tests that look below libp2p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codio_dht.crypto.certificate import make_certificate
from codio_dht.crypto.keys import PrivateKey
from codio_dht.net.quic.machine.frames import PacketLevel
from codio_dht.net.quic.machine.machine import Machine
from codio_dht.net.quic.machine.state import Event, Setup, State, StreamData
from codio_dht.net.quic.tokens import ResetTokens

HERE, THERE = "dialler", "listener"
START = 100.0


def setup(seed: bytes) -> Setup:
    key = PrivateKey.from_ed25519_seed(seed * 32)
    return Setup(make_certificate(key), ResetTokens(key))


DIALLER, LISTENER = setup(b"d"), setup(b"l")


def accept(certificates: Any) -> None:
    """Any certificate will do."""


class Ends:
    """A dialler and a listener."""

    def __init__(self) -> None:
        self.now = START
        self.dialler = Machine(DIALLER, accept, dialled=True)
        self.dialler.dial(THERE, START)
        self.first = self.dialler.datagrams_to_send(START)
        self.listener = Machine(
            LISTENER, accept, dialled=False, original_id=self.state(self.dialler).first_id
        )
        self.lose: Callable[[Machine, bytes], bool] = lambda to, data: False
        self.address: Any = HERE
        self.sent = {self.dialler: 0, self.listener: 0}
        """Bytes that each side sent."""
        self.events: dict[Machine, list[Event]] = {self.dialler: [], self.listener: []}

    @staticmethod
    def state(machine: Machine) -> State:
        return machine._s

    def carry(self, sender: Machine) -> bool:
        """Whether there was something to send."""
        datagrams = sender.datagrams_to_send(self.now)
        if sender is self.dialler:
            datagrams, self.first = self.first + datagrams, []
        to = self.listener if sender is self.dialler else self.dialler
        for data, _ in datagrams:
            self.sent[sender] += len(data)
            if not self.lose(to, data):
                to.receive(data, self.address if to is self.listener else THERE, self.now)
        while (event := to.next_event()) is not None:
            self.events[to].append(event)
        return bool(datagrams)

    def run(self, seconds: float = 0.1) -> None:
        """Let time pass, timers firing when they are due."""
        end = self.now + seconds
        for _ in range(20_000):
            while self.carry(self.dialler) | self.carry(self.listener):
                pass
            dues = [side.next_timeout() for side in (self.dialler, self.listener)]
            due = min((due for due in dues if due is not None), default=end)
            if due >= end:
                self.now = end
                return
            self.now = max(due, self.now + 0.001)
            for side in (self.dialler, self.listener):
                side.on_timeout(self.now)
        raise AssertionError("timers never rest")

    def seal(self, payload: bytes, *, first: int = 0x43) -> bytes:
        """A short packet of the dialler with these frames."""
        state = self.state(self.dialler)
        space = state.spaces[PacketLevel.ONE_RTT]
        number = space.next_number
        space.next_number += 1
        header = bytes([first | state.phases.phase << 2]) + state.ids.peer.id
        assert state.phases.send is not None
        return state.phases.send.seal(header + number.to_bytes(4, "big"), number, payload)

    def craft(self, *payloads: bytes) -> int | None:
        """Have the listener read packets with these frames; the code of its end, if it ended."""
        for payload in payloads:
            self.listener.receive(self.seal(payload), HERE, self.now)
        ended = self.listener.ended
        return None if ended is None else ended.code

    def received(self, machine: Machine, stream_id: int) -> bytes:
        return b"".join(
            event.data
            for event in self.events[machine]
            if isinstance(event, StreamData) and event.stream_id == stream_id
        )


def connected() -> Ends:
    ends = Ends()
    ends.run(1.0)
    assert ends.dialler.ended is ends.listener.ended is None
    assert ends.state(ends.dialler).stage == ends.state(ends.listener).stage
    return ends
