"""Cross entropy over logits, and over cosines with a margin."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.losses.distances import root
from fsl_jax.types import PerItem


def masked_log_sum(exponents: Float[Array, "a r"], there: Bool[Array, "a r"]) -> Float[Array, "a"]:
    """Returns log of the summed exponentials of those that are there; a very low, finite number where none is."""
    return jax.nn.logsumexp(jnp.where(there, exponents, -1e9), axis=1)


def cross_entropy(
    logits: Float[Array, "n labels"],
    labels: Int[Array, "n"],
    *,
    smoothing: float = 0.0,
    weights: Float[Array | np.ndarray, "labels"] | None = None,
) -> PerItem:
    """Compares each item's logits with its label, in float32.

    Args:
      logits: Unnormalised log-probabilities.
      labels: 0 to labels - 1; below 0 where the label is unknown.
      smoothing: Share of the target that is spread evenly over all labels (Szegedy et al. 2016,
        https://arxiv.org/abs/1512.00567).
      weights: Of each label, such as `balance.name_weights`; an item's whole value, with its smoothed part, is
        multiplied by its label's.

    Returns:
      One value an item; masked out where the label is unknown. A mean of weighted values is over the number of items,
      not over their weights.
    """
    log_probabilities = jax.nn.log_softmax(
        logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1
    )
    known = labels >= 0
    own = jnp.maximum(labels, 0)
    value = -jnp.take_along_axis(log_probabilities, own[:, None], axis=-1)[:, 0]
    if smoothing:
        value = (1 - smoothing) * value - smoothing * jnp.mean(log_probabilities, axis=-1)
    if weights is not None:
        value = value * jnp.asarray(weights, value.dtype)[own]
    return PerItem(jnp.where(known, value, 0.0), known)


def hits(logits: Float[Array, "n labels"], labels: Int[Array, "n"]) -> Bool[Array, "n"]:
    """Says which items have their largest logit, the first one where several are equal, at their label."""
    return jnp.argmax(logits, axis=-1) == labels


def normalised(cosines: Float[Array, "n labels"], labels: Int[Array, "n"], *, temperature: float) -> PerItem:
    """Takes cosines over a temperature as logits.

    Args:
      cosines: Of photo and label vector.
      labels: 0 to labels - 1.
      temperature: Divides; the paper has 0.05.

    References:
      Zhai and Wu 2019, https://arxiv.org/abs/1811.12649.
    """
    return cross_entropy(cosines / temperature, labels)


def cosface(
    cosines: Float[Array, "n labels"], labels: Int[Array, "n"], *, margin: float, scale: float
) -> PerItem:
    """Takes a margin off the cosine of each photo's own label.

    Args:
      cosines: Of photo and label vector.
      labels: 0 to labels - 1.
      margin: The paper has 0.35.
      scale: Multiplies; the paper has 64.

    References:
      Wang et al. 2018, https://arxiv.org/abs/1801.09414, eq. 4.
    """
    own = labels[:, None] == jnp.arange(cosines.shape[1])[None, :]
    return cross_entropy(scale * (cosines - jnp.where(own, margin, 0.0)), labels)


def arcface(
    cosines: Float[Array, "n labels"], labels: Int[Array, "n"], *, margin: float, scale: float
) -> PerItem:
    """Adds a margin to the angle between each photo and its own label.

    Beyond an angle of pi - margin, where cos(angle + margin) would rise again, cos(angle) - margin sin(margin)
    takes its place, as in the published program.

    Args:
      cosines: Of photo and label vector.
      labels: 0 to labels - 1.
      margin: In radians; the paper has 0.5.
      scale: Multiplies; the paper has 64.

    References:
      Deng et al. 2019, https://arxiv.org/abs/1801.07698, eq. 3.
    """
    own = labels[:, None] == jnp.arange(cosines.shape[1])[None, :]
    sine = root(1 - jnp.square(cosines))
    turned = cosines * jnp.cos(margin) - sine * jnp.sin(margin)
    moved = jnp.where(cosines > jnp.cos(jnp.pi - margin), turned, cosines - margin * jnp.sin(margin))
    return cross_entropy(scale * jnp.where(own, moved, cosines), labels)
