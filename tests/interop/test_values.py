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
from codio_dht.errors import InvalidValueError
from peers import Peer, PeerError, PeerLauncher, until

pytestmark = pytest.mark.interop

BOXO = json.loads((Path(__file__).parent.parent / "vectors" / "go_ipns.json").read_text())
IMPLEMENTATIONS = ("go", "rust", "js")


class TakesAnything:
    """As the test peers' own validator of the namespace ``v``."""

    def validate(self, key: bytes, value: bytes) -> None:
        if value == b"refused":
            raise InvalidValueError("refused")

    def select(self, key: bytes, values: list[bytes]) -> int:
        return 0


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
