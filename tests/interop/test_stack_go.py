"""The sans-I/O stack against a real go-libp2p peer, over one blocking socket.

Needs a go peer program that prints a ready line and takes JSON commands on stdin; its path is in
CODIO_GO_PEER.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.crypto.keys import PrivateKey
from codio_dht.crypto.protobuf import bytes_field, read_fields, uint_field
from codio_dht.net.stack.connection import Connection, ConnectionEnded, Established
from codio_dht.net.stack.identify_message import IdentifyMessage, decode_identify, encode_identify
from codio_dht.net.stack.noise import NoiseIdentity
from codio_dht.net.stack.channel import (
    Channel,
    ChannelAccepted,
    ChannelData,
    ChannelEof,
    ChannelRefused,
    Served,
    ServedProtocols,
)

pytestmark = pytest.mark.interop

def framed(message: bytes) -> bytes:
    assert len(message) < 128
    return bytes((len(message),)) + message


KAD = "/ipfs/kad/1.0.0"
IDENTIFY = "/ipfs/id/1.0.0"
FIND_NODE = 4
identity = PrivateKey.generate_ed25519()
OUR_IDENTIFY = framed(
    encode_identify(
        IdentifyMessage(
            public_key=identity.public_key().to_protobuf(),
            protocols=(IDENTIFY, KAD),
            agent="codio-dht/test",
        )
    )
)


class GoPeer:
    def __init__(self, program: str, security: str) -> None:
        self.process = subprocess.Popen(
            [program, "--security", security, "--seed", "1", "-autorefresh=false"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._read()
        self.peer_id = PeerId.from_base58(ready["peer_id"])
        addr = next(addr for addr in ready["addrs"] if "/tcp/" in addr)
        self.port = int(addr.split("/")[4])

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def send(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"rid": 1, **command}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return self._read()

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)


@pytest.fixture(params=["noise"])
def go_peer(request) -> Iterator[GoPeer]:
    program = os.environ.get("CODIO_GO_PEER")
    if not program:
        pytest.skip("CODIO_GO_PEER names no go peer program")
    peer = GoPeer(program, request.param)
    yield peer
    peer.stop()


def now() -> Monotonic:
    return Monotonic(time.monotonic())


def pump(
    sock: socket.socket, connection: Connection, on_event: Callable[[Any], object], seconds: float = 5
) -> list[Any]:
    """Run the connection until ``on_event`` says it saw enough; every event seen."""
    seen: list[Any] = []
    deadline = time.monotonic() + seconds
    sock.settimeout(seconds)
    while time.monotonic() < deadline:
        out = connection.data_to_send()
        if out:
            sock.sendall(out)
        data = sock.recv(65536)
        events = connection.receive(data, now()) if data else connection.peer_closed()
        while connection.work_left:
            events += connection.work(now())
        seen += events
        for event in events:
            if isinstance(event, ChannelAccepted):
                connection.streams.send(event.channel, OUR_IDENTIFY)
                connection.streams.close(event.channel, now())
        if any([on_event(event) for event in events or [None]]):
            out = connection.data_to_send()
            if out:
                sock.sendall(out)
            return seen
        ended = [event for event in events if isinstance(event, ConnectionEnded)]
        if ended:
            raise AssertionError(f"ended: {ended}, seen {seen}")
    raise AssertionError(f"timed out, seen {seen}")


def find_node(key: bytes) -> bytes:
    return framed(uint_field(1, FIND_NODE) + bytes_field(2, key))


class KadEcho:
    """Answers FIND_NODE with no closer peers."""

    requests: list[bytes]

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests

    def feed(self, data, now):
        self.requests.append(data)
        return framed(uint_field(1, FIND_NODE))

    def eof(self, now):
        return b""

    def closed(self):
        pass


@pytest.mark.parametrize("pipeline", [True, False])
def test_dialling_go_identifies_it_and_gets_a_kad_reply(go_peer: GoPeer, pipeline: bool) -> None:
    kad_requests: list[bytes] = []
    served = ServedProtocols(
        [
            Served(IDENTIFY),
            Served(KAD, lambda peer: KadEcho(kad_requests)),
        ]
    )
    connection = Connection(
        initiator=True,
        securities=[NoiseIdentity(identity).security()],
        served=served,
        now=now(),
        expected=go_peer.peer_id,
        pipeline=pipeline,
    )
    received: dict[Channel, bytes] = {}
    finished: list[Channel] = []
    channels: list[Channel] = []

    def on_event(event: Any) -> bool:
        match event:
            case Established():
                assert go_peer.peer_id == event.peer_id
                for protocol, data in ((IDENTIFY, b""), (KAD, find_node(b"\x01" * 32))):
                    channel = connection.streams.open([protocol], now(), data)
                    connection.streams.close_write(channel)
                    channels.append(channel)
            case ChannelData(channel, data):
                received[channel] = received.get(channel, b"") + data
                connection.streams.consume(channel, len(data))
            case ChannelEof(channel):
                finished.append(channel)
        return len(finished) == 2

    with socket.create_connection(("127.0.0.1", go_peer.port)) as sock:
        pump(sock, connection, on_event)
        identify, kad = (received[channel] for channel in channels)
        message = decode_identify(identify[2:])
        assert KAD in message.protocols
        assert "lab-go-peer" == message.agent
        assert message.signed_peer_record is not None
        fields = dict(read_fields(kad[1:], max_fields=64, layer="test"))
        assert FIND_NODE == fields[1]
        refused = connection.streams.open(["/nobody/speaks/this"], now(), b"hello")
        events = pump(sock, connection, lambda event: isinstance(event, ChannelRefused))
        assert ChannelRefused(refused) in events
        again = connection.streams.open([KAD], now(), find_node(b"\x02" * 32))
        pump(sock, connection, lambda e: isinstance(e, ChannelData) and e.channel is again)


def test_go_dials_identifies_us_and_sends_a_kad_request(go_peer: GoPeer) -> None:
    kad_requests: list[bytes] = []
    served = ServedProtocols(
        [
            Served(IDENTIFY),
            Served(KAD, lambda peer: KadEcho(kad_requests)),
        ]
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        own_id = identity.public_key().peer_id()
        go_peer.send(cmd="connect", addr=f"/ip4/127.0.0.1/tcp/{port}/p2p/{own_id}")
        sock, _ = server.accept()
    with sock:
        connection = Connection(
            initiator=False,
            securities=[NoiseIdentity(identity).security()],
            served=served,
            now=now(),
        )
        events = pump(sock, connection, lambda event: bool(kad_requests))
        assert go_peer.peer_id == next(e for e in events if isinstance(e, Established)).peer_id
        assert go_peer.answer()["ok"]
