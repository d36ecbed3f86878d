"""Weights that balance names, or the two sides of attributes, by how many training items each has."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from fsl_jax.lookup import closest

Rule = Literal["none", "inverse", "inverse_root", "class_balanced"]


def name_weights(counts: Int[np.ndarray, "c"], *, rule: Rule, beta: float = 0.999) -> Float[np.ndarray, "c"]:
    """Weights names so that rare ones count for more, and the mean over all training items is 1.

    Args:
      counts: Training items of each name.
      rule: "none": all alike. "inverse": 1 / count. "inverse_root": 1 / sqrt(count). "class_balanced":
        (1 - beta) / (1 - beta^count), from equal weights at beta 0 to "inverse" as beta nears 1.
      beta: From 0 to below 1, of "class_balanced" alone; the paper has 0.9 to 0.9999.

    Returns:
      float32; 0 for a name without items. "inverse" is scikit-learn's "balanced" over the names with items.

    Raises:
      ValueError: A count is negative, the rule is unknown, or beta is out of its range.

    References:
      Ferreira et al. 2018, https://arxiv.org/abs/1806.09445 (inverse); Cui et al. 2019,
      https://arxiv.org/abs/1901.05555 (class_balanced).

    Example:
      >>> name_weights(np.array([1, 2]), rule="inverse").tolist()
      [1.5, 0.75]
    """
    return _balanced(np.asarray(counts), rule, beta)


def attribute_weights(
    positives: Int[np.ndarray, "a"], negatives: Int[np.ndarray, "a"], *, rule: Rule, beta: float = 0.999
) -> tuple[Float[np.ndarray, "a"], Float[np.ndarray, "a"]]:
    """Balances yes and no of each attribute as two names, so that the mean over its known items is 1.

    Args:
      positives: Training items that have the attribute.
      negatives: Those that have it not; where it is unknown counts for neither.
      rule: As in `name_weights`.
      beta: As in `name_weights`.

    Returns:
      Weights of a positive and of a negative, float32; 0 for a side without items.

    Raises:
      ValueError: As in `name_weights`, or the two differ in length.
    """
    if len(positives) != len(negatives):
        raise ValueError(
            f"positives has {len(positives)} attributes, negatives {len(negatives)}; expected equally many"
        )
    of_positive, of_negative = _balanced(np.stack([positives, negatives]), rule, beta)
    return of_positive, of_negative


def _balanced(counts: Int[np.ndarray, "c *a"], rule: Rule, beta: float) -> Float[np.ndarray, "c *a"]:
    """Weights along the first axis."""
    if (counts < 0).any():
        raise ValueError(f"a count is {counts.min()}; expected 0 or more items of each name")
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; expected 0 to below 1, such as 0.999")
    count = counts.astype(np.float64)
    # A name without items is counted as 1 here, only not to divide by 0.
    raw = np.where(count > 0, _raw(np.maximum(count, 1), rule, beta), 0.0)
    items, mass = count.sum(axis=0), (count * raw).sum(axis=0)
    return (raw * (items / np.where(mass > 0, mass, 1.0))).astype(np.float32)


def _raw(count: Float[np.ndarray, "..."], rule: Rule, beta: float) -> Float[np.ndarray, "..."]:
    """Returns weights up to a common factor, of counts of 1 or more."""
    if rule == "none":
        return np.ones_like(count)
    if rule == "inverse":
        return 1 / count
    if rule == "inverse_root":
        return 1 / np.sqrt(count)
    if rule == "class_balanced":
        return (1 - beta) / (1 - beta**count)
    raise ValueError(f"rule of the weights is {rule!r}; {closest(rule, list(get_args(Rule)))}")
