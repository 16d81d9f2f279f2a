"""The methods of the control API that are about values and names (docs/control-api.md).

Decides their parameters and results. Values are base64 in JSON, since they are any bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final

import trio

from codio_dht.core.clock import UnixTime
from codio_dht.core.peer import PeerId
from codio_dht.core.value_search import VALUE_QUORUM
from codio_dht.crypto.ipns import IPNS_LIFETIME_S, IPNS_TTL_S, IpnsRecord, parse_ipns_record
from codio_dht.daemon.node_port import Dht, ProvideOutcome
from codio_dht.daemon.parameters import Params
from codio_dht.daemon.protocol import ControlError, ErrorCode
from codio_dht.errors import InvalidValueError, NetworkError, UsageError
from codio_dht.formats.rfc3339 import format_rfc3339
from codio_dht.formats.text import format_name
from codio_dht.node.value_calls import name_argument
from codio_dht.store.name_keys import SELF

MAX_LIFETIME_S: Final = 10 * 365 * 86_400.0
"""Longest life of a record that can be asked for, seconds."""

MAX_QUORUM: Final = 1_000

_NS: Final = 1_000_000_000

Emit = Callable[[object], Awaitable[None]]
Method = Callable[[Params, Emit], Awaitable[object]]


class ValueMethods:
    """The methods of the control API for values. ``unix_now`` decides whether a record expired."""

    def __init__(self, dht: Dht, unix_now: Callable[[], UnixTime]) -> None:
        self._dht = dht
        self._unix_now = unix_now

    def table(self) -> dict[str, Method]:
        """Every method by its name in the API."""
        return {
            "value.put": self._put,
            "value.get": self._get,
            "name.publish": self._publish,
            "name.unpublish": self._unpublish,
            "name.resolve": self._resolve,
            "name.inspect": self._inspect,
            "key.gen": self._generate,
            "key.ls": self._list,
            "key.rm": self._remove,
        }

    # --- values ---

    async def _put(self, params: Params, emit: Emit) -> object:
        key, value, keep = params.text("key"), params.base64("value"), params.flag("keep")
        params.done()
        put = await self._dht.put_value(key, value, keep=keep)
        return {"key": key, **put_json(put)}

    async def _get(self, params: Params, emit: Emit) -> object:
        key = params.text("key")
        quorum = params.integer("quorum", VALUE_QUORUM, 0, MAX_QUORUM)
        params.done()
        began = trio.current_time()
        best: bytes | None = None
        async with aclosing(self._dht.search_value(key, quorum)) as values:
            async for value in values:
                best = value
                await emit(_value_json(value, began))
        if best is None:
            raise ControlError(ErrorCode.NOT_FOUND, f"no value of {key} was found")
        return {"key": key, **_value_json(best, began)}

    # --- names ---

    async def _publish(self, params: Params, emit: Emit) -> object:
        path = params.text("path")
        label = params.optional_text("key") or SELF
        lifetime_s = params.number("lifetime", IPNS_LIFETIME_S, 1.0, MAX_LIFETIME_S)
        ttl_s = params.number("ttl", IPNS_TTL_S, 0.0, MAX_LIFETIME_S)
        params.done()
        published = await self._dht.publish_name(path, key=label, lifetime=lifetime_s, ttl=ttl_s)
        return {
            "name": published.name,
            "key": label,
            **self._record_json(published.record),
            **put_json(published.put),
        }

    async def _unpublish(self, params: Params, emit: Emit) -> object:
        label = params.optional_text("key") or SELF
        params.done()
        if not await self._dht.unpublish_name(label):
            raise ControlError(ErrorCode.NOT_FOUND, f"the name of {label} is not published")
        return {"key": label}

    async def _resolve(self, params: Params, emit: Emit) -> object:
        name = params.text("name")
        recursive = params.flag("recursive", default=True)
        quorum = params.integer("quorum", VALUE_QUORUM, 0, MAX_QUORUM)
        params.done()
        began = trio.current_time()
        peer, _ = name_argument(name)
        found = await self._dht.resolve_name(name, quorum, recursive=recursive)
        if found is None:
            raise ControlError(ErrorCode.NOT_FOUND, f"nobody has a record of {_name_of(peer)}")
        return {
            "name": _name_of(peer),
            "path": found.path,
            **self._record_json(found.record),
            "seconds": _since(began),
        }

    async def _inspect(self, params: Params, emit: Emit) -> object:
        """Everything in the record that was handed over, or in the record of a name. Says whether
        the record is valid under ``name``."""
        name, data = params.optional_text("name"), params.optional_base64("record")
        params.done()
        peer = None if name is None else name_argument(name)[0]
        if data is None:
            if peer is None:
                raise UsageError("name or record is missing")
            found = await self._dht.resolve_name(peer, VALUE_QUORUM, recursive=False)
            if found is None:
                raise ControlError(ErrorCode.NOT_FOUND, f"nobody has a record of {_name_of(peer)}")
            record = found.record
        else:
            try:
                record = parse_ipns_record(data)
            except InvalidValueError as error:
                raise UsageError(f"record: it is no IPNS record: {error}") from error
        return {
            "name": None if peer is None else _name_of(peer),
            "valid": self._verdict(record, peer),
            **self._record_json(record),
            "validity": format_rfc3339(record.eol_ns),
            "v1": record.has_v1,
            "public_key": b64encode(record.public_key).decode() or None,
            "metadata": sorted(record.metadata),
            "bytes": len(record.encoded),
            "record": b64encode(record.encoded).decode(),
        }

    def _verdict(self, record: IpnsRecord, peer: PeerId | None) -> str:
        """``yes``, or why the record is not valid."""
        if peer is None:
            expired = record.eol_ns <= int(self._unix_now() * _NS)
            return "expired" if expired else "no name was given to verify it with"
        try:
            record.verify(peer, self._unix_now())
        except InvalidValueError as error:
            return str(error)
        return "yes"

    def _record_json(self, record: IpnsRecord) -> dict[str, object]:
        return {
            "value": record.value.decode("utf-8", "replace"),
            "sequence": record.sequence,
            "eol": round(record.eol, 6),
            "ttl": record.ttl_ns / _NS,
        }

    # --- keys ---

    async def _generate(self, params: Params, emit: Emit) -> object:
        label = params.text("key")
        params.done()
        return {"key": label, "name": _name_of(await self._dht.generate_name_key(label))}

    async def _list(self, params: Params, emit: Emit) -> object:
        params.done()
        keys: Mapping[str, PeerId] = await self._dht.name_keys()
        for label, peer in keys.items():
            await emit({"key": label, "name": _name_of(peer)})
        return {"count": len(keys)}

    async def _remove(self, params: Params, emit: Emit) -> object:
        label = params.text("key")
        params.done()
        if not await self._dht.remove_name_key(label):
            raise ControlError(ErrorCode.NOT_FOUND, f"there is no key called {label}")
        return {"key": label}


def put_json(put: ProvideOutcome) -> dict[str, object]:
    """How a put went.

    Raises:
        NetworkError: nobody took the value.
    """
    if put.holders == 0:
        raise NetworkError(f"none of the {put.attempted} peers tried took the value")
    return {
        "holders": put.holders,
        "confirmed": put.confirmed,
        "attempted": put.attempted,
        "pending": put.pending,
        "seconds": round(put.seconds, 6),
    }


def _value_json(value: bytes, began: float) -> dict[str, object]:
    return {"value": b64encode(value).decode(), "bytes": len(value), "seconds": _since(began)}


def _name_of(peer: PeerId) -> str:
    return format_name(peer.to_bytes())


def _since(began: float) -> float:
    return round(trio.current_time() - began, 6)
