"""Every config and every preset of it takes two steps, on random photos of the sizes that it names."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import table_of_counts
from ml_collections import ConfigDict

from fsl_jax import presets
from fsl_jax.building import build, make_plan, preparation, sample, takes_taxonomy
from fsl_jax.data.augment import Augment
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Attributes, Coded
from fsl_jax.data.targets import taxonomy_of, with_targets
from fsl_jax.mesh import data_mesh
from fsl_jax.sampling.keys import named_key
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.clock import Clock
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
# What only multiplies the work of a step; the shapes of a task stay as the config has them.
FEWER = {"tasks": 1, "way": 5}
LABELS = 6


def module_of(file):
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def presets_of(file):
    """Those that differ in more than their data: published sets have networks whose weights no package has."""
    module = module_of(file)
    parts = ("OMNIGLOT", "MINI_IMAGENET", "LAKE", "MININGS", "LOSSES")
    more = [name for name in ("neighbour",) if name in getattr(module, "KNOWN", ())]
    more += [f"variant={name}" for name in getattr(module, "VARIANTS", ())]
    return ["", "smoke", *(name for part in parts for name in getattr(module, part, ())), *more]


def marks_of(preset):
    """Other settings, minings and losses compile for minutes in all; the parts of each are tested by themselves."""
    if preset in ("", "smoke"):
        return []
    # The same program as of 5-way 1-shot, at another size.
    return [pytest.mark.release if preset.endswith("_5shot") or "_20way" in preset else pytest.mark.slow]


CASES = [pytest.param(file, preset, marks=marks_of(preset)) for file in FILES for preset in presets_of(file)]


def small(config):
    """Makes a config cheap, and leaves what it computes."""
    config.episode.update(FEWER)
    if config.model.name == "conv4":
        config.model.options["filters"] = 4
    # A first step at a rate of 0 would leave what hears of the loss through layers that start at 0 as it is.
    config.optimizer.warmup = 0
    options = config.sampler.options
    for name, most in {"labels": LABELS, "pairs": 8, "triplets": 8, "batch": 16}.items():
        if name in options:
            options[name] = min(options[name], most)


def table_for(config):
    """Random photos with the columns that any config asks for."""
    episode, data = config.episode, config.data
    photos = max(episode.shot + episode.queries, 4)
    table = table_of_counts([photos] * LABELS, side=min(data.size, 84), channels=data.channels)
    text = np.random.default_rng(0).standard_normal((len(table), 8)).astype(np.float32)
    of_tasks = {config.episode.group_by: Coded.of(["one" for _ in table.label.codes])}
    return dataclasses.replace(
        table,
        role=np.where(np.arange(len(table)) % photos < 2, "gallery", "query"),
        levels={
            "category": Coded.of([str(code % 2) for code in table.label.codes]),
            "subcategory": Coded.of([str(code % 4) for code in table.label.codes]),
            **(of_tasks if config.episode.group_by else {}),
        },
        attributes=Attributes.of([f"colour={code % 3}|size={code % 2}" for code in table.label.codes]),
        numbers={"text": text} if data.text.vectors else {},
    )


def taxonomy_for(config, table):
    """What a method over categories is told, and the table with its columns."""
    if not takes_taxonomy(config):
        return None, table
    config.data.targets.levels = ("*",) if config.data.targets.levels else ()
    taxonomy = taxonomy_of(table, config.data.targets)
    return taxonomy, with_targets(table, taxonomy, unstated="unknown")


@pytest.mark.parametrize(
    ("file", "preset"), CASES, ids=lambda value: getattr(value, "stem", value) or "default"
)
def test_takes_two_steps(file, preset):
    config: ConfigDict = module_of(file).get_config(preset)
    Clock.of(config)
    small(config)
    mesh, (taxonomy, table) = data_mesh(1), taxonomy_for(config, table_for(config))
    method, _, preprocess, *_ = build(config, labels=LABELS, taxonomy=taxonomy)
    plan = make_plan(config, table)
    reader = ResidentReader.of(table, plan, named_key(0, "train"), mesh)
    size, channels = config.data.size, config.data.channels
    variables = method.init(jax.random.key(0), sample(config, (size, size, channels)))
    optimizer = optimizers.make(config.optimizer, variables.params, steps=config.train.steps)
    dispatch = make_dispatch(
        method,
        optimizer,
        reader,
        preparation(config, preprocess),
        mesh=mesh,
        key=named_key(0, "step"),
    )
    window = plan.first_window() if hasattr(plan, "first_window") else None
    before = jax.tree.map(np.asarray, variables.params)
    state = TrainState.create(variables, optimizer, window)
    state, metrics = dispatch(state, reader.constant, reader.inputs(0, 2))
    assert int(state.step) == 2
    assert np.isfinite(metrics["loss"]).all()
    new = dict(jax.tree_util.tree_leaves_with_path(state.variables.params))
    stayed = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, old in jax.tree_util.tree_leaves_with_path(before)
        if np.array_equal(old, new[path])
    ]
    # What a normalisation by the batch takes away again has a gradient of 0.
    assert [name for name in stayed if not re.search(r"conv\d/bias$", name)] == []


FLAT = [
    (file, preset)
    for file in FILES
    for preset in getattr(module_of(file), "KNOWN", ())
    if module_of(file).get_config().sampler.name != "episodes"
]


@pytest.mark.parametrize(("file", "preset"), FLAT, ids=lambda value: getattr(value, "stem", value))
def test_every_preset_is_whole(file, preset):
    """Also those whose weights no package has: their parts are built on a network without weights."""
    config = module_of(file).get_config(preset)
    Clock.of(config)
    Augment(**config.augment)
    config.model.update({"name": "identity", "pretrained": "", "frozen": False})
    config.model.options = ConfigDict({"norm": "running"})
    taxonomy, table = taxonomy_for(config, table_for(config))
    assert build(config, labels=LABELS, taxonomy=taxonomy).algorithm.labels == LABELS
    options = config.algorithm.options
    # Photos are searched by the distance that was trained; of unit vectors both rank alike.
    trained_by_length = not options.get("normalised", False) and options.distance != "cosine"
    assert config.eval.distance == ("euclidean" if trained_by_length else "cosine")
    small(config)
    plan = make_plan(config, table)
    assert plan.size % {"pairs": 2, "triplets": 3, "refreshed": 3}.get(config.sampler.name, 1) == 0
    if preset in presets.PUBLISHED:
        assert (config.data.source, config.data.size, config.eval.episodes) == (preset, 224, 0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_unknown_preset_lists_the_known_ones(file):
    with pytest.raises(ValueError, match=rf"no preset 'nope' in configs/{file.name}; known: .*smoke"):
        module_of(file).get_config("nope")
