"""Losses that compare photos with one learned proxy a label."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fsl_jax.losses.distances import squared_euclidean
from fsl_jax.ops.norm import at_least_float32, l2_normalise
from fsl_jax.types import PerItem


def proxy_nca(
    embedding: Float[Array, "n d"],
    proxies: Float[Array, "labels d"],
    labels: Int[Array, "n"],
    *,
    scale: float,
    own_in_denominator: bool,
) -> PerItem:
    """Wants each photo nearer to its label's proxy than to the others.

    Args:
      embedding: Photos; any length.
      proxies: One a label; any length.
      labels: 0 to labels - 1.
      scale: Length to which both are brought; the published program has 3.
      own_in_denominator: False as in the paper, whose denominator has the other proxies alone; True for the softmax
        over all of them, which is bounded below.

    Returns:
      One value a photo.

    References:
      Movshovitz-Attias et al. 2017, https://arxiv.org/abs/1703.07464, eq. 7; with the own proxy: Teh et al. 2020,
      https://arxiv.org/abs/2004.01113.
    """
    sides = (scale * l2_normalise(at_least_float32(side)) for side in (embedding, proxies))
    logits = -squared_euclidean(*sides)
    own = labels[:, None] == jnp.arange(proxies.shape[0])[None, :]
    compared = logits if own_in_denominator else jnp.where(own, -1e9, logits)
    value = jax.nn.logsumexp(compared, axis=1) - jnp.sum(logits, axis=1, where=own)
    if proxies.shape[0] == 1 and not own_in_denominator:
        value = jnp.zeros_like(value)  # there is no other proxy to be apart from
    return PerItem(value, jnp.ones(labels.shape, bool))


def proxy_anchor(
    similarity: Float[Array, "n labels"], labels: Int[Array, "n"], *, margin: float, scale: float
) -> tuple[PerItem, PerItem]:
    """Takes each proxy as an anchor: draws its label's photos to it, and pushes all others away.

    Args:
      similarity: Cosine of photo and proxy.
      labels: 0 to labels - 1.
      margin: The paper has 0.1.
      scale: The paper has 32.

    Returns:
      Pull and push, one value a proxy each; a proxy without photos in the batch has no pull. The loss is the sum of
      their means.

    References:
      Kim et al. 2020, https://arxiv.org/abs/2003.13911, eq. 4.
    """
    own = labels[:, None] == jnp.arange(similarity.shape[1])[None, :]
    pull = jax.nn.logsumexp(jnp.where(own, -scale * (similarity - margin), -1e9), axis=0)
    push = jax.nn.logsumexp(jnp.where(own, -1e9, scale * (similarity + margin)), axis=0)
    present = own.any(axis=0)
    return (
        PerItem(jnp.where(present, jax.nn.softplus(pull), 0.0), present),
        PerItem(jax.nn.softplus(push), jnp.ones(present.shape, bool)),
    )
