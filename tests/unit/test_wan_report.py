"""`benchmarks/wan`: which cells are missing, what the figures are, tables, verdicts and plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wan import aims, cells, figures, oracle, plot, report
from benchmarks.wan.aims import Verdict
from benchmarks.wan.cells import Cell
from benchmarks.wan.figures import Network, Result

BASE = Network(300, 0.2)


def closest_operation(s: float = 0.5, **other: Any) -> dict[str, Any]:
    return {
        "s": s,
        "returned": 20,
        "true_found": 20,
        "true_known": 20,
        "true_in_all": 20,
        "marks": {"answered": 18, "alive": 2},
        "oldest_sign_s": 7.0,
        "dead_returned": 0,
        "requests": {"FIND_NODE": 20},
        **other,
    }


def provide_operation(s: float = 0.3, holders: int = 20) -> dict[str, Any]:
    counts = {"holders": holders, "among_closest": holders - 1}
    return {"s": s, "at_return": counts, "later": counts, "requests": {"ADD_PROVIDER": holders}}


def account(requests: int) -> dict[str, Any]:
    return {
        "requests": requests,
        "bytes_sent": 1024,
        "bytes_received": 2048,
        "servers_reached": 9,
    }


def result(client: str = "ours", cell: Cell | None = None, **facts: Any) -> Result:
    cost = {"cpu_s": 1.0, "bytes_sent": 1024, "bytes_received": 1024, "requests": 60}
    return Result(cell or Cell(), client, {"cost": dict.fromkeys(facts, cost), **facts})


def cells_of(table: str, row: int = 0) -> list[str]:
    line = table.splitlines()[2 + row]
    return [part.strip() for part in line.strip("|").split("|")]


# --- what is measured -----------------------------------------------------------------------------


def test_a_cell_that_is_in_several_groups_is_measured_once() -> None:
    names = [cell.name for cell in cells.matrix(["base", "dead", "size"])]
    assert names == [
        "n300-dead20-seed1",
        "n300-dead20-seed2",
        "n300-dead20-seed3",
        "n300-dead0-seed1",
        "n300-dead40-seed1",
        "n100-dead20-seed1",
        "n1000-dead20-seed1",
    ]


def test_an_unknown_group_is_an_error() -> None:
    with pytest.raises(KeyError):
        cells.matrix(["base", "bass"])


def test_a_client_with_a_result_is_not_measured_again_and_the_slowest_comes_first(
    tmp_path: Path,
) -> None:
    cells.result_file(tmp_path, Cell(), "go").write_text("{}")
    cells.result_file(tmp_path, Cell(seed=2), "ours").write_text("{}")
    assert cells.missing(tmp_path, Cell(), ["ours", "go", "rust"]) == ["rust", "ours"]
    assert cells.missing(tmp_path, Cell(seed=2), ["ours", "go", "rust"]) == ["rust", "go"]


def test_every_operation_of_a_cell_has_a_multihash_of_its_own_and_the_same_in_every_run() -> None:
    places = [(seed, what, i) for seed in (1, 2) for what in ("cold", "closest") for i in range(3)]
    keys = [cells.preimage(Cell(seed=seed), what, i) for seed, what, i in places]
    assert len(set(keys)) == len(keys)
    assert {(key[:2], len(key)) for key in keys} == {(b"\x12\x20", 34)}
    again = cells.preimage(Cell(servers=1000, seed=1), "cold", 0)
    assert keys[0] == again


def test_a_client_may_say_less_of_a_peer_than_it_knows_but_not_more() -> None:
    known = ["answered", "alive", "heard", "heard"]
    assert cells.overstated(["alive", "alive", "heard", "heard"], known) == 0
    assert cells.overstated(["answered", "answered", "alive", "heard"], known) == 2
    assert cells.overstated(["-"] * 4, known) is None


def test_results_are_read_in_the_order_of_the_tables(tmp_path: Path) -> None:
    for client, servers, seed in (("js", 300, 1), ("ours", 1000, 1), ("ours", 300, 2)):
        cell = Cell(servers=servers, seed=seed)
        facts = {"cell": {"servers": servers, "dead": 0.2, "seed": seed}, "client": client}
        cells.result_file(tmp_path, cell, client).write_text(json.dumps(facts))
    read = [(one.cell.servers, one.client) for one in figures.load(tmp_path)]
    assert read == [(300, "ours"), (300, "js"), (1000, "ours")]


# --- figures --------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 20), min_size=1), st.integers(1, 100))
def test_a_quantile_occurred_and_is_the_least_that_the_share_does_not_pass(
    values: list[float], hundredths: int
) -> None:
    found = figures.quantile(values, hundredths / 100)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= hundredths * len(values)
    assert 100 * sum(value < found for value in values) < hundredths * len(values)


def test_the_seeds_of_a_network_are_one_row() -> None:
    results = [
        result(cell=Cell(seed=seed), closest=[closest_operation(s=float(seed))])
        for seed in (1, 2, 3)
    ]
    table = report.table("closest", results)
    assert len(table.splitlines()) == 3
    assert cells_of(table)[:4] == ["300, 20 % dead", "ours", "-", "2.00 / 3.00 / 3.00 s"]


def test_what_is_returned_is_counted_by_what_the_client_could_know_of_it() -> None:
    done = [
        closest_operation(),
        closest_operation(
            marks={"answered": 10, "heard": 10}, oldest_sign_s=None, true_found=10, true_known=8
        ),
    ]
    row = report.closest_row([result(closest=done)])
    assert row[2] == "75.0 % (70.0 %)"
    assert row[3] == "70.0 % / 5.0 % / 25.0 %"
    assert row[4] == "7 s"


def test_an_operation_that_failed_counts_with_its_time_and_is_told() -> None:
    done = [closest_operation(), closest_operation(s=20.0, error="no answer", returned=0, marks={})]
    assert report.closest_row([result(closest=done)])[1] == "0.50 / 20.00 / 20.00 s, 1 failed"


def test_requests_of_every_type_and_for_every_key_count() -> None:
    done = [closest_operation(requests={"FIND_NODE": 20, "PING": 3}), closest_operation()]
    assert report.all_requests([result(closest=done)], "closest") == "30.0 (21.5)"


def test_holders_are_told_at_the_return_and_later_with_those_among_the_true_closest() -> None:
    early = provide_operation(holders=15)
    early["later"] = {"holders": 20, "among_closest": 20}
    row = report.provide_row([result(provide=[early])])
    assert row[:3] == ["0.30 / 0.30 / 0.30 s", "15.0 (14.0)", "20.0 (20.0)"]


def join_facts(**other: Any) -> dict[str, Any]:
    return {
        "usable_s": 2.0,
        "usable_table_size": 21,
        "settled": True,
        "usable_after_contact_s": 1.0,
        "at_usable": account(22),
        "settled_after_contact_s": 30.0,
        "at_end": account(500),
        "table_size": 90,
        "cpu_s": 1.5,
        **other,
    }


def test_a_join_is_told_with_its_requests_and_bytes_when_usable_and_when_quiet() -> None:
    row = report.join_row([result(join=join_facts())])
    assert row == [
        *("2.00 s", "1.00 s", "22", "3 KiB"),
        *("30 s", "500", "3 KiB", "9", "90", "1.50 s"),
    ]


def test_a_join_that_left_the_table_small_or_never_became_quiet_says_so() -> None:
    row = report.join_row([result(join=join_facts(usable_table_size=3, settled=False))])
    assert (row[0], row[4]) == ("2.00 s, 3 peers", "> 30 s")


def test_a_client_that_only_provides_has_no_row_elsewhere() -> None:
    results = [result("go-optimistic", provide=[provide_operation()])]
    assert len(report.table("closest", results).splitlines()) == 2
    assert len(report.table("provide", results).splitlines()) == 3


# --- beside the oracle ----------------------------------------------------------------------------


def told(*answers_s: float) -> dict[str, Any]:
    """A lookup of the oracle."""
    return closest_operation(s=max(answers_s), answers_s=list(answers_s))


def test_a_lookup_is_compared_with_the_oracles_whole_time_and_with_its_time_for_as_many() -> None:
    mine = closest_operation(s=2.0, true_answered=2)
    assert oracle.beside(mine, told(0.5, 4.0, 1.0)) == oracle.Beside(to_all=0.5, to_as_many=2.0)


@pytest.mark.parametrize("answered", [0, 4])
def test_without_answers_or_with_more_than_the_oracle_only_the_whole_time_is_compared(
    answered: int,
) -> None:
    mine = closest_operation(s=2.0, true_answered=answered)
    assert oracle.beside(mine, told(1.0, 1.0, 4.0)) == oracle.Beside(0.5, None)


def test_only_lookups_of_the_same_target_are_compared() -> None:
    mine = [
        result(cell=Cell(seed=1), closest=[closest_operation(s=1.0), closest_operation(s=9.0)]),
        result(cell=Cell(seed=2), closest=[closest_operation(s=6.0)]),
        result(cell=Cell(seed=3), closest=[closest_operation(s=7.0)]),
    ]
    others = [
        result("oracle", cell=Cell(seed=2), closest=[told(3.0), told(5.0)]),
        result("oracle", cell=Cell(seed=1), closest=[told(2.0)]),
    ]
    assert [one.to_all for one in oracle.pairs(mine, others, "closest")] == [0.5, 2.0]


def test_the_oracles_table_has_a_row_for_each_client_that_it_can_be_compared_with() -> None:
    mine = [closest_operation(s=s, true_answered=20) for s in (1.0, 2.0, 3.0)]
    reference = result("oracle", cold=[told(*[1.0] * 20)] * 3, closest=[told(*[1.0] * 19, 2.0)] * 3)
    groups = figures.grouped(
        [
            result(cold=mine, closest=mine),
            reference,
            result("go", closest=mine),
            result("js", Cell(dead=0.4), closest=mine),
            result("simulated", closest=mine),
        ]
    )
    table = oracle.oracle_table(groups)
    assert len(table.splitlines()) == 4
    assert cells_of(table) == [
        *("300, 20 % dead", "ours", "2.00 / 3.00", "1.00 / 1.50"),
        *("2.00 / 3.00", "1.00 / 1.50", "1.00 / 1.50", "2 of 3"),
    ]
    assert cells_of(table, 1)[:3] == ["300, 20 % dead", "go", "-"]
    without = figures.grouped([result(closest=mine)])
    assert oracle.oracle_table(without) == ""


def test_the_summary_tells_of_the_oracle_where_it_was_measured() -> None:
    mine = result(
        closest=[closest_operation(s=1.3, true_answered=20)], provide=[provide_operation()]
    )
    reference = result("oracle", closest=[told(*[1.0] * 20)])
    assert "multiple of the oracle's time" not in report.summary([mine])
    summary = report.summary([mine, reference])
    assert "multiple of the oracle's time" in summary
    assert "| closest peers: median at most 1.3 times the oracle's | 1.30 |" in summary


# --- verdicts -------------------------------------------------------------------------------------


def verdict(found: list[Verdict], aim: str) -> Verdict:
    (one,) = [each for each in found if aim in each.aim]
    return one


@pytest.mark.parametrize(
    ("aim", "operation"),
    [
        ("median", closest_operation(s=1.01)),
        ("90th", closest_operation(s=2.01)),
        ("none above", closest_operation(s=5.01)),
        ("of the true 20", closest_operation(true_found=19)),
    ],
)
def test_an_aim_is_missed_by_one_operation_that_passes_its_limit(
    aim: str, operation: dict[str, Any]
) -> None:
    good = aims.verdicts([result(closest=[closest_operation()], provide=[provide_operation()])])
    assert verdict(good, aim).met
    bad = aims.verdicts([result(closest=[operation], provide=[provide_operation()])])
    assert not verdict(bad, aim).met


def test_first_lookups_have_a_limit_of_their_own_where_they_were_measured() -> None:
    facts: dict[str, Any] = {
        "closest": [closest_operation()],
        "provide": [provide_operation()],
    }
    first = [closest_operation(s=4.9), closest_operation(s=5.1)]
    assert not verdict(aims.verdicts([result(**facts, cold=first)]), "first lookup").met
    assert verdict(aims.verdicts([result(**facts, cold=first[:1])]), "first lookup").met
    assert not [one for one in aims.verdicts([result(**facts)]) if "first lookup" in one.aim]


def test_aims_that_compare_need_the_other_to_have_been_measured_in_that_network() -> None:
    ours: dict[str, Any] = {
        "closest": [closest_operation()],
        "search": [{"s": 0.1}],
        "provide": [provide_operation()],
    }
    elsewhere = result("go", Cell(dead=0.4), **ours)
    alone = aims.verdicts([result(**ours), elsewhere])
    assert not [one for one in alone if "go" in one.aim]
    beside = aims.verdicts([result(**ours), result("go", **ours)])
    assert not verdict(beside, "fewer requests than go (60.0)").met
    assert not verdict(beside, "half of go's (0.05 s)").met


@pytest.mark.parametrize(
    ("s", "answered", "met"),
    [(1.4, 20, [True, True]), (1.4, 19, [True, False]), (1.6, 19, [False, False])],
)
def test_a_lookup_may_take_no_more_than_its_share_of_the_oracles_time(
    s: float, answered: int, met: list[bool]
) -> None:
    done = [closest_operation(s=s, true_answered=answered)]
    mine = result(closest=done, provide=[provide_operation()])
    reference = result("oracle", closest=[told(*[1.0] * 19, 1.2)])
    found = aims.verdicts([mine, reference])
    assert [one.met for one in found if "the oracle's" in one.aim] == met


def test_a_peer_called_more_certain_than_it_was_misses_an_aim_and_silence_is_no_aim() -> None:
    def found(overstated: int | None) -> list[Verdict]:
        done = [closest_operation(overstated=overstated)]
        told = aims.verdicts([result(closest=done, provide=[provide_operation()])])
        return [one for one in told if "more certain" in one.aim]

    assert [one.met for one in found(0)] == [True]
    assert [one.met for one in found(2)] == [False]
    assert found(None) == []


def test_a_provide_is_as_fast_as_optimistic_within_the_noise() -> None:
    def found(ours_s: float) -> Verdict:
        mine = result(closest=[closest_operation()], provide=[provide_operation(ours_s)])
        other = result("go-optimistic", provide=[provide_operation(0.3)])
        return verdict(aims.verdicts([mine, other]), "optimistic")

    assert found(0.34).met
    assert not found(0.36).met


def test_a_missed_aim_is_bold_and_the_others_figure_stands_beside_ours() -> None:
    other = Network(1000, 0.2)
    table = aims.verdict_table(
        [
            Verdict(BASE, "fewer requests than go (36.0)", "21.0", met=True),
            Verdict(other, "fewer requests than go (40.0)", "41.0", met=False),
            Verdict(other, "20 holders", "20.0", met=True),
        ]
    )
    assert table.splitlines()[0] == "| aim | 300, 20 % dead | 1,000, 20 % dead |"
    assert cells_of(table) == ["fewer requests than go", "21.0 (36.0)", "**41.0** (40.0)"]
    assert cells_of(table, 1) == ["20 holders", "-", "20.0"]


def test_the_conditions_of_all_results_are_told_once_each() -> None:
    def measured(client: str, busy_cores: float) -> Result:
        machine = {"cores": 2, "busy_cores": busy_cores, "python": "3.11.7"}
        told: dict[str, Any] = {"date": "2026-11-23", "revision": f"of {client}", "at_once": 3}
        return result(client, machine=machine, **told)

    assert report.conditions([measured("ours", 0.52), measured("go", 1.9)]) == (
        "Measured on 2026-11-23; our client is revision of ours. 2 cores, of which 0.5 to 1.9 were "
        "busy with everything on it; 3 clients at once; CPython 3.11.7."
    )
    assert "of which 0.5 were" in report.conditions([measured("ours", 0.5)])


# --- page and plot --------------------------------------------------------------------------------


def test_figures_replace_those_before_and_leave_the_rest_of_the_page() -> None:
    page = f"# Title\n{report.BEGIN}\nold\n{report.END}\nend\n"
    once = report.inserted(page, "new")
    assert once == f"# Title\n{report.BEGIN}\n\nnew\n\n{report.END}\nend\n"
    assert report.inserted(once, "new") == once


def test_a_page_without_both_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        report.inserted(f"# Title\n{report.BEGIN}\n", "new")


def test_the_page_in_docs_has_its_marks() -> None:
    assert "new" in report.inserted(report.PAGE.read_text(), "new")


def test_the_plot_has_a_dot_for_every_operation_and_a_panel_for_every_network_and_kind() -> None:
    results = [
        result(closest=[closest_operation()] * 3, search=[{"s": 0.1}] * 2),
        result("go", Cell(dead=0.4), closest=[closest_operation()] * 4),
    ]
    rows = report.panels(results)
    assert [len(row) for row in rows] == [2, 2, 2]
    root = ET.fromstring(plot.svg(rows, cells.CLIENTS))
    assert len(root.findall("{*}circle")) == 3 + 2 + 4
    titles = [text.text for text in root.findall("{*}text[@font-weight]")]
    assert titles[0] == "Closest peers: 300, 20 % dead"


def test_a_name_in_the_plot_cannot_be_markup() -> None:
    root = ET.fromstring(plot.svg([[plot.Panel("<b> & co", {})]], ["<i>"]))
    assert {"<b> & co", "<i>"} <= {text.text for text in root.findall("{*}text")}


@given(st.floats(0, 1000))
def test_a_dot_is_inside_of_its_panel(time_s: float) -> None:
    assert 0 <= plot.x_of(time_s) <= plot.PANEL_WIDTH


def test_a_longer_time_is_further_right() -> None:
    ticks = [plot.x_of(tick) for tick in plot.TICKS_S]
    assert ticks == sorted(set(ticks))
