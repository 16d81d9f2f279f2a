"""Two QUIC machines and a wire that loses, repeats and reorders, against a plain model: what each
side wrote on each stream. What arrives is always a beginning of that, and all of it once the wire
is good again, whatever else happened meanwhile."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codio_dht.net.quic.limits import QUIC_CONNECTION_WINDOW_BYTES, QUIC_HOLD_BYTES
from codio_dht.net.quic.machine.machine import Machine
from codio_dht.net.quic.machine.state import StreamData
from quic_ends import HERE, THERE, Ends, connected

_MAX_STREAMS = 6


class QuicStreamsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ends: Ends = connected()
        self.wire: list[tuple[Machine, bytes]] = []
        self.wrote: dict[tuple[Machine, int], bytes] = {}
        self.finished: set[tuple[Machine, int]] = set()
        self.got: dict[tuple[Machine, int], bytes] = {}
        self.told_end: set[tuple[Machine, int]] = set()
        self.address: Any = HERE

    @initialize(by_dialler=st.booleans())
    def open_first(self, by_dialler: bool) -> None:
        self.open(by_dialler)

    @precondition(lambda self: len(self.wrote) < 2 * _MAX_STREAMS)
    @rule(by_dialler=st.booleans())
    def open(self, by_dialler: bool) -> None:
        machine = self.ends.dialler if by_dialler else self.ends.listener
        self.wrote[machine, machine.open_stream()] = b""

    @rule(data=st.data(), size=st.sampled_from([1, 40, 1_500, 30_000]))
    def write(self, data: st.DataObject, size: int) -> None:
        open_now = sorted(
            set(self.wrote) - self.finished,
            key=lambda each: (each[1], each[0] is self.ends.dialler),
        )
        if open_now:
            machine, number = data.draw(st.sampled_from(open_now))
            if machine.can_write(number) and machine.kept_bytes < QUIC_HOLD_BYTES:
                content = bytes([len(self.wrote[machine, number]) % 251]) * size
                machine.write(number, content)
                self.wrote[machine, number] += content

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        open_now = sorted(
            set(self.wrote) - self.finished,
            key=lambda each: (each[1], each[0] is self.ends.dialler),
        )
        if open_now:
            machine, number = data.draw(st.sampled_from(open_now))
            machine.write(number, b"", fin=True)
            self.finished.add((machine, number))

    @rule()
    def send(self) -> None:
        for machine in (self.ends.dialler, self.ends.listener):
            other = self.other(machine)
            for datagram, _ in machine.datagrams_to_send(self.ends.now):
                self.wire.append((other, datagram))
        del self.wire[:-200]  # a queue of the network overflows

    @precondition(lambda self: self.wire)
    @rule(at=st.integers(0), lost=st.booleans(), again=st.booleans())
    def deliver(self, at: int, lost: bool, again: bool) -> None:
        at %= len(self.wire)
        machine, datagram = self.wire[at] if again else self.wire.pop(at)
        if not lost:
            self.receive(machine, datagram)

    @rule()
    def deliver_all(self) -> None:
        wire, self.wire = self.wire, []
        for machine, datagram in wire:
            self.receive(machine, datagram)

    @rule(seconds=st.sampled_from([0.001, 0.03, 0.3]))
    def wait(self, seconds: float) -> None:
        self.ends.now += seconds
        for machine in (self.ends.dialler, self.ends.listener):
            due = machine.next_timeout()
            if due is not None and due <= self.ends.now:
                machine.on_timeout(self.ends.now)

    @rule(by_dialler=st.booleans())
    def update_keys(self, by_dialler: bool) -> None:
        (self.ends.dialler if by_dialler else self.ends.listener).update_keys()

    @rule(address=st.sampled_from([HERE, "elsewhere", "far away"]))
    def move(self, address: str) -> None:
        self.address = address

    def other(self, machine: Machine) -> Machine:
        return self.ends.listener if machine is self.ends.dialler else self.ends.dialler

    def receive(self, machine: Machine, datagram: bytes) -> None:
        address = self.address if machine is self.ends.listener else THERE
        machine.receive(datagram, address, self.ends.now)
        while (event := machine.next_event()) is not None:
            if isinstance(event, StreamData):
                key = self.other(machine), event.stream_id
                assert key not in self.told_end
                self.got[key] = self.got.get(key, b"") + event.data
                if event.fin:
                    self.told_end.add(key)
                machine.grant(len(event.data))
                machine.grant_stream(event.stream_id, len(event.data))

    @invariant()
    def what_arrived_is_a_beginning_of_what_was_written(self) -> None:
        for key, got in self.got.items():
            assert self.wrote[key].startswith(got)
        for key in self.told_end:
            assert key in self.finished
            assert self.wrote[key] == self.got[key]

    @invariant()
    def nobody_gave_up_and_nothing_is_counted_wrong(self) -> None:
        for machine in (self.ends.dialler, self.ends.listener):
            assert machine.ended is None
            state = Ends.state(machine)
            in_flight = sum(
                packet.size
                for space in state.spaces
                for packet in space.sent.values()
                if packet.in_flight
            )
            assert in_flight == state.recovery.bytes_in_flight
            kept = sum(stream.sender.kept for stream in state.flow.streams.values())
            assert kept == machine.kept_bytes
            assert 0 <= machine.received_bytes <= QUIC_CONNECTION_WINDOW_BYTES

    def teardown(self) -> None:
        for key in set(self.wrote) - self.finished:
            key[0].write(key[1], b"", fin=True)
            self.finished.add(key)
        for _ in range(400):
            self.send()
            self.deliver_all()
            self.wait(0.03)
            if not self.wire and self.told_end == self.finished:
                break
        self.what_arrived_is_a_beginning_of_what_was_written()
        assert self.told_end == self.finished


QuicStreamsMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=60)
TestQuicStreams = QuicStreamsMachine.TestCase
