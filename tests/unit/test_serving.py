"""Server or client, and when that changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from multiaddr import Multiaddr

from codio_dht.core.mode import Mode
from codio_dht.net.handlers import StreamHandlerFactory
from codio_dht.net.host import Host
from codio_dht.node.serving import Serving

PUBLIC = Multiaddr("/ip4/5.6.7.8/tcp/4001")
PRIVATE = Multiaddr("/ip4/192.168.1.2/tcp/4001")


PROTOCOL = "/x/kad/1.0.0"


class Calls:
    """As much of a host as serving touches, and what it was told to do."""

    def __init__(self, wanted: str, addrs: Sequence[Multiaddr], *, public: bool = True) -> None:
        self.made: list[str] = []
        self.addrs = tuple(addrs)
        self.serving = Serving(
            cast(Host, self), PROTOCOL, cast(StreamHandlerFactory, None), wanted, public=public
        )

    def serve(self, protocol: str, handler: StreamHandlerFactory, *, idle_timeout_s: float) -> None:
        assert PROTOCOL == protocol
        self.made.append("serve")

    def unserve(self, protocol: str) -> None:
        assert PROTOCOL == protocol
        self.made.append("unserve")


def test_a_client_becomes_a_server_when_it_has_an_address_that_others_reach() -> None:
    calls = Calls("auto", [PRIVATE])
    calls.serving.start()
    assert (Mode.CLIENT, []) == (calls.serving.mode, calls.made)
    for _ in range(2):
        calls.serving.addrs_changed([PRIVATE, PUBLIC])
    assert (Mode.SERVER, ["serve"]) == (calls.serving.mode, calls.made)
    calls.serving.addrs_changed([PRIVATE])
    assert (Mode.CLIENT, ["serve", "unserve"]) == (calls.serving.mode, calls.made)


def test_an_address_through_a_relay_makes_no_server() -> None:
    relay = "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"
    calls = Calls("auto", [PRIVATE, Multiaddr(f"{PUBLIC}/p2p/{relay}/p2p-circuit")])
    assert Mode.CLIENT is calls.serving.mode


@pytest.mark.parametrize("wanted", ["server", "client"])
def test_a_mode_that_was_asked_for_stays(wanted: str) -> None:
    calls = Calls(wanted, [PRIVATE])
    calls.serving.start()
    started = list(calls.made)
    calls.serving.addrs_changed([PUBLIC])
    calls.serving.addrs_changed([])
    assert (Mode(wanted), started) == (calls.serving.mode, calls.made)


def test_a_node_of_a_private_network_serves_wherever_it_is() -> None:
    calls = Calls("auto", [PRIVATE], public=False)
    calls.serving.start()
    calls.serving.addrs_changed([])
    assert (Mode.SERVER, ["serve"]) == (calls.serving.mode, calls.made)


def test_a_network_that_becomes_public_needs_an_address_that_others_reach() -> None:
    calls = Calls("auto", [PRIVATE], public=False)
    calls.serving.start()
    calls.serving.set_public(public=True)
    assert (Mode.CLIENT, ["serve", "unserve"]) == (calls.serving.mode, calls.made)
    calls.serving.set_public(public=False)
    assert (Mode.SERVER, ["serve", "unserve", "serve"]) == (calls.serving.mode, calls.made)


def test_a_mode_that_changes_before_the_start_or_after_the_end_calls_nothing() -> None:
    calls = Calls("auto", [PRIVATE])
    calls.serving.addrs_changed([PUBLIC])
    assert (Mode.SERVER, []) == (calls.serving.mode, calls.made)
    calls.serving.start()
    calls.serving.stop()
    calls.serving.addrs_changed([])
    assert (Mode.CLIENT, ["serve", "unserve"]) == (calls.serving.mode, calls.made)
