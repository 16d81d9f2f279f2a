"""Server or client: whether a node answers and advertises the DHT."""

from __future__ import annotations

from enum import Enum


class Mode(Enum):
    """What the node is to others (SPEC: only servers enter routing tables)."""

    SERVER = "server"
    CLIENT = "client"


def chosen_mode(wanted: str, *, public: bool, has_public_address: bool) -> Mode:
    """The mode of a node, given what is known of its addresses.

    ``auto`` is a client on a public node without a public address of its own (nobody could reach
    it, so it would only cost others dials), else a server. ``wanted`` is ``auto``, ``server`` or
    ``client``.
    """
    if wanted == "auto":
        return Mode.CLIENT if public and not has_public_address else Mode.SERVER
    return Mode(wanted)
