"""Turns a score into a probability, and finds the score from which on two photos are taken for the same label.

Both are fitted on the pairs of an index's own photos. The probability is that of a pair drawn from all of these pairs;
docs/engines.md says what that means.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

MOST_PAIRS = 2_000_000
"""Same-label pairs, and different-label pairs, that are looked at; of more, so many are drawn."""
BLOCK = 1 << 14
"""Pairs that are multiplied at once."""
NEWTON_STEPS = 100
CONVERGED = 1e-13
"""What a further step promises to lower the cross entropy by; after it, one step is exact to float64."""

Pairs = tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"]]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What scores of one model on one index mean.

    Attributes:
      slope: Above 0.
      intercept: See `probability`.
      threshold: Scores from here on are taken for the same label.
      false_accept_rate: At most this share of the different-label pairs reaches the threshold.
      pairs: How many pairs it was fitted on.
    """

    slope: float
    intercept: float
    threshold: float
    false_accept_rate: float
    pairs: int

    def probability(self, score: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
        """Returns sigmoid(slope * score + intercept): the larger the score, the larger, between 0 and 1.

        Example:
          >>> float(Calibration(10.0, -5.0, 0.7, 0.01, 100).probability(0.5))
          0.5
        """
        return _sigmoid(self.slope * np.asarray(score, np.float64) + self.intercept)

    def as_json(self) -> dict[str, Any]:
        """Returns the attributes as plain numbers, which JSON keeps to the last digit."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Calibration":
        """Takes what `as_json` gave.

        Raises:
          ValueError: A number is missing, unknown or not finite, or the slope is not above 0.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(plain) != sorted(names):
            raise ValueError(f"the calibration has {', '.join(sorted(plain))}; expected {', '.join(names)}")
        if not all(
            isinstance(value, int | float) and math.isfinite(value) for value in plain.values()
        ) or not (plain["slope"] > 0):
            raise ValueError(f"the calibration is {dict(plain)}; expected finite numbers and a slope above 0")
        return cls(**plain)


def fit(
    embeddings: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, "n"],
    *,
    false_accept_rate: float,
    seed: int = 0,
) -> Calibration:
    """Fits a calibration on the pairs of photos of an index.

    All same-label pairs and all different-label pairs are taken; of more than 2 million of a kind, 2 million are drawn,
    and weigh as much as all.

    Args:
      embeddings: [n, d], rows of length 1.
      labels: Of each.
      false_accept_rate: Share of different-label pairs that may be taken for the same label, above 0 and below 1.
      seed: Of the drawing.

    Returns:
      The calibration. Where no score lies between the two kinds, no slope is the best one; then the kinds' targets are
      drawn in a little (Platt 1999), which gives a finite slope.

    Raises:
      ValueError: No label has two photos, all photos have one label, the rate is out of range, the scores are not
        finite, or same-label pairs do not score higher.

    References:
      Platt 1999, Probabilistic outputs for support vector machines.
    """
    if not 0.0 < false_accept_rate < 1.0:
        raise ValueError(
            f"false_accept_rate is {false_accept_rate}; expected above 0 and below 1, such as 0.01"
        )
    labels = np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != (len(embeddings),):
        raise ValueError(
            f"embeddings are {embeddings.shape}, labels {labels.shape}; expected [n, d] and one label a row"
        )
    order = np.argsort(labels, kind="stable")
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    same_count = int((count * (count - 1) // 2).sum())
    different_count = len(labels) * (len(labels) - 1) // 2 - same_count
    if not same_count:
        raise ValueError("no label has two photos; a calibration needs pairs of the same label: add photos")
    if not different_count:
        raise ValueError(
            "all photos have one label; a calibration needs pairs of different labels: add labels"
        )
    rng = np.random.default_rng(seed)
    drawn_same = _same_pairs if same_count <= MOST_PAIRS else _drawn_same_pairs
    drawn_different = _different_pairs if different_count <= MOST_PAIRS else _drawn_different_pairs
    same, different = (
        _scores(embeddings, *(order[side] for side in pairs(start, count, rng)))
        for pairs in (drawn_same, drawn_different)
    )
    slope, intercept = logistic(same, different, same_weight=same_count, different_weight=different_count)
    return Calibration(
        slope=slope,
        intercept=intercept,
        threshold=threshold_of(different, false_accept_rate=false_accept_rate),
        false_accept_rate=float(false_accept_rate),
        pairs=len(same) + len(different),
    )


def threshold_of(different: Float[np.ndarray, "p"], *, false_accept_rate: float) -> float:
    """Finds the lowest score that at most a share of the different-label pairs reaches.

    Args:
      different: Scores of different-label pairs, float32.
      false_accept_rate: The share.

    Returns:
      A score just above one of the pairs'. Of tied pairs all or none reach it, so with ties the share may be below the
      rate. With fewer pairs than 1 / rate, none reaches it.

    Example:
      >>> threshold_of(np.array([0.5, 0.25, 0.25, 0.0], np.float32), false_accept_rate=0.5) > 0.25
      True
    """
    allowed = math.floor(false_accept_rate * len(different))
    place = len(different) - 1 - allowed
    first_refused = np.partition(different, place)[place]
    return float(np.nextafter(np.float32(first_refused), np.float32(np.inf)))


def logistic(
    same: Float[np.ndarray, "s"],
    different: Float[np.ndarray, "t"],
    *,
    same_weight: float,
    different_weight: float,
) -> tuple[float, float]:
    """Fits sigmoid(slope * score + intercept) by maximum likelihood, with Newton steps in float64.

    Args:
      same: Scores of same-label pairs.
      different: Scores of different-label pairs.
      same_weight: Pairs that `same` stands for.
      different_weight: Pairs that `different` stands for.

    Returns:
      Slope, above 0, and intercept.

    Raises:
      ValueError: Scores of same-label pairs are not higher.
    """
    scores = np.concatenate([same, different]).astype(np.float64)
    weights = np.repeat(
        [same_weight / len(same), different_weight / len(different)], [len(same), len(different)]
    )
    targets = np.repeat([1.0, 0.0], [len(same), len(different)])
    if same.min() >= different.max() or same.max() <= different.min():
        smoothed = [(same_weight + 1) / (same_weight + 2), 1 / (different_weight + 2)]
        targets = np.repeat(smoothed, [len(same), len(different)])
    middle, spread = scores.mean(), scores.std()
    if spread == 0:
        raise ValueError(_apart_message(same, different))
    slope, intercept = _newton((scores - middle) / spread, targets, weights / weights.sum())
    if not slope > 0:
        raise ValueError(_apart_message(same, different))
    return slope / spread, intercept - slope * middle / spread


def _apart_message(same: Float[np.ndarray, "s"], different: Float[np.ndarray, "t"]) -> str:
    return (
        f"the scores do not separate: pairs of one label have {np.mean(same):.4f} on average, of different labels "
        f"{np.mean(different):.4f}; expected the first to be larger: is it the right model, are the labels right?"
    )


def _newton(
    scores: Float[np.ndarray, "p"], targets: Float[np.ndarray, "p"], weights: Float[np.ndarray, "p"]
) -> tuple[float, float]:
    """Minimises the weighted cross entropy over slope and intercept, halving steps that do not lower it."""
    inputs = np.stack([scores, np.ones_like(scores)], axis=1)
    share = float(weights @ targets)
    point = np.array([0.0, math.log(share / (1.0 - share))])

    def loss(at: Float[np.ndarray, "2"]) -> float:
        logit = inputs @ at
        return float(weights @ (np.logaddexp(0.0, logit) - targets * logit))

    for _ in range(NEWTON_STEPS):
        probability = _sigmoid(inputs @ point)
        gradient = inputs.T @ (weights * (probability - targets))
        curvature = (inputs * (weights * probability * (1.0 - probability))[:, None]).T @ inputs
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        if gradient @ step < CONVERGED:
            return float(point[0] - step[0]), float(point[1] - step[1])
        before = loss(point)
        while not loss(point - step) < before:
            step = step / 2
        point = point - step
    raise ValueError(
        f"the scores do not separate: no slope was found in {NEWTON_STEPS} steps; give photos of more labels"
    )


def _sigmoid(logit: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Never overflows."""
    return np.exp(-np.logaddexp(0.0, -logit))


def _scores(
    embeddings: Float[np.ndarray, "n d"], first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"]
) -> Float[np.ndarray, "p"]:
    scores = np.empty(len(first), np.float32)
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        scores[part] = np.einsum("pd,pd->p", embeddings[first[part]], embeddings[second[part]])
    if not np.isfinite(scores).all():
        raise ValueError("a score is a NaN or an infinity; expected finite embeddings of length 1")
    return scores


# Pairs are places in the rows sorted by label, where each label's photos lie side by side.


def _same_pairs(start: Int[np.ndarray, "l"], count: Int[np.ndarray, "l"], rng: np.random.Generator) -> Pairs:
    """Lists all pairs within a label: each photo with the next one, then with the one after that, and so on."""
    firsts, seconds = [], []
    for step in range(1, int(count.max())):
        long = count > step
        first = _ranges(start[long], count[long] - step)
        firsts.append(first)
        seconds.append(first + step)
    return np.concatenate(firsts), np.concatenate(seconds)


def _different_pairs(
    start: Int[np.ndarray, "l"], count: Int[np.ndarray, "l"], rng: np.random.Generator
) -> Pairs:
    """Lists all pairs across labels: each label's photos with all photos of later labels."""
    rows = int(count.sum())
    firsts, seconds = [], []
    for begin, end in zip(start, start + count, strict=True):
        later = np.arange(end, rows)
        firsts.append(np.repeat(np.arange(begin, end), len(later)))
        seconds.append(np.tile(later, end - begin))
    return np.concatenate(firsts), np.concatenate(seconds)


def _drawn_same_pairs(
    start: Int[np.ndarray, "l"], count: Int[np.ndarray, "l"], rng: np.random.Generator
) -> Pairs:
    """Draws pairs within a label, each as likely: a label by its pairs, then two of its photos."""
    pairs = (count * (count - 1)).astype(np.float64)
    label = rng.choice(len(count), MOST_PAIRS, p=pairs / pairs.sum())
    first = rng.integers(0, count[label])
    other = rng.integers(0, count[label] - 1)
    return start[label] + first, start[label] + other + (other >= first)


def _drawn_different_pairs(
    start: Int[np.ndarray, "l"], count: Int[np.ndarray, "l"], rng: np.random.Generator
) -> Pairs:
    """Draws pairs across labels, each as likely: a label by its pairs, one of its photos, and one of the others."""
    rows = int(count.sum())
    pairs = (count * (rows - count)).astype(np.float64)
    label = rng.choice(len(count), MOST_PAIRS, p=pairs / pairs.sum())
    first = start[label] + rng.integers(0, count[label])
    other = rng.integers(0, rows - count[label])
    return first, other + count[label] * (other >= start[label])


def _ranges(start: Int[np.ndarray, "l"], length: Int[np.ndarray, "l"]) -> Int[np.ndarray, "p"]:
    """Joins the ranges from each start, of each length."""
    ends = np.cumsum(length)
    return np.repeat(start - (ends - length), length) + np.arange(ends[-1])
