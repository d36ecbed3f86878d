"""Losses of attributes that a photo has or has not, each by itself: 1 yes, 0 no, -1 unknown."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.ops.norm import at_least_float32
from fsl_jax.types import PerItem

Weights = tuple[Float[Array | np.ndarray, "a"], Float[Array | np.ndarray, "a"]]
"""Of a positive and of a negative, for each attribute, such as `balance.attribute_weights`."""


def binary_cross_entropy(
    logits: Float[Array, "n a"], truth: Int[Array, "n a"], *, weights: Weights | None = None
) -> PerItem:
    """Takes -log of the probability that an attribute's sigmoid gives to the truth.

    Args:
      logits: Log-odds of yes.
      truth: 1 yes, 0 no, -1 unknown.
      weights: Multiply the elements.

    Returns:
      One value an element, [n, a]; masked out where the truth is unknown.
    """
    known, positive, wide = _parts(logits, truth)
    value = jax.nn.softplus(jnp.where(positive, -wide, wide))
    return _weighted(value, known, positive, weights)


def focal(
    logits: Float[Array, "n a"],
    truth: Int[Array, "n a"],
    *,
    gamma: float,
    alpha: float | None,
    weights: Weights | None = None,
) -> PerItem:
    """Turns cross entropy down where the truth is probable already: -alpha_t (1 - p_t)^gamma log p_t.

    Args:
      logits: Log-odds of yes.
      truth: 1 yes, 0 no, -1 unknown.
      gamma: At least 0; 0 is cross entropy, the paper has 2.
      alpha: Factor of a positive, 0 to 1; a negative has 1 - alpha. The paper has 0.25; None is 1 for both.
      weights: Multiply the elements.

    Returns:
      One value an element, [n, a]; masked out where the truth is unknown.

    Raises:
      ValueError: A number is out of its range.

    References:
      Lin et al. 2017, https://arxiv.org/abs/1708.02002, eqs. 4 and 5.
    """
    _need("gamma", gamma, gamma >= 0, "at least 0")
    _need("alpha", alpha, alpha is None or 0 <= alpha <= 1, "0 to 1, or None")
    known, positive, wide = _parts(logits, truth)
    value = _focused(jnp.where(positive, wide, -wide), gamma)
    if alpha is not None:
        value = value * jnp.where(positive, alpha, 1 - alpha)
    return _weighted(value, known, positive, weights)


def asymmetric(
    logits: Float[Array, "n a"],
    truth: Int[Array, "n a"],
    *,
    gamma_positive: float,
    gamma_negative: float,
    clip: float,
    weights: Weights | None = None,
) -> PerItem:
    """Focuses positives and negatives by different powers, and leaves easy negatives alone.

    A positive has -(1 - p)^gamma_positive log p, a negative -p_m^gamma_negative log(1 - p_m) with
    p_m = max(p - clip, 0). The gradient goes through the powers, as in the paper; the published program can take them
    for constants.

    Args:
      logits: Log-odds of yes.
      truth: 1 yes, 0 no, -1 unknown.
      gamma_positive: At least 0; the paper has 0.
      gamma_negative: At least 0; the paper has 4.
      clip: From 0 to below 1: negatives with at most this probability count 0. The paper has 0.05.
      weights: Multiply the elements.

    Returns:
      One value an element, [n, a]; masked out where the truth is unknown.

    Raises:
      ValueError: A number is out of its range.

    References:
      Ridnik et al. 2021, https://arxiv.org/abs/2009.14119.
    """
    _need("gamma_positive", gamma_positive, gamma_positive >= 0, "at least 0")
    _need("gamma_negative", gamma_negative, gamma_negative >= 0, "at least 0")
    _need("clip", clip, 0 <= clip < 1, "0 to below 1")
    known, positive, wide = _parts(logits, truth)
    of_negative = _shifted(wide, gamma_negative, clip) if clip else _focused(-wide, gamma_negative)
    value = jnp.where(positive, _focused(wide, gamma_positive), of_negative)
    return _weighted(value, known, positive, weights)


def _parts(
    logits: Float[Array, "n a"], truth: Int[Array, "n a"]
) -> tuple[Bool[Array, "n a"], Bool[Array, "n a"], Float[Array, "n a"]]:
    """Returns what is known, what is a yes, and the logits, wide, with 0 where unknown."""
    known = truth >= 0
    return known, truth > 0, jnp.where(known, at_least_float32(logits), 0.0)


def _focused(log_odds: Float[Array, "n a"], gamma: float) -> Float[Array, "n a"]:
    """Returns -(1 - p)^gamma log p of the truth's log-odds; as powers of e, since 0^gamma has no finite slope."""
    return jax.nn.softplus(-log_odds) * jnp.exp(-gamma * jax.nn.softplus(log_odds))


def _shifted(logits: Float[Array, "n a"], gamma: float, clip: float) -> Float[Array, "n a"]:
    """Returns -p_m^gamma log(1 - p_m) of negatives, clip above 0."""
    probability = jax.nn.sigmoid(logits)
    there = probability > clip
    shifted = jnp.where(there, probability - clip, 1.0)
    # Not 1 - shifted: where the logit is large, that is 0 for a tiny clip. At most 1, in spite of rounding.
    rest = jnp.minimum(jax.nn.sigmoid(-logits) + clip, 1.0)
    return jnp.where(there, -(shifted**gamma) * jnp.log(rest), 0.0)


def _weighted(
    value: Float[Array, "n a"],
    known: Bool[Array, "n a"],
    positive: Bool[Array, "n a"],
    weights: Weights | None,
) -> PerItem:
    if weights is not None:
        of_positive, of_negative = (jnp.asarray(side, value.dtype)[None, :] for side in weights)
        value = value * jnp.where(positive, of_positive, of_negative)
    return PerItem(jnp.where(known, value, 0.0), known)


def _need(name: str, value: float | None, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name} is {value}; expected {expected}")


LOSSES: dict[str, Callable[..., PerItem]] = {
    "binary_cross_entropy": binary_cross_entropy,
    "focal": focal,
    "asymmetric": asymmetric,
}
