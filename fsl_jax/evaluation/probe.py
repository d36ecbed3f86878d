"""Classifies from a few photos a label on frozen embeddings: N ways, K shots, many repetitions, several
classifiers.

Every repetition draws once, for the largest way and shot: its labels, of each the query photos, then the
support photos. A smaller cell of the grid takes the first labels and the first support photos. So queries are
the same for every shot, support sets are nested, and cells differ by way and shot alone.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from fsl_jax.evaluation._few_shot import CLASSIFIERS, Classifier, classifier
from fsl_jax.types import Key

GATHERED = 1 << 26
"""Elements of the embeddings that are gathered at once."""


@dataclasses.dataclass(frozen=True)
class FewShotGrid:
    """Accuracy by classifier, way and shot.

    Attributes:
      classifiers: First axis.
      ways: Second axis.
      shots: Third axis.
      accuracies: Share of right queries of each repetition.
      labels: Labels that were drawn from.
      labels_left_out: Labels with too few photos.
    """

    classifiers: tuple[str, ...]
    ways: tuple[int, ...]
    shots: tuple[int, ...]
    accuracies: Float[np.ndarray, "classifiers ways shots repetitions"]
    labels: int
    labels_left_out: int

    @property
    def mean(self) -> Float[np.ndarray, "classifiers ways shots"]:
        """Mean accuracy, 0 to 1: a heat map for each classifier."""
        return self.accuracies.mean(axis=-1)

    @property
    def ci95(self) -> Float[np.ndarray, "classifiers ways shots"]:
        """Half the width of the 95 % interval of the mean, 1.96 standard errors; NaN for one repetition."""
        repetitions = self.accuracies.shape[-1]
        if repetitions < 2:
            return np.full(self.accuracies.shape[:-1], np.nan)
        return 1.96 * self.accuracies.std(axis=-1, ddof=1) / np.sqrt(repetitions)

    def rows(self) -> list[dict[str, Any]]:
        """Lists the cells: "classifier", "way", "shot", "accuracy", "ci95"."""
        mean, ci95 = self.mean, self.ci95
        return [
            {
                "classifier": name,
                "way": way,
                "shot": shot,
                "accuracy": float(mean[at]),
                "ci95": float(ci95[at]),
            }
            for c, name in enumerate(self.classifiers)
            for w, way in enumerate(self.ways)
            for s, shot in enumerate(self.shots)
            for at in [(c, w, s)]
        ]

    def metrics(self) -> dict[str, float]:
        """Names the mean accuracies for a log, such as "prototype/5way_1shot"."""
        return {
            f"{row['classifier']}/{row['way']}way_{row['shot']}shot": row["accuracy"] for row in self.rows()
        }


def few_shot_grid(
    key: Key,
    embeddings: Float[Array | np.ndarray, "n d"],
    labels: Shaped[Array | np.ndarray, "n"],
    *,
    ways: Sequence[int],
    shots: Sequence[int],
    queries: int,
    repetitions: int,
    distance: str,
    classifiers: Sequence[str] = ("1-nn", "prototype", "logistic"),
    neighbours: int | None = None,
) -> FewShotGrid:
    """Judges classifiers that learn from a few photos.

    Photos are drawn without replacement, and no photo is support and query at once. A label takes part, in
    the whole grid, if it has `max(shots) + queries` photos; the others are left out and counted.

    Args:
      key: Of the draws.
      embeddings: [n, d].
      labels: [n], integers or names.
      ways: Labels a repetition.
      shots: Support photos a label.
      queries: Query photos a label.
      repetitions: Independent draws; 50 is usual.
      distance: "euclidean", or "cosine", which divides embeddings by their length first, for all classifiers.
      classifiers: "1-nn": label of the nearest support photo. "k-nn": most frequent label of the nearest
        `neighbours`, of equal counts that of the nearest photo. "prototype": nearest mean. "logistic":
        multinomial logistic regression with an L2 penalty, scikit-learn's C = 1.
      neighbours: Of "k-nn"; where the support has fewer, all of it.

    Returns:
      Accuracies of each repetition.

    Raises:
      ValueError: An unknown or missing option, arrays that do not fit, or too few labels with enough photos.
    """
    # Of several processes each computes it by itself.
    here = not isinstance(embeddings, jax.Array) or embeddings.is_fully_addressable
    rows, features = np.asarray(labels), jnp.asarray(embeddings if here else np.asarray(embeddings))
    _check(features, rows, ways, shots, queries, repetitions, distance, classifiers, neighbours)
    needed = max(shots) + queries
    _, codes, counts = np.unique(rows, return_inverse=True, return_counts=True)
    enough = counts >= needed
    if enough.sum() < max(ways):
        raise ValueError(
            f"{int(enough.sum())} labels have {needed} photos ({max(shots)} shots + {queries} queries); "
            f"expected {max(ways)} for {max(ways)} ways: take fewer ways, shots or queries"
        )
    if distance == "cosine":
        features = features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    order, start = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    drawn = _draw_all(
        jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(repetitions)),
        start[enough],
        counts[enough],
        way=max(ways),
        photos=needed,
        most=int(counts[enough].max()),
    )
    drawn = jnp.asarray(order)[drawn]
    accuracies = [
        [
            [
                _accuracies(features, drawn[:, :way], shot, queries, classifier(name, neighbours))
                for shot in shots
            ]
            for way in ways
        ]
        for name in classifiers
    ]
    return FewShotGrid(
        tuple(classifiers),
        tuple(ways),
        tuple(shots),
        np.asarray(accuracies, np.float64),
        int(enough.sum()),
        int((~enough).sum()),
    )


def _check(
    features: Array,
    labels: np.ndarray,
    ways: Sequence[int],
    shots: Sequence[int],
    queries: int,
    repetitions: int,
    distance: str,
    classifiers: Sequence[str],
    neighbours: int | None,
) -> None:
    """Raises ValueError for input that has no meaning."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"embeddings are {features.shape}, labels {labels.shape}; expected [n, d] and [n]")
    if not bool(jnp.isfinite(features).all()):
        raise ValueError(
            "embeddings hold a NaN or an infinity; expected finite values: has training diverged?"
        )
    for name, values in {
        "ways": ways,
        "shots": shots,
        "queries": [queries],
        "repetitions": [repetitions],
    }.items():
        if not len(values) or min(values) < 1:
            raise ValueError(f"{name} are {list(values)}; expected at least 1 each")
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f"distance is {distance!r}; expected 'cosine' or 'euclidean'")
    if not classifiers or not set(classifiers) <= set(CLASSIFIERS):
        raise ValueError(f"classifiers are {tuple(classifiers)}; expected some of {', '.join(CLASSIFIERS)}")
    if "k-nn" in classifiers and (neighbours is None or neighbours < 1):
        raise ValueError(f"neighbours is {neighbours}; 'k-nn' expects a number from 1")


