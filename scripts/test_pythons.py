"""Runs the unit tests on every supported Python that is installed.

    scripts/test-pythons              each version but the one of .venv, which scripts/test runs
    scripts/test-pythons --all        that one too
    scripts/test-pythons 3.13 -- -k framing

Which versions are supported, the classifiers of pyproject.toml say. An interpreter is looked for on
PATH, where pyenv and uv keep theirs, in CI's tool cache, and in the directories of
``CODIO_DHT_PYTHONS`` (as PATH is written). Each gets a virtual environment of its own, with the
locked dependencies of the tests, in ``~/.cache/codio-dht/pythons`` (or ``$CODIO_DHT_CACHE``). It is
made once and again when a lock changes.

A version that is not installed is named and is no failure. All versions run at the same time; unit
tests do not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

REQUIREMENTS: Final = ROOT / "requirements"

RUN_TIMEOUT_S: Final = 900
"""The unit tests on one version, at most."""

INSTALL_TIMEOUT_S: Final = 600
"""Making one virtual environment, at most."""


def supported(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """The supported versions, such as ``3.11``, oldest first."""
    classifiers = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["classifiers"]
    found = [
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in classifiers
    ]
    return sorted((each[1] for each in found if each), key=lambda each: int(each.split(".")[1]))


def candidates(version: str, environ: os._Environ[str] | dict[str, str]) -> Iterator[Path]:
    """Where an interpreter of ``version`` may be, the likeliest first."""
    home = Path(environ.get("HOME", "/nonexistent"))
    name = f"python{version}"
    given = [Path(each) for each in environ.get("CODIO_DHT_PYTHONS", "").split(os.pathsep) if each]
    pyenv = Path(environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    tools = Path(environ.get("RUNNER_TOOL_CACHE", "/opt/hostedtoolcache")) / "Python"
    uv = home / ".local/share/uv/python"
    yield from (each / name for each in given)
    for pattern in (
        pyenv.glob(f"{version}.*/bin/{name}"),
        uv.glob(f"cpython-{version}.*/bin/{name}"),
        tools.glob(f"{version}.*/*/bin/{name}"),
    ):
        yield from sorted(pattern, reverse=True)
    yield from (Path(each) / name for each in environ.get("PATH", "").split(os.pathsep) if each)


def full_version(python: Path) -> str | None:
    """What ``python`` says it is, such as ``3.12.1``; None if it does not run."""
    try:
        done = subprocess.run(
            [python, "-c", "import platform; print(platform.python_version())"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # a shim of a version that is not selected, too
        return None
    return done.stdout.strip()


def find(version: str, environ: os._Environ[str] | dict[str, str]) -> tuple[Path, str] | None:
    """An interpreter of ``version``, and its full version; None if there is none."""
    for python in candidates(version, environ):
        if python.exists() and (full := full_version(python)) and full.startswith(f"{version}."):
            return python, full
    return None


def cache_dir(environ: os._Environ[str] | dict[str, str]) -> Path:
    """Where virtual environments are kept; in the tree's own without a home of one's own."""
    if "CODIO_DHT_CACHE" in environ:
        return Path(environ["CODIO_DHT_CACHE"]) / "pythons"
    home = Path(environ.get("HOME", "/nonexistent"))
    if os.access(home, os.W_OK):
        return home / ".cache" / "codio-dht" / "pythons"
    return ROOT / ".venv" / "cache" / "pythons"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time uses ``directory``; others wait."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def locks_for(version: str, directory: Path = REQUIREMENTS) -> list[Path]:
    """The locks of the tests' dependencies on Python ``version``: newer ones need more."""
    minor = int(version.split(".")[1])
    newer = {int(path.stem.rpartition(".")[2]): path for path in directory.glob("dev-3.*.txt")}
    return [directory / "dev.txt", *(newer[since] for since in sorted(newer) if since <= minor)]


