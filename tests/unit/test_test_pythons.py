"""``scripts/test-pythons``: which interpreters it finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import test_pythons

ROOT = Path(__file__).resolve().parents[2]


def interpreter(path: Path, version: str, *, runs: bool = True) -> Path:
    """A stand-in that says it is ``version``; with ``runs`` False it fails as a pyenv shim of a
    version that is not selected does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{f'echo {version}' if runs else 'exit 127'}\n")
    path.chmod(0o755)
    return path


def test_the_supported_versions_are_those_of_the_project() -> None:
    requires = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert requires is not None
    versions = test_pythons.supported()
    assert (requires[1], "3.13") == (versions[0], versions[-1])
    assert {"3.11", "3.12", "3.13"} <= set(versions)


def test_an_interpreter_of_pyenv_is_found_although_its_shim_does_not_run(tmp_path: Path) -> None:
    interpreter(tmp_path / "shims/python3.12", "", runs=False)
    interpreter(tmp_path / ".pyenv/versions/3.12.0/bin/python3.12", "3.12.0")
    newest = interpreter(tmp_path / ".pyenv/versions/3.12.7/bin/python3.12", "3.12.7")
    environ = {"HOME": str(tmp_path), "PATH": str(tmp_path / "shims")}
    assert (newest, "3.12.7") == test_pythons.find("3.12", environ)
    assert test_pythons.find("3.13", environ) is None


@pytest.mark.parametrize("variable", ["PATH", "CODIO_DHT_PYTHONS"])
def test_an_interpreter_is_found_in_the_directories_named(tmp_path: Path, variable: str) -> None:
    python = interpreter(tmp_path / "bin/python3.13", "3.13.1")
    environ = {"HOME": str(tmp_path), variable: f"/nonexistent:{tmp_path / 'bin'}"}
    assert (python, "3.13.1") == test_pythons.find("3.13", environ)


def test_an_interpreter_that_is_of_another_version_than_its_name_says_is_passed_over(
    tmp_path: Path,
) -> None:
    interpreter(tmp_path / "bin/python3.13", "3.12.9")
    environ = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}
    assert test_pythons.find("3.13", environ) is None


def test_a_newer_python_needs_what_it_needs_beside_the_lock_of_all(tmp_path: Path) -> None:
    for name in ("dev", "dev-3.13", "dev-3.12", "run"):
        (tmp_path / f"{name}.txt").touch()

    def names(version: str) -> list[str]:
        return [path.stem for path in test_pythons.locks_for(version, tmp_path)]

    assert ["dev"] == names("3.11.7")
    assert ["dev", "dev-3.12"] == names("3.12.1")
    assert ["dev", "dev-3.12", "dev-3.13"] == names("3.14.0")


def test_environments_are_kept_in_the_cache_or_in_the_tree(tmp_path: Path) -> None:
    home, cache = tmp_path, tmp_path / "cache"
    assert home / ".cache/codio-dht/pythons" == test_pythons.cache_dir({"HOME": str(home)})
    assert cache / "pythons" == test_pythons.cache_dir({"CODIO_DHT_CACHE": str(cache)})
    none = {"HOME": str(tmp_path / "none")}
    assert ROOT / ".venv/cache/pythons" == test_pythons.cache_dir(none)
