"""Measures of multi-label attributes, each stated yes (1), no (0) or not at all (-1).

What is not stated is left out of every count. docs/metrics.md defines every measure and its rule for ties.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.evaluation._levels import PerName, ratio
from fsl_jax.mesh import AXIS, over_rows, place, replicated

MOST_ROWS = (1 << 20) - 1
"""Rows up to which the sums of `attribute_ranking` cannot overflow."""

Ranking = tuple[Float[Array, "a"], Float[Array, "a"]]


@flax.struct.dataclass
class AttributeCounts:
    """What `attribute_counts` counts; counts of two blocks add with `jax.tree.map(jnp.add, a, b)`.

    Attributes:
      known: Rows in which the attribute is stated.
      tp: Of these, rows that have it and are predicted to have it.
      fp: Rows that do not have it and are predicted to have it.
      fn: Rows that have it and are not predicted to have it.
      tp_at_k: Rows that have it and in which it is among the K best; with ties, expected.
      chosen: Rows in which it is among the K best; with ties, expected.
    """

    known: Int[Array, "a"]
    tp: Int[Array, "a"]
    fp: Int[Array, "a"]
    fn: Int[Array, "a"]
    tp_at_k: Float[Array, "a"]
    chosen: Float[Array, "a"]

    @property
    def support(self) -> Int[np.ndarray, "a"]:
        """Rows that have each attribute. They are those of the K best too, for a row without any has K = 0."""
        return np.asarray(self.tp, np.int64) + np.asarray(self.fn, np.int64)

    def per_name(self) -> PerName:
        """Judges each attribute at the threshold."""
        right = np.asarray(self.tp, np.int64)
        return PerName.of(right, right + np.asarray(self.fp), self.support)

    def per_name_at_k(self) -> PerName:
        """Judges each attribute with the K best of each row as its prediction."""
        right, chosen = (np.asarray(each, np.float64) for each in (self.tp_at_k, self.chosen))
        return PerName.of(right, chosen, self.support)

    def figures(self) -> dict[str, float]:
        """Divides.

        K is a row's own number of attributes. Pooled over all rows and attributes, precision and recall of the K
        best would be equal by definition, since as many are chosen as there are; weighted over attributes they
        differ.

        Returns:
          "precision", "recall" and "f1" at the threshold, weighted by support; "macro_f1", over the attributes
          that are stated in some row; "precision_at_k", "recall_at_k" and "f1_at_k", weighted by support. Where
          no row has any attribute the weighted ones are NaN, and scikit-learn gives 0.
        """
        per_name, known = self.per_name(), np.asarray(self.known) > 0
        return {
            **per_name.weighted(),
            "macro_f1": ratio(per_name.f1[known].sum(), known.sum()),
            **{f"{name}_at_k": value for name, value in self.per_name_at_k().weighted().items()},
        }


@jax.jit
def attribute_counts(
    probabilities: Float[Array, "n a"], truth: Int[Array, "n a"], *, threshold: float | Float[Array, ""]
) -> AttributeCounts:
    """Compares predicted attributes with the stated ones, at a threshold and among the K best of each row.

    Args:
      probabilities: Of each attribute. A NaN is neither above the threshold nor among the K best, but takes the
        place of one of them.
      truth: 1 yes, 0 no, -1 unknown; a row of padding has -1 alone.
      threshold: An attribute is predicted if it is strictly above. The paper has 0.75.

    Returns:
      Counts. K is the number of attributes that the row has. Among the K best is each stated attribute with g < K
      strictly greater ones in the row; if t, itself included, are equal and these do not all fit in, each counts
      as (K - g) / t, the expected value over all orders. Sums of shares are float32; those of whole numbers are
      exact up to 2**24 rows.

    Raises:
      ValueError: Shapes differ.

    References:
      Ferreira et al. 2018, https://arxiv.org/abs/1806.09445, for the threshold and for K.
    """
    _check(probabilities, truth)
    values = probabilities.astype(jnp.promote_types(probabilities.dtype, jnp.float32))
    yes, no, above = truth == 1, truth == 0, values > threshold
    chosen = _chosen(values, truth)
    count = functools.partial(jnp.sum, axis=0, dtype=jnp.int32)
    return AttributeCounts(
        known=count(yes | no),
        tp=count(yes & above),
        fp=count(no & above),
        fn=count(yes & ~above),
        tp_at_k=jnp.sum(jnp.where(yes, chosen, 0.0), axis=0),
        chosen=jnp.sum(chosen, axis=0),
    )


def _check(scores: Float[Array, "n a"], truth: Int[Array, "n a"]) -> None:
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise ValueError(
            f"scores have the shape {scores.shape}, truth {truth.shape}; expected (n, a) of both"
        )


def _chosen(scores: Float[Array, "n a"], truth: Int[Array, "n a"]) -> Float[Array, "n a"]:
    """Returns with which probability each attribute is among the K best of its row."""
    known, attributes = truth >= 0, scores.shape[1]
    k = jnp.sum(truth == 1, axis=1, keepdims=True)
    ascending = jnp.sort(jnp.where(known, scores, -jnp.inf), axis=1)
    last = jnp.take_along_axis(ascending, jnp.minimum(attributes - k, attributes - 1), axis=1)
    above, tied = known & (scores > last), known & (scores == last)
    left = k - jnp.sum(above, axis=1, keepdims=True)
    share = jnp.clip(left / jnp.maximum(jnp.sum(tied, axis=1, keepdims=True), 1), 0.0, 1.0)
    return jnp.where(tied, share, above.astype(share.dtype))


@jax.jit
def attribute_ranking(scores: Float[Array, "n a"], truth: Int[Array, "n a"]) -> Ranking:
    """Judges how each attribute ranks the rows, over all thresholds.

    One sort an attribute, and one attribute after the other, so that memory beyond the arguments is that of a few
    columns.

    Args:
      scores: Larger is likelier; logits, for probabilities that round to 1 tie.
      truth: 1 yes, 0 no, -1 unknown and left out of this attribute.

    Returns:
      Area under the ROC curve [a], where a tie of a positive and a negative counts half, and average precision
      [a], where tied rows are one step; both as scikit-learn's, within 1e-6. NaN without a positive, for the area
      also without a negative, and where the score of a known row is a NaN.

    Raises:
      ValueError: Shapes differ, or there are more rows than MOST_ROWS.
    """
    _check_ranked(scores, truth)
    return _rankings(scores.T, truth.T)


def _check_ranked(scores: Float[Array, "n a"], truth: Int[Array, "n a"]) -> None:
    _check(scores, truth)
    if scores.shape[0] > MOST_ROWS:
        raise ValueError(
            f"there are {scores.shape[0]} rows; expected at most {MOST_ROWS}: judge a part of them"
        )


def _rankings(scores: Float[Array, "a n"], truth: Int[Array, "a n"]) -> Ranking:
    if scores.size == 0:
        nothing = jnp.full(scores.shape[0], jnp.nan, jnp.float32)
        return nothing, nothing
    return lax.map(lambda column: _ranking(*column), (scores, truth))


def _ranking(scores: Float[Array, "n"], truth: Int[Array, "n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Counts, for each positive, the positives and negatives below its tie group, and judges from these."""
    scores, truth = lax.sort((scores, truth), num_keys=1, is_stable=False)
    broken = jnp.any(jnp.isnan(scores) & (truth >= 0))
    here = jnp.stack([truth == 1, truth == 0]).astype(jnp.int32)
    up_to = jnp.cumsum(here, axis=1)
    positives, negatives = up_to[0, -1], up_to[1, -1]
    first = jnp.concatenate([jnp.ones(1, bool), scores[1:] != scores[:-1]])
    # Counts never fall along the ranking, so a running extreme hands each group's own count to all its rows.
    below = lax.cummax(jnp.where(first[None], up_to - here, 0), axis=1)
    at_most = lax.cummin(jnp.where(jnp.roll(first, -1), up_to[1], negatives), reverse=True)
    outranked = (below[1] + at_most) / jnp.maximum(2 * negatives, 1)
    found = positives - below[0]
    precision = found / jnp.maximum(found + negatives - below[1], 1)
    positive = here[0] == 1
    area, average = _mean(outranked, positive), _mean(precision, positive)
    return (
        jnp.where(broken | (negatives == 0), jnp.nan, area),
        jnp.where(broken, jnp.nan, average),
    )