def environment(python: Path, version: str, cache: Path) -> Path:
    """A virtual environment of ``python`` with what the tests need, this tree among it.

    Raises:
        subprocess.SubprocessError: it could not be made; what was said has been printed.
    """
    builds, locks = REQUIREMENTS / "build.txt", locks_for(version)
    content = b"".join(lock.read_bytes() for lock in (builds, *locks))
    digest = hashlib.sha256(content).hexdigest()[:12]
    venv = cache / f"{version}-{digest}"
    if not (venv / "complete").exists():
        for old in cache.glob(f"{version}-*"):
            shutil.rmtree(old)
        call(python, "-m", "venv", "--clear", venv)
        pip(venv, "--require-hashes", "-r", builds)
        files = [part for lock in locks for part in ("-r", lock)]
        pip(venv, "--require-hashes", "--no-build-isolation", *files)
        (venv / "complete").touch()
    pip(venv, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    return venv


def pip(venv: Path, *arguments: str | Path) -> None:
    """Install into ``venv``."""
    options = ("--disable-pip-version-check", "--no-input", "--quiet")
    call(venv / "bin" / "python", "-m", "pip", "install", *options, *arguments)


def call(*command: str | Path) -> None:
    """Run ``command``; print what it said if it failed."""
    with tempfile.TemporaryFile(mode="w+") as said:
        try:
            subprocess.run(
                command, stdout=said, stderr=said, timeout=INSTALL_TIMEOUT_S, check=True, cwd=ROOT
            )
        except subprocess.SubprocessError:
            said.seek(0)
            print("\n".join(said.read().splitlines()[-30:]), file=sys.stderr)
            raise


def run_tests(venv: Path, arguments: Sequence[str]) -> tuple[bool, str]:
    """Whether the unit tests pass in ``venv``, and what pytest printed."""
    python = str(venv / "bin" / "python")
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit", *arguments],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return False, f"{error.output or ''}\nnot done after {RUN_TIMEOUT_S} s"
    return done.returncode == 0, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("versions", nargs="*", help="such as 3.12; all supported ones if not given")
    parser.add_argument("--all", action="store_true", help="the version of .venv too")
    parser.add_argument("--where", metavar="VERSION", help="print that interpreter, run nothing")
    own, rest = _split(sys.argv[1:])
    options = parser.parse_args(own)
    if options.where:
        installed = find(options.where, os.environ)
        print(installed[0] if installed else "", end="\n" if installed else "")
        return int(installed is None)
    here = "{}.{}".format(*sys.version_info[:2])
    outcomes: dict[str, str] = {}
    wanted: list[tuple[str, Path, str]] = []
    for version in options.versions or supported():
        if version == here and not (options.all or options.versions):
            outcomes[version] = "is the version of .venv: scripts/test runs all tests with it"
            continue
        found = find(version, os.environ)
        if found is None:
            outcomes[version] = "is not installed"
        else:
            wanted.append((version, *found))
    failed = False
    cache = cache_dir(os.environ)
    with locked(cache), ThreadPoolExecutor(max(1, len(wanted))) as pool:
        running = []
        for version, python, full in wanted:
            try:
                venv = environment(python, full, cache)
            except (OSError, subprocess.SubprocessError) as error:
                outcomes[version] = f"({full}) FAILED: {error}"
                failed = True
            else:
                running.append((version, full, pool.submit(timed, run_tests, venv, rest)))
        for version, full, outcome in running:
            (passed, said), seconds = outcome.result()
            print(f"test-pythons: {full}\n{said}", flush=True)
            outcomes[version] = f"({full}) {'passed' if passed else 'FAILED'} in {seconds} s"
            failed = failed or not passed
    for version in sorted(outcomes):
        print(f"test-pythons: {version} {outcomes[version]}")
    return int(failed)


def timed(
    run: Callable[[Path, Sequence[str]], tuple[bool, str]], venv: Path, arguments: Sequence[str]
) -> tuple[tuple[bool, str], int]:
    """The outcome of ``run``, and how many seconds it took."""
    began = time.monotonic()
    return run(venv, arguments), round(time.monotonic() - began)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and what after it."""
    given = list(arguments)
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
