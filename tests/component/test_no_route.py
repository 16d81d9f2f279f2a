"""A daemon that can reach none of its bootstrap peers stays up, says so, and tries again.

It runs in a network namespace of its own, without a route: nothing of it can leave this machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "codio_dht.cli"]
NEW_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
DAEMON = ["daemon", "--json", "--bootstrap", "default", "--listen", "/ip4/0.0.0.0/tcp/0"]


def stats(data_dir: Path) -> Any:
    done = subprocess.run(
        [*CLI, "stats", "--json", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout)


def wait_for(condition, within_s=60.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.2)


@pytest.mark.deadline_s(150)
def test_a_daemon_without_a_route_stays_up_says_so_and_retries_every_few_seconds(
    tmp_path, require_tool
):
    require_tool("unshare")
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*NEW_NAMESPACE, *CLI, *DAEMON, "--data-dir", str(tmp_path / "data")],
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
        )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["ready"] is True
        retries = re.compile(rb'"retry_in_s": ?([0-9.]+)')
        wait_for(lambda: len(retries.findall(log.read_bytes())) >= 2, within_s=100)
        first, second = map(float, retries.findall(log.read_bytes())[:2])
        assert max(first, second) < 7  # our own network is down: that is no reason to wait longer
        said = stats(tmp_path / "data")
        assert said["bootstrap"] == "unreachable"
        assert said["mode"] == "client"
        assert said["provider_ttl_s"] == 48 * 3600
        assert said["failures"] == {}
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()
    assert b"Traceback" not in log.read_bytes()
