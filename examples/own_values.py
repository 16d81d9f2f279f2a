"""Values of an application, in a network of its own, with a validator."""

from collections.abc import Sequence

import trio

from codio_dht import DHTConfig, DHTManager, InvalidValueError, UsageError

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


class Highest:
    """Values are numbers as text; the highest is the best."""

    def validate(self, key: bytes, value: bytes) -> None:
        if not value.isdigit():
            raise InvalidValueError("not a number")

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return max(range(len(values)), key=lambda index: int(values[index]))


async def main() -> None:
    config = DHTConfig(protocol="/scores/kad/1.0.0", validators={"score": Highest()})
    async with DHTManager.open(config, listen=LOOPBACK) as first:
        seed = f"{first.addrs[0]}/p2p/{first.peer_id}"
        async with DHTManager.open(config, listen=LOOPBACK, bootstrap=[seed]) as second:
            await second.joined()
            for score in (b"7", b"9"):
                await second.put_value("/score/anna", score)
            try:
                await second.put_value("/score/anna", b"8")
            except UsageError as error:
                print("refused:", error)
            print("best:", await first.get_value("/score/anna"))


trio.run(main)
