"""Cross entropy over logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.types import PerItem


def cross_entropy(logits: Float[Array, "n labels"], labels: Int[Array, "n"]) -> PerItem:
    """Compares each item's logits with its label, in float32.

    Args:
      logits: Unnormalised log-probabilities.
      labels: 0 to labels - 1.

    Returns:
      One value an item, none masked.
    """
    log_probabilities = jax.nn.log_softmax(
        logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1
    )
    value = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return PerItem(value, jnp.ones(labels.shape, bool))


def hits(logits: Float[Array, "n labels"], labels: Int[Array, "n"]) -> Bool[Array, "n"]:
    """Says which items have their largest logit, the first one where several are equal, at their label."""
    return jnp.argmax(logits, axis=-1) == labels
