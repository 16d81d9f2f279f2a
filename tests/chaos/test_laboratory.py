"""The attacks of the laboratory in their short form: what a stranger with one address does to a
daemon as shipped. No test looks at times, which depend on the machine (scripts/laboratory)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LABORATORY = Path(__file__).with_name("laboratory.py")


def may_make_namespaces() -> bool:
    """Whether this machine and user can have a network namespace with routes of its own."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    command = ["unshare", "-n", "ip", "link", "set", "lo", "up"]
    made = subprocess.run(command, capture_output=True, check=False)
    return made.returncode == 0


pytestmark = [
    pytest.mark.deadline_s(180),
    pytest.mark.skipif(
        not may_make_namespaces(), reason="needs Linux, root, unshare and ip: a network namespace"
    ),
]


@pytest.mark.parametrize(
    ("attack", "seconds", "answer"),
    [
        ("flood", 3, "turns_delayed"),
        ("memory", 6, "connections_shed:bytes of one origin"),
        ("records", 3, "turns_delayed"),
    ],
)
def test_honest_peers_are_served_while_one_address_attacks(
    attack: str, seconds: int, answer: str
) -> None:
    command = [sys.executable, str(LABORATORY), attack, "--seconds", str(seconds)]
    figures: dict[str, Any] = json.loads(subprocess.check_output(command))
    attacked = figures["attacked"]
    assert attacked["asked"] > 0
    assert (0, attacked["provided"]) == (attacked["lost"], attacked["told"]), figures
    assert figures["memory_grown_mib"] < 64, figures
    assert figures["disk_grown_mib"] < 12, figures
    assert {} == figures["failures"]
    assert figures["host"].get(answer, 0) > 0, figures
