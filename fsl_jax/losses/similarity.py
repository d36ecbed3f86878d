"""Losses that weight each pair of a batch by its similarity: multi-similarity and circle loss."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from fsl_jax.losses.softmax import masked_log_sum
from fsl_jax.types import PerItem


def multi_similarity(
    similarity: Float[Array, "a r"],
    positive: Bool[Array, "a r"],
    negative: Bool[Array, "a r"],
    *,
    positive_scale: float,
    negative_scale: float,
    threshold: float,
    mining_margin: float | None,
) -> PerItem:
    """Weights pairs by their own similarity and by that of the anchor's other pairs.

    Per anchor log(1 + sum exp(-a (s_ap - t))) / a + log(1 + sum exp(b (s_an - t))) / b, over the pairs that are
    mined: negatives nearer than the farthest positive, positives farther than the nearest negative, by a margin.

    Args:
      similarity: Cosine, larger is nearer.
      positive: Same label, another photo.
      negative: Another label.
      positive_scale: a; the paper has 2.
      negative_scale: b; the paper has 40, later work 50.
      threshold: t; the paper has 0.5.
      mining_margin: The paper has 0.1; None takes all pairs.

    Returns:
      One value an anchor, 0 where nothing was mined; masked out where neither side has a pair at all.

    References:
      Wang et al. 2019, https://arxiv.org/abs/1904.06627, eqs. 11 to 15.
    """
    mask = positive.any(axis=1) | negative.any(axis=1)
    if mining_margin is not None:
        fixed = lax.stop_gradient(similarity)
        farthest = jnp.min(fixed, axis=1, where=positive, initial=jnp.inf)[:, None]
        nearest = jnp.max(fixed, axis=1, where=negative, initial=-jnp.inf)[:, None]
        positive = positive & (fixed - mining_margin < nearest)
        negative = negative & (fixed + mining_margin > farthest)
    pull = (
        jax.nn.softplus(masked_log_sum(-positive_scale * (similarity - threshold), positive)) / positive_scale
    )
    push = (
        jax.nn.softplus(masked_log_sum(negative_scale * (similarity - threshold), negative)) / negative_scale
    )
    return PerItem(jnp.where(mask, pull + push, 0.0), mask)


def circle(
    similarity: Float[Array, "a r"],
    positive: Bool[Array, "a r"],
    negative: Bool[Array, "a r"],
    *,
    relaxation: float,
    scale: float,
) -> PerItem:
    """Moves each pair at a pace of its own: the farther from its optimum, the faster.

    Args:
      similarity: Cosine, larger is nearer.
      positive: Same label, another photo.
      negative: Another label.
      relaxation: m; optima are 1 + m and -m, margins 1 - m and m. The paper has 0.25 to 0.4.
      scale: gamma; the paper has 64 to 256.

    Returns:
      One value an anchor; masked out where it lacks a positive or a negative.

    References:
      Sun et al. 2020, https://arxiv.org/abs/2002.10857, eqs. 6 to 8.
    """
    fixed = lax.stop_gradient(similarity)
    pull = -scale * jax.nn.relu(1 + relaxation - fixed) * (similarity - (1 - relaxation))
    push = scale * jax.nn.relu(fixed + relaxation) * (similarity - relaxation)
    mask = positive.any(axis=1) & negative.any(axis=1)
    value = jax.nn.softplus(masked_log_sum(push, negative) + masked_log_sum(pull, positive))
    return PerItem(jnp.where(mask, value, 0.0), mask)
