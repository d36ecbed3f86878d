"""Judges classifiers on thousands of few-shot episodes of frozen features, with 95 % intervals."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from fsl_jax.data.table import Table
from fsl_jax.evaluation import _few_shot
from fsl_jax.evaluation.calibrated import BaseLabels, DistributionCalibration
from fsl_jax.evaluation.episodes import EpisodeFigures
from fsl_jax.mesh import AXIS, over_rows, place, replicated, rows_sharding
from fsl_jax.progress import track
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.episodes import EpisodePlan, LabelRows
from fsl_jax.sampling.keys import named_key
from fsl_jax.types import Key

CALIBRATION = "distribution-calibration"
CLASSIFIERS = (*_few_shot.CLASSIFIERS, CALIBRATION)
AT_ONCE = 32
"""Episodes of one program on each device of a CPU, one after another; a program reports when it is done."""
ELEMENTS = 1 << 28
"""Numbers that the episodes side by side on an accelerator may hold."""
MOST_SIDE_BY_SIDE = 1024

Classify = Callable[
    [Key, Any, Float[Array, "way shot d"], Float[Array, "q d"]],
    Int[Array, "q"],
]
"""(key, base labels, support, queries) -> place of each query's label among the ways."""


@dataclasses.dataclass(frozen=True)
class FrozenFigures:
    """How a classifier did.

    Attributes:
      episodes: Predictions.
      seconds: What they took, without compiling.
    """

    episodes: EpisodeFigures
    seconds: float

    @property
    def episodes_a_second(self) -> float:
        """Episodes a second."""
        return len(self.episodes.labels) / self.seconds


def prepared(
    features: Float[np.ndarray, "n d"], *, normalise: bool, power: float
) -> Float[np.ndarray, "n d"]:
    """Scales features to length 1, and then raises them to a power.

    Args:
      features: One row a photo.
      normalise: Whether they are scaled.
      power: 1 leaves them as they are; 0.5 makes skewed features, such as those behind a ReLU, more alike a Gaussian.

    Raises:
      ValueError: Features are not finite, or a power other than 1 is asked of negative ones.

    References:
      Tukey 1977, Exploratory data analysis, for the ladder of powers.
    """
    if not np.isfinite(features).all():
        raise ValueError("features hold a NaN or an infinity; expected finite values: has training diverged?")
    if power <= 0:
        raise ValueError(
            f"power is {power}; expected more than 0, such as 0.5; 1 leaves features as they are"
        )
    if normalise:
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if power != 1 and (features < 0).any():
        raise ValueError(
            f"power {power} is for features from 0, but {np.mean(features < 0):.0%} of these are negative, the "
            f"smallest {features.min():.3g}: leave --power at 1, or take features behind a ReLU"
        )
    return features if power == 1 else np.power(features, power)


def with_features(table: Table, *, normalise: bool, power: float) -> Table:
    """Puts `prepared` features in the place of a table's own."""
    assert table.images is not None
    features = prepared(table.images.reshape(len(table), -1), normalise=normalise, power=power)
    return dataclasses.replace(table, images=features[:, None, None, :].astype(np.float32))


def joined(tables: Sequence[Table]) -> Table:
    """Joins the features of one table by several models: each scaled to length 1, one behind the other."""
    parts = []
    for table in tables:
        assert table.images is not None
        parts.append(prepared(table.images.reshape(len(table), -1), normalise=True, power=1.0))
    features = np.concatenate(parts, axis=1).astype(np.float32)
    return dataclasses.replace(tables[0], images=features[:, None, None, :])


def enough_photos(table: Table, *, way: int, photos: int) -> tuple[Table, int]:
    """Leaves out the labels that have too few photos for an episode.

    Returns:
      The table, and how many labels were left out.

    Raises:
      ValueError: Fewer than `way` labels are left.
    """
    enough = table.label.counts() >= photos
    if enough.sum() < way:
        splits = "+".join(sorted(set(table.split)))
        raise ValueError(
            f"{int(enough.sum())} of the {len(enough)} labels of split {splits!r} have {photos} photos (shots + "
            f"queries); expected {way} for {way}-way episodes: take fewer --way, --shot or --queries, or other photos"
        )
    kept = table.take(enough[table.label.codes])
    return dataclasses.replace(kept, label=kept.label.recode()), int((~enough).sum())


