"""The arithmetic of few-shot heads: scores, evidence, and what is learnt from leaving support photos out in turn."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from fsl_jax.evaluation._few_shot import fit_logistic

REFUSED = 20
"""Of a learnt threshold: fewer than one in so many of the left-out scores with the own label lie below it."""
TEMPERATURE = 0.07
"""Expected before a photo was left out: that of Wu et al. 2018 on unit vectors, https://arxiv.org/abs/1805.01978."""
VOTES_TEMPERATURE = 1.0
"""The same where votes count, which are evidence on a coarser scale."""
DOUBT = 0.7
"""Standard deviation of the temperature's logarithm around what is expected: a factor of two is nothing unusual."""
TEMPERATURES = (0.01, 10.0)
"""Between which a temperature is fitted."""
LEFT_OUT = 500
"""Most support photos that are left out in turn; of more, so many at even distances."""
VOTE = 2.0
"""Evidence of a vote: the range of a cosine similarity, so that votes count first and nearness among equals."""

Scores = Float[np.ndarray, "q labels"]
Measure = Callable[[Float[np.ndarray, "q d"]], tuple[Scores, Scores]]
"""From unit vectors to (scores, evidence) of every label."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A score below which a photo is of no label, learnt from the support.

    Attributes:
      score: The threshold.
      photos: Support photos that were left out in turn to learn it.
      strangers: Share of these that would have passed, had their label not been in the support: their best score
        with another label is not below the threshold. None where there is one label.
    """

    score: float
    photos: int
    strangers: float | None


@dataclasses.dataclass(frozen=True)
class Grouped:
    """A support as unit vectors, sorted by label.

    Attributes:
      units: One row a photo.
      codes: Place of each row's label in `names`.
      starts: First row of each label.
      names: Labels, sorted.
    """

    units: Float[np.ndarray, "n d"]
    codes: Int[np.ndarray, "n"]
    starts: Int[np.ndarray, "labels"]
    names: tuple[str, ...]

    @classmethod
    def of(cls, embeddings: Float[np.ndarray, "n d"], labels: Shaped[np.ndarray, "n"]) -> "Grouped":
        names, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        starts = np.searchsorted(codes, np.arange(len(names)))
        return cls(unit(embeddings)[order], codes, starts, tuple(names.tolist()))

    @functools.cached_property
    def sums(self) -> Float[np.ndarray, "labels d"]:
        """Each label's photos, summed."""
        return np.add.reduceat(self.units, self.starts, axis=0, dtype=np.float64)

    def left_out(self) -> Int[np.ndarray, "left"]:
        """Picks the rows that are left out in turn: of labels with two photos or more, at most `LEFT_OUT`."""
        rows = np.flatnonzero(np.bincount(self.codes)[self.codes] > 1)
        return rows[np.linspace(0, len(rows) - 1, min(LEFT_OUT, len(rows))).round().astype(int)]

    def nearest(self, similarities: Float[np.ndarray, "q n"], neighbours: int) -> tuple[Scores, Scores]:
        """Returns each label's nearest photo's score, and the evidence of "k-nn"; -inf is a photo that is not there."""
        scores = np.maximum.reduceat(similarities, self.starts, axis=1)
        voters = np.argsort(-similarities, axis=1, kind="stable")[:, :neighbours]
        there = np.isfinite(np.take_along_axis(similarities, voters, axis=1))
        votes = np.zeros_like(scores)
        np.add.at(votes, (np.arange(len(voters))[:, None], self.codes[voters]), there)
        return scores, scores + VOTE * votes


def measure_of(grouped: Grouped, *, neighbours: int | None, logistic: bool) -> Measure:
    """Returns how a head measures queries.

    Args:
      grouped: The support.
      neighbours: Photos that vote, of "k-nn"; None for the other heads.
      logistic: Whether the evidence is that of a regression.
    """
    if neighbours is not None:
        return lambda queries: grouped.nearest(queries @ grouped.units.T, neighbours)
    prototypes = unit(grouped.sums)
    if not logistic:
        return lambda queries: (queries @ prototypes.T,) * 2
    weight, bias = _logistic(grouped)
    return lambda queries: (queries @ prototypes.T, queries @ weight + bias)


def _logistic(grouped: Grouped) -> tuple[Float[np.ndarray, "d labels"], Float[np.ndarray, "labels"]]:
    there = np.ones(len(grouped.codes), bool)
    fitted = _fit_logistic(grouped.units.astype(np.float32), grouped.codes, there, way=len(grouped.names))
    weight, bias = (np.asarray(each, np.float64) for each in fitted)
    return weight, bias


_fit_logistic = jax.jit(fit_logistic, static_argnames="way")


def measure_left_out(
    grouped: Grouped, rows: Int[np.ndarray, "left"], *, neighbours: int | None
) -> tuple[Scores, Scores]:
    """Measures support photos as if each were not in the support."""
    photos, own = grouped.units[rows], grouped.codes[rows]
    each = np.arange(len(rows))
    if neighbours is not None:
        similarities = photos @ grouped.units.T
        similarities[each, rows] = -np.inf
        return grouped.nearest(similarities, neighbours)
    scores = photos @ unit(grouped.sums).T
    scores[each, own] = np.sum(photos * unit(grouped.sums[own] - photos), axis=1)
    return scores, scores


def learn_threshold(scores: Scores, own: Int[np.ndarray, "q"]) -> Threshold:
    """Finds the largest score that fewer than one in `REFUSED` photos score below with their own label."""
    mine = np.sort(scores[np.arange(len(own)), own])
    score = float(mine[(len(mine) - 1) // REFUSED])
    if scores.shape[1] == 1:
        return Threshold(score, len(own), None)
    others = scores.copy()
    others[np.arange(len(own)), own] = -np.inf
    return Threshold(score, len(own), float(np.mean(others.max(axis=1) >= score)))


def fit_temperature(evidence: Scores, own: Int[np.ndarray, "q"], *, expected: float) -> float:
    """Finds the most probable temperature on a grid that is made finer twice, to 0.4 %."""

    def loss(logarithm: float) -> float:
        logs = log_softmax(evidence / np.exp(logarithm))[np.arange(len(own)), own]
        return ((logarithm - np.log(expected)) / DOUBT) ** 2 / 2 - float(np.sum(logs))

    if len(own) == 0 or evidence.shape[1] == 1:
        return expected
    low, high = np.log(TEMPERATURES)
    for _ in range(3):
        grid = np.linspace(low, high, 21)
        best = int(np.argmin([loss(logarithm) for logarithm in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.exp(grid[best]))


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Divides rows by their length; a row of zeros stays."""
    floats = np.asarray(vectors)
    return floats / np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-12)


def log_softmax(evidence: Scores) -> Scores:
    """Turns rows into logarithms of probabilities that sum to 1."""
    wide = evidence.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.sum(np.exp(wide), axis=1, keepdims=True))
