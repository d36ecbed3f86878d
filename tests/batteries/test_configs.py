"""Every config and every preset of it takes two steps, on random photos of the sizes that it names."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import table_of_counts
from ml_collections import ConfigDict

from fsl_jax.building import build, sample_episode
from fsl_jax.data.augment import Augment, prepare_episode
from fsl_jax.data.resident import ResidentReader
from fsl_jax.mesh import data_mesh
from fsl_jax.sampling import episodes
from fsl_jax.sampling.keys import named_key
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.clock import Clock
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
# What only multiplies the work of a step; the shapes of a task stay as the config has them.
FEWER = {"tasks": 1, "way": 5}


def module_of(file):
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [
    # The published settings are the same programs at other sizes: they compile for a minute in all.
    pytest.param(file, preset, marks=[pytest.mark.slow] if preset.startswith("omniglot") else [])
    for file in FILES
    for preset in ["", "smoke", *getattr(module_of(file), "OMNIGLOT", ())]
    # A preset that differs by its way alone is the same program at another size.
    if not preset.startswith("omniglot_20way_5")
]


@pytest.mark.parametrize(
    ("file", "preset"), CASES, ids=lambda value: getattr(value, "stem", value) or "default"
)
def test_takes_two_steps(file, preset):
    config: ConfigDict = module_of(file).get_config(preset)
    Clock.of(config)
    config.episode.update(FEWER)
    config.model.options["filters"] = 4
    episode, data = config.episode, config.data
    method, _, preprocess = build(config)
    mesh = data_mesh(1)
    table = table_of_counts([episode.shot + episode.queries] * 6, side=data.size, channels=data.channels)
    reader = ResidentReader.of(table, episodes.make(table, **episode), named_key(0, "train"), mesh)
    variables = method.init(jax.random.key(0), sample_episode((data.size, data.size, data.channels)))
    optimizer = optimizers.make(config.optimizer, variables.params, steps=config.train.steps)
    augment = Augment(**config.augment)
    dispatch = make_dispatch(
        method,
        optimizer,
        reader,
        lambda batch, key: prepare_episode(batch, preprocess, augment, key),
        mesh=mesh,
        key=named_key(0, "step"),
    )
    before = jax.tree.map(np.asarray, variables.params)
    state, metrics = dispatch(TrainState.create(variables, optimizer), reader.constant, reader.inputs(0, 2))
    assert int(state.step) == 2
    assert np.isfinite(metrics["loss"]).all()
    moved = [
        not np.array_equal(old, new)
        for old, new in zip(*map(jax.tree.leaves, (before, state.variables.params)), strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_unknown_preset_lists_the_known_ones(file):
    with pytest.raises(ValueError, match=rf"no preset 'nope' in configs/{file.name}; known: .*smoke"):
        module_of(file).get_config("nope")
