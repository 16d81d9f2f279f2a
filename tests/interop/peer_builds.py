"""Builds the real peers of other implementations, once per content of their sources.

Each peer is a program in a directory beside this file. A build lands in the user's cache
(``~/.cache/codio-dht``, or ``$CODIO_DHT_CACHE``), in a directory named by the hash of its sources,
so that it is reused by every tree and rebuilt when a source changes. It is made from a copy of the
sources, so that what a package manager leaves beside them is never in the tree.

A further implementation is one more entry of ``PEERS``: a directory, the tools it needs, and the
command that leaves its program in a given place. Its program speaks the lines of
``go-peer/protocol.go``; Kubo, which is nobody's library, is driven by its own commands
(``kubo.py``). Whatever else is to be built the same way is a ``Source`` of its own.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

BUILD_TIMEOUT_S = 1800
"""Downloading and compiling one peer on a slow machine, seconds; rust takes minutes anywhere."""

_NOT_SOURCES = frozenset(
    {".gitignore", "node_modules", "package-lock.json", "Cargo.lock", "target"}
)
"""What a tool that a person ran in the tree leaves there."""

HASH_CHARS = 16
"""Hex digits of the sources' hash in a build's name: enough to never meet another by chance."""


class BuildError(Exception):
    """A peer did not build; the message ends with the log."""


class MissingToolError(Exception):
    """A tool that the build needs is not on PATH; the message names it."""


@dataclass(frozen=True)
class Source:
    """How a program is built."""

    name: str
    directory: Path
    tools: tuple[str, ...]
    program: str
    """The program's path below the build directory, which starts as a copy of ``directory``."""
    command: tuple[str, ...]
    """The build command, run in the build directory."""
    environment: tuple[tuple[str, str], ...] = ()
    runner: tuple[str, ...] = ()
    """What the program is an argument of, where it does not run by itself."""
    script: str = ""
    """What the program is given first, below the build directory, where it is an interpreter."""
    keeps: tuple[tuple[str, str], ...] = ()
    """Variables that name directories of the cache which builds of other hashes share."""


_GO_ENVIRONMENT = (("GOFLAGS", "-mod=readonly -buildvcs=false"), ("CGO_ENABLED", "0"))


def go_source(name: str, directory: Path) -> Source:
    """A Go program whose dependencies are locked by ``go.sum``."""
    return Source(
        name=name,
        directory=directory,
        tools=("go",),
        program=directory.name,
        command=("go", "build", "-trimpath", "-o", directory.name, "."),
        environment=_GO_ENVIRONMENT,
    )


PEERS: dict[str, Source] = {
    "go": go_source("go", HERE / "go-peer"),
    "rust": Source(
        name="rust",
        directory=HERE / "rust-peer",
        tools=("cargo",),
        program="bin/rust-peer",
        command=("cargo", "install", "--quiet", "--no-track", "--path", ".", "--root", "."),
        keeps=(("CARGO_TARGET_DIR", "rust-target"),),
    ),
    "js": Source(
        name="js",
        directory=HERE / "js-peer",
        tools=("node", "npm"),
        program="peer.js",
        command=("npm", "install", "--no-package-lock", "--no-audit", "--no-fund"),
        runner=("node",),
    ),
    # Helia needs a newer Node.js than a system may have, and npm brings it.
    "helia": Source(
        name="helia",
        directory=HERE / "helia",
        tools=("npm",),
        program="node_modules/node/bin/node",
        command=(
            *("npm", "install", "--no-package-lock", "--no-audit", "--no-fund"),
            "--legacy-peer-deps",  # or it brings what browsers and telephones need, 200 MB
        ),
        script="helia.js",
    ),
    # The ipfs program itself; it speaks no lines.
    "kubo": Source(
        name="kubo",
        directory=HERE / "kubo",
        tools=("go",),
        program="ipfs",
        command=("go", "build", "-trimpath", "-o", "ipfs", "github.com/ipfs/kubo/cmd/ipfs"),
        environment=_GO_ENVIRONMENT,
    ),
}


def cache_dir() -> Path:
    """Where builds are kept between runs."""
    named = os.environ.get("CODIO_DHT_CACHE")
    if named:
        return Path(named)
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "codio-dht"


def ensure_built(name: str) -> tuple[str, ...]:
    """The command that runs peer ``name``, built now if its sources have no build yet.

    Raises:
        MissingToolError: a tool of the build is not on PATH.
        BuildError: the build failed.
    """
    return build(PEERS[name])


def place_of(source: Source) -> Path:
    """The directory of its build, made or not."""
    return cache_dir() / "interop" / f"{source.name}-{_sources_hash(source.directory)}"


def build(source: Source) -> tuple[str, ...]:
    """The command that runs the program of ``source``; raises as ``ensure_built``."""
    place = place_of(source)
    command = (*source.runner, str(place / source.program))
    if source.script:
        command = (*command, str(place / source.script))
    missing = [tool for tool in source.tools if shutil.which(tool) is None]
    if place.exists() and not set(source.runner).intersection(missing):
        return command
    if missing:
        raise MissingToolError(f"the {source.name} peer needs {', '.join(missing)} on PATH")
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(place.parent / f"{source.name}.lock"):
        if not place.exists():  # another process may have built it meanwhile
            _build(source, place)
    return command


def _build(source: Source, place: Path) -> None:
    unfinished = place.with_name(f"{place.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source.directory, unfinished, ignore=shutil.ignore_patterns(*_NOT_SOURCES))
    log = place.with_name(f"{place.name}.log")
    kept = {variable: str(place.parent / name) for variable, name in source.keeps}
    environment = {**os.environ, **dict(source.environment), **kept}
    if not os.environ.get("HOME"):  # go and cargo keep their downloads there
        environment["HOME"] = str(cache_dir())
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                source.command,
                cwd=unfinished,
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
        if path.is_file() and not _NOT_SOURCES.intersection(path.relative_to(directory).parts):
            digest.update(f"{path.relative_to(directory)}\n{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:HASH_CHARS]


@contextmanager
def lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    strict = os.environ.get("CI") == "true"
    status = 0
    for name in PEERS:
        try:
            print(f"{name} peer: {' '.join(ensure_built(name))}", file=sys.stderr)
        except MissingToolError as error:
            print(f"{name} peer: not built: {error}", file=sys.stderr)
            status |= strict
        except BuildError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
