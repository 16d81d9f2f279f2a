"""The value phases of `benchmarks/wan`: what is put into the network, and the figures of it."""

from __future__ import annotations

from typing import Any

from benchmarks.wan import aims, report, values
from benchmarks.wan.cells import Cell
from benchmarks.wan.figures import Result
from codio_dht.core.clock import UnixTime
from codio_dht.crypto.ipns import IpnsValidator, parse_ipns_record

NOW = 1_700_000_000.0


def search_operation(
    s: float, first_s: float | None, best_s: float | None, given: int = 5
) -> dict[str, Any]:
    return {
        "s": s,
        "first_s": first_s,
        "best_s": best_s,
        "corrected": [given, 5],
        "filled": [3, 3],
        "requests": {"GET_VALUE": 20},
    }


def put_operation(s: float, holders: int) -> dict[str, Any]:
    counts = values.put_facts([10.0 + number / 10 for number in range(holders)], holders, 9.0)
    return {"s": s, "at_return": counts, "later": counts, "requests": {"PUT_VALUE": holders}}


def result(client: str, **facts: Any) -> Result:
    cost = {"cpu_s": 1.0, "bytes_sent": 1024, "bytes_received": 1024, "requests": 60}
    return Result(Cell(), client, {"cost": dict.fromkeys(facts, cost), **facts})


def cells_of(table: str) -> list[str]:
    return [part.strip() for part in table.splitlines()[2].strip("|").split("|")]


def test_a_name_is_the_same_in_every_run_and_its_newer_record_is_the_better_one() -> None:
    name = values.name_of(Cell(), "search ours", 0, NOW)
    assert name == values.name_of(Cell(), "search ours", 0, NOW)
    assert name.key != values.name_of(Cell(), "search go", 0, NOW).key
    validator = IpnsValidator()
    for record in (name.older, name.newer):
        validator.validate_at(name.key, record, UnixTime(NOW))
    assert validator.select(name.key, [name.older, name.newer]) == 1
    assert parse_ipns_record(name.newer).value != parse_ipns_record(name.older).value


def test_of_twenty_servers_twelve_hold_the_newer_record_five_the_older_and_three_none() -> None:
    there = values.placed([str(number) for number in range(20)])
    assert [len(there[what]) for what in ("newer", "older", "nothing")] == [12, 5, 3]
    assert sorted([peer for some in there.values() for peer in some], key=int) == [
        str(number) for number in range(20)
    ]
    assert there["newer"][0] == "0"


def test_the_first_and_the_best_value_are_told_apart() -> None:
    name = values.name_of(Cell(), "search ours", 0, NOW)
    older, newer = name.older.hex(), name.newer.hex()
    found = [{"value_hex": older, "s": 0.1}, {"value_hex": newer, "s": 0.4}]
    assert values.search_facts(found, name) == {"first_s": 0.1, "best_s": 0.4, "wrong": 0}
    assert values.search_facts(found[:1], name)["best_s"] is None
    assert values.search_facts([], name) == {"first_s": None, "best_s": None, "wrong": 0}
    assert values.search_facts([{"value_hex": "00", "s": 0.1}], name)["wrong"] == 1


def test_a_put_that_reaches_fewer_than_twenty_never_has_all_holders() -> None:
    assert put_operation(1.0, 19)["later"]["all_s"] is None
    assert round(put_operation(1.0, 20)["later"]["all_s"], 6) == 2.9
    shown = cells_of(
        report.table(
            "value_put", [result("go", value_put=[put_operation(4.0, 19), put_operation(1.0, 20)])]
        )
    )
    assert shown[2:6] == [
        "1.00 / 4.00 / 4.00 s",
        "2.90 / 4.00 s, 1 never",
        "19.5 (19.5)",
        "19.5 (19.5)",
    ]


def test_what_never_came_counts_with_the_whole_search_and_is_told() -> None:
    done = [search_operation(1.0, 0.1, 0.2), search_operation(9.0, None, None, given=0)]
    shown = cells_of(report.table("value_search", [result("js", value_search=done)]))
    assert shown[2:7] == [
        "0.10 / 9.00 s, 1 never",
        "0.20 / 9.00 s, 1 never",
        "1.00 / 9.00 / 9.00 s",
        "50.0 %",
        "100.0 %",
    ]


def test_the_aims_of_values_compare_with_go_and_with_our_own_provides() -> None:
    ours = result(
        "ours",
        value_search=[search_operation(1.0, 0.5, 0.6)],
        value_put=[put_operation(0.3, 20)],
        provide=[
            {"s": 0.2, "later": {"holders": 20}, "at_return": {}, "requests": {}},
        ],
    )
    go = result("go", value_search=[search_operation(4.0, 0.9, 1.0)])
    found = {one.aim.partition(" (")[0]: one.met for one in aims.verdicts([ours, go])}
    assert found["values: first value: median at most half of go's"] is False
    assert found["values: best value: median at most a quarter of go's"] is True
    assert found["values: a put returns as fast as a provide"] is False
    assert not [one for one in aims.verdicts([ours]) if "of go's" in one.aim]
