"""The triplet loss, over given triplets and over all of a batch."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from fsl_jax.types import PerAnchor, PerItem

Margin = float | Float[Array, "..."] | None
"""Of the hinge; None is the soft margin, softplus of the gap."""


def _slack(gap: Float[Array, "*m"], margin: Margin) -> Float[Array, "*m"]:
    return jax.nn.softplus(gap) if margin is None else jax.nn.relu(gap + margin)


def triplet(
    positive_distance: Float[Array, "m"],
    negative_distance: Float[Array, "m"],
    mask: Bool[Array, "m"],
    *,
    margin: Margin,
) -> PerItem:
    """Wants each negative farther from its anchor than the positive, by a margin.

    Args:
      positive_distance: Anchor to positive.
      negative_distance: Anchor to negative.
      mask: Which triplets count.
      margin: max(0, gap + margin), one number or one a triplet; None for the soft margin log(1 + exp(gap)).

    Returns:
      One value a triplet.

    References:
      Schroff et al. 2015, https://arxiv.org/abs/1503.03832; soft margin: Hermans et al. 2017,
      https://arxiv.org/abs/1703.07737, section 2.
    """
    gap = jnp.where(mask, positive_distance - negative_distance, 0.0)
    return PerItem(jnp.where(mask, _slack(gap, margin), 0.0), mask)


def batch_all(
    distances: Float[Array, "a r"],
    positive: Bool[Array, "a r"],
    negative: Bool[Array, "a r"],
    *,
    margin: Margin,
) -> PerAnchor:
    """Sums the triplet loss over every positive and every negative of each anchor.

    The positives are taken one after the other, as many times as the anchor with most has positives: so time is
    anchors x references x positives, memory anchors x references. Value and gradient are found in one pass; there
    is no second derivative.

    Args:
      distances: Anchor to reference; smaller is nearer.
      positive: Same label, another photo.
      negative: Another label.
      margin: A number, [a, r] for one a pair of anchor and negative, or None for the soft margin.

    Returns:
      Sums an anchor. With the soft margin all elements are active.

    References:
      Hermans et al. 2017, https://arxiv.org/abs/1703.07737, eq. 6.
    """
    count = jnp.sum(positive, axis=1) * jnp.sum(negative, axis=1)
    if margin is None:
        total, _ = _sums(None, distances, positive, negative)
        return PerAnchor(total, count, count)
    wide = jnp.broadcast_to(jnp.asarray(margin, distances.dtype), distances.shape)
    total, active = _sums(wide, distances, positive, negative)
    return PerAnchor(total, count, active)


@jax.custom_vjp
def _sums(margin: Array | None, distances: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
    """Returns the sum and the number of active elements of each anchor."""
    return _over_positives(margin, distances, positive, negative, with_slope=False)[:2]


def _sums_forward(margin: Array | None, distances: Array, positive: Array, negative: Array) -> tuple:
    total, active, slope = _over_positives(margin, distances, positive, negative, with_slope=True)
    return (total, active), (slope, negative, margin is None)


def _sums_backward(kept: tuple, cotangents: tuple[Array, Array]) -> tuple:
    slope, negative, is_soft = kept
    moved = cotangents[0][:, None] * slope
    # A negative's margin acts against its distance.
    return None if is_soft else jnp.where(negative, -moved, 0.0), moved, None, None


_sums.defvjp(_sums_forward, _sums_backward)


def _over_positives(
    margin: Array | None, distances: Array, positive: Array, negative: Array, *, with_slope: bool
) -> tuple[Array, Array, Array | None]:
    """Adds the elements of the first positive of each anchor, of the second, and so on.

    Returns:
      Sum and number of active elements of each anchor, and the derivative of the sum to the distances.
    """
    place = jnp.cumsum(positive, axis=1) - 1
    most = jnp.max(jnp.sum(positive, axis=1), initial=0)

    def add(number: Array, so_far: tuple) -> tuple:
        total, active, slope = so_far
        chosen = positive & (place == number)
        there = chosen.any(axis=1)[:, None] & negative
        gap = jnp.sum(distances, axis=1, where=chosen)[:, None] - distances
        element = jnp.where(there, _slack(gap, margin), 0.0)
        total, active = total + jnp.sum(element, axis=1), active + jnp.sum(element > 0, axis=1)
        if slope is not None:
            steep = jnp.where(there, jax.nn.sigmoid(gap) if margin is None else element > 0, 0.0)
            slope = slope + jnp.where(chosen, jnp.sum(steep, axis=1)[:, None], 0.0) - steep
        return total, active, slope

    anchors = distances.shape[:1]
    start = jnp.zeros(anchors, distances.dtype), jnp.zeros(anchors, jnp.int32)
    return lax.fori_loop(0, most, add, (*start, jnp.zeros_like(distances) if with_slope else None))
