"""Every ordered triple of provider, finder and bootstrap node: ``triples.py`` says what a cell is.

All cells run at once, before the first test; each test then looks at its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio

import triples_page
from peer_builds import MissingToolError
from triples import CELLS, FAULTS, Cell, Here, Outcome, run_triples

Outcomes = Mapping[Cell, Outcome]

pytestmark = pytest.mark.interop


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """How the cells ended that this run of pytest has tests of."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    cells = [item.callspec.params["cell"] for item in tests if "outcomes" in item.fixturenames]
    wanted = [cell.triple for cell in cells if isinstance(cell, Cell)]
    place = Here(tmp_path_factory.mktemp("triples"))
    try:
        found = trio.run(run_triples, dict.fromkeys(wanted), place)
    except MissingToolError as error:
        pytest.skip(str(error))
    request.config.pluginmanager.register(_Table(found))
    return found


class _Table:
    """Prints what the cells showed at the end of the run."""

    def __init__(self, found: Outcomes) -> None:
        self._found = found

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("bootstrap, provider, finder: docs/interop.md")
        for line in triples_page.lines(self._found):
            terminalreporter.write_line(line)


def _cases() -> list[object]:
    return [
        pytest.param(
            cell,
            id=str(cell),
            marks=[pytest.mark.xfail(reason=FAULTS[cell])] if cell in FAULTS else [],
        )
        for cell in CELLS
    ]


@pytest.mark.ran_before("the fixture ran all of them")
@pytest.mark.deadline_s(300)  # the first of them waits for all cells
@pytest.mark.parametrize("cell", _cases())
def test_a_cell_of_the_matrix_holds(cell: Cell, outcomes: Outcomes) -> None:
    assert outcomes[cell].error == ""


def test_the_page_says_what_these_tests_show() -> None:
    assert triples_page.PAGE.read_text() == triples_page.page()
