"""From a config to the parts of a run: method, network, published weights, reader."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsl_jax.algorithms.base import Algorithm, Variables
from fsl_jax.data.augment import Augment, Preprocess, prepare
from fsl_jax.data.load import preprocess_of
from fsl_jax.data.loader import StreamingReader
from fsl_jax.data.multicrop import MultiCrop
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Table
from fsl_jax.lookup import closest, find, with_options
from fsl_jax.models.frozen import Frozen
from fsl_jax.models.heads import Embedder, Head
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.keys import named_key
from fsl_jax.sampling.plan import Plan
from fsl_jax.taxonomy import Taxonomy
from fsl_jax.types import Batch, Collections, Episode, Key

FLAT_SAMPLERS = ("uniform", "balanced", "pairs", "triplets", "refreshed")
"""Modules of `fsl_jax.sampling` that give a step a flat batch."""


class Built(NamedTuple):
    """A method on its network.

    Attributes:
      algorithm: The method.
      weights: Variables of pretrained parts, with names from the method's root; None where nothing is pretrained.
      preprocess: How photos are prepared.
      features: From prepared photos to (embedding, intermediates) of the pretrained network alone, where
        `config.model.frozen` keeps it as it is; otherwise None.
      place: Of the embedding network's parameters, such as "network/body".
      body: The embedding network, without a head.
    """

    algorithm: Algorithm
    weights: Collections | None
    preprocess: Preprocess
    features: Callable[[Any], Any] | None
    place: str
    body: nn.Module


def takes_episodes(config: ConfigDict) -> bool:
    """Whether training steps are given few-shot tasks; otherwise they are given flat batches."""
    return config.sampler.name == "episodes"


def takes_taxonomy(config: ConfigDict) -> bool:
    """Whether the method classifies by categories and attributes, and needs to know which there are."""
    make = find("fsl_jax.algorithms", config.algorithm.name, "make")
    return "taxonomy" in inspect.signature(make).parameters


def make_plan(config: ConfigDict, table: Table) -> Plan:
    """Builds the configured sampler of training steps on a table, which is checked for it.

    Raises:
      ValueError: The sampler or an option is unknown, or the table has not what it needs.
    """
    if takes_episodes(config):
        return episode_sampling.make(table, **config.episode)
    if config.sampler.name not in FLAT_SAMPLERS:
        choices = ["episodes", *FLAT_SAMPLERS]
        raise ValueError(
            f"config.sampler.name is {config.sampler.name!r}; {closest(config.sampler.name, choices)}"
        )
    make = find("fsl_jax.sampling", config.sampler.name, "make")
    return with_options(make, config.sampler.options, "config.sampler.options", table)


def units(plan: Plan) -> int:
    """Returns what is spread over the devices: tasks of a step, or photos of a flat batch."""
    return plan.tasks if isinstance(plan, episode_sampling.EpisodePlan) else plan.size  # type: ignore[attr-defined]


def build(config: ConfigDict, *, labels: int, taxonomy: Taxonomy | None = None) -> Built:
    """Builds the configured method on the configured network, with published weights where they are asked for.

    Args:
      config: Of the run.
      labels: Labels that are trained on.
      taxonomy: Categories and attributes of a method that `takes_taxonomy`.
    """
    model, method, preprocess, weights = config.model, config.algorithm, preprocess_of(config.data), None
    if model.pretrained:
        loaded = _loaded(config)
        body, weights = loaded.model, loaded.variables
        # With a fourth channel, a mask, the network itself is still given three.
        channels = max(loaded.preprocess.channels, config.data.channels)
        preprocess = dataclasses.replace(
            loaded.preprocess, size=config.data.size, fit=config.data.fit, channels=channels
        )
    else:
        network = find("fsl_jax.models", model.name, "Model")
        body = with_options(network, model.options, "config.model.options")
    bare: nn.Module = body
    place: tuple[str, ...] = ()
    if model.frozen:
        _check_frozen(config)
        body, place = Frozen(body), ("body", *place)
    if model.head.sizes:
        layers = {name: value for name, value in model.head.items() if name != "whitened"}
        body, place = Embedder(body, Head(**layers)), ("body", *place)
    elif model.head.whitened:
        raise ValueError("config.model.head.whitened is set without a head: set config.model.head.sizes, too")
    make = find("fsl_jax.algorithms", method.name, "make")
    asked: dict[str, Any] = {"way": config.episode.way} if takes_episodes(config) else {"labels": labels}
    asked |= {"taxonomy": taxonomy} if takes_taxonomy(config) else {}
    if "updates" in inspect.signature(make).parameters:
        asked["updates"] = config.train.steps // max(config.optimizer.accumulate, 1)
    if not set(asked) <= set(inspect.signature(make).parameters):
        kind = "flat batches" if takes_episodes(config) else "few-shot episodes"
        raise ValueError(
            f"method {method.name!r} is given {kind}, but config.sampler.name is {config.sampler.name!r}: set "
            f"--config.sampler.name to {' or '.join(FLAT_SAMPLERS) if takes_episodes(config) else 'episodes'}"
        )
    algorithm = with_options(make, method.options, "config.algorithm.options", body, **asked)
    features = None
    if model.frozen and weights is not None:
        features = functools.partial(bare.apply, weights, statistics="running")
    where = (*algorithm.body_place, *place)
    if weights is not None:
        weights = {name: _nested(tree, where) for name, tree in weights.items()}
    return Built(algorithm, weights, preprocess, features, "/".join(where), bare)


def _loaded(config: ConfigDict) -> Any:
    """Loads published weights, or those of an earlier run's network; imported here, since most runs load none."""
    from fsl_jax import warm_start
    from fsl_jax.models import pretrained

    name, options = config.model.pretrained, dict(config.model.options)
    if Path(name).is_dir():
        return warm_start.load(Path(name), options=options)
    return pretrained.load(name, options=options, key=named_key(config.seed, "pretrained"))


