"""``scripts/simulate``: what a person types, and what they see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import simulate

SMALL = ("--set", "network.nodes=60", "--set", "lookups.count=3")


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["simulate", *arguments])
        code = simulate.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_without_a_scenario_the_presets_are_listed_with_what_they_are(command) -> None:
    code, out, _ = command()
    assert 0 == code
    assert "wan              300 servers behind wide-area delays" in out


def test_a_preset_is_run_and_shown_as_a_table(command) -> None:
    code, out, _ = command("static", *SMALL)
    assert 0 == code
    assert "lookups                3 (completed 3)" in out
    assert "true closest found     100.00 %, all in 100.0 % of lookups" in out


def test_json_has_every_figure_and_the_seed_that_was_asked_for(command) -> None:
    code, out, _ = command("static", *SMALL, "--json", "--seed", "9")
    report = json.loads(out)
    assert (0, 9, 60, 3) == (code, report["seed"], report["nodes"], report["lookups"]["count"])


def test_sizes_give_one_line_each(command) -> None:
    code, out, _ = command("static", *SMALL, "--sizes", "40", "80")
    assert 0 == code
    assert ["| 40 ", "| 80 "] == [line[:5] for line in out.splitlines()[2:]]


def test_a_scenario_of_ones_own_is_read_from_its_file(command, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("# Mine.\n[network]\nnodes = 50\n[lookups]\ncount = 2\n")
    trace = tmp_path / "trace.txt"
    code, out, _ = command(str(path), "--trace", str(trace))
    assert 0 == code
    assert "scenario               mine, seed 1" in out
    assert " looks " in trace.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere.toml: [Errno 2]"),
        (("wan", "--set", "network.nodez=5"), "network.nodez: no such field"),
        (("wan", "--set", "nodes"), "write it as part.field=value"),
        (("wan", "--set", "network.nodes=many"), "network.nodes must be a whole number"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(command, arguments, message) -> None:
    code, out, err = command(*arguments)
    assert (2, "") == (code, out)
    assert message in err
    assert 1 == err.count("\n")


def test_a_file_that_is_not_toml_is_named(command, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("nonsense")
    code, _, err = command(str(path))
    assert 2 == code
    assert f"{path}: Expected" in err


def test_a_broken_invariant_is_a_failure_that_names_its_replay(command, monkeypatch) -> None:
    from codio_dht.core.routing_table import RoutingTable

    monkeypatch.setattr(RoutingTable, "nearest", lambda *_args, **_more: [])
    code, _, err = command("static", *SMALL)
    assert 1 == code
    assert "broken invariant" in err
    assert "replay: scripts/simulate static --seed 1" in err
