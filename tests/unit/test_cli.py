"""The commands, run in this process against a server with a fake node in another thread."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from codio_dht.cli.commands import SECTIONS
from codio_dht.cli.main import cli, run
from codio_dht.cli.output import ExitCode, walk_line
from codio_dht.core.clock import Monotonic
from codio_dht.core.lookup_states import (
    Answered,
    Asked,
    Ended,
    FollowUpBegan,
    GivenUp,
    LookedBeyond,
    LookupEvent,
    RequestFailed,
    StopReason,
    Unresponsive,
)
from codio_dht.core.messages import FailureReason
from codio_dht.daemon.datadir import default_data_dir, socket_path
from codio_dht.daemon.parameters import parse_cid
from codio_dht.daemon.protocol import API_VERSION
from codio_dht.daemon.provide_methods import raw_cid
from codio_dht.daemon.trace import MAX_UNREAD_EVENTS, event_json
from codio_dht.errors import NoPeersError, UsageError
from control_servers import serving
from fake_dht import CID, FakeDht, info, peer, raw_cid_of


class Shell:
    """Runs commands against one data directory and keeps what they printed."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = run([*arguments, "--data-dir", str(self.data_dir)])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *arguments: str) -> list[Any]:
        assert self(*arguments, "--json") == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def dht() -> FakeDht:
    return FakeDht()


