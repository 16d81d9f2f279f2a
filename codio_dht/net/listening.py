"""What happens to addresses that a host is told to listen on twice, or cannot listen on.

One that this machine does not have, or that somebody else uses, is a warning as long as another one
can be listened on: a configuration may be written for several machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multiaddr import Multiaddr

from codio_dht.errors import NetworkError
from codio_dht.logger import get_logger
from codio_dht.net.targets import parse

log = get_logger(__name__)


def each_once(addrs: Iterable[Multiaddr]) -> list[Multiaddr]:
    """The addresses without repetitions; port 0 is another port each time."""
    seen: set[bytes] = set()
    kept = []
    for addr in addrs:
        data = addr.to_bytes()
        target = parse(data)
        if data not in seen or (target is not None and not target.port):
            kept.append(addr)
        seen.add(data)
    return kept


def judge_failures(failures: Sequence[NetworkError], *, listens: bool) -> None:
    """Log the addresses that could not be listened on, given whether the host listens at all.

    Raises:
        NetworkError: the first of the failures, if it listens on no other address.
    """
    if failures and not listens:
        raise failures[0]
    for failure in failures:
        log.warning("listen_failed", error=str(failure))