@functools.partial(jax.jit, static_argnames=("way", "photos", "most"))
def _draw_all(
    keys: Key, start: Int[Array, "labels"], count: Int[Array, "labels"], *, way: int, photos: int, most: int
) -> Int[Array, "repetitions way photos"]:
    """Draws labels, then photos of each, by sorting random bits: every backend draws the same."""

    def draw(key):
        label_key, photo_key = jax.random.split(key)
        label = jnp.argsort(jax.random.bits(label_key, start.shape))[:way]
        bits = jax.random.bits(photo_key, (len(start), most))[label]
        place = jnp.broadcast_to(jnp.arange(most), bits.shape)
        absent = (place >= count[label][:, None]).astype(jnp.int32)
        place = lax.sort((absent, bits, place), dimension=1, num_keys=2)[2]
        return start[label][:, None] + place[:, :photos]

    return jax.vmap(draw)(keys)


@functools.partial(jax.jit, static_argnames=("queries", "classify"))
def _accuracies(
    embeddings: Float[Array, "n d"],
    drawn: Int[Array, "repetitions way photos"],
    shot: int | Int[Array, ""],
    queries: int,
    classify: Classifier,
) -> Float[Array, "repetitions"]:
    """Judges one classifier in one cell; the shot is a mask, so that all shots share a program."""
    way, photos = drawn.shape[1:]

    def accuracy(rows):
        gathered = embeddings[rows]
        query = gathered[:, :queries].reshape(way * queries, -1)
        predicted = classify(gathered[:, queries:], jnp.arange(photos - queries) < shot, query)
        return jnp.mean(predicted == jnp.repeat(jnp.arange(way), queries))

    at_once = max(GATHERED // (way * photos * embeddings.shape[1]), 1)
    return lax.map(accuracy, drawn, batch_size=min(at_once, len(drawn)))
