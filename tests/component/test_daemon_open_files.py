"""The daemon, started by a system with a low limit on open files."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from codio_dht.net.limits import Limits

LOW = 300
NEEDED = Limits().open_files


def test_a_daemon_that_is_started_with_few_files_allows_itself_more(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= LOW:
        pytest.skip("the hard limit is no higher")
    command = [sys.executable, "-m", "codio_dht.cli", "daemon", "--json"]
    options = ["--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", "none"]
    with subprocess.Popen(
        [
            *("sh", "-c", f'ulimit -Sn {LOW}; exec "$@"', "sh"),
            *(*command, *options, "--data-dir", str(tmp_path / "node")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        try:
            assert daemon.stdout is not None
            assert json.loads(daemon.stdout.readline())["ready"]
            limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        finally:
            daemon.terminate()
            _, logged = daemon.communicate(timeout=60)
    expected = NEEDED if hard == resource.RLIM_INFINITY else min(NEEDED, hard)
    found = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    assert found is not None
    assert expected == int(found[1])
    [line] = [json.loads(line) for line in logged.splitlines() if '"open_files"' in line]
    assert (expected, LOW) == (line["limit"], line["before"])
