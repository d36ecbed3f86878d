"""Which photos are positives and which negatives of an anchor."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Masks(NamedTuple):
    """Anchors against references.

    Attributes:
      positive: Same label, another photo.
      negative: Another label.
    """

    positive: Bool[Array, "a r"]
    negative: Bool[Array, "a r"]


def pair_masks(
    anchor_label: Int[Array, "a"],
    reference_label: Int[Array, "r"],
    anchor_row: Int[Array, "a"],
    reference_row: Int[Array, "r"],
    *,
    valid: Bool[Array, "r"] | None = None,
) -> Masks:
    """Compares labels; a photo is never its own positive, even where it is in the batch twice.

    Args:
      anchor_label: Labels of the anchors.
      reference_label: Labels of the references, among which the anchors may be.
      anchor_row: Which photo each anchor is.
      reference_row: Which photo each reference is.
      valid: References that are there at all; None is all.
    """
    same = anchor_label[:, None] == reference_label[None, :]
    itself = anchor_row[:, None] == reference_row[None, :]
    there = jnp.ones_like(same) if valid is None else jnp.broadcast_to(valid[None, :], same.shape)
    return Masks(same & ~itself & there, ~same & there)
