"""``codio-dht daemon`` as a process: start, ready line, signals, clean stop, and what goes wrong.

What concerns the process alone runs with a fake node (tests/unit/fake_daemon.py), which starts
quickly and can be told to misbehave; what a user does with it runs with the real one.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from codio_dht.crypto.keys import PrivateKey
from codio_dht.daemon.stopping import STOP_GRACE_S, STOP_LIMIT_S
from codio_dht.formats.cid import DAG_PB, format_cid

ROOT = Path(__file__).parents[2]
FAKE = [sys.executable, str(ROOT / "tests" / "unit" / "fake_daemon.py")]
REAL = [sys.executable, "-m", "codio_dht.cli"]
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
OTHER_CID = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", "none")

PROMISED_STOP_S = 10.0

PATIENCE_S = 60.0
"""How long a test waits for what must happen, seconds: the machine may be busy."""


class Daemon:
    """A daemon process under test."""

    def __init__(
        self,
        command: list[str],
        data_dir: Path,
        *options: str,
        terminal: bool = False,
        **env: str,
    ) -> None:
        self.data_dir = data_dir
        self._err = TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self._out = b""
        ours, stdout = os.openpty() if terminal else (-1, subprocess.PIPE)
        self.process = subprocess.Popen(
            [*command, "daemon", "--data-dir", str(data_dir), *options],
            stdout=stdout,
            stderr=self._err,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}", **env},
        )
        if terminal:
            os.close(stdout)
            self.process.stdout = os.fdopen(ours, "rb")

    def line(self, within_s: float = PATIENCE_S) -> str:
        """The next line on stdout."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._out:
                assert selector.select(within_s), f"no line on stdout; stderr: {self.err()}"
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"stdout ended; stderr: {self.err()}"
                self._out += data
        line, _, self._out = self._out.partition(b"\n")
        return line.decode()

    def ready(self) -> Any:
        """The ready line."""
        return json.loads(self.line())

    def until_logged(self, text: str, within_s: float = PATIENCE_S) -> None:
        """Wait until stderr has ``text``."""
        end = time.monotonic() + within_s
        while text not in self.err():
            assert time.monotonic() < end, self.err()
            assert self.process.poll() is None, self.err()
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """The exit code."""
        return self.process.wait(within_s)

    def err(self) -> str:
        return os.pread(self._err.fileno(), 10**7, 0).decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._err.close()


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts daemons (the fake one unless told otherwise) that end with the test."""
    daemons: list[Daemon] = []

    def start(
        *options: str,
        command: list[str] = FAKE,
        data_dir: Path | None = None,
        terminal: bool = False,
        **env: str,
    ) -> Daemon:
        place = data_dir or tmp_path / "node"
        daemons.append(Daemon(command, place, *options, terminal=terminal, **env))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.close()


def ask(
    data_dir: Path, *arguments: str, timeout_s: float = 60.0, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one client command."""
    return subprocess.run(
        [*REAL, *arguments, "--data-dir", str(data_dir)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        cwd=ROOT,
    )


def asked(data_dir: Path, *arguments: str) -> Any:
    """The one JSON object that a command prints."""
    done = ask(data_dir, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- start and stop, with a fake node -------------------------------------------------------------


def test_the_first_line_under_json_is_the_ready_line(start: Start) -> None:
    ready = start("--json").ready()
    assert ready["ready"] is True
    assert [f"/ip4/127.0.0.1/tcp/4001/p2p/{ready['peer_id']}"] == ready["addrs"]


def test_people_at_a_terminal_see_addresses_to_copy_and_what_to_try_next(start: Start) -> None:
    daemon = start(terminal=True)
    text = daemon.line()
    while "Ctrl-C" not in text:
        text += "\n" + daemon.line()
    assert "/ip4/127.0.0.1/tcp/4001/p2p/" in text
    assert "kept for 24 h" in text
    assert f"codio-dht stats --data-dir {daemon.data_dir}" in text


def test_nobody_is_greeted_who_is_no_terminal(start: Start) -> None:
    daemon = start()
    daemon.until_logged('"ready"')
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.process.stdout is not None
    assert daemon.process.stdout.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_cleanly(start: Start, number: int) -> None:
    daemon = start("--json")
    daemon.ready()
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not (daemon.data_dir / "control.sock").exists()
    assert all(json.loads(line) for line in daemon.err().splitlines())


def test_what_is_there_when_it_is_ready_is_not_searched_for_garbage_again(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="tells_what_is_frozen")
    daemon.ready()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert int(daemon.err().rpartition("frozen objects: ")[2].split()[0]) > 10_000


def test_a_signal_while_it_opens_stops_it_cleanly(start: Start) -> None:
    daemon = start("--json", "--log-level", "debug", FAKE_DHT="never_opens")
    end = time.monotonic() + PATIENCE_S
    while not (daemon.data_dir / "store.lock").exists():  # the node is being opened
        assert time.monotonic() < end, daemon.err()
        time.sleep(0.02)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.err()


@pytest.mark.parametrize("delay_s", [0.02, 0.1, 0.2, 0.3, 0.5])
def test_a_signal_at_any_moment_of_the_start_leaves_no_traceback(
    start: Start, delay_s: float
) -> None:
    daemon = start("--json")
    time.sleep(delay_s)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() in (0, -signal.SIGTERM)  # the latter before Python has read our code
    assert "Traceback" not in daemon.err()


def test_the_limits_of_a_stop_keep_the_promise() -> None:
    assert STOP_GRACE_S < STOP_LIMIT_S < PROMISED_STOP_S


def test_what_needs_to_be_cancelled_to_end_is_cancelled_in_time(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="closes_only_when_cancelled")
    daemon.ready()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert "stop_cut_short" in daemon.err()


@pytest.mark.parametrize("fault", ["never_closes", "blocks_the_loop"])
def test_what_hangs_for_good_is_ended_in_time_and_named(start: Start, fault: str) -> None:
    daemon = start("--json", FAKE_DHT=fault)
    daemon.ready()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    assert "did not stop within" in daemon.err()


@pytest.mark.parametrize("fault", ["never_closes", "blocks_the_loop"])
def test_a_second_signal_ends_it_at_once(start: Start, fault: str) -> None:
    daemon = start("--json", FAKE_DHT=fault)
    daemon.ready()
    daemon.signal(signal.SIGINT)
    daemon.until_logged("stopping")
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 130  # and not 1, as when its time is over


def test_a_terminal_that_closes_may_say_so_twice(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="closes_only_when_cancelled")
    daemon.ready()
    daemon.signal(signal.SIGHUP)
    daemon.until_logged("stopping")
    daemon.signal(signal.SIGHUP)
    assert daemon.wait() == 0


def test_who_was_started_to_outlive_the_terminal_outlives_it(start: Start) -> None:
    daemon = start("--json", command=["nohup", *FAKE])
    daemon.ready()
    daemon.signal(signal.SIGHUP)
    assert asked(daemon.data_dir, "id")["mode"] == "server"
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


@pytest.mark.parametrize("module", ["click", "codio_dht.daemon.protocol", "codio_dht.cli.main"])
def test_ctrl_c_while_a_command_is_imported_leaves_no_traceback(module: str) -> None:
    interrupt = (
        "import os, signal, sys, runpy\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv = ['codio-dht', 'id']\n"
        "runpy.run_module('codio_dht.cli', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupt], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (130, "", "") == (done.returncode, done.stdout, done.stderr)


def test_ctrl_c_while_a_command_ends_leaves_no_traceback() -> None:
    interrupt = (
        "import atexit, os, signal, sys, runpy\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['codio-dht', '--version']\n"
        "runpy.run_module('codio_dht.cli', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", interrupt], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (130, "") == (done.returncode, done.stderr)


def test_a_reader_of_stdout_that_left_does_not_end_it(start: Start) -> None:
    daemon = start("--json")
    assert daemon.process.stdout is not None
    daemon.process.stdout.close()
    daemon.until_logged("stdout_closed")
    assert asked(daemon.data_dir, "id")["mode"] == "server"
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


# --- what goes wrong at the start -----------------------------------------------------------------


def failed(daemon: Daemon, code: int) -> str:
    """The daemon ended with ``code``; the one line for people that it left."""
    assert daemon.wait() == code, daemon.err()
    (line,) = [line for line in daemon.err().splitlines() if line.startswith("codio-dht: ")]
    assert "Traceback" not in daemon.err()
    return line


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("refuses_config", 2, "provider_timeout must be longer"),
        ("fails_in_a_nursery", 1, "the disk is full"),
        ("port_in_use", 1, "Address already in use"),
    ],
)
def test_what_the_node_refuses_is_one_line(start: Start, fault: str, code: int, says: str) -> None:
    assert says in failed(start("--json", FAKE_DHT=fault), code)


def test_a_fault_of_our_own_is_logged_with_its_traceback(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="has_a_bug")
    assert daemon.wait() == 1
    events = [json.loads(line) for line in daemon.err().splitlines() if line.startswith("{")]
    assert any("ZeroDivisionError" in event.get("exception", "") for event in events)


def test_a_second_daemon_on_the_same_directory_names_the_first(start: Start) -> None:
    first = start("--json")
    first.ready()
    line = failed(start("--json"), 1)
    assert f"another node (process {first.process.pid})" in line
    assert asked(first.data_dir, "version")["daemon"] is not None


def test_a_directory_that_cannot_be_used_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = failed(start("--json", data_dir=tmp_path / "file" / "node"), 1)
    assert str(tmp_path / "file" / "node") in line
    assert "directory" in line


def test_node_and_control_socket_are_in_one_directory_though_no_shell_expands_its_name(
    start: Start, tmp_path: Path
) -> None:
    daemon = start("--json", data_dir=Path("~/node"), HOME=str(tmp_path))
    daemon.ready()
    made = {path.name for path in (tmp_path / "node").iterdir()}
    assert made == {"control.sock", "store.lock"}


def test_a_home_that_is_not_known_is_said_so(start: Start) -> None:
    line = failed(start("--json", data_dir=Path("~nobody-of-this-name/node")), 2)
    assert "~nobody-of-this-name/node" in line
    assert "--data-dir" in line


def test_a_file_in_the_sockets_place_is_respected(start: Start, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "control.sock").write_text("mine")
    assert "not a socket" in failed(start("--json"), 1)
    assert (tmp_path / "node" / "control.sock").read_text() == "mine"


def test_a_live_socket_of_somebody_else_is_respected(start: Start, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "node" / "control.sock"))
        other.listen()
        assert "another daemon answers there" in failed(start("--json"), 1)


