"""Mining of triplets inside a batch: from distances and masks to anchors, positives and negatives.

What is chosen is constant to the gradient; the loss takes the distances of the chosen ones. Batch all, which chooses
nothing, is `losses.triplet.batch_all`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.types import Key


class Triplets(NamedTuple):
    """Chosen triplets.

    Attributes:
      anchor: Place among the anchors.
      positive: Place among the references.
      negative: Place among the references.
      mask: Which of them exist.
    """

    anchor: Int[Array, "m"]
    positive: Int[Array, "m"]
    negative: Int[Array, "m"]
    mask: Bool[Array, "m"]


class Weighted(NamedTuple):
    """Mean distances of each anchor.

    Attributes:
      positive_distance: To its positives.
      negative_distance: To its negatives.
      mask: Anchors that have both.
    """

    positive_distance: Float[Array, "a"]
    negative_distance: Float[Array, "a"]
    mask: Bool[Array, "a"]


Distances = Float[Array, "a r"]
Mask = Bool[Array, "a r"]


def _one_an_anchor(positive_at: Array, negative_at: Array, positive: Mask, negative: Mask) -> Triplets:
    mask = positive.any(axis=1) & negative.any(axis=1)
    return Triplets(jnp.arange(mask.shape[0]), positive_at, negative_at, mask)


def given(count: int) -> Triplets:
    """Takes a batch whose rows are anchor, positive, negative, anchor, and so on.

    Args:
      count: Rows; three times the triplets.

    Raises:
      ValueError: The rows are no multiple of three.
    """
    if count % 3:
        raise ValueError(f"a batch of given triplets has {count} rows; expected a multiple of 3")
    anchor = jnp.arange(0, count, 3)
    return Triplets(anchor, anchor + 1, anchor + 2, jnp.ones(anchor.shape, bool))


def batch_hard(distances: Distances, positive: Mask, negative: Mask) -> Triplets:
    """Takes each anchor's furthest positive and its nearest negative.

    Args:
      distances: Anchor to reference; smaller is nearer.
      positive: Same label, another photo.
      negative: Another label.

    Returns:
      One triplet an anchor; masked out where either side is missing.

    References:
      Hermans et al. 2017, https://arxiv.org/abs/1703.07737, eq. 5.
    """
    distances = lax.stop_gradient(distances)
    furthest = jnp.argmax(jnp.where(positive, distances, -jnp.inf), axis=1)
    nearest = jnp.argmin(jnp.where(negative, distances, jnp.inf), axis=1)
    return _one_an_anchor(furthest, nearest, positive, negative)


def batch_sample(key: Key, distances: Distances, positive: Mask, negative: Mask) -> Triplets:
    """Draws a positive with probability softmax(d) and a negative with softmax(-d): hard ones mostly.

    Args:
      key: Of the draws.
      distances: Anchor to reference; smaller is nearer.
      positive: Same label, another photo.
      negative: Another label.

    Returns:
      One triplet an anchor; masked out where either side is missing.

    References:
      Kumar et al. 2019, https://arxiv.org/abs/1901.01015, section 3.
    """
    distances = lax.stop_gradient(distances)
    of_positive, of_negative = jax.random.split(key)
    drawn_positive = jax.random.categorical(of_positive, jnp.where(positive, distances, -1e9), axis=1)
    drawn_negative = jax.random.categorical(of_negative, jnp.where(negative, -distances, -1e9), axis=1)
    return _one_an_anchor(drawn_positive, drawn_negative, positive, negative)


def batch_weighted(distances: Distances, positive: Mask, negative: Mask) -> Weighted:
    """Averages an anchor's positives and negatives with softmax weights: the softened batch hard.

    Weights are softmax(d) over the positives and softmax(-d) over the negatives, and part of the gradient.

    Args:
      distances: Anchor to reference; smaller is nearer.
      positive: Same label, another photo.
      negative: Another label.

    References:
      Ristani and Tomasi 2018, https://arxiv.org/abs/1803.10859, eq. 4.
    """

    def average(logits: Distances, there: Mask) -> Float[Array, "a"]:
        weights = jax.nn.softmax(jnp.where(there, logits, -1e9), axis=1)
        return jnp.sum(weights * distances, axis=1, where=there)

    mask = positive.any(axis=1) & negative.any(axis=1)
    return Weighted(average(distances, positive), average(-distances, negative), mask)


def _one_a_pair(negative_at: Array, found: Array) -> Triplets:
    anchors, references = found.shape
    anchor = jnp.repeat(jnp.arange(anchors), references)
    positive = jnp.tile(jnp.arange(references), anchors)
    return Triplets(anchor, positive, negative_at.reshape(-1), found.reshape(-1))


def semi_hard(distances: Distances, positive: Mask, negative: Mask) -> Triplets:
    """Takes for each pair the nearest negative that is farther than the positive.

    With a hinge it is FaceNet's: one inside the margin has a loss, one beyond has none. Pairs without such a negative
    are left out.

    Args:
      distances: Anchor to reference; smaller is nearer.
      positive: Same label, another photo.
      negative: Another label.

    Returns:
      One triplet a pair of anchor and reference, row by row; masked out where that is no positive pair.

    References:
      Schroff et al. 2015, https://arxiv.org/abs/1503.03832, section 3.2.
    """
    distances = lax.stop_gradient(distances)
    far = jnp.where(negative, distances, jnp.inf)
    order = jnp.argsort(far, axis=1, stable=True)
    ranked = jnp.take_along_axis(far, order, axis=1)
    place = jax.vmap(lambda row, wanted: jnp.searchsorted(row, wanted, side="right"))(ranked, distances)
    found = positive & (place < jnp.sum(negative, axis=1)[:, None])
    last = distances.shape[1] - 1
    return _one_a_pair(jnp.take_along_axis(order, jnp.minimum(place, last), axis=1), found)


def distance_weighted(
    key: Key,
    distances: Distances,
    positive: Mask,
    negative: Mask,
    *,
    dimensions: int,
    cutoff: float,
    furthest: float,
) -> Triplets:
    """Draws a negative for each positive pair, evenly over distances rather than over photos.

    On a sphere most photos are about sqrt(2) apart; a negative is drawn with the inverse of the density q of
    distances, log q(d) = (n - 2) log d + (n - 3) / 2 log(1 - d^2 / 4).

    Args:
      key: Of the draws.
      distances: Euclidean, of unit vectors.
      positive: Same label, another photo.
      negative: Another label.
      dimensions: n, of the embeddings.
      cutoff: Smaller distances are taken as this one, against noisy gradients; the paper has 0.5.
      furthest: Negatives beyond have no loss and are not drawn; the paper's program has 1.4. Where all are beyond, all
        are equally likely.

    Returns:
      One triplet a pair of anchor and reference, row by row; masked out where that is no positive pair or the anchor
      has no negative.

    References:
      Wu et al. 2017, https://arxiv.org/abs/1706.07567, section 3.2.
    """
    apart = jnp.maximum(lax.stop_gradient(distances), cutoff)
    inside = jnp.maximum(1 - jnp.square(apart) / 4, 1e-8)
    inverse = -(dimensions - 2) * jnp.log(apart) - (dimensions - 3) / 2 * jnp.log(inside)
    near = negative & (lax.stop_gradient(distances) <= furthest)
    logits = jnp.where(near.any(axis=1)[:, None], jnp.where(near, inverse, -jnp.inf), 0.0)
    logits = jnp.where(negative | ~negative.any(axis=1)[:, None], logits, -jnp.inf)
    anchors, references = distances.shape
    keys = jax.random.split(key, anchors)
    drawn = jax.vmap(lambda key, row: _draws(key, row, references))(keys, logits)
    return _one_a_pair(drawn, positive & negative.any(axis=1)[:, None])


def _draws(key: Key, logits: Float[Array, "r"], count: int) -> Int[Array, "count"]:
    """Draws from one distribution many times: by its cumulated probabilities, in memory for these alone."""
    cumulated = jnp.cumsum(jax.nn.softmax(logits))
    draws = jax.random.uniform(key, (count,)) * cumulated[-1]
    place = jnp.searchsorted(cumulated, draws, side="right")
    # Rounding may point one past the last that has a probability at all.
    last = jnp.max(jnp.where(jnp.isfinite(logits), jnp.arange(logits.shape[0]), 0))
    return jnp.minimum(place, last)
