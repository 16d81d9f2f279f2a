"""Values with real peers: what go, rust and js put is held and told by our node, and the other way
round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codio_dht import DHTManager, PeerId
from codio_dht.core.messages import Record
from codio_dht.crypto.ipns import ipns_key, parse_ipns_record
from peers import Peer, PeerError, PeerLauncher, until

pytestmark = pytest.mark.interop

BOXO = json.loads((Path(__file__).parent.parent / "vectors" / "go_ipns.json").read_text())
PATHS = ("/ipfs/bafkqaddwgevxmmraojswg33smq", "/ipfs/bafkqadtwgiww63tmpeqhezldn5zgi")
IMPLEMENTATIONS = ("go", "rust", "js")


def boxo_record(kind: str, form: str = "v1_v2") -> tuple[bytes, bytes]:
    """An IPNS record that boxo made, and its key in the DHT."""
    entry = BOXO["records"][kind]
    return ipns_key(PeerId.from_string(entry["peer_id"])), bytes.fromhex(entry[form])


async def held(node: DHTManager, key: bytes) -> Record | None:
    values = node._node.shared.storage.values
    assert values is not None
    return await values.get(key)


async def meet(node: DHTManager, peer: Peer) -> None:
    await node.connect(peer.addr)
    await peer.until_it_knows(str(node.peer_id))


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
async def test_what_they_put_our_server_holds_and_tells(
    launch: Callable[[str], PeerLauncher], name: str, kind: str
) -> None:
    key, record = boxo_record(kind)
    async with (
        launch(name).start(count=2, values="any" if name == "rust" else "amino") as (theirs, other),
        DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]) as ours,
    ):
        await meet(ours, theirs)
        await theirs.put_value(key, record)

        async def here() -> bool:
            return (await held(ours, key)) is not None

        await until(here, 10, "their value at our node")
        ours_now = await held(ours, key)
        assert ours_now is not None
        assert ours_now.value == record
        await meet(ours, other)
        assert await other.get_value(key) == record
        assert parse_ipns_record(record).sequence == 7


async def test_what_is_not_valid_is_refused_even_by_a_putter_that_judges_nothing(
    launch: Callable[[str], PeerLauncher],
) -> None:
    key, record = boxo_record("ed25519")
    async with (
        launch("rust").start() as (theirs,),
        DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]) as ours,
    ):
        await meet(ours, theirs)
        with pytest.raises(PeerError):
            await theirs.put_value(key, record[:-1])
        assert await held(ours, key) is None
        await theirs.put_value(key, record)
        assert await held(ours, key) is not None


@pytest.mark.parametrize("putter", ["ours", *IMPLEMENTATIONS])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
async def test_what_one_puts_through_theirs_is_got_by_all(
    launch: Callable[[str], PeerLauncher], name: str, putter: str
) -> None:
    """A value goes to servers of one implementation and to one of ours, put by each in turn."""
    key, record = boxo_record("rsa")
    amino = {} if name == "rust" else {"values": "amino"}
    async with (
        launch(name).start(count=3, **amino) as servers,
        DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]) as ours,
    ):
        for server in servers:
            await meet(ours, server)
        if putter == "ours":
            put = await ours.put_value(key, record)
            assert (put.holders, put.confirmed) == (3, 3)
        elif putter == name:
            await servers[0].put_value(key, record)
        else:
            own = {} if putter == "rust" else {"values": "amino"}
            bootstrap = [servers[0].addr, f"{ours.addrs[0]}/p2p/{ours.peer_id}"]
            async with launch(putter).start(bootstrap=bootstrap, **own) as (other,):
                await other.until_it_knows(str(ours.peer_id))
                await other.put_value(key, record)
        assert await ours.get_value(key) == record
        assert await servers[2].get_value(key) == record
        found = await ours.resolve_name(PeerId(key.removeprefix(b"/ipns/")))
        assert found is not None
        assert found.path == "/ipfs/bafkqaddwgevxmmraojswg33smq"


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
async def test_a_name_that_we_publish_they_resolve_and_its_newer_record_too(
    launch: Callable[[str], PeerLauncher], name: str
) -> None:
    amino = {} if name == "rust" else {"values": "amino"}
    async with (
        launch(name).start(count=3, **amino) as servers,
        DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]) as ours,
        DHTManager.open(listen=["/ip4/127.0.0.1/tcp/0"]) as reader,
    ):
        for server in servers:
            await meet(ours, server)
            await meet(reader, server)
        name_id = await ours.generate_name_key("blog")
        for sequence, path in enumerate(
            ("/ipfs/bafkqaddwgevxmmraojswg33smq", "/ipfs/bafkqadtwgiww63tmpeqhezldn5zgi")
        ):
            published = await ours.publish_name(path, key="blog")
            assert published.record.sequence == sequence
            assert published.put.holders >= 3
            value = await servers[1].get_value(ipns_key(name_id))
            assert parse_ipns_record(value) == published.record
            found = await reader.resolve_name(name_id)
            assert found is not None
            assert found.path == path