def test_after_kill_9_the_next_one_starts(start: Start) -> None:
    first = start("--json")
    first.ready()
    first.signal(signal.SIGKILL)
    first.wait()
    assert (first.data_dir / "control.sock").exists()
    assert ask(first.data_dir, "id").returncode == 3
    second = start("--json")
    second.ready()
    assert asked(second.data_dir, "id")["mode"] == "server"


def test_a_path_too_long_for_a_socket_works_all_the_same(start: Start, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    daemon = start("--json", data_dir=deep)
    daemon.ready()
    assert asked(deep, "id")["mode"] == "server"
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not (deep / "control.sock").exists()


def test_options_come_from_the_environment(start: Start, tmp_path: Path) -> None:
    daemon = start(CODIO_DHT_JSON="1", CODIO_DHT_BOOTSTRAP="none", CODIO_DHT_LOG_LEVEL="error")
    assert daemon.ready()["ready"]
    assert asked(daemon.data_dir, "stats")["daemon"]["bootstrap_peers"] == []
    assert daemon.err() == ""


def test_a_daemon_that_reaches_nobody_stays_up_and_its_stats_say_so(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="cannot_join")
    daemon.ready()
    assert asked(daemon.data_dir, "stats")["bootstrap"] == "unreachable"


# --- clients and their ends -----------------------------------------------------------------------


def test_ctrl_c_ends_a_search_with_130_and_no_traceback(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="searches_for_ever")
    daemon.ready()
    with subprocess.Popen(
        [*REAL, "findprovs", CID, "--data-dir", str(daemon.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline()
        client.send_signal(signal.SIGINT)
        _, err = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 130
    assert "Traceback" not in err


def test_a_closed_pipe_ends_a_command_quietly_with_141(start: Start) -> None:
    daemon = start("--json")
    daemon.ready()
    program = f'{" ".join(REAL)} provide once {" ".join([CID] * 200)} --data-dir "$1" | head -1'
    done = subprocess.run(
        ["bash", "-c", f'{program}; echo "code ${{PIPESTATUS[0]}}"', "-", str(daemon.data_dir)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == "code 141"
    assert done.stderr == ""


def test_a_daemon_that_dies_under_a_command_is_exit_code_3(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="searches_for_ever")
    daemon.ready()
    with subprocess.Popen(
        [*REAL, "findprovs", CID, "--data-dir", str(daemon.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        daemon.signal(signal.SIGKILL)
        _, err = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 3
    assert "went away" in err


def test_a_daemon_that_is_stopped_in_its_tracks_times_commands_out(start: Start) -> None:
    daemon = start("--json")
    daemon.ready()
    daemon.signal(signal.SIGSTOP)
    done = ask(daemon.data_dir, "id", "--timeout", "1s", timeout_s=PATIENCE_S)
    daemon.signal(signal.SIGCONT)
    assert done.returncode == 124
    assert len(done.stderr.splitlines()) == 1


def test_a_clean_stop_does_not_wait_for_clients(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="searches_for_ever")
    daemon.ready()
    with subprocess.Popen(
        [*REAL, "findprovs", CID, "--data-dir", str(daemon.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "stop_cut_short" not in daemon.err()
        assert client.wait(PATIENCE_S) == 3


# --- a real node ----------------------------------------------------------------------------------


def until_joined(data_dir: Path, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while asked(data_dir, "stats")["routing_table_size"] == 0:
        assert time.monotonic() < end, "it did not join"
        time.sleep(0.1)


def until_provided(data_dir: Path, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while asked(data_dir, "provide", "stat")["waiting"]:
        assert time.monotonic() < end, "keys wait for ever"
        time.sleep(0.2)


def start_real(start: Start, data_dir: Path, *options: str) -> tuple[Daemon, Any]:
    daemon = start("--json", *(options or LOOPBACK), command=REAL, data_dir=data_dir)
    return daemon, daemon.ready()


@pytest.mark.deadline_s(180)
def test_two_daemons_find_what_the_other_has(start: Start, tmp_path: Path) -> None:
    one, first = start_real(start, tmp_path / "one")
    addr, id_one = first["addrs"][0], first["peer_id"]
    served_at = "/dns/edge.example/tcp/443/https"
    two, second = start_real(
        start, tmp_path / "two", "--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", addr,
        "--provider-addr", served_at,
    )  # fmt: skip
    id_two = second["peer_id"]
    for daemon in (one, two):
        until_joined(daemon.data_dir)

    assert asked(two.data_dir, "provide", "once", OTHER_CID)["holders"] == 1
    found = asked(one.data_dir, "findprovs", OTHER_CID, "-n", "1")
    assert {"peer_id": id_two, "addrs": [f"{served_at}/p2p/{id_two}"]} == found
    provided = asked(one.data_dir, "provide", "add", f"ipfs://{CID}")
    assert (CID, 1) == (provided["cid"], provided["holders"])
    found = asked(two.data_dir, "findprovs", CID, "-n", "1")
    assert {"peer_id": id_one, "addrs": [addr]} == found
    assert [addr] == asked(two.data_dir, "findpeer", id_one)["addrs"]
    assert asked(two.data_dir, "closest", "0x68656c6c6f")["peer_id"] == id_one
    assert asked(two.data_dir, "closest", "--local", CID)["peer_id"] == id_one
    walk = ask(two.data_dir, "closest", "0x68656c6c6f", "--trace", "--json").stdout.splitlines()
    *events, ended, peer = map(json.loads, walk)
    assert {"asked", "answered"} <= {event["event"] for event in events}
    assert ("ended", "completed") == (ended["event"], ended["reason"])
    assert (id_one, "answered") == (peer["peer_id"], peer["standing"])
    assert asked(two.data_dir, "swarm", "peers")["peer_id"] == id_one
    assert asked(two.data_dir, "id", id_one)["connected"] is True
    assert asked(two.data_dir, "swarm", "connect", addr)["peer_id"] == id_one
    assert ask(two.data_dir, "ping", id_one, "-c", "2", "-i", "0").returncode == 0
    assert asked(two.data_dir, "bootstrap")["answered"] == 1
    stats = asked(two.data_dir, "stats")
    assert (1, "joined", {}) == (stats["num_providers"], stats["bootstrap"], stats["failures"])

    many = [format_cid(DAG_PB, b"\x12\x20" + number.to_bytes(32, "big")) for number in range(700)]
    saved = ask(one.data_dir, "provide", "many", "-", "--json", stdin="\n".join([*many, CID]))
    assert json.loads(saved.stdout) == {"keys": 701, "added": 700}, saved.stderr
    until_provided(one.data_dir)
    total = asked(one.data_dir, "provide", "stat")
    assert (701, "online", 1.0) == (total["keys"], total["connectivity"], total["holders_per_key"])
    assert asked(two.data_dir, "stats")["num_providers"] == 701
    stat = asked(one.data_dir, "provide", "stat", many[-1])
    assert (many[-1], [id_two]) == (stat["cid"], stat["held_by"])
    assert asked(two.data_dir, "findprovs", many[0], "-n", "1")["peer_id"] == id_one
    gone = ask(one.data_dir, "provide", "rm-many", "-", "--json", stdin="\n".join(many))
    assert json.loads(gone.stdout) == {"keys": 700, "removed": 700}

    one.signal(signal.SIGKILL)
    one.wait()
    again, same = start_real(start, tmp_path / "one")
    assert same["peer_id"] == id_one
    assert ask(again.data_dir, "provide", "ls").stdout.splitlines() == [CID]
    assert ask(again.data_dir, "provide", "rm", CID).returncode == 0
    for daemon in (again, two):
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0, daemon.err()
        assert "Traceback" not in daemon.err()
    assert id_two != id_one


def test_a_port_in_use_is_one_line(start: Start, tmp_path: Path) -> None:
    _, ready = start_real(start, tmp_path / "one")
    taken = ready["addrs"][0].split("/p2p/")[0]
    other = start(
        "--listen", taken, "--bootstrap", "none", command=REAL, data_dir=tmp_path / "two"
    )  # fmt: skip
    assert f"cannot listen on {taken}" in failed(other, 1)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--listen", "/ip4/127.0.0.1/tcp/x"), "listen"),
        (("--listen", "/ip4/127.0.0.1/udp/4001"), "listen"),
        (("--announce", "nonsense"), "announce"),
        (("--bootstrap", "/ip4/192.0.2.1/tcp/4001"), "bootstrap"),
        (("--provider-addr", "nonsense"), "provider_addrs"),
        (("--provider-timeout", "1h", "--republish-interval", "2h"), "republish_interval"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option(
    start: Start, options: tuple[str, ...], names: str
) -> None:
    assert names in failed(start(*options, command=REAL), 2)


def test_a_kubo_config_gives_identity_and_addresses(start: Start, tmp_path: Path) -> None:
    key = PrivateKey.generate_ed25519()
    config = {
        "Identity": {
            "PeerID": str(key.peer_id()),
            "PrivKey": b64encode(key.to_protobuf()).decode(),
        },
        "Addresses": {"Swarm": ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/webrtc-direct"]},
        "Bootstrap": [],
        "Routing": {"Type": "dhtserver"},
    }
    file = tmp_path / "config"
    file.write_text(json.dumps(config))
    importing = ("--json", "--import-kubo-config", str(file))
    for _ in range(2):  # the second time it is this node's identity already
        daemon = start(*importing, command=REAL)
        ready = daemon.ready()
        assert ready["peer_id"] == str(key.peer_id())
        assert "webrtc-direct" in daemon.err()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert (tmp_path / "node" / "identity.key").stat().st_mode & 0o777 == 0o600

    other = start("--json", *LOOPBACK, command=REAL, data_dir=tmp_path / "other")
    other.ready()
    other.signal(signal.SIGTERM)
    assert other.wait() == 0
    refused = start(*importing, command=REAL, data_dir=tmp_path / "other")
    assert refused.wait() == 1
    assert "is the key of" in refused.err()
    assert config["Identity"]["PrivKey"] not in refused.err()  # type: ignore[index]


def test_what_libraries_log_is_counted_and_does_not_break_the_log(
    start: Start, tmp_path: Path
) -> None:
    nobody = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8"
    options = ("--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", nobody, "--stack", "py-libp2p")
    daemon, _ = start_real(start, tmp_path / "one", *options)
    daemon.until_logged("bootstrap_unreachable")
    assert any(
        name.startswith("libp2p.")
        for name in asked(daemon.data_dir, "stats")["daemon"]["foreign_log_records"]
    )
    assert all(json.loads(line) for line in daemon.err().splitlines())


# --- a terminal -----------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_only_and_taken_away(start: Start) -> None:
    daemon = start("--json", FAKE_DHT="searches_for_ever")
    daemon.ready()
    master, slave = os.openpty()
    with subprocess.Popen(
        [*REAL, "findprovs", CID, "--timeout", "5s", "--data-dir", str(daemon.data_dir)],
        stdout=subprocess.PIPE,
        stderr=slave,
        cwd=ROOT,
    ) as client:
        out, _ = client.communicate(timeout=PATIENCE_S)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert client.returncode == 124
    assert len(out.splitlines()) == 2
    assert "finding providers, 2 so far, 1 s" in shown
    assert shown.rstrip().splitlines()[-1].endswith("codio-dht: out of time")


def test_a_command_does_not_wait_for_a_stdin_that_stays_open(start: Start) -> None:
    daemon = start("--json")
    daemon.ready()
    with subprocess.Popen(
        [*REAL, "provide", "once", "-", "--timeout", "5s", "--data-dir", str(daemon.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(f"{CID}\n".encode())
        client.stdin.flush()
        assert client.stdout.readline().startswith(CID.encode())  # while stdin is still open
        assert client.wait(PATIENCE_S) == 124
        assert client.stderr is not None
        assert client.stderr.read() == b"codio-dht: out of time\n"


# --- where it listens when nobody says ------------------------------------------------------------


def test_by_default_it_listens_on_4001_over_tcp_and_quic_ipv4_and_ipv6(
    start: Start, tmp_path: Path, require_tool: Callable[[str], object]
) -> None:
    require_tool("unshare")
    own_network = ["unshare", "--user", "--map-root-user", "--net"]
    daemon = start("--json", "--bootstrap", "none", command=[*own_network, *REAL])
    daemon.ready()
    listening = {"tcp": 2, "udp": 2}  # one each for IPv4 and IPv6
    for protocol, count in listening.items():
        tables = [
            Path(f"/proc/{daemon.process.pid}/net/{protocol}{version}").read_text()
            for version in ("", "6")
        ]
        assert count == sum(f":{4001:04X} " in table for table in tables), tables
