"""What all networks of one node share: host, store, provider records, own keys, clocks, errands.

Decides which background work is the node's own and not one network's: what keeps the store going.
Knows no protocol id; what belongs to one is a :class:`~codio_dht.node.runtime.NetworkRuntime`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from codio_dht.core.denials import Denials
from codio_dht.core.own_keys import OwnKeys
from codio_dht.core.records import ProviderRecords
from codio_dht.core.rng import Rng
from codio_dht.core.validation import Validators
from codio_dht.core.value_records import ValueRecords
from codio_dht.net.host import Host
from codio_dht.node.background import Work
from codio_dht.node.clock import Clock
from codio_dht.node.errands import Errands
from codio_dht.node.storage import Storage
from codio_dht.node.validating import ValidatorRunner


@dataclass(frozen=True, slots=True)
class Shared:
    """What all networks of one node share."""

    host: Host
    storage: Storage
    records: ProviderRecords
    """The provider records of other peers. One cache serves all networks, as they have one store;
    each network filters the addresses that it tells."""

    values: ValueRecords
    """The values of other peers, for all networks."""

    validators: Validators
    """Which values may stand under which key."""

    runner: ValidatorRunner
    """Where applications' validators judge."""

    own_keys: OwnKeys
    """Which keys this node keeps provided."""

    denials: Denials
    """What the operator denies."""

    clock: Clock
    rng: Rng
    errands: Errands
    failures: Counter[str]
    """Bugs in background work, by the name of the task."""

    def background_work(self) -> dict[str, Work]:
        """The tasks that keep the store going, by name."""
        return {
            "loads": self.storage.run_loads,
            "flushes": self.storage.run_flushes,
            "store": self.storage.run_upkeep,
            "validators": self.runner.run,
        }
