"""Turns a score into a probability, and finds the score from which on two photos are taken for the same label.

Both are fitted on an index's own photos, or better on photos like those that will be asked about. The threshold looks
at all pairs of different labels. The probability is that of a label which a search finds, so it is fitted on what
searches find; an index's own photo is left out of the index for its search. docs/engines.md says what both mean.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from fsl_jax.search.engines._found import parts_of

MOST_PAIRS = 2_000_000
"""Same-label pairs, and different-label pairs, that are looked at; of more, so many are drawn."""
BLOCK = 1 << 14
"""Pairs that are multiplied at once."""
LOOKED_UP = 2000
"""Photos that are looked up among the others; of more, so many are drawn."""
SHOWN = 10
"""Labels of a search that the probability is fitted on."""
SIMILARITIES = 1 << 25
"""Similarities that are held at once."""
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
      pairs: How many pairs of different labels the threshold was found with.
      looked_up: How many photos the probability was fitted with.
    """

    slope: float
    intercept: float
    threshold: float
    false_accept_rate: float
    pairs: int
    looked_up: int

    def probability(self, score: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
        """Returns sigmoid(slope * score + intercept): the larger the score, the larger, between 0 and 1.

        Example:
          >>> float(Calibration(10.0, -5.0, 0.7, 0.01, 100, 20).probability(0.5))
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
    """Fits a calibration on the photos of an index.

    The threshold is found with all pairs of different labels; of more than 2 million, 2 million are drawn. The
    probability is fitted on searches: each photo whose label has others, or 2,000 drawn ones, is looked up among the
    other photos, and each of the ten nearest labels is either its own or not.

    Args:
      embeddings: [n, d], rows of length 1; a memory map is read part by part.
      labels: Of each.
      false_accept_rate: Share of different-label pairs that may be taken for the same label, above 0 and below 1.
      seed: Of the drawing.

    Returns:
      The calibration. Where no score lies between right and wrong labels, no slope is the best one; then the targets
      are drawn in a little (Platt 1999), which gives a finite slope.

    Raises:
      ValueError: No label has two photos, all photos have one label, the rate is out of range, the scores are not
        finite, or right labels do not score higher.

    References:
      Platt 1999, Probabilistic outputs for support vector machines.
    """
    _check_rate(false_accept_rate)
    labels = _checked_labels(embeddings, labels)
    order = np.argsort(labels, kind="stable")
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    if count.max(initial=0) < 2:
        raise ValueError("no label has two photos; a calibration needs two photos of a label: add photos")
    if len(count) < 2:
        raise ValueError("all photos have one label; a calibration needs several labels: add labels")
    rng = np.random.default_rng(seed)
    different_count = (len(labels) ** 2 - int((count**2).sum())) // 2
    drawn = _different_pairs if different_count <= MOST_PAIRS else _drawn_different_pairs
    first, second = (order[side] for side in drawn(start, count, rng))
    different = _scores(embeddings, first, embeddings, second)
    codes = np.empty(len(labels), int)
    codes[order] = np.repeat(np.arange(len(count)), count)
    asked = np.flatnonzero(count[codes] > 1)
    if len(asked) > LOOKED_UP:
        asked = np.sort(rng.choice(asked, LOOKED_UP, replace=False))
    found = _looked_up(embeddings[asked], codes[asked], embeddings, codes, itself=asked)
    return _fitted(different, *found, false_accept_rate=false_accept_rate, looked_up=len(asked))


def fit_with(
    queries: Float[np.ndarray, "q d"],
    query_labels: Shaped[np.ndarray, "q"],
    embeddings: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, "n"],
    *,
    false_accept_rate: float,
    seed: int = 0,
) -> Calibration:
    """Fits a calibration with labelled photos that are not in the index, such as those that customers send.

    Args:
      queries: [q, d], rows of length 1. Those of labels that the index does not have count too: nothing is right for
        them, as will be for some that are asked about.
      query_labels: Of each.
      embeddings: [n, d], rows of length 1; a memory map is read part by part.
      labels: Of each.
      false_accept_rate: Share of different-label pairs that may be taken for the same label, above 0 and below 1.
      seed: Of the drawing.

    Raises:
      ValueError: See `fit`; or no query's label is in the index, or no pair is of different labels.
    """
    _check_rate(false_accept_rate)
    query_labels, labels = _checked_labels(queries, query_labels), _checked_labels(embeddings, labels)
    names, codes = np.unique(labels, return_inverse=True)
    place = np.minimum(np.searchsorted(names, query_labels), len(names) - 1)
    query_codes = np.where(names[place] == query_labels, place, -1)
    if not len(queries) or query_codes.max() < 0:
        raise ValueError(
            f"none of the {len(queries)} photos has a label of the index: a calibration needs photos of its labels"
        )
    rng = np.random.default_rng(seed)
    if len(queries) * len(codes) <= MOST_PAIRS:
        first, second = (
            np.repeat(np.arange(len(queries)), len(codes)),
            np.tile(np.arange(len(codes)), len(queries)),
        )
    else:
        first, second = (rng.integers(0, len(each), MOST_PAIRS) for each in (query_codes, codes))
    apart = query_codes[first] != codes[second]
    if not apart.any():
        raise ValueError("all photos have one label; a calibration needs several labels: add labels")
    different = _scores(queries, first[apart], embeddings, second[apart])
    asked = np.arange(len(queries))
    if len(asked) > LOOKED_UP:
        asked = np.sort(rng.choice(asked, LOOKED_UP, replace=False))
    found = _looked_up(queries[asked], query_codes[asked], embeddings, codes)
    return _fitted(different, *found, false_accept_rate=false_accept_rate, looked_up=len(asked))


def _check_rate(false_accept_rate: float) -> None:
    if not 0.0 < false_accept_rate < 1.0:
        raise ValueError(
            f"false_accept_rate is {false_accept_rate}; expected above 0 and below 1, such as 0.01"
        )


def _checked_labels(
    embeddings: Float[np.ndarray, "n d"], labels: Shaped[np.ndarray, "n"]
) -> Shaped[np.ndarray, "n"]:
    labels = np.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != (len(embeddings),):
        raise ValueError(
            f"embeddings are {embeddings.shape}, labels {labels.shape}; expected [n, d] and one label a row"
        )
    return labels


def _fitted(
    different: Float[np.ndarray, "p"],
    right: Float[np.ndarray, "r"],
    wrong: Float[np.ndarray, "w"],
    *,
    false_accept_rate: float,
    looked_up: int,
) -> Calibration:
    slope, intercept = logistic(right, wrong)
    return Calibration(
        slope=slope,
        intercept=intercept,
        threshold=threshold_of(different, false_accept_rate=false_accept_rate),
        false_accept_rate=float(false_accept_rate),
        pairs=len(different),
        looked_up=looked_up,
    )


def _looked_up(
    queries: Float[np.ndarray, "q d"],
    query_codes: Int[np.ndarray, "q"],
    embeddings: Float[np.ndarray, "n d"],
    codes: Int[np.ndarray, "n"],
    *,
    itself: Int[np.ndarray, "q"] | None = None,
) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "w"]]:
    """Looks photos up.

    Args:
      queries: What is looked up.
      query_codes: Label of each; -1 is none of the index.
      embeddings: Among which.
      codes: Label of each.
      itself: Row of each query that it must not find.

    Returns:
      Scores of the labels that are found first, `SHOWN` a photo: of those that are the photo's own, and of the others.
    """
    labels = int(codes.max()) + 1
    rights, wrongs = [], []
    for rows in np.array_split(np.arange(len(queries)), -(-len(queries) * len(codes) // SIMILARITIES)):
        best = np.full((len(rows), labels), -np.inf, np.float32)
        for start, part in parts_of(embeddings):
            similarity = queries[rows] @ part.T
            if itself is not None:
                own = (itself[rows] >= start) & (itself[rows] < start + len(part))
                similarity[own, itself[rows][own] - start] = -np.inf
            place = np.argsort(codes[start : start + len(part)], kind="stable")
            there, first = np.unique(codes[start + place], return_index=True)
            best[:, there] = np.maximum(
                best[:, there], np.maximum.reduceat(similarity[:, place], first, axis=1)
            )
        count = min(SHOWN, labels)
        shown = np.argpartition(-best, count - 1, axis=1)[:, :count]
        scores = np.take_along_axis(best, shown, axis=1)
        right = shown == query_codes[rows][:, None]
        rights.append(scores[right])
        wrongs.append(scores[~right])
    if not sum(map(len, rights)):
        raise ValueError(
            f"the scores do not separate: no photo has its own label among its {SHOWN} nearest ones: is it the right "
            "model, are the labels right?"
        )
    return np.concatenate(rights), np.concatenate(wrongs)


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


def logistic(same: Float[np.ndarray, "s"], different: Float[np.ndarray, "t"]) -> tuple[float, float]:
    """Fits sigmoid(slope * score + intercept) by maximum likelihood, with Newton steps in float64.

    Args:
      same: Scores of right labels.
      different: Scores of wrong labels.

    Returns:
      Slope, above 0, and intercept.

    Raises:
      ValueError: Scores of right labels are not higher.
    """
    scores = np.concatenate([same, different]).astype(np.float64)
    targets = np.repeat([1.0, 0.0], [len(same), len(different)])
    if same.min() >= different.max() or same.max() <= different.min():
        smoothed = [(len(same) + 1) / (len(same) + 2), 1 / (len(different) + 2)]
        targets = np.repeat(smoothed, [len(same), len(different)])
    middle, spread = scores.mean(), scores.std()
    if spread == 0:
        raise ValueError(_apart_message(same, different))
    slope, intercept = _newton((scores - middle) / spread, targets)
    if not slope > 0:
        raise ValueError(_apart_message(same, different))
    return slope / spread, intercept - slope * middle / spread


def _apart_message(same: Float[np.ndarray, "s"], different: Float[np.ndarray, "t"]) -> str:
    return (
        f"the scores do not separate: right labels have {np.mean(same):.4f} on average, wrong ones "
        f"{np.mean(different):.4f}; expected the first to be larger: is it the right model, are the labels right?"
    )


def _newton(scores: Float[np.ndarray, "p"], targets: Float[np.ndarray, "p"]) -> tuple[float, float]:
    """Minimises the mean cross entropy over slope and intercept, halving steps that do not lower it."""
    inputs = np.stack([scores, np.ones_like(scores)], axis=1)
    share = float(targets.mean())
    point = np.array([0.0, math.log(share / (1.0 - share))])

    def loss(at: Float[np.ndarray, "2"]) -> float:
        logit = inputs @ at
        return float((np.logaddexp(0.0, logit) - targets * logit).mean())

    for _ in range(NEWTON_STEPS):
        probability = _sigmoid(inputs @ point)
        gradient = inputs.T @ (probability - targets) / len(scores)
        curvature = (inputs * (probability * (1.0 - probability))[:, None]).T @ inputs / len(scores)
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
    left: Float[np.ndarray, "n d"],
    first: Int[np.ndarray, "p"],
    right: Float[np.ndarray, "m d"],
    second: Int[np.ndarray, "p"],
) -> Float[np.ndarray, "p"]:
    scores = np.empty(len(first), np.float32)
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        scores[part] = np.einsum("pd,pd->p", left[first[part]], right[second[part]])
    if not np.isfinite(scores).all():
        raise ValueError("a score is a NaN or an infinity; expected finite embeddings of length 1")
    return scores


# Pairs are places in the rows sorted by label, where each label's photos lie side by side.


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
