"""Long random runs of every layer that reads what a peer sends.

    scripts/fuzz                              every layer, a minute each
    scripts/fuzz yamux quic --seconds 3600    two of them, an hour each
    scripts/fuzz yamux --seed 17              begin at the seed of an earlier run
    scripts/fuzz --replay FILE                feed a kept input again
    scripts/fuzz --list                       which layers there are

The layers and what is fed to them are in tests/fuzzing; ``pytest`` runs a bounded part of the same.
A run ends with exit code 1 at the first thing that must not happen: an exception that is not the
layer's stated error, a bound that does not hold, or an input that takes longer than
``MAX_SECONDS_PER_INPUT``. The input, made as small as it gets, is kept in a file.

Each seed stands for a batch of inputs, always the same ones.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

from hypothesis import HealthCheck, Phase, given, seed, settings

ROOT: Final = Path(__file__).resolve().parents[1]

BATCH: Final = 200
"""Inputs of one seed."""

MAX_SECONDS_PER_INPUT: Final = 10.0
"""An input that takes longer is a finding: none takes a tenth of a second."""

KEPT: Final = Path(".hypothesis/fuzz")
"""Where findings are written."""

Pieces = list[bytes]


class Layer(Protocol):
    """See tests/fuzzing/fuzz_layers.py."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Any: ...
    @property
    def run(self) -> Callable[[Pieces], None]: ...


class TookTooLongError(Exception):
    """An input took longer than ``MAX_SECONDS_PER_INPUT``."""


def the_layers() -> Mapping[str, Layer]:
    """Those of this tree."""
    sys.path[:0] = [str(ROOT / each) for each in (".", "tests/fuzzing", "tests/unit")]
    layers: Mapping[str, Layer] = import_module("fuzz_layers").LAYERS
    return layers


# --- one batch ------------------------------------------------------------------------------------


class Batch:
    """The inputs of one layer and one seed."""

    def __init__(self, layer: Layer, number: int) -> None:
        self.layer = layer
        self.number = number
        self.inputs = 0
        self.last: Pieces = []
        """What was fed last; after a failure that is the smallest input that fails."""

    def run(self) -> None:
        """Feed them all; raises what the first finding raised."""

        def feed(pieces: Pieces) -> None:
            self.inputs += 1
            self.last = pieces
            with in_time():
                self.layer.run(pieces)

        configured = settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            print_blob=False,
        )
        on_inputs: Any = given(self.layer.inputs)
        seed(self.number)(configured(on_inputs(feed)))()


@contextmanager
def in_time() -> Iterator[None]:
    """The block ends in time or raises ``TookTooLongError``, whatever it does in Python."""

    def ring(_: int, __: FrameType | None) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS_PER_INPUT)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


# --- findings -------------------------------------------------------------------------------------


def keep(directory: Path, batch: Batch, error: BaseException) -> Path:
    """Write the failing input to a file."""
    path = directory / f"fuzz-{batch.layer.name}-{batch.number}.json"
    finding = {
        "layer": batch.layer.name,
        "seed": batch.number,
        "error": f"{type(error).__name__}: {error}",
        "pieces": [piece.hex() for piece in batch.last],
    }
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(finding, indent=2) + "\n")
    return path


def replay(path: Path, layers: Mapping[str, Layer]) -> int:
    """Feed a kept input again."""
    finding = json.loads(path.read_text())
    try:
        with in_time():
            layers[finding["layer"]].run([bytes.fromhex(piece) for piece in finding["pieces"]])
    except Exception:  # noqa: BLE001 - that is what is looked for
        traceback.print_exc()
        return 1
    print(f"{path}: {finding['layer']} takes it now")
    return 0


# --- the run --------------------------------------------------------------------------------------


def fuzz(
    layer: Layer,
    *,
    seconds: float,
    first: int,
    directory: Path,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """One layer, for ``seconds``; whether nothing was found."""
    started, number, inputs = clock(), first, 0
    while True:
        batch = Batch(layer, number)
        try:
            batch.run()
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            traceback.print_exc()
            path = keep(directory, batch, error)
            print(f"{layer.name}: FOUND with seed {number}. Once more:")
            print(f"  scripts/fuzz --replay {path}")
            print(f"  scripts/fuzz {layer.name} --seed {number} --seconds 0")
            return False
        inputs += batch.inputs
        number += 1
        spent = clock() - started
        if spent >= seconds:
            break
    seeds = f"seeds {first} to {number - 1}"
    print(f"{layer.name:16} {inputs:9,} inputs in {spent:6.1f} s, {seeds}: ok", flush=True)
    return True


def main(arguments: Sequence[str] | None = None, layers: Mapping[str, Layer] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Long random runs of every layer; see scripts/fuzz.py."
    )
    parser.add_argument("layer", nargs="*", help="which layers; all without one")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each layer [60]")
    parser.add_argument("--seed", type=int, help="the first seed; a random one without it")
    parser.add_argument("--keep", type=Path, default=KEPT, help=f"where findings go [{KEPT}]")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="feed a kept input again")
    parser.add_argument("--list", action="store_true", help="name the layers")
    options = parser.parse_args(arguments)
    known = layers if layers is not None else the_layers()
    if options.list:
        print("\n".join(known))
        return 0
    if options.replay is not None:
        return replay(options.replay, known)
    unknown = [name for name in options.layer if name not in known]
    if unknown:
        parser.error(f"no layer {unknown[0]}; there are: {', '.join(known)}")
    first = options.seed if options.seed is not None else random.randrange(10**6)
    for name in options.layer or known:
        if not fuzz(known[name], seconds=options.seconds, first=first, directory=options.keep):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
