"""The retrieval measures of one query, from counts; where scores tie, the expected value over all orders of
the tied photos.

A positive's tie group are the photos with its score. `above` photos stand before the group, `tied` are in it,
and of these `positives_above` and `positives_tied` are positives. docs/metrics.md works each measure out by
hand.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

TABLE = 1 << 22
"""Elements of the largest intermediate table."""


class Ties(NamedTuple):
    """Where each positive stands.

    Attributes:
      above: Photos before the tie group.
      tied: Photos in the group, at least 1.
      positives_above: Positives before the group.
      positives_tied: Positives in the group, at least 1.
      positive: False where the row has fewer positives than columns.
    """

    above: Int[np.ndarray, "q p"]
    tied: Int[np.ndarray, "q p"]
    positives_above: Int[np.ndarray, "q p"]
    positives_tied: Int[np.ndarray, "q p"]
    positive: Bool[np.ndarray, "q p"]

    @classmethod
    def of(cls, greater, at_least, positives_greater, positives_at_least, positive) -> "Ties":
        """Makes groups from counts; columns without a positive become a harmless group."""
        above, positives_above = (np.where(positive, each, 0) for each in (greater, positives_greater))
        tied = np.where(positive, at_least - greater, 1)
        positives_tied = np.where(positive, positives_at_least - positives_greater, 1)
        return cls(above, tied, positives_above, positives_tied, positive)

    @classmethod
    def empty(cls) -> "Ties":
        """Makes groups for no query."""
        none = np.zeros((0, 1), int)
        return cls(none, none, none, none, none.astype(bool))

    @property
    def relevant(self) -> Int[np.ndarray, "q"]:
        """Positives a query, the R of R-precision."""
        return self.positive.sum(axis=1)

    def mean(self, values: Float[np.ndarray, "q p"]) -> Float[np.ndarray, "q"]:
        """Averages over the positives of each query."""
        return np.where(self.positive, values, 0).sum(axis=1) / self.relevant


def average_precision(ties: Ties) -> Float[np.ndarray, "q"]:
    """Sums precision over the steps of recall, whole ranking; a tie group is one step, as in scikit-learn."""
    return ties.mean((ties.positives_above + ties.positives_tied) / (ties.above + ties.tied))


def interpolated_precision(ties: Ties, levels: int) -> Float[np.ndarray, "q levels"]:
    """Returns the highest precision that is reached at each recall level or above.

    Args:
      ties: Where the positives stand; a tie group is one cut-off.
      levels: Recall levels 0, 1 / (levels - 1), ..., 1; 11 is usual.

    References:
      Manning, Raghavan, Schütze 2008, Introduction to Information Retrieval, section 8.4,
      https://nlp.stanford.edu/IR-book/html/htmledition/evaluation-of-ranked-retrieval-results-1.html
    """
    last = ties.above + ties.tied
    ordered = np.sort(np.where(ties.positive, last, np.iinfo(last.dtype).max), axis=1)
    # Of tied positives only the last counts all their hits; the maximum from each place on gives it to all.
    hits = np.arange(1, ordered.shape[1] + 1)[None]
    precision = np.where(hits <= ties.relevant[:, None], hits / ordered, 0.0)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # The first positive by which a recall is reached; in integers, for 0.3 * 10 is not 3.
    needed = -(-np.arange(levels)[None] * ties.relevant[:, None] // (levels - 1))
    return np.take_along_axis(highest, np.maximum(needed - 1, 0), axis=1)


def r_precision(ties: Ties) -> Float[np.ndarray, "q"]:
    """Share of positives among the first R."""
    return ties.mean(np.clip(ties.relevant[:, None] - ties.above, 0, ties.tied) / ties.tied)


def average_precision_at_r(ties: Ties) -> Float[np.ndarray, "q"]:
    """Sums precision at the positives among the first R, over R.

    The j-th place of a group holds a positive with probability u / t, and then expects (j - 1) (u - 1) / (t -
    1) further positives of the group before it; summed over the first m places this leaves harmonic numbers.

    References:
      Musgrave et al. 2020, https://arxiv.org/abs/2003.08505.
    """
    relevant = ties.relevant[:, None]
    places = np.clip(relevant - ties.above, 0, ties.tied)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, relevant.max(initial=0) + 1))])
    start = np.minimum(ties.above, relevant)
    reciprocal = harmonic[np.minimum(start + places, relevant)] - harmonic[start]
    companions = (ties.positives_tied - 1) / np.maximum(ties.tied - 1, 1)
    precision = (ties.positives_above + 1) * reciprocal + companions * (places - (start + 1) * reciprocal)
    return ties.mean(np.where(places > 0, precision / ties.tied, 0.0))


def ndcg(ties: Ties, k: int) -> Float[np.ndarray, "q"]:
    """Normalised discounted gain of the first k, gain 1 a positive, discount log2(rank + 1)."""
    discount = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    share = discount[np.minimum(k, ties.above + ties.tied)] - discount[np.minimum(k, ties.above)]
    ideal = discount[np.minimum(k, ties.relevant)]
    return ties.mean(share / ties.tied) * ties.relevant / ideal


class First(NamedTuple):
    """The group of the best positive.

    Attributes:
      above: Photos before it, none of them positive.
      tied: Photos in it.
      positives: Positives in it.
    """

    above: Int[np.ndarray, "q"]
    tied: Int[np.ndarray, "q"]
    positives: Int[np.ndarray, "q"]


def first_group(ties: Ties) -> First:
    """Finds the group of each query's best positive."""
    last = np.iinfo(ties.above.dtype).max
    best = np.argmin(np.where(ties.positive, ties.above, last), axis=1)
    row = np.arange(len(best))
    return First(ties.above[row, best], ties.tied[row, best], ties.positives_tied[row, best])