@pytest.fixture
def shell(dht: FakeDht, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    with serving(dht, tmp_path):
        yield Shell(tmp_path, capsys)


# --- results --------------------------------------------------------------------------------------


def test_id_shows_addresses_to_paste(shell: Shell) -> None:
    assert shell("id") == 0
    assert f"/ip4/127.0.0.1/tcp/4001/p2p/{peer(1)}" in shell.out
    (own,) = shell.json("id")
    assert own["peer_id"] == str(peer(1))
    (other,) = shell.json("id", str(peer(2)))
    assert other["connected"] is False


def test_findprovs_prints_one_peer_a_line(shell: Shell) -> None:
    assert shell("findprovs", CID) == 0
    assert [str(peer(2)), str(peer(3))] == shell.out.splitlines()
    assert shell("findprovs", CID, "-n", "1", "-v") == 0
    assert f"{peer(2)} /ip4/192.0.2.2/tcp/4001/p2p/{peer(2)}\n" == shell.out
    assert [str(peer(2)), str(peer(3))] == [
        item["peer_id"] for item in shell.json("findprovs", CID)
    ]


def test_a_provider_that_comes_again_with_addresses_is_one_line_of_text(
    shell: Shell, dht: FakeDht
) -> None:
    dht.providers = [info(2), info(2)]
    assert shell("findprovs", CID) == 0
    assert [str(peer(2))] == shell.out.splitlines()
    assert len(shell.json("findprovs", CID)) == 2


def test_nothing_found_is_exit_code_1_and_a_word_on_stderr(shell: Shell, dht: FakeDht) -> None:
    dht.providers = []
    assert shell("findprovs", CID) == 1
    assert shell.out == ""
    assert "no providers" in shell.err
    assert shell("findpeer", str(peer(9))) == 1
    assert shell("closest", "--local", CID) == 1


def test_a_uri_is_a_cid(shell: Shell) -> None:
    assert shell("findprovs", f"ipfs://{CID}") == 0


def test_what_the_daemon_calls_wrong_usage_is_exit_code_2(shell: Shell) -> None:
    assert shell("findprovs", "nonsense") == 2
    assert shell.err == "codio-dht: cid: 'nonsense' is not a CID\n"
    assert shell("findpeer", "nonsense") == 2
    assert shell("closest", "nonsense") == 2
    assert shell("swarm", "connect", "/ip4/192.0.2.5/tcp/4001") == 2


def test_findpeer_prints_one_address_a_line(shell: Shell) -> None:
    assert shell("findpeer", str(peer(2))) == 0
    assert shell.out == f"/ip4/192.0.2.2/tcp/4001/p2p/{peer(2)}\n"


def test_provide_says_how_many_hold_it(shell: Shell) -> None:
    assert shell("provide", "add", CID) == 0
    assert shell.out == f"{CID} held by 20 of 20 peers asked, 250.0 ms\n"
    assert shell("provide", "ls") == 0
    assert shell.out == raw_cid(parse_cid(CID, "cid")[1]) + "\n"
    assert shell("provide", "rm", CID) == 0
    assert shell("provide", "rm", CID) == 1
    assert shell.json("provide", "ls") == []


def test_a_provide_that_is_not_over_says_how_many_are_under_way(shell: Shell, dht: FakeDht) -> None:
    dht.outcome.holders, dht.outcome.pending = 15, 5
    assert shell("provide", "once", CID) == 0
    assert shell.out == f"{CID} held by 15 peers, 5 more under way, 250.0 ms\n"


AT = Monotonic(2.5)
NEAR = 1 << 248
WALK: list[tuple[LookupEvent, str]] = [
    (Asked(AT, peer(2), NEAR, follow_up=False), f"  1.500 s  ask          7 bits  {peer(2)}"),
    (
        Asked(AT, peer(2), NEAR, follow_up=True),
        f"  1.500 s  ask          7 bits  {peer(2)}  follow-up",
    ),
    (
        Answered(AT, peer(2), NEAR, 0.042, 20, 3, late=False),
        f"  1.500 s  answer       7 bits  {peer(2)}  42.0 ms, named 20, 3 new",
    ),
    (
        Answered(AT, peer(2), NEAR, 1.25, 20, 0, late=True),
        f"  1.500 s  answer       7 bits  {peer(2)}  1.25 s, late, named 20, 0 new",
    ),
    (
        RequestFailed(AT, peer(2), NEAR, 0.25, FailureReason.UNREACHABLE),
        f"  1.500 s  failed       7 bits  {peer(2)}  250.0 ms, unreachable",
    ),
    (
        Unresponsive(AT, peer(2), NEAR),
        f"  1.500 s  late         7 bits  {peer(2)}  others are asked in its place",
    ),
    (
        GivenUp(AT, peer(2), NEAR, 1.25, Monotonic(0.5)),
        f"  1.500 s  give up      7 bits  {peer(2)}  1.25 s, alive 2.00 s ago",
    ),
    (
        GivenUp(AT, peer(2), NEAR, 1.25, None),
        f"  1.500 s  give up      7 bits  {peer(2)}  1.25 s, not known to be alive",
    ),
    (
        FollowUpBegan(AT),
        "  1.500 s  follow up  the nearest have answered: the rest of the closest are asked",
    ),
    (
        LookedBeyond(AT, peer(2), NEAR),
        f"  1.500 s  beyond       7 bits  {peer(2)}  who is beyond the replies?",
    ),
    (
        Ended(AT, StopReason.NOBODY_ANSWERED, 31),
        "  1.500 s  end        nobody answered, 31 requests",
    ),
]


@pytest.mark.parametrize(("event", "line"), WALK)
def test_each_event_of_a_walk_is_one_line(event: LookupEvent, line: str) -> None:
    assert line == walk_line(event_json(event, 1.0))


def test_an_event_of_a_later_release_is_shown_by_its_name() -> None:
    assert "  1.500 s  jumped       7 bits  X" == walk_line(
        {"event": "jumped", "at": 1.5, "cpl": 7, "peer_id": "X"}
    )


def test_a_traced_walk_comes_before_the_peers(shell: Shell, dht: FakeDht) -> None:
    dht.walk = [Asked(AT, peer(2), NEAR, follow_up=False), Ended(AT, StopReason.COMPLETED, 1)]
    assert shell("closest", CID, "--trace") == 0
    lines = shell.out.splitlines()
    assert ["ask", "end"] == [line.split()[2] for line in lines[:2]]
    assert [str(peer(2)), str(peer(3))] == lines[2:]
    items = shell.json("closest", CID, "--trace")
    assert ["asked", "ended", None, None] == [item.get("event") for item in items]
    assert [("answered", 9.0)] * 2 == [(item["standing"], item["alive_at"]) for item in items[2:]]
    assert shell("closest", CID) == 0
    assert lines[2:] == shell.out.splitlines()


def test_a_traced_walk_that_reached_nobody_is_exit_code_1(shell: Shell, dht: FakeDht) -> None:
    dht.walk, dht.providers = [Ended(AT, StopReason.NO_PEERS, 0)], []
    assert shell("closest", CID, "--trace") == 1
    assert "no peers, 0 requests" in shell.out
    assert "routing table is empty" in shell.err


def test_events_that_were_left_out_are_mentioned(shell: Shell, dht: FakeDht) -> None:
    dht.walk = [Unresponsive(AT, peer(2), NEAR)] * (MAX_UNREAD_EVENTS + 7)
    assert shell("closest", CID, "--trace") == 0
    assert re.search(r"^codio-dht: \d events of the walk", shell.err)


def test_provide_goes_on_after_a_failure_and_tells_of_it(shell: Shell) -> None:
    assert shell("provide", "once", "nonsense", CID) == 2
    assert CID in shell.out
    assert "nonsense" in shell.err
    assert shell("provide", "once", "nonsense", CID, "--json") == 2
    by_cid = {item["cid"]: item for item in map(json.loads, shell.out.splitlines())}
    assert by_cid["nonsense"]["error"]["code"] == "usage"
    assert by_cid[CID]["holders"] == 20


def test_a_provide_that_reached_nobody_is_exit_code_1(shell: Shell, dht: FakeDht) -> None:
    dht.fail = NoPeersError("there is nobody to ask")
    assert shell("provide", "add", CID) == 1
    assert "the key is saved and will be provided" in shell.err


def test_ping_prints_each_round_trip_and_a_summary(shell: Shell, dht: FakeDht) -> None:
    assert shell("ping", str(peer(2)), "-c", "2", "-i", "0") == 0
    first, _, summary = shell.out.splitlines()
    assert first == f"{peer(2)}: seq=1 time=1.5 ms"
    assert summary.startswith("2 of 2 answered")
    dht.pings_fail = True
    assert shell("ping", str(peer(2)), "-c", "1") == 1


def test_swarm_shows_who_is_connected_without_their_control_characters(shell: Shell) -> None:
    addr = f"/ip4/192.0.2.5/tcp/4001/p2p/{peer(5)}"
    assert shell("swarm", "connect", addr) == 0
    assert shell("swarm", "peers", "-v") == 0
    assert shell.out == f"{addr} outbound evil\ufffd[31m\n"
    assert shell.json("swarm", "peers")[0]["agent"] == "evil\x1b[31m"
    assert "\x1b" not in shell.out


def test_rules_are_denied_listed_and_taken_back(shell: Shell) -> None:
    assert shell("deny", "add", "198.51.100.0/24") == 0
    assert shell.out == "denied: 198.51.100.0/24\n"
    assert shell("deny", "add", "198.51.100.0/24") == 0
    assert shell.out == "denied already: 198.51.100.0/24\n"
    counted = (
        "1 keys, 2 peers, 3 networks denied; 4 rules for paths and domains have no effect here"
    )
    assert shell("deny", "ls") == 0
    assert shell.out == f"198.51.100.0/24\n{counted}; 5 lines are no rules\n"
    assert shell("deny", "check", "198.51.100.0/24") == 0
    assert shell.out == "denied\n"
    assert shell("deny", "rm", "198.51.100.0/24") == 0
    assert shell("deny", "rm", "198.51.100.0/24") == 1
    assert shell.json("deny", "check", "198.51.100.0/24")[0]["denied"] is False
    assert shell("deny", "reload") == 0


def test_stats_are_rows_or_one_object(shell: Shell) -> None:
    assert shell("stats") == 0
    assert re.search(r"^num_peers +0$", shell.out, re.MULTILINE)
    assert re.search(r"^daemon\.uptime_s +1\.0$", shell.out, re.MULTILINE)
    (stats,) = shell.json("stats")
    assert stats["routing_table_size"] == 0


def test_bootstrap_and_version_answer(shell: Shell) -> None:
    assert shell("bootstrap", f"/dnsaddr/example.org/p2p/{peer(5)}") == 0
    (version,) = shell.json("version")
    assert version["daemon"]["version"] == "9.9"


def test_the_groups_data_dir_counts_for_its_commands(shell: Shell) -> None:
    assert run(["--data-dir", str(shell.data_dir), "id"]) == 0


def test_a_commands_own_data_dir_goes_before_the_groups(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(tmp_path / "other")
    own = str(shell.data_dir)
    assert ExitCode.OK == run(["--data-dir", other, "id", "--data-dir", own])
    assert ExitCode.NO_DAEMON == run(["--data-dir", own, "id", "--data-dir", other])
    monkeypatch.setenv("CODIO_DHT_DATA", other)  # which is less than either option
    assert ExitCode.OK == run(["--data-dir", own, "id"])
    assert ExitCode.OK == run(["id", "--data-dir", own])


# --- no daemon, wrong daemon ----------------------------------------------------------------------


def test_without_a_daemon_the_exit_code_is_3_and_says_how_to_start_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["id", "--data-dir", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert "no daemon is running" in err
    assert f"codio-dht daemon --data-dir {tmp_path}" in err


def test_version_works_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json", "--data-dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["daemon"] is None


def test_a_daemon_of_another_api_version_is_named(
    dht: FakeDht, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(dht, tmp_path, api=API_VERSION + 1):
        assert run(["id", "--data-dir", str(tmp_path)]) == 1
    assert "same release" in capsys.readouterr().err


def test_out_of_time_is_exit_code_124_and_the_daemon_stops_searching(
    shell: Shell, dht: FakeDht
) -> None:
    dht.never = True
    assert shell("findprovs", CID, "-n", "0", "--timeout", "200ms") == 124
    assert len(shell.out.splitlines()) == 2
    for _ in range(500):
        if dht.running == 0:
            break
        threading.Event().wait(0.01)
    assert dht.running == 0


# --- the command line itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["id", "--nope"],
        ["findprovs"],
        ["findprovs", CID, "-n", "-1"],
        ["id", "--timeout", "soon"],
        ["daemon", "--mode", "both"],
        ["daemon", "--provider-timeout", "0"],
        ["daemon", "--bootstrap", "none", "--bootstrap", "default"],
        ["daemon", "--import-kubo-config", "/nonexistent"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("codio-dht: ")
    assert len(err.splitlines()) == 1


def _all_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from _all_commands(command, (*path, name))


@pytest.mark.parametrize("path", [(), *_all_commands(cli)], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5
    assert "\b" not in result.output  # click's mark of lines that are to stay as they are ...
    assert r"\b" not in result.output  # ... which works as a control character only


def test_every_option_of_the_daemon_has_an_environment_variable() -> None:
    options = [option for option in cli.commands["daemon"].params if option.name != "data_dir"]
    assert [f"CODIO_DHT_{str(option.name).upper().removeprefix('AS_')}" for option in options] == [
        option.envvar for option in options
    ]


def test_every_client_command_takes_the_common_options() -> None:
    leaves = [cli.commands[str(each.name)] for _, commands in SECTIONS for each in commands]
    leaves += [sub for group in leaves for sub in getattr(group, "commands", {}).values()]
    for command in leaves:
        if not hasattr(command, "commands"):
            names = {option.name for option in command.params}
            assert {"data_dir", "as_json", "timeout_s"} <= names, command.name


def test_the_data_directory_follows_the_environment() -> None:
    assert default_data_dir({"CODIO_DHT_DATA": "/d"}) == Path("/d")
    assert default_data_dir({"XDG_DATA_HOME": "/x"}) == Path("/x/codio-dht")
    home = default_data_dir({"XDG_DATA_HOME": "not/absolute"})
    assert home == Path.home() / ".local/share/codio-dht"


@pytest.mark.parametrize("home", [None, "", "/"])
def test_a_user_without_a_home_is_told_what_to_say_instead(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", nobody)

    with pytest.raises(UsageError, match=r"no home directory: say with --data-dir or"):
        default_data_dir({})
    if home is None:
        with (
            pytest.raises(UsageError, match=r"~/x.*give --data-dir a full path"),
            socket_path(Path("~/x")),
        ):
            pass


def test_a_bare_call_prints_the_help_and_lists_every_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ExitCode.OK == run([])
    out, err = capsys.readouterr()
    assert "" == err
    lines = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()]
    assert {*cli.commands} <= {*lines}
    assert [] == [line for line in out.splitlines()[1:] if line.rstrip().endswith("...")]
    assert ExitCode.OK == run(["--help"])
    assert out == capsys.readouterr().out


@pytest.mark.parametrize("group", ["provide", "swarm"])
def test_a_group_without_its_command_prints_its_help_and_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], group: str
) -> None:
    assert ExitCode.USAGE == run([group])
    out, err = capsys.readouterr()
    assert "" == err
    assert out.startswith(f"Usage: codio-dht {group} ")
    assert len(out.splitlines()) > 5


def test_client_commands_import_neither_trio_nor_libp2p() -> None:
    program = (
        "import sys; from codio_dht.cli.main import run; run(['id', '--data-dir', '/nonexistent']);"
        "heavy = {'trio', 'libp2p', 'multiaddr', 'structlog', 'cryptography', 'cid'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"


def test_completion_knows_the_commands() -> None:
    runner = CliRunner()
    env = {
        "_CODIO_DHT_COMPLETE": "bash_complete",
        "COMP_WORDS": "codio-dht find",
        "COMP_CWORD": "1",
    }
    result = runner.invoke(cli, prog_name="codio-dht", env=env)
    assert {"plain,findprovs", "plain,findpeer"} == set(result.output.split())


def test_a_thousand_cids_from_stdin_all_get_their_answer(shell: Shell) -> None:
    cids = [raw_cid_of(str(number)) for number in range(1000)]
    done = subprocess.run(
        [
            sys.executable, "-m", "codio_dht.cli",
            "provide", "add", "-", "--json", "--data-dir", str(shell.data_dir),
        ],
        input="\ufeff# a comment\n\n" + "\n".join(f"{cid}\u00a0\r" for cid in cids),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answered = {json.loads(line)["cid"] for line in done.stdout.splitlines()}
    assert set(cids) == answered