def _check_frozen(config: ConfigDict) -> None:
    """Checks that a frozen network has weights, and that photos do not change from step to step."""
    if not config.model.pretrained:
        raise ValueError(
            "config.model.frozen keeps published weights as they are: give them with --config.model.pretrained"
        )
    if config.data.channels == 4:
        raise ValueError(
            "config.model.frozen takes features of colours alone, and does not see the mask of config.data.channels=4: "
            "set it to 3, or freeze by --config.optimizer.rules"
        )
    changes = [name for name, value in config.augment.items() if value]
    if changes:
        raise ValueError(
            f"config.model.frozen takes the features of each photo once, so it cannot be changed by "
            f"config.augment.{changes[0]}: set it to 0, or freeze by --config.optimizer.rules"
        )


def _nested(tree: Any, place: tuple[str, ...]) -> Any:
    for name in reversed(place):
        tree = {name: tree}
    return tree


def with_weights(variables: Variables, weights: Collections | None) -> Variables:
    """Puts pretrained weights in the place of those that were drawn."""
    if weights is None:
        return variables

    def grafted(old: Any, new: Any) -> Any:
        flat = {**traverse_util.flatten_dict(old, keep_empty_nodes=True), **traverse_util.flatten_dict(new)}
        return traverse_util.unflatten_dict(flat)

    homeless = sorted(set(weights) - {"params", *variables.collections})
    if homeless:
        raise ValueError(f"this method has no place for the {', '.join(homeless)} of the pretrained weights")
    collections = {
        name: grafted(old, weights[name]) if name in weights else old
        for name, old in variables.collections.items()
    }
    return variables.replace(  # type: ignore[attr-defined]
        params=grafted(variables.params, weights["params"]), collections=collections
    )


def preparation(
    config: ConfigDict, preprocess: Preprocess
) -> Callable[[Batch | Episode, Key], Batch | Episode]:
    """Returns what prepares training photos, given a step's key: each becomes one changed photo, or several crops.

    Raises:
      ValueError: A value is out of its range, or both are asked for.
    """
    augment = Augment(**config.augment)
    if not config.multicrop.size:
        return lambda photos, key: prepare(photos, preprocess, augment, key)
    changes = [name for name, value in config.augment.items() if value]
    if changes or takes_episodes(config):
        other = f"config.augment.{changes[0]}" if changes else "config.sampler.name, which is 'episodes'"
        raise ValueError(f"config.multicrop takes the place of {other}: set one of them only")
    crops = MultiCrop(**config.multicrop)
    return lambda photos, key: crops.prepared(photos, preprocess, key)  # type: ignore[arg-type]


def sample(config: ConfigDict, shape: tuple[int, ...]) -> Batch | Episode:
    """Returns photos of this shape, from which the configured method makes its first variables."""
    if takes_episodes(config):
        return sample_episode(shape)
    return Batch(jax.numpy.zeros((2, *shape)), jax.numpy.arange(2))


def sample_episode(shape: tuple[int, ...]) -> Episode:
    """Returns an episode of photos of this shape, from which a method makes its first variables."""
    batch = Batch(jax.numpy.zeros((1, 2, *shape)), jax.numpy.arange(2).reshape(1, 2))
    return Episode(batch, batch, way=2)


def photo_shape(table: Table | None, preprocess: Preprocess) -> tuple[int, ...]:
    """Returns height, width and channels of what the network is given; of photos, where there is no table."""
    if table is not None and table.has_features and table.images is not None:
        return table.images.shape[1:]
    return preprocess.size, preprocess.size, preprocess.channels


def make_reader(config: ConfigDict, mesh: Mesh, table: Table, plan: Plan, key: jax.Array) -> Any:
    """Puts a set on the devices where its photos were read, and streams it otherwise."""
    if table.images is not None and table.images.nbytes <= config.resident_gb * 1e9:
        return ResidentReader.of(table, plan, key, mesh)
    return StreamingReader(
        table, plan, key, mesh,
        size=config.size, channels=config.channels, fit=config.fit,
        threads=config.reading_threads, ahead=config.steps_ahead,
    )  # fmt: skip
