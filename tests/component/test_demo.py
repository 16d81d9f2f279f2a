"""``codio-dht demo``: a private network in one process, over real loopback sockets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "codio_dht.cli", "demo"]


@pytest.mark.deadline_s(240)
def test_25_nodes_provide_and_find_and_at_least_20_hold_the_record() -> None:
    done = subprocess.run(
        [*DEMO, "--json"], capture_output=True, text=True, check=False, timeout=220, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    assert ["start", "join", "provide", "ask", "find", "done"] == list(steps)
    assert steps["start"]["nodes"] == 25
    assert steps["ask"]["holders"] >= 20
    assert steps["find"]["found"] == [steps["provide"]["provider"]]
    assert steps["done"]["worked"] is True
    assert done.stderr == ""


@pytest.mark.deadline_s(120)
def test_it_tells_its_story_in_words() -> None:
    done = subprocess.run(
        [*DEMO, "--nodes", "4"], capture_output=True, text=True, check=False, timeout=100, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Asked each of the 3 others what it holds: 3 hold the record." in done.stdout
    assert "Everything worked" in done.stdout


def test_ctrl_c_ends_it_with_130_and_no_traceback() -> None:
    with subprocess.Popen(
        [*DEMO, "--nodes", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as demo:
        try:
            demo.wait(5)
        except subprocess.TimeoutExpired:
            demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in err
