"""The methods of the control API that are about this node's own keys (docs/control-api.md).

Decides their parameters and results.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from codio_dht.core.peer import PeerId
from codio_dht.daemon.node_port import Dht, KeptKey
from codio_dht.daemon.parameters import Params
from codio_dht.daemon.protocol import ControlError, ErrorCode
from codio_dht.errors import CodioError, NetworkError, UsageError
from codio_dht.formats.cid import RAW, format_cid

MAX_CIDS: Final = 1_000
"""CIDs of one request."""

Emit = Callable[[object], Awaitable[None]]
Method = Callable[[Params, Emit], Awaitable[object]]


class ProvideMethods:
    """The methods of the control API for own keys. ``code_of`` gives the code of an error, and
    ``to_json`` makes a value fit for JSON."""

    def __init__(
        self,
        dht: Dht,
        code_of: Callable[[CodioError], ErrorCode],
        to_json: Callable[[object], object],
    ) -> None:
        self._dht = dht
        self._code_of = code_of
        self._to_json = to_json

    def table(self) -> dict[str, Method]:
        """Every method by its name in the API."""
        return {
            "provide.add": self._add,
            "provide.once": self._once,
            "provide.many": self._many,
            "provide.rm": self._remove,
            "provide.rm_many": self._remove_many,
            "provide.ls": self._list,
            "provide.stat": self._stat,
        }

    async def _add(self, params: Params, emit: Emit) -> object:
        try:
            return await self._deliver(params, self._dht.provide)
        except NetworkError as error:  # it is kept all the same
            raise ControlError(
                self._code_of(error),
                f"{error}; the key is saved and will be provided once a peer is reachable",
            ) from error

    async def _once(self, params: Params, emit: Emit) -> object:
        return await self._deliver(params, self._dht.provide_once)

    async def _deliver(self, params: Params, provide: Callable[[str], Awaitable[Any]]) -> object:
        cid = params.cid("cid")
        params.done()
        outcome = await provide(cid)
        if outcome.holders == 0:
            raise NetworkError(f"none of the {outcome.attempted} peers tried took the record")
        return {
            "cid": cid,
            "holders": outcome.holders,
            "confirmed": outcome.confirmed,
            "attempted": outcome.attempted,
            "pending": outcome.pending,
            "seconds": round(outcome.seconds, 6),
        }

    async def _many(self, params: Params, emit: Emit) -> object:
        done = await self._dht.provide_many(_cids(params))
        return {"keys": done.keys, "added": done.changed}

    async def _remove(self, params: Params, emit: Emit) -> object:
        cid = params.cid("cid")
        params.done()
        if not await self._dht.stop_providing(cid):
            raise ControlError(ErrorCode.NOT_FOUND, f"{cid} is not among the provided keys")
        return {"cid": cid}

    async def _remove_many(self, params: Params, emit: Emit) -> object:
        done = await self._dht.stop_providing_many(_cids(params))
        return {"keys": done.keys, "removed": done.changed}

    async def _list(self, params: Params, emit: Emit) -> object:
        params.done()
        count = 0
        async with aclosing(self._dht.iter_own_keys()) as own_keys:
            async for own in own_keys:
                count += 1
                await emit(
                    {
                        "cid": cid_of(own),
                        "added": self._to_json(own.added),
                        "last_provided": self._to_json(own.last_provided),
                        "waits": own.waits,
                    }
                )
        return {"count": count}

    async def _stat(self, params: Params, emit: Emit) -> object:
        asked = params.optional_text("cid")
        params.done()
        status = await self._dht.provide_status(asked)
        if status is None:
            raise ControlError(ErrorCode.NOT_FOUND, f"{asked} is not among the provided keys")
        if asked is None:
            return self._to_json(status)
        return {
            "cid": status.cid or raw_cid(status.key),
            "added": self._to_json(status.added),
            "last_provided": self._to_json(status.last_provided),
            "due": self._to_json(status.due),
            "holders": status.holders,
            "wanted": status.wanted,
            "held_by": None if status.held_by is None else _texts(status.held_by),
        }


def cid_of(own: KeptKey) -> str:
    """The CID of an own key as it was given, or else the CIDv1 of codec raw for its multihash."""
    return own.written or raw_cid(own.key)


def raw_cid(multihash: bytes) -> str:
    """The CIDv1 of codec raw for a multihash: all that the DHT knows of a CID is its multihash."""
    return format_cid(RAW, multihash)


def _cids(params: Params) -> list[str]:
    cids = params.texts("cids", MAX_CIDS)
    params.done()
    if not cids:
        raise UsageError("cids is missing")
    return cids


def _texts(peers: tuple[PeerId, ...]) -> list[str]:
    return [str(peer) for peer in peers]