def _mean(shares: Float[Array, "n"], taken: Bool[Array, "n"]) -> Float[Array, ""]:
    """Averages numbers from 0 to 1 without the error of a long float32 sum, which is some 1e-5 at 50,000 rows.

    Each is rounded to 24 binary places, and the integers are added in two halves of 12, which do not overflow up
    to MOST_ROWS. Pairs of rows are never multiplied: positives times negatives would overflow too. The result
    does not depend on the order of adding, so it is the same on every device.
    """
    places = jnp.where(taken, jnp.round(shares * (1 << 24)), 0.0).astype(jnp.uint32)
    high, low = (jnp.sum(half, dtype=jnp.uint32) for half in (places >> 12, places & 0xFFF))
    total = high / (1 << 12) + low / (1 << 24)
    count = jnp.sum(taken)
    return total / jnp.where(count > 0, count, jnp.nan)


def spread_ranking(
    scores: Float[Array | np.ndarray, "n a"], truth: Int[Array | np.ndarray, "n a"], mesh: Mesh
) -> tuple[Float[np.ndarray, "a"], Float[np.ndarray, "a"]]:
    """Computes `attribute_ranking` with the attributes spread over the devices.

    Args:
      scores: Larger is likelier; on the host, or on any devices.
      truth: 1 yes, 0 no, -1 unknown.
      mesh: Devices; each gets the whole of both arrays, and as many attributes as any other or some fewer.

    Returns:
      Area under the ROC curve and average precision, the same as on one device.

    Raises:
      ValueError: As `attribute_ranking`.
    """
    auc, ap = _spread(mesh)(*place((scores, truth), replicated(mesh)))
    return np.asarray(auc), np.asarray(ap)


@functools.cache
def _spread(mesh: Mesh) -> Callable[[Array, Array], Ranking]:
    """Prepares the program of some devices; once, so that a second call compiles nothing."""
    of_share = over_rows(mesh, _rankings, spread=(True, True), results=P(AXIS))

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def program(scores: Float[Array, "n a"], truth: Int[Array, "n a"]) -> Ranking:
        _check_ranked(scores, truth)
        attributes = scores.shape[1]
        filling = ((0, -attributes % mesh.size), (0, 0))
        auc, ap = of_share(jnp.pad(scores.T, filling), jnp.pad(truth.T, filling))
        return auc[:attributes], ap[:attributes]

    return program


def mean_over_attributes(values: Float[Array | np.ndarray, "a"]) -> tuple[float, int]:
    """Averages the attributes for which a measure is defined.

    Args:
      values: One an attribute; NaN where it is not defined.

    Returns:
      The mean over the others, NaN without any, and how many they are.
    """
    numbers = np.asarray(values, np.float64)
    defined = ~np.isnan(numbers)
    return ratio(numbers[defined].sum(), defined.sum()), int(defined.sum())
