"""A bounded part of what ``scripts/fuzz`` runs for long, and that program itself."""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fuzz
from fuzz_inputs import Pieces, cut, damaged
from fuzz_layers import LAYERS, Layer

FEW = 40
"""Inputs of each layer."""


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_survives_whatever_a_peer_sends(name: str) -> None:
    layer = LAYERS[name]

    @settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))
    @given(layer.inputs)
    def survives(pieces: Pieces) -> None:
        layer.run(pieces)

    survives()


# --- the inputs -----------------------------------------------------------------------------------


def test_each_way_of_damage_does_what_it_says() -> None:
    def way(name: str, at: int, value: bytes = b"") -> bytes:
        return name.encode() + at.to_bytes(3, "big") + value

    data = b"abcdef"
    assert b"abBdef" == damaged(data, [way("flip", 2, b"\x21")])
    assert b"abXYef" == damaged(data, [way("write", 2, b"XY")])
    assert b"abXYcdef" == damaged(data, [way("insert", 2, b"XY")])
    assert b"abef" == damaged(data, [way("cut", 2, b"XY")])
    assert b"ab" == damaged(data, [way("end", 2)])
    assert b"abcdcdef" == damaged(data, [way("repeat", 2, b"XY")])
    assert b"abXYf" == damaged(data, [way("cut", 2, b"123"), way("insert", 2, b"XY")])
    assert data == damaged(data, [b"nonsense", b"flip", way("flip", 2)])


@given(st.binary(max_size=30), st.lists(st.integers(0), max_size=5))
def test_pieces_are_the_whole(data: bytes, cuts: list[int]) -> None:
    assert data == b"".join(cut(data, cuts))


# --- the program ----------------------------------------------------------------------------------


def fails_on_seven(pieces: Pieces) -> None:
    if any(len(piece) >= 7 for piece in pieces):
        raise LookupError("seven")


FRAIL = {"frail": Layer("frail", st.lists(st.binary(max_size=40)), fails_on_seven)}


def test_a_finding_is_kept_small_and_can_be_fed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["frail", "--seed", "5", "--seconds", "60", "--keep", str(tmp_path / "kept")]
    assert 1 == fuzz.main(arguments, FRAIL)
    [kept] = (tmp_path / "kept").iterdir()
    said = capsys.readouterr()
    assert f"scripts/fuzz --replay {kept}" in said.out
    assert "LookupError: seven" in said.err
    finding = json.loads(kept.read_text())
    assert ("frail", ["00" * 7]) == (finding["layer"], finding["pieces"])
    assert f"scripts/fuzz frail --seed {finding['seed']}" in said.out

    assert 1 == fuzz.main(["--replay", str(kept)], FRAIL)
    mended = {"frail": Layer("frail", FRAIL["frail"].inputs, lambda pieces: None)}
    assert 0 == fuzz.main(["--replay", str(kept)], mended)


def test_a_seed_means_the_same_inputs_again() -> None:
    def fed(number: int) -> list[Pieces]:
        seen: list[Pieces] = []
        layer = Layer("any", st.lists(st.binary(max_size=9)), seen.append)
        fuzz.Batch(layer, number).run()
        return seen

    assert fed(3) == fed(3) != fed(4)


def test_it_runs_for_as_long_as_it_was_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = Layer("any", st.binary(max_size=2).map(lambda data: [data]), lambda pieces: None)
    for seconds, last in ((0.0, 7), (30.0, 9), (31.0, 10)):
        clock = count(0, 10).__next__
        assert fuzz.fuzz(layer, seconds=seconds, first=7, directory=tmp_path, clock=clock)
        assert f"seeds 7 to {last}: ok" in capsys.readouterr().out


def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("slow", st.just([]), lambda pieces: time.sleep(60))
    monkeypatch.setattr(fuzz, "MAX_SECONDS_PER_INPUT", 0.05)
    with pytest.raises(fuzz.TookTooLongError):
        fuzz.Batch(layer, 1).run()


def test_a_layer_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fuzz.main(["nonsense"], FRAIL)
    assert 2 == ended.value.code
    assert "there are: frail" in capsys.readouterr().err
