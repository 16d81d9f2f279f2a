"""Addresses to listen on that stand twice, or that this machine cannot listen on."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr
from structlog.testing import capture_logs

from codio_dht.errors import NetworkError
from codio_dht.net.listening import each_once, judge_failures

FAILURES = [NetworkError("cannot listen on /a: no such address"), NetworkError("cannot ... /b")]


def test_an_address_that_stands_twice_is_listened_on_once_unless_its_port_is_free_to_choose() -> (
    None
):
    addrs = [
        Multiaddr(text)
        for text in (
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/127.0.0.1/udp/4001/quic-v1",
            "/ip4/127.0.0.1/tcp/0",
        )
    ]
    assert [*addrs[:2], *addrs[3:]] == each_once(addrs)


def test_what_cannot_be_listened_on_is_a_warning_as_long_as_something_else_can() -> None:
    with capture_logs() as logs:
        judge_failures(FAILURES, listens=True)
    assert [("warning", str(failure)) for failure in FAILURES] == [
        (line["log_level"], line["error"]) for line in logs
    ]


def test_a_host_that_listens_nowhere_fails_with_the_first_reason() -> None:
    with pytest.raises(NetworkError, match="no such address"):
        judge_failures(FAILURES, listens=False)


def test_a_host_that_was_not_asked_to_listen_is_no_failure() -> None:
    judge_failures([], listens=False)
