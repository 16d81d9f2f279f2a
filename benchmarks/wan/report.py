"""Writes what the results say into docs/wan.md and draws docs/wan.svg. Knows nothing of how they
were measured."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.wan.aims import verdict_table, verdicts
from benchmarks.wan.cells import CLIENTS, MARKS, RESULTS, USABLE_PEERS
from benchmarks.wan.figures import (
    Facts,
    Result,
    grouped,
    holders,
    load,
    operations,
    percent,
    quantile,
    requests,
    requests_for_key,
    seconds,
    took,
    true_share,
)
from benchmarks.wan.oracle import oracle_table
from benchmarks.wan.plot import Panel, svg
from benchmarks.wan.values import corrected, times_until

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "wan.md"
PLOT = DOCS / "wan.svg"

BEGIN = "<!-- figures: written by `python -m benchmarks.wan report` -->"
END = "<!-- end of the figures -->"


def times(done: Sequence[Facts]) -> str:
    """Median, 90th percentile, longest."""
    if not done:
        return "-"
    return " / ".join(f"{quantile(took(done), share):.2f}" for share in (0.5, 0.9, 1)) + " s"


def failed(done: Sequence[Facts]) -> str:
    count = sum("error" in one for one in done)
    return f", {count} failed" if count else ""


def all_requests(results: Sequence[Result], kind: str) -> str:
    own = requests_for_key(operations(results, kind))
    return f"{requests(results, kind):.1f} ({own:.1f})"


def cpu_ms(results: Sequence[Result], kind: str) -> str:
    spent = [one.facts["cost"][kind]["cpu_s"] for one in results]
    if None in spent:
        return "-"
    return f"{1000 * sum(spent) / len(operations(results, kind)):.0f} ms"


def kib(results: Sequence[Result], kind: str) -> str:
    costs = [one.facts["cost"][kind] for one in results]
    total = sum(cost["bytes_sent"] + cost["bytes_received"] for cost in costs)
    return f"{total / 1024 / len(operations(results, kind)):.0f} KiB"


def closest_row(results: Sequence[Result]) -> list[str]:
    done, cold = operations(results, "closest"), operations(results, "cold")
    marks = {mark: sum(one["marks"].get(mark, 0) for one in done) for mark in MARKS}
    returned = max(1, sum(marks.values()))
    ages = [one["oldest_sign_s"] for one in done if one["oldest_sign_s"] is not None]
    return [
        times(cold) + failed(cold),
        times(done) + failed(done),
        f"{percent(true_share(done))} ({percent(true_share(done, 'true_known'))})",
        " / ".join(percent(marks[mark] / returned) for mark in MARKS),
        f"{max(ages):.0f} s" if ages else "-",
        f"{sum(one['dead_returned'] for one in done) / len(done):.1f}",
        all_requests(results, "closest"),
        kib(results, "closest"),
        cpu_ms(results, "closest"),
    ]


def search_row(results: Sequence[Result]) -> list[str]:
    done = operations(results, "search")
    found = sum(one["found"] for one in done) / len(done)
    return [times(done) + failed(done), percent(found), all_requests(results, "search")]


def provide_row(results: Sequence[Result]) -> list[str]:
    done = operations(results, "provide")
    counts = [
        f"{holders(done, when):.1f} ({holders(done, when, 'among_closest'):.1f})"
        for when in ("at_return", "later")
    ]
    return [
        times(done) + failed(done),
        *counts,
        all_requests(results, "provide"),
        kib(results, "provide"),
        cpu_ms(results, "provide"),
    ]


def value_search_row(results: Sequence[Result]) -> list[str]:
    done = operations(results, "value_search")
    return [
        times_until(done, "first_s"),
        times_until(done, "best_s"),
        times(done) + failed(done),
        corrected(done, "corrected"),
        corrected(done, "filled"),
        all_requests(results, "value_search"),
    ]


def value_put_row(results: Sequence[Result]) -> list[str]:
    done = operations(results, "value_put")
    later = [one | one["later"] for one in done]
    return [
        times(done) + failed(done),
        times_until(later, "all_s"),
        *(
            f"{holders(done, when):.1f} ({holders(done, when, 'among_closest'):.1f})"
            for when in ("at_return", "later")
        ),
        all_requests(results, "value_put"),
        cpu_ms(results, "value_put"),
    ]


def join_row(results: Sequence[Result]) -> list[str]:
    joins = [result.facts["join"] for result in results]

    def mean(of: Callable[[Facts], float]) -> float:
        return statistics.fmean(of(join) for join in joins)

    def account(when: str) -> list[str]:
        size = mean(lambda join: join[when]["bytes_sent"] + join[when]["bytes_received"])
        return [f"{mean(lambda join: join[when]['requests']):.0f}", f"{size / 1024:.0f} KiB"]

    table = mean(lambda join: join["usable_table_size"])
    few = f", {table:.0f} peers" if table < USABLE_PEERS else ""
    within = "" if all(join["settled"] for join in joins) else "> "
    return [
        seconds(mean(lambda join: join["usable_s"])) + few,
        seconds(mean(lambda join: join["usable_after_contact_s"])),
        *account("at_usable"),
        f"{within}{mean(lambda join: join['settled_after_contact_s']):.0f} s",
        *account("at_end"),
        f"{mean(lambda join: join['at_end']['servers_reached']):.0f}",
        f"{mean(lambda join: join['table_size']):.0f}",
        seconds(mean(lambda join: join["cpu_s"])),
    ]


Row = Callable[[Sequence[Result]], list[str]]

TABLES: dict[str, tuple[str, list[str], Row]] = {
    "closest": (
        "Closest peers",
        [
            *("first lookup", "later lookups", "of the true 20", "answered / alive / heard"),
            *("oldest sign of life", "dead returned", "requests", "bytes", "CPU"),
        ],
        closest_row,
    ),
    "search": ("First provider", ["time", "found", "requests"], search_row),
    "provide": (
        "Provide",
        ["time", "holders at return", "10 s later", "requests", "bytes", "CPU"],
        provide_row,
    ),
    "value_search": (
        "Values: search",
        [
            *("first value", "best value seen", "best value certain"),
            *("outdated corrected", "without a value filled", "requests"),
        ],
        value_search_row,
    ),
    "value_put": (
        "Values: put",
        ["time", "20 holders", "holders at return", "10 s later", "requests", "CPU"],
        value_put_row,
    ),
    "join": (
        "Joining",
        [
            *("usable", "after contact", "requests", "bytes"),
            *("quiet after", "requests", "bytes", "servers met", "table", "CPU"),
        ],
        join_row,
    ),
}


def table(kind: str, results: Iterable[Result]) -> str:
    """Markdown, a row for each network and client."""
    _, heads, row = TABLES[kind]
    lines = [f"| network | client | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for network, clients in grouped(one for one in results if kind in one.facts).items():
        for client, some in clients.items():
            lines.append(f"| {network} | {client} | {' | '.join(row(some))} |")
    return "\n".join(lines)


# --- page and plot --------------------------------------------------------------------------------


def summary(results: Sequence[Result]) -> str:
    """All tables, as Markdown."""
    parts = [
        f"### {title}\n\n{table(kind, results)}"
        for kind, (title, _, _) in TABLES.items()
        if any(kind in one.facts for one in results)
    ]
    if beside := oracle_table(grouped(results)):
        parts.insert(1, f"### Closest peers, as a multiple of the oracle's time\n\n{beside}")
    if found := verdicts(results):
        parts.append(f"### Aims\n\n{verdict_table(found)}")
    return "\n\n".join(parts)


def conditions(results: Sequence[Result]) -> str:
    """When, where and of what the results are, in a sentence or two."""

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    machines = [one.facts["machine"] for one in results]
    busy = sorted({f"{machine['busy_cores']:.1f}" for machine in machines})
    return (
        f"Measured on {all_of(one.facts['date'] for one in results)}; our client is revision "
        f"{all_of(one.facts['revision'] for one in results if one.client == 'ours') or '-'}. "
        f"{all_of(machine['cores'] for machine in machines)} cores, of which "
        f"{' to '.join(dict.fromkeys((busy[0], busy[-1])))} were busy with everything on it; "
        f"{all_of(one.facts['at_once'] for one in results)} clients at once; CPython "
        f"{all_of(machine['python'] for machine in machines)}."
    )


PLOTTED = ("closest", "search", "provide")
"""The kinds of operations in the plot."""


def panels(results: Sequence[Result]) -> list[list[Panel]]:
    """A row for each kind of operation, a panel for each network."""
    groups = grouped(results)
    return [
        [
            Panel(
                f"{title}: {network}",
                {name: took(operations(some, kind)) for name, some in clients.items()},
            )
            for network, clients in groups.items()
        ]
        for kind, (title, _, _) in TABLES.items()
        if kind in PLOTTED
    ]


def inserted(page: str, figures: str) -> str:
    """The page with the figures between its two marks.

    Raises:
        ValueError: the page has not both marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{figures}\n\n{END}{tail}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")


def main(options: argparse.Namespace) -> None:
    results = load(options.results)
    if not results:
        raise SystemExit(f"no results in {options.results}")
    if options.print:
        print(summary(results))
        return
    figures = f"{conditions(results)}\n\n{summary(results)}"
    PAGE.write_text(inserted(PAGE.read_text(), figures))
    PLOT.write_text(svg(panels(results), CLIENTS))
