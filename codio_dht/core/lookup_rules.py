"""How a node looks things up: what a lookup is told of the world around it. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from codio_dht import params
from codio_dht.core.clock import Monotonic
from codio_dht.core.peer import PeerId
from codio_dht.core.peer_health import Condition, Outlook
from codio_dht.errors import UsageError

OutlookOf = Callable[[PeerId, Monotonic], Outlook]
"""What to expect of a request to this peer that starts now."""


def no_outlook(_peer: PeerId, _now: Monotonic) -> Outlook:
    """Nothing is known of anybody."""
    most = params.SOFT_DEADLINE_S
    return Outlook(Condition.UNKNOWN, params.DEFAULT_ANSWER_S, most, most, most)


def no_life(_peer: PeerId) -> bool:
    """Nobody gives a sign of life but by answering."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupRules:
    """How a node looks things up.

    ``shows_life`` tells whether a peer that was asked gave a sign of life without answering yet,
    such as a transport connection; it is asked when the lookup gives up on the peer.
    ``looks_beyond``: whoever runs the lookup can ask for other keys than the target.

    Raises:
        UsageError: ``k``, ``alpha`` or ``beta`` is below 1.
    """

    local: PeerId
    outlook: OutlookOf = no_outlook
    shows_life: Callable[[PeerId], bool] = no_life
    looks_beyond: bool = False
    k: int = params.K
    alpha: int = params.ALPHA
    beta: int = params.BETA

    def __post_init__(self) -> None:
        if min(self.k, self.alpha, self.beta) < 1:
            raise UsageError(
                f"k, alpha and beta must be at least 1, not {self.k}, {self.alpha}, {self.beta}"
            )
