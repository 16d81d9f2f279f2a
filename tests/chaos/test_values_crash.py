"""Values and names after SIGKILL at random moments: what was promised is there.

A bounded part of what ``scripts/crash`` runs for long.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import killing_values

pytestmark = pytest.mark.deadline_s(300)


async def test_values_that_were_written_are_told_again_whenever_the_node_is_killed(
    tmp_path: Path,
) -> None:
    tally = await killing_values.puts_of_others(tmp_path, 60, 40, Random(7))
    assert tally.done >= 60


async def test_a_sequence_number_never_goes_back_whenever_the_node_is_killed(
    tmp_path: Path,
) -> None:
    tally = await killing_values.own_publishes(tmp_path, 25, 12, Random(12))
    assert tally.done >= 25
