"""The page of the matrix: ``docs/interop.md``.

    scripts/interop   run every cell, print the table and what did not end as it should
    scripts/interop --containers   the same, each node in a container of its own
    scripts/interop --write   write the page anew, without running anything

The page says what must hold: ``triples.py`` lists the cells, and those that fail by a fault of
another implementation. ``test_triples.py`` shows that it is true.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import trio

from images import bridge_network, ensure_images
from triples import (
    CELLS,
    FAULTS,
    FOREIGN,
    MOUNTED,
    OPERATIONS,
    OURS,
    PY_LIBP2P,
    TRANSPORTS,
    TRIPLES,
    Cell,
    Containers,
    Here,
    Outcome,
    Transport,
    Triple,
    run_triples,
)

IN_CONTAINERS: Final = tuple(
    triple for triple in TRIPLES if not {MOUNTED, PY_LIBP2P}.intersection(triple.members)
)
"""The triples whose implementations have images."""

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parents[1] / "docs" / "interop.md"

TITLES: Final = {
    "tcp-noise": "TCP with Noise",
    "tcp-tls": "TCP with TLS",
    "quic": "QUIC",
}
_COLUMNS: Final = (OURS, *FOREIGN, MOUNTED, PY_LIBP2P)

_HEAD: Final = """\
# With other implementations

Written by `scripts/interop --write`. Do not edit. `scripts/interop` runs every cell and prints the
table; `tests/interop/test_triples.py` does the same in CI, one test for each cell.

A *triple* is three nodes. The provider and the finder know nobody but the bootstrap node. The
provider joins first and hands out what the finder will look for. Then the finder joins. All three
are DHT servers. Each triple has five cells:

| cell | what must hold |
|---|---|
| providers | the finder finds who provides a CID |
| find_peer | the finder finds the provider's address |
| closest | the provider finds the bootstrap node, the finder finds both, nearest first |
| value | the finder gets a value of the provider: its public key, under `/pk/` |
| name | the finder resolves the provider's IPNS name, published under its own key |

A cell about a record also asks the bootstrap node by hand, from a node that is in no triple. It
must name the record itself.

| name | what runs |
|---|---|
"""

_NOTES: Final = """\

What a peer's library does not have is a program's task, and the test program does it: rust-libp2p
has no IPNS, so the rust program signs and checks its records itself (`rust-peer/src/names.rs`). go
and js are told not to filter addresses of loopback. In a lookup js asks only peers that are nearer
to the key than the peer that named them (`query-path.js` of its DHT). So the key of *closest* is
one to which the provider is nearer. py-libp2p takes whoever asks it, DHT clients too, for one of
its closest peers. So the node that asks by hand comes after *closest*.
"""

_PROGRAMS: Final = """
## Containers

`scripts/interop --containers` runs every triple of this node, go, rust and js with each node in a
container of its own, on a bridge network. `tests/interop/test_containers.py` does this with two
triples in CI. `scripts/images` builds the images.

## Kubo and Helia

Both are programs of their own and have no place in the table. Their nodes are DHT clients that know
only our daemons.

| program | what is shown | where |
|---|---|---|
| Kubo {kubo} | joins, adds, fetches, provides 2,000 CIDs by its sweep; its names and those of `codio-dht name publish` resolve both ways; its provide statistics; half of our daemons are killed and return meanwhile | `test_kubo.py` |
| Helia {helia} | joins, provides, finds and fetches content; its names and those of `codio-dht name publish` resolve both ways; one of our daemons is killed and returns meanwhile | `test_helia.py` |

