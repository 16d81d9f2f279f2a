"""Scenario files: what is read, and what is said of a mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import simulate
from codio_dht.errors import ConfigError
from codio_dht.sim.scenario import (
    LinksPart,
    PartitionPart,
    Scenario,
    make_scenario,
)

PRESETS = sorted((Path(__file__).resolve().parents[2] / "scenarios").glob("*.toml"))


def scenario_of(text: str) -> Scenario:
    return make_scenario(tomllib.loads(text))


def test_a_scenario_is_read_from_toml_with_defaults_for_what_it_does_not_say() -> None:
    scenario = scenario_of(
        """
        name = "mine"
        seed = 7
        [links]
        loss = 0.1
        [[partition]]
        start_s = 5
        end_s = 10
        """
    )
    assert (
        Scenario(
            name="mine",
            seed=7,
            links=LinksPart(loss=0.1),
            partition=(PartitionPart(start_s=5.0, end_s=10.0),),
        )
        == scenario
    )


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_a_scenario_called_like_its_file_and_says_what_it_is(path: Path) -> None:
    assert path.stem == simulate.load(str(path), None, []).name
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nnodez = 5", r"network\.nodez: no such field; there are bootstrap, "),
        (
            "[network]\nnodes = 1",
            r"network\.nodes must be a whole number from 2 to .*, not 1$",
        ),
        (
            "[network]\nnodes = 1.5",
            r"network\.nodes must be a whole number .*, not 1\.5",
        ),
        ("[network]\ndead = 1.5", r"network\.dead must be a number from 0 to 1, not 1\.5"),
        ("[network]\ndead = 'many'", r"network\.dead must be a number from 0 to 1, not 'many'"),
        ("[network]\ndead = true", r"network\.dead must be a number from 0 to 1, not True"),
        ("[network]\nbootstrap = 'magic'", r"network\.bootstrap must be one of oracle, join"),
        ("network = 5", r"network must be a table"),
        ("partition = 5", r"partition must be a list of tables"),
        ("[[partition]]\nstart_s = 9\nend_s = 3", r"partition\[0\]\.end_s: must be after"),
        ("[network]\ndead = 0.7\nslow = 0.7", r"network: the shares .* add up to 1\.4"),
        ("[network]\nnodes = 50_000\nbootstrap = 'join'", r"network\.nodes: at most 5000"),
        ("[churn]\nshare = 0.5", r"run\.duration_s: churn needs"),
        ("[records]\nkeys = 5", r"run\.duration_s: records need"),
        ("[network]\ndiverse = 1", r"network\.diverse must be true or false"),
        ("[values]\nfinds = 5", r"values\.keys: finds need a key"),
        ("[network]\nk = 'many'", r"network\.k must be a whole number"),
        ("name = 5", r"name must be text"),
        ("seed = -1", r"seed must be a whole number of at least 0"),
    ],
)
def test_a_mistake_is_named_by_its_field(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scenario_of(text)