def classifier(name: str, *, neighbours: int, calibration: DistributionCalibration) -> Classify:
    """Returns a classifier.

    Args:
      name: One of `CLASSIFIERS`.
      neighbours: Photos that vote, of "k-nn".
      calibration: Of "distribution-calibration".

    Raises:
      ValueError: There is no such classifier.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"no classifier {name!r}: choose of {', '.join(CLASSIFIERS)}")
    if name == CALIBRATION:
        return calibration
    plain = _few_shot.classifier(name, neighbours)

    def classify(key: Key, base: Any, support: Array, query: Array) -> Array:
        del key, base
        return plain(support, jnp.ones(support.shape[1], bool), query)

    return classify


def judge(
    table: Table,
    classify: Classify,
    base: BaseLabels | None,
    *,
    way: int,
    shot: int,
    queries: int,
    episodes: int,
    seed: int,
    mesh: Mesh,
) -> FrozenFigures:
    """Judges a classifier on episodes, of which each depends on the seed and its own number alone.

    Args:
      table: Features in place of photos, sorted by label; every label has shot + queries.
      classify: The classifier.
      base: What it borrows from.
      way: Labels an episode.
      shot: Support photos a label.
      queries: Query photos a label.
      episodes: How many.
      seed: Of the episodes, and of the classifier's draws.
      mesh: Over which episodes are spread; of several processes each has all figures.

    Raises:
      ValueError: The table has too few labels or photos.
    """
    assert table.images is not None
    plan = episode_sampling.make(table, tasks=1, way=way, shot=shot, queries=queries)
    features = table.images.reshape(len(table), -1)
    side_by_side = _side_by_side(classify, base, way=way, photos=shot + queries, shape=features.shape)
    here = AT_ONCE if jax.default_backend() == "cpu" else side_by_side
    at_once = min(here, -(-episodes // mesh.size)) * mesh.size
    one = functools.partial(_episode, plan, classify)

    def several(constants: Any, numbers: Int[Array, "t"]) -> Int[Array, "t q"]:
        return lax.map(functools.partial(one, constants), numbers, batch_size=side_by_side)

    keys = named_key(seed, "episodes"), named_key(seed, "draws")
    constants = place((features, LabelRows.of(table), base, keys), replicated(mesh))
    spread = over_rows(mesh, several, spread=(False, True), results=P(AXIS))
    first = _numbers(0, at_once, mesh)
    program = jax.jit(spread, out_shardings=replicated(mesh)).lower(constants, first).compile()
    starts, parts, begun = range(0, episodes, at_once), [], time.perf_counter()
    for start in track(starts, description="classifying", unit="batches of episodes"):
        parts.append(np.asarray(program(constants, _numbers(start, at_once, mesh))))
    seconds = time.perf_counter() - begun
    predicted = np.concatenate(parts)[:episodes]
    labels = np.broadcast_to(np.repeat(np.arange(way), queries), predicted.shape)
    return FrozenFigures(EpisodeFigures(predicted, labels), seconds)


def _episode(
    plan: EpisodePlan,
    classify: Classify,
    constants: tuple[Float[Array, "n d"], LabelRows, BaseLabels | None, tuple[Key, Key]],
    number: Int[Array, ""],
) -> Int[Array, "q"]:
    """Draws one episode, and labels its queries."""
    features, columns, base, (of_episodes, of_draws) = constants
    photos = features[plan.rows(columns, of_episodes, number)[0]]
    query = photos[:, plan.shot :].reshape(-1, features.shape[1])
    return classify(jax.random.fold_in(of_draws, number), base, photos[:, : plan.shot], query)


def _numbers(start: int, count: int, mesh: Mesh) -> Int[Array, "t"]:
    return place(np.arange(start, start + count, dtype=np.uint32), rows_sharding(mesh))


def _side_by_side(
    classify: Classify, base: BaseLabels | None, *, way: int, photos: int, shape: tuple[int, ...]
) -> int:
    """Returns how many episodes are computed at once on a device: 1 on a CPU, on others what memory allows."""
    if jax.default_backend() == "cpu":
        return 1
    dimensions = shape[1]
    held = way * photos * dimensions
    if isinstance(classify, DistributionCalibration) and base is not None:
        rank = classify.nearest * base.factor.shape[1] + 1
        held += way * (classify.draws * 2 * (rank + dimensions) + photos * rank * dimensions)
    return min(max(ELEMENTS // held, 1), MOST_SIDE_BY_SIDE)


def as_row(name: str, figures: FrozenFigures, **settings: int) -> dict[str, float | int | str]:
    """Lists one result: "classifier", the settings, "accuracy", "ci95", "episodes_a_second"; NaN is left out."""
    ci95 = figures.episodes.ci95
    return {
        "classifier": name,
        **settings,
        "accuracy": figures.episodes.mean,
        **({} if math.isnan(ci95) else {"ci95": ci95}),
        "episodes_a_second": figures.episodes_a_second,
    }
