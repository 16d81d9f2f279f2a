"""How the programs of other implementations are built and kept, with a build that copies a file."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

import peer_builds
from peer_builds import BuildError, MissingToolError, Source, build


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of sources, with a cache of its own."""
    monkeypatch.setenv("CODIO_DHT_CACHE", str(tmp_path / "cache"))
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "main").write_text("the program")
    (sources / "make").write_text('cp main program && echo once >> "$BUILDS"\n')
    return sources


def source(directory: Path, **changes: object) -> Source:
    settings: dict[str, object] = {
        "name": "test",
        "directory": directory,
        "tools": ("sh",),
        "program": "program",
        "command": ("sh", "make"),
        "environment": (("BUILDS", str(directory.parent / "builds")),),
    }
    return Source(**(settings | changes))  # type: ignore[arg-type]


def builds(directory: Path) -> int:
    return len((directory.parent / "builds").read_text().splitlines())


def test_a_program_is_built_once_for_the_same_sources(directory: Path) -> None:
    (program,) = build(source(directory))
    assert "the program" == Path(program).read_text()
    assert (program,) == build(source(directory))
    assert 1 == builds(directory)


def test_a_changed_source_is_another_build(directory: Path) -> None:
    before = build(source(directory))
    (directory / "main").write_text("another program")
    (after,) = build(source(directory))
    assert (after,) != before
    assert "another program" == Path(after).read_text()


def test_what_a_package_manager_leaves_beside_the_sources_changes_nothing(directory: Path) -> None:
    before = build(source(directory))
    (directory / "Cargo.lock").write_text("found today")
    (directory / "node_modules").mkdir()
    (directory / "node_modules" / "module.js").write_text("downloaded")
    assert before == build(source(directory))
    assert not (Path(before[0]).parent / "node_modules").exists()


def test_a_build_leaves_nothing_beside_its_sources(directory: Path) -> None:
    build(source(directory))
    assert ["main", "make"] == sorted(path.name for path in directory.iterdir())


def test_a_build_that_fails_shows_its_log_and_is_tried_again(directory: Path) -> None:
    broken = source(directory, command=("sh", "-c", "echo it does not compile; exit 3"))
    for _ in range(2):
        with pytest.raises(BuildError, match=r"(?s)exit status 3.*it does not compile"):
            build(broken)
    assert build(source(directory))


def test_a_build_without_its_program_has_failed(directory: Path) -> None:
    with pytest.raises(BuildError, match="no program"):
        build(source(directory, command=("true",)))


def test_a_missing_tool_is_named(directory: Path) -> None:
    with pytest.raises(MissingToolError, match="no-such-compiler"):
        build(source(directory, tools=("sh", "no-such-compiler")))


def test_a_program_that_does_not_run_by_itself_comes_with_what_runs_it(directory: Path) -> None:
    command = build(source(directory, runner=("node",), tools=("sh",)))
    assert ("node", "program") == (command[0], Path(command[1]).name)


def test_rust_and_js_are_asked_for_in_exact_versions() -> None:
    rust, js = (peer_builds.PEERS[name].directory for name in ("rust", "js"))
    crates = tomllib.loads((rust / "Cargo.toml").read_text())["dependencies"]
    versions = [crate if isinstance(crate, str) else crate["version"] for crate in crates.values()]
    assert [] == [version for version in versions if not re.fullmatch(r"=\d+\.\d+\.\S+", version)]
    packages = json.loads((js / "package.json").read_text())["dependencies"]
    assert {} == {
        name: version
        for name, version in packages.items()
        if not re.fullmatch(r"\d+\.\d+\.\d+", version)
    }
