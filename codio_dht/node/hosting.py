"""Makes the host and the store of a node, and finds its identity. Imports a libp2p stack only when
it is asked for one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

import trio
from multiaddr import Multiaddr

from codio_dht.crypto.keys import PrivateKey
from codio_dht.errors import UsageError
from codio_dht.net.host import Host
from codio_dht.node.arguments import check_announced
from codio_dht.store.identity import load_or_create_identity
from codio_dht.store.interface import Store
from codio_dht.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from libp2p.abc import IHost

KEY_FILE: Final = "identity.key"
"""Name of the file in the data directory that holds the private key."""

Stack = Literal["own", "py-libp2p"]
"""Which libp2p stack a node's own host runs on: this project's, or py-libp2p."""


@asynccontextmanager
async def open_host(
    data_dir: Path | None,
    listen: Sequence[Multiaddr],
    announce: Sequence[Multiaddr],
    stack: Stack = "own",
    *,
    append_announce: Sequence[Multiaddr] = (),
) -> AsyncGenerator[Host, None]:
    """A host made for the node, with the identity kept in ``data_dir``, or a new one without it.

    Raises:
        IdentityError: the key file cannot be read, or holds no key.
        UsageError: an address to announce ends in the id of another peer.
    """
    key = await trio.to_thread.run_sync(_identity, data_dir)
    check_announced(announce, "announce", key.peer_id())
    check_announced(append_announce, "append_announce", key.peer_id())
    made: AbstractAsyncContextManager[Host]
    if stack == "own":
        from codio_dht.net.stack_host import make_stack_host  # noqa: PLC0415 - loads trio and crypto

        made = make_stack_host(key, listen, announce, append_announce=append_announce)
    else:
        made = _libp2p_host().make_libp2p_host(
            key.to_protobuf(), listen, announce, append_announce=append_announce
        )
    async with made as host:
        yield host


def host_of(host: IHost | Host) -> AbstractAsyncContextManager[Host]:
    """Make a ``Host`` of what a program brought: a ``Host`` stays as it is, a py-libp2p host gets
    the adapter.

    Raises:
        UsageError: it is neither, or py-libp2p cannot be loaded.
    """
    if hasattr(host, "serve_stream") and hasattr(host, "connections"):
        return nullcontext(cast(Host, host))
    if hasattr(host, "get_id") and hasattr(host, "get_network"):
        return cast(AbstractAsyncContextManager[Host], _libp2p_host().Libp2pHost(host))
    raise UsageError(f"host must be a libp2p IHost or a codio_dht Host, not {host!r}")


def check_stack(stack: Stack) -> None:
    """Make sure that there is such a stack, before anything is opened.

    Raises:
        UsageError: there is none of that name, or py-libp2p cannot be loaded.
    """
    if stack not in get_args(Stack):
        raise UsageError(f"stack must be one of {', '.join(get_args(Stack))}, not {stack!r}")
    if stack == "py-libp2p":
        _libp2p_host()


def _libp2p_host() -> ModuleType:
    """Import the adapter over py-libp2p. Its first import takes 80 MiB."""
    try:
        return import_module("codio_dht.net.libp2p_host")
    except ImportError as error:
        if (error.name or "").startswith("codio_dht"):
            raise
        raise UsageError(
            f"py-libp2p cannot be loaded ({error}). It is an extra:"
            " pip install 'codio-dht[libp2p]', or, in a source tree, scripts/setup --libp2p"
        ) from error


@asynccontextmanager
async def open_store(data_dir: Path | None) -> AsyncIterator[Store]:
    """The store in ``data_dir``, or one in memory without it.

    Raises:
        StorageError: the data directory cannot be used.
    """
    store = await trio.to_thread.run_sync(SqliteStore, data_dir)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)


def _identity(data_dir: Path | None) -> PrivateKey:
    if data_dir is None:
        return PrivateKey.generate_ed25519()
    return load_or_create_identity(data_dir / KEY_FILE)