Both are told to take addresses of loopback for the public DHT, and not to reach out of the machine:
Kubo by `TEST_DHT_STUB` and the settings in `kubo.py`, Helia by those in `helia/helia.js`.
"""  # noqa: E501 - rows of a table


def page() -> str:
    """The whole page."""
    parts = [_HEAD, *_versions(), _NOTES]
    parts.append(f"\nOf {len(CELLS)} cells {len(CELLS) - len(FAULTS)} hold.\n")
    reasons = list(dict.fromkeys(FAULTS.values()))
    for transport in TRANSPORTS:
        parts.append(f"\n## {TITLES[transport.name]}\n\n")
        parts += _table(transport, reasons)
    parts.append("\n## What fails, and why\n\n")
    parts += [f"{number}. {reason}.\n" for number, reason in enumerate(reasons, 1)]
    parts.append(_PROGRAMS.format(kubo=_kubo(), helia=_npm("helia")["helia"]))
    return "".join(parts)


def _table(transport: Transport, reasons: Sequence[str]) -> Iterator[str]:
    """A row for each bootstrap node and provider, a column for each finder. A cell that is not
    listed in FAULTS holds."""
    triples = [triple for triple in TRIPLES if triple.transport is transport]
    finders = [name for name in _COLUMNS if any(name == triple.finder for triple in triples)]
    yield f"| bootstrap | provider | {' | '.join(f'finder {name}' for name in finders)} |\n"
    yield f"|---|---|{'---|' * len(finders)}\n"
    rows = dict.fromkeys((triple.bootstrap, triple.provider) for triple in triples)
    for bootstrap, provider in rows:
        row = [
            _entry(Triple(transport, bootstrap, provider, finder), reasons) for finder in finders
        ]
        yield f"| {bootstrap} | {provider} | {' | '.join(row)} |\n"


def _entry(triple: Triple, reasons: Sequence[str]) -> str:
    if triple not in TRIPLES:
        return ""
    failing = {each: FAULTS.get(Cell(triple, each)) for each in OPERATIONS}
    if not any(failing.values()):
        return "all 5"
    holding = [each for each, reason in failing.items() if reason is None]
    noted = [f"no {each} ({reasons.index(why) + 1})" for each, why in failing.items() if why]
    return ", ".join([*holding, *noted])


def _versions() -> Iterator[str]:
    go = (HERE / "go-peer" / "go.mod").read_text()
    cargo = (HERE / "rust-peer" / "Cargo.toml").read_text()
    npm = _npm("js-peer")
    go_of = {
        name: _only(rf"^\s*github.com/libp2p/{name} v(\S+)", go)
        for name in ("go-libp2p", "go-libp2p-kad-dht")
    }
    rust = _only(r'^libp2p = \{ version = "=([^"]+)"', cargo)
    js = f"js-libp2p {npm['libp2p']}, @libp2p/kad-dht {npm['@libp2p/kad-dht']}, ipns {npm['ipns']}"
    yield f"| {OURS} | this project's node on its own stack |\n"
    yield f"| go | {', '.join(f'{name} {number}' for name, number in go_of.items())} |\n"
    yield f"| rust | rust-libp2p {rust} |\n"
    yield f"| js | {js} |\n"
    yield f"| {MOUNTED} | this project's DHT on a py-libp2p host |\n"
    yield f"| {PY_LIBP2P} | the `KadDHT` of py-libp2p {version('libp2p')} |\n"


def _npm(directory: str) -> dict[str, str]:
    """The versions that a program in js depends on."""
    found: dict[str, str] = json.loads((HERE / directory / "package.json").read_text())[
        "dependencies"
    ]
    return found


def _kubo() -> str:
    return _only(r"github.com/ipfs/kubo v(\S+)", (HERE / "kubo" / "go.mod").read_text())


def _only(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def lines(outcomes: Mapping[Cell, Outcome]) -> Iterator[str]:
    """What a run showed: a line for each triple, and one for each cell that did not end as the page
    says."""
    surprises = []
    for triple in dict.fromkeys(cell.triple for cell in outcomes):
        marks = []
        for operation in OPERATIONS:
            cell = Cell(triple, operation)
            outcome = outcomes[cell]
            as_told = bool(outcome.error) == (cell in FAULTS)
            word = "fails" if outcome.error else f"{outcome.seconds:.2f} s"
            marks.append(f"{operation} {word}{'' if as_told else ' (!)'}")
            if not as_told:
                surprises.append(f"{cell}: {outcome.error or 'holds, and should fail'}")
        yield f"{triple!s:<36} {'  '.join(marks)}"
    yield from surprises


def in_containers(triples: Sequence[Triple], log_dir: Path) -> Mapping[Cell, Outcome]:
    """Run the triples with each node in a container of its own.

    Raises:
        MissingToolError: podman is not installed, and may not be installed from here.
        BuildError: an image could not be built, or the network could not be made.
    """
    references = ensure_images({"go", *(name for triple in triples for name in triple.members)})
    network = f"codio-dht-test-{os.getpid()}"
    with bridge_network(network) as prefix:
        place = Containers(log_dir, network, prefix, references)
        return trio.run(run_triples, triples, place)


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--write"]:
        PAGE.write_text(page())
        return 0
    if list(arguments) not in ([], ["--containers"]):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="interop-") as logs:
        if arguments:
            outcomes = in_containers(IN_CONTAINERS, Path(logs))
        else:
            outcomes = trio.run(run_triples, TRIPLES, Here(Path(logs)))
    for line in lines(outcomes):
        print(line)
    return any(bool(each.error) != (cell in FAULTS) for cell, each in outcomes.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
