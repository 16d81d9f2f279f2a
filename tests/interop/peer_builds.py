"""Builds the real peers of other implementations, once per content of their sources.

Each peer is a program in a directory beside this file. A build lands in the user's cache
(``~/.cache/codio-dht``, or ``$CODIO_DHT_CACHE``), in a directory named by the hash of its sources,
so that it is reused by every tree and rebuilt when a source or a lock file changes.

A further implementation is one more entry of ``PEERS``: a directory, the tools it needs, and the
command that leaves its program in a given place. Its program speaks the lines of
``go-peer/protocol.go``.

Run as a program, builds all peers whose tools the machine has, and says which it has not; with
``CI=true`` a missing tool is an error.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

BUILD_TIMEOUT_S = 900
"""Downloading and compiling one peer on a slow machine, seconds."""

HASH_CHARS = 16
"""Hex digits of the sources' hash in a build's name: enough to never meet another by chance."""


class BuildError(Exception):
    """A peer did not build; the message ends with the log."""


class MissingToolError(Exception):
    """A tool that the build needs is not on PATH; the message names it."""


@dataclass(frozen=True)
class PeerSource:
    """How one implementation's peer is built."""

    name: str
    directory: Path
    tools: tuple[str, ...]
    program: str
    """The program's path below the build directory."""
    command: Callable[[Path], list[str]]
    """The build command, run in ``directory``; its argument is where the program must land."""
    environment: tuple[tuple[str, str], ...] = ()


def _go_build(program: Path) -> list[str]:
    return ["go", "build", "-trimpath", "-o", str(program), "."]


PEERS: dict[str, PeerSource] = {
    "go": PeerSource(
        name="go",
        directory=HERE / "go-peer",
        tools=("go",),
        program="go-peer",
        command=_go_build,
        environment=(("GOFLAGS", "-mod=readonly -buildvcs=false"), ("CGO_ENABLED", "0")),
    ),
}


def cache_dir() -> Path:
    """Where builds are kept between runs."""
    named = os.environ.get("CODIO_DHT_CACHE")
    if named:
        return Path(named)
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "codio-dht"


def ensure_built(name: str) -> Path:
    """The program of peer ``name``, built now if its sources have no build yet.

    Raises:
        MissingToolError: a tool of the build is not on PATH.
        BuildError: the build failed.
    """
    source = PEERS[name]
    place = cache_dir() / "interop" / f"{name}-{_sources_hash(source.directory)}"
    program = place / source.program
    if program.exists():
        return program
    missing = [tool for tool in source.tools if shutil.which(tool) is None]
    if missing:
        raise MissingToolError(f"the {name} peer needs {', '.join(missing)} on PATH")
    place.parent.mkdir(parents=True, exist_ok=True)
    with _lock(place.parent / f"{name}.lock"):
        if not program.exists():  # another process may have built it meanwhile
            _build(source, place)
    return program


def _build(source: PeerSource, place: Path) -> None:
    unfinished = place.with_name(f"{place.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    log = place.with_name(f"{place.name}.log")
    environment = {**os.environ, **dict(source.environment)}
    if not os.environ.get("HOME"):  # go and cargo keep their downloads there
        environment["HOME"] = str(cache_dir())
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                source.command(unfinished / source.program),
                cwd=source.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=BUILD_TIMEOUT_S,
                check=False,
            )
            failure = f"exit status {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired:
            failure = f"not done after {BUILD_TIMEOUT_S} s"
    if failure or not (unfinished / source.program).exists():
        tail = log.read_text(errors="replace")[-3000:]
        raise BuildError(f"{source.name} peer: {failure or 'no program'}; {log}:\n{tail}")
    unfinished.rename(place)


def _sources_hash(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file() and "node_modules" not in path.parts:
            digest.update(f"{path.relative_to(directory)}\n{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:HASH_CHARS]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    strict = os.environ.get("CI") == "true"
    status = 0
    for name in PEERS:
        try:
            print(f"{name} peer: {ensure_built(name)}", file=sys.stderr)
        except MissingToolError as error:
            print(f"{name} peer: not built: {error}", file=sys.stderr)
            status |= strict
        except BuildError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