def first_hit_rank(first: First) -> Float[np.ndarray, "q"]:
    """Expected rank of the first positive, from 1."""
    return first.above + (first.tied + 1) / (first.positives + 1)


def hits(first: First, ks: Sequence[int]) -> tuple[Float[np.ndarray, "q k"], Float[np.ndarray, "q"]]:
    """Judges the first positive.

    Args:
      first: Its tie group.
      ks: Cut-offs.

    Returns:
      The probability that a positive is among the first k, and the expected reciprocal rank of the first
      positive.
    """
    mixed = (
        first.tied > first.positives
    )  # elsewhere the group holds positives only, and its first place is one
    hit = (first.above[:, None] < np.asarray(ks)).astype(float)
    reciprocal = 1.0 / (first.above + 1.0)
    groups = np.stack([each[mixed] for each in first], axis=1)
    distinct, back = np.unique(groups, axis=0, return_inverse=True)
    if len(distinct):
        step = max(TABLE // int(distinct[:, 1].max()), 1)
        parts = [_mixed_hits(First(*distinct[i : i + step].T), ks) for i in range(0, len(distinct), step)]
        hit[mixed] = np.concatenate([part[0] for part in parts])[back.reshape(-1)]
        reciprocal[mixed] = np.concatenate([part[1] for part in parts])[back.reshape(-1)]
    return hit, reciprocal


def _mixed_hits(first: First, ks: Sequence[int]) -> tuple[Float[np.ndarray, "g k"], Float[np.ndarray, "g"]]:
    """Works out groups that hold both kinds, from the chance that their first j places hold no positive."""
    above, tied, positives = (each[:, None] for each in first)
    place = np.arange(tied.max())
    miss = np.cumprod(np.clip(tied - positives - place, 0, None) / np.maximum(tied - place, 1), axis=1)
    miss = np.concatenate([np.ones_like(miss[:, :1]), miss], axis=1)
    arrives = miss[:, :-1] * np.where(place < tied, positives / np.maximum(tied - place, 1), 0.0)
    reciprocal = (arrives / (above + place + 1)).sum(axis=1)
    seen = np.clip(np.asarray(ks) - above, 0, tied)
    return 1.0 - np.take_along_axis(miss, seen, axis=1), reciprocal
