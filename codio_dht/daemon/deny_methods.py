"""The methods of the control API about deny lists.

Decides their names, parameters and results (docs/control-api.md lists them). What a rule is and
what it denies, :mod:`codio_dht.core.denials` says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from codio_dht.core.denials import DenyCounts
from codio_dht.daemon.node_port import Dht
from codio_dht.daemon.parameters import Params

Emit = Callable[[object], Awaitable[None]]
Method = Callable[[Params, Emit], Awaitable[object]]


class DenyMethods:
    """The methods about the deny lists of one node."""

    def __init__(self, dht: Dht) -> None:
        self._dht = dht

    def table(self) -> Mapping[str, Method]:
        """Every method by its name in the API."""
        return {
            "deny.ls": self._ls,
            "deny.add": self._add,
            "deny.rm": self._rm,
            "deny.check": self._check,
            "deny.reload": self._reload,
        }

    async def _ls(self, params: Params, emit: Emit) -> object:
        params.done()
        for rule in self._dht.deny_rules():
            await emit({"rule": rule})
        return _counts_json(self._dht.deny_counts())

    async def _add(self, params: Params, emit: Emit) -> object:
        rule = params.text("rule")
        params.done()
        return {"rule": rule, "added": await self._dht.deny(rule)}

    async def _rm(self, params: Params, emit: Emit) -> object:
        rule = params.text("rule")
        params.done()
        return {"rule": rule, "removed": await self._dht.stop_denying(rule)}

    async def _check(self, params: Params, emit: Emit) -> object:
        subject = params.text("subject")
        params.done()
        return {"subject": subject, "denied": self._dht.is_denied(subject)}

    async def _reload(self, params: Params, emit: Emit) -> object:
        params.done()
        return _counts_json(await self._dht.reload_deny_lists())


def _counts_json(counts: DenyCounts) -> dict[str, int]:
    return {
        "keys": counts.keys,
        "peers": counts.peers,
        "networks": counts.networks,
        "without_effect": counts.without_effect,
        "faults": counts.faults,
    }
