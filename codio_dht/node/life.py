"""The life of one node: in which order its parts start, and in which they end.

Decides the order, and that nothing outlives the node: neither a task nor a call of the program.
What the parts do, they decide themselves (:mod:`codio_dht.node.assembly` makes them). States::

    CLOSED --open()--> OPEN --close()--> CLOSED
       ^----- a part that cannot be opened -----'

On the way in: store, host, own keys, networks, background work. On the way out, in this order: the
protocols are answered no more, calls end, background work ends, the networks close their streams
and save their tables, the host closes, the store closes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from pathlib import Path

import trio

from codio_dht import params
from codio_dht.core.addresses import node_is_public
from codio_dht.errors import NotRunningError, UsageError
from codio_dht.net.host import Host
from codio_dht.node import background
from codio_dht.node.arguments import binary
from codio_dht.node.assembly import NetworkPlan, Node, make_node
from codio_dht.node.calls import Calls
from codio_dht.node.clock import Clock
from codio_dht.node.denying import OWN_LIST, DenyLists
from codio_dht.node.hosting import open_store
from codio_dht.store.name_keys import NameKeys

MakeHost = Callable[[], AbstractAsyncContextManager[Host]]


class NodeLife:
    """Starts and ends the parts of one node in their order. ``plans`` are the node's networks, the
    main one first; ``joins_public_list`` says that the main one joins through the public bootstrap
    list."""

    def __init__(
        self,
        make_host: MakeHost,
        data_dir: Path | None,
        plans: Sequence[NetworkPlan],
        *,
        joins_public_list: bool,
        clock: Clock,
        deny: tuple[Sequence[Path], Sequence[str]] = ((), ()),
    ) -> None:
        self._make_host = make_host
        self._data_dir = data_dir
        self._plans = list(plans)
        self._joins_public_list = joins_public_list
        self._clock = clock
        self._deny = deny
        self.rng = random.Random()
        self._stack = AsyncExitStack()
        self._calls = Calls()
        self._entered = False
        self._node: Node | None = None
        self._nursery: trio.Nursery

    def add_network(self, plan: NetworkPlan) -> None:
        """Run one more network on the same host, from the next opening on."""
        self._plans.append(plan)

    @property
    def is_open(self) -> bool:
        """Whether the node runs."""
        return self._node is not None

    @property
    def node(self) -> Node:
        """The running node.

        Raises:
            NotRunningError: it is not open.
        """
        if self._node is None:
            raise NotRunningError("the DHT is not open: use it inside `async with`")
        return self._node

    @property
    def nursery(self) -> trio.Nursery:
        """Where the node's tasks live.

        Raises:
            NotRunningError: it is not open.
        """
        self.node  # noqa: B018 - raises if there is none
        return self._nursery

    def call(self) -> AbstractContextManager[None]:
        """The block is one call of the program: it ends with the node.

        Raises:
            NotRunningError: the node is not open, or was closed meanwhile.
        """
        self.node  # noqa: B018 - raises if there is none
        return self._calls.running()

    async def open(self) -> None:
        """Open every part, and start the background work.

        Raises:
            UsageError: the node is open already, the program does not run on trio, or a deny list
                cannot be read.
            StorageError, IdentityError: the data directory cannot be used.
        """
        _check_event_loop()
        if self._entered:
            raise UsageError("this DHTManager is open already: make another one, or wait")
        self._entered = True
        try:
            await self._open()
        except BaseException:
            self._entered = False
            raise

    async def close(self) -> None:
        """End everything, in the order of the module.

        Raises:
            StorageError: the last records could not be written.
        """
        try:
            await self._stack.aclose()
        finally:
            self._entered = False

    async def _open(self) -> None:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_store(self._data_dir))
            host = await stack.enter_async_context(self._make_host())
            node = make_node(
                host,
                store,
                self._plans,
                self._clock,
                self.rng,
                public=self._is_public(host),
                provider_ttl_s=self._provider_ttl_s(),
                name_keys=NameKeys(self._data_dir, host.private_key),
                deny_lists=DenyLists(
                    *self._deny, None if self._data_dir is None else self._data_dir / OWN_LIST
                ),
            )
            shared = node.shared
            await shared.storage.open()
            await node.providing.sweeping.open()
            await node.republishing.open()
            await node.deny_lists.open(host, [each.network for each in node.networks])
            for network in node.networks:
                await stack.enter_async_context(network.opened())
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(self._nursery.cancel_scope.cancel)
            self._node = node
            stack.push_async_callback(self._calls.end)
            stack.callback(self._stop)
            shared.errands.open(self._nursery)
            work = {
                **shared.background_work(),
                "deny_lists": node.deny_lists.run,
                "reprovide": node.providing.sweeping.run,
                "republish": node.republishing.run,
            }
            background.start_all(self._nursery, work, shared.failures)
            for network in node.networks:
                network.start(self._nursery)
            self._stack = stack.pop_all()

    def _stop(self) -> None:
        """No protocol is answered any more, and no call begins."""
        if self._node is not None:
            for network in self._node.networks:
                network.stop()
        self._node = None

    def _is_public(self, host: Host) -> bool:
        plan = self._plans[0]
        bootstrap = [addr for info in plan.bootstrap for addr in info.addrs]
        return node_is_public((), binary(host.addrs), binary([*bootstrap, *plan.names]))

    def _provider_ttl_s(self) -> float:
        """How long records of others are kept: at least 48 h on the public network (IPFS)."""
        configured = self._plans[0].config.provider_timeout
        if self._joins_public_list:
            return max(configured, params.PROVIDER_TTL_PUBLIC_S)
        return configured


def _check_event_loop() -> None:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError as error:
        raise UsageError(
            "a node runs on trio, and this program does not: start it with trio.run(main). From"
            " asyncio or plain code, run `codio-dht daemon` and use codio_dht.client.AsyncClient or"
            " codio_dht.client.Client"
        ) from error
