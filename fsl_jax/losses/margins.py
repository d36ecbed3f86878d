"""Margins that are not one number: learned boundaries, and margins from descriptions."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fsl_jax.losses.distances import inner_products
from fsl_jax.ops.norm import at_least_float32, l2_normalise
from fsl_jax.types import PerItem

Scaling = Literal["divide", "multiply"]


def boundary(
    positive_distance: Float[Array, "m"],
    negative_distance: Float[Array, "m"],
    mask: Bool[Array, "m"],
    boundary: Float[Array, "m"],
    *,
    margin: float,
) -> PerItem:
    """Wants positives inside a boundary and negatives outside of it, each by a margin.

    Args:
      positive_distance: Euclidean, anchor to positive, of unit vectors.
      negative_distance: Anchor to negative.
      mask: Which triplets count.
      boundary: Learned, of each anchor's label; the paper starts at 1.2.
      margin: The paper has 0.2.

    Returns:
      [2m]: all positive terms, then all negative ones. The paper's loss is their `reduce.nonzero_mean`.

    References:
      Wu et al. 2017, https://arxiv.org/abs/1706.07567, eqs. 7 to 9.
    """
    pull = jax.nn.relu(positive_distance - boundary + margin)
    push = jax.nn.relu(boundary - negative_distance + margin)
    both, masks = jnp.concatenate([pull, push]), jnp.concatenate([mask, mask])
    return PerItem(jnp.where(masks, both, 0.0), masks)


def from_descriptions(
    anchor_text: Float[Array, "a t"],
    other_text: Float[Array, "r t"],
    *,
    base: float,
    scaling: Scaling,
) -> Float[Array, "a r"]:
    """Widens a triplet's margin by how far the descriptions of anchor and negative are apart.

    With d the squared Euclidean distance of unit vectors, 0 to 4, the paper's text leaves two readings open:
    "divide" is base + d / (4 - base), "multiply" is base + d (4 - base) / 4, which fills the range base to 4 of
    squared distances between unit vectors.

    Args:
      anchor_text: Description vectors, of any length; a zero row says nothing, and widens nothing.
      other_text: Those of the references.
      base: Margin of equal descriptions, 0 to below 4.
      scaling: Which reading.

    Returns:
      Margin of each pair of anchor and negative.

    Raises:
      ValueError: The base or the scaling is not one of these.

    References:
      Zhao et al. 2019, https://arxiv.org/abs/1909.12939.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling is {scaling!r}; known: {', '.join(get_args(Scaling))}")
    if not 0 <= base < 4:
        raise ValueError(
            f"base is {base}; expected 0 to below 4, the largest squared distance of unit vectors"
        )
    left, right = l2_normalise(at_least_float32(anchor_text)), l2_normalise(at_least_float32(other_text))
    said = jnp.any(left != 0, axis=1)[:, None] & jnp.any(right != 0, axis=1)[None, :]
    apart = jnp.where(said, jnp.clip(2 - 2 * inner_products(left, right), 0.0, 4.0), 0.0)
    # Equal texts differ by rounding alone, and shall give the base itself.
    apart = jnp.where(apart < 1e-6, 0.0, apart)
    return base + (apart / (4 - base) if scaling == "divide" else apart * (4 - base) / 4)
