"""Contrastive losses: over pairs (DrLIM), and over one pair against many (N-pair, NT-Xent, SupCon)."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fsl_jax.losses.distances import inner_products
from fsl_jax.losses.softmax import masked_log_sum
from fsl_jax.types import PerItem


def contrastive(
    distance: Float[Array, "*m"],
    same: Bool[Array, "*m"],
    mask: Bool[Array, "*m"],
    *,
    margin: float,
    power: Literal[1, 2] = 2,
    half: bool = False,
) -> PerItem:
    """Draws pairs of one label together, and pushes others apart up to a margin.

    Args:
      distance: Euclidean, of each pair.
      same: Whether both photos have one label.
      mask: Which pairs count.
      margin: Distance beyond which photos of different labels are left alone.
      power: 2 as in the paper: d^2 and max(0, margin - d)^2; 1 for the distances themselves.
      half: Whether the paper's factor of a half is kept; Santos Garcia et al. 2022 leave it out.

    Returns:
      One value a pair.

    References:
      Hadsell, Chopra and LeCun 2006 (DrLIM), https://doi.org/10.1109/CVPR.2006.100, eq. 4.
    """
    term = jnp.where(same, distance, jax.nn.relu(margin - distance))
    value = (jnp.square(term) if power == 2 else term) * (0.5 if half else 1.0)
    return PerItem(jnp.where(mask, value, 0.0), mask)


def nt_xent(
    similarity: Float[Array, "a r"],
    positive: Bool[Array, "a r"],
    negative: Bool[Array, "a r"],
    *,
    temperature: float,
) -> PerItem:
    """Picks each positive out among all negatives of its anchor: cross entropy at a temperature.

    Args:
      similarity: Cosine, larger is nearer.
      positive: Same label, another photo.
      negative: Another label.
      temperature: Divides the similarities.

    Returns:
      One value a positive pair, [a, r]; other positives of the anchor are not in its denominator.

    References:
      Chen et al. 2020 (SimCLR), https://arxiv.org/abs/2002.05709, eq. 1.
    """
    logits = similarity / temperature
    others = masked_log_sum(logits, negative)
    value = jax.nn.softplus(others[:, None] - logits)
    return PerItem(jnp.where(positive, value, 0.0), positive)


def sup_con(
    similarity: Float[Array, "a r"],
    positive: Bool[Array, "a r"],
    negative: Bool[Array, "a r"],
    *,
    temperature: float,
) -> PerItem:
    """Averages, over an anchor's positives, the cross entropy of picking one out among all other photos.

    Args:
      similarity: Cosine, larger is nearer.
      positive: Same label, another photo.
      negative: Another label.
      temperature: Divides the similarities.

    Returns:
      One value an anchor; masked out without a positive.

    References:
      Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 2.
    """
    logits = similarity / temperature
    log_probability = logits - masked_log_sum(logits, positive | negative)[:, None]
    count, mask = jnp.sum(positive, axis=1), positive.any(axis=1)
    value = -jnp.sum(log_probability, axis=1, where=positive) / jnp.maximum(count, 1)
    return PerItem(jnp.where(mask, value, 0.0), mask)


def n_pair(anchor: Float[Array, "p d"], positive: Float[Array, "p d"]) -> PerItem:
    """Picks each anchor's positive out among the positives of all other labels.

    Args:
      anchor: One embedding a label, not normalised.
      positive: Another one of the same labels, in the same order.

    Returns:
      log(1 + sum over j of exp(f_i . g_j - f_i . g_i)) a pair.

    References:
      Sohn 2016, Improved deep metric learning with multi-class N-pair loss objective, eq. 7.
    """
    logits = inner_products(anchor, positive)
    value = jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits)
    return PerItem(value, jnp.ones(value.shape, bool))
