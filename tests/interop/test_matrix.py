"""Every implementation, every transport, both directions, on every stack that carries our node.

One story for each: they connect, identify each other, ping, ask each other, enter each other's
routing tables, and each finds what the other provides. Each listens on the one transport only, so
that nothing goes another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from codio_dht import DHTManager, PeerId
from codio_dht.core.messages import FindNode, GetProviders, Reply
from codio_dht.core.multihash import multihash_of
from codio_dht.node.hosting import Stack
from codio_dht.wire.codec import decode_reply, encode_request
from codio_dht.wire.framing import FrameReader
from peers import Peer, PeerLauncher, RawReply, until

pytestmark = pytest.mark.interop

KAD = "/ipfs/kad/1.0.0"

STACKS: tuple[Stack, ...] = ("py-libp2p", "own")

IMPLEMENTATIONS = ("go", "rust", "js")

THEIR_OLD_CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
OUR_CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
THEIR_NEW_CID = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@dataclass(frozen=True)
class Transport:
    name: str
    listen: str
    security: str
    """What the other side offers on TCP; QUIC has its own."""
    negotiated: str | None
    """The security protocol that both must then have agreed on."""


TRANSPORTS = (
    Transport("tcp-noise", "/ip4/127.0.0.1/tcp/0", "noise", "/noise"),
    Transport("tcp-tls", "/ip4/127.0.0.1/tcp/0", "tls", "/tls/1.0.0"),
    Transport("quic", "/ip4/127.0.0.1/udp/0/quic-v1", "noise", None),
)

CANNOT = {
    ("py-libp2p", "js", "tcp-tls"): (
        "py-libp2p 0.8.1 does not put libp2p's extension first in its TLS certificate, and js reads"
        " only the first: `The certificate did not include the libp2p public key extension`"
    ),
}
"""What a stack is known to be unable to do."""


def cases() -> Iterator[Any]:
    for stack in STACKS:
        for name in IMPLEMENTATIONS:
            for transport in TRANSPORTS:
                reason = CANNOT.get((stack, name, transport.name))
                marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
                for we_dial in (True, False):
                    who = "we-dial" if we_dial else "they-dial"
                    yield pytest.param(
                        stack,
                        name,
                        transport,
                        we_dial,
                        marks=marks,
                        id=f"{stack}-{name}-{transport.name}-{who}",
                    )


def unframed(request: FindNode | GetProviders) -> bytes:
    """As ``raw_rpc`` wants it: without its length prefix."""
    reader = FrameReader()
    reader.feed(encode_request(request))
    payload = reader.next_frame()
    assert payload is not None
    return payload


async def asked(peer: Peer, ours: DHTManager, request: FindNode | GetProviders) -> Reply:
    """Our answer to a request of ``peer``."""
    answer = await peer.raw_rpc(str(ours.peer_id), unframed(request))
    assert RawReply("reply", answer.reply) == answer
    return decode_reply(answer.reply)


async def they_identified_us(peer: Peer, ours: DHTManager, transport: Transport) -> None:
    view = await peer.view_of(str(ours.peer_id))
    assert {KAD, "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"} <= set(view.protocols)
    assert view.agent.startswith("codio-dht/")
    assert {str(addr) for addr in ours.addrs} <= set(view.addrs)
    if transport.negotiated is not None:
        ways = {(each.security, each.muxer) for each in view.connections}
        assert {(transport.negotiated, "/yamux/1.0.0")} == ways


def we_identified_them(ours: DHTManager, peer: Peer, we_dialled: bool) -> None:
    theirs = PeerId.from_string(peer.peer_id)
    (connection,) = [each for each in ours.connections() if each.peer_id == theirs]
    assert {KAD, "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"} <= connection.protocols
    assert connection.agent.endswith("-peer")
    assert we_dialled is not connection.inbound


async def each_asks_the_other(ours: DHTManager, theirs: Peer, other: Peer) -> None:
    ids = {PeerId.from_string(peer.peer_id) for peer in (theirs, other)}
    key = b"a key that nobody has"
    assert ids == {info.peer_id for info in await ours.find_closest_peers(key)}
    answer = await asked(theirs, ours, FindNode(PeerId.from_string(other.peer_id).to_bytes()))
    assert [PeerId.from_string(other.peer_id)] == [peer.peer_id for peer in answer.closer_peers]


async def each_finds_what_the_other_provides(ours: DHTManager, theirs: Peer, other: Peer) -> None:
    # Provided before we came, so we have to ask.
    (found,) = await ours.find_providers(THEIR_OLD_CID, count=1)
    assert other.peer_id == str(found.peer_id)
    assert {other.addr} == {f"{addr}/p2p/{found.peer_id}" for addr in found.addrs}

    assert (await ours.provide(OUR_CID)).holders == 2
    ours_found = await theirs.find_providers(OUR_CID, count=1)
    assert [str(ours.peer_id)] == [provider.peer_id for provider in ours_found]

    async def here() -> bool:
        records = await ours.provider_records(THEIR_NEW_CID)
        return [theirs.peer_id] == [str(record.provider.peer_id) for record in records]

    await theirs.provide(THEIR_NEW_CID)
    await until(here, 5, "their record at our node")
    answer = await asked(other, ours, GetProviders(multihash_of(THEIR_NEW_CID)))
    (provider,) = answer.provider_peers
    assert (theirs.peer_id, True) == (str(provider.peer_id), bool(provider.addrs))


@pytest.mark.parametrize(("stack", "name", "transport", "we_dial"), list(cases()))
async def test_we_and_a_real_peer_meet_ask_and_find_each_other(
    launch: Callable[[str], PeerLauncher],
    stack: Stack,
    name: str,
    transport: Transport,
    we_dial: bool,
) -> None:
    peers = launch(name).start(count=2, listen=[transport.listen], security=transport.security)
    async with peers as (theirs, other):
        await theirs.until_it_knows(other.peer_id)
        await other.until_it_knows(theirs.peer_id)
        await other.provide(THEIR_OLD_CID)
        async with DHTManager.open(listen=[transport.listen], stack=stack) as ours:
            if we_dial:
                await ours.connect(theirs.addr)
            else:
                await theirs.connect(f"{ours.addrs[0]}/p2p/{ours.peer_id}")

            async def known() -> bool:
                table = [str(peer) for peer in ours.routing_table_peers()]
                return {theirs.peer_id, other.peer_id} == set(table)

            await theirs.until_it_knows(str(ours.peer_id))
            await until(known, 10, "both of theirs in our table")
            await they_identified_us(theirs, ours, transport)
            we_identified_them(ours, theirs, we_dial)
            assert await ours.ping(theirs.peer_id) < 5
            assert await theirs.ping(str(ours.peer_id)) < 5
            await each_asks_the_other(ours, theirs, other)
            await each_finds_what_the_other_provides(ours, theirs, other)
