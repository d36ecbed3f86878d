"""The shapes of data that every part of fsl_jax shares, and the words for them.

Glossary:
  label: an identity, for example one article or one written character.
  category: a coarse kind that many labels share.
  domain: where a photo comes from: a camera, a shop, a customer.
  query, gallery: a photo that is asked about, and those that are searched.
  support: the few labelled photos of an episode; its query photos are judged.
  way, shot: labels in an episode, support photos a label.
  episode, task: one few-shot problem. A meta-batch is several tasks.
  anchor, positive, negative: a photo, one of the same label, one of another.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, UInt8

Scalar = Float[Array, ""]
Step = Int[Array, ""] | int
"""Number of a step, from 0."""
Key = jax.Array
Params = Any
"""A pytree of trainable arrays, as flax gives it."""
LOCAL = "local"
"""Column of a batch with the small views of each photo, [b, count, side, side, channels]; see `data.multicrop`."""
Collections = dict[str, Any]
"""Flax variable collections that are not trained by gradient, such as batch statistics."""


@flax.struct.dataclass
class Batch:
    """Flat photos with their labels.

    Attributes:
      image: uint8 as read, or float once prepared; [..., height, width, channels].
      label: Integer label of each photo; inside an episode 0 to way - 1.
      columns: Further columns of the table for the same rows, by name, such as "domain" or "attributes".
    """

    image: UInt8[Array, "*b h w c"] | Float[Array, "*b h w c"]
    label: Int[Array, "*b"]
    columns: dict[str, Num[Array, "..."]] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Episode:
    """A meta-batch of few-shot tasks; every array has a leading task axis.

    Photos are ordered by label: the support of label 0 first.

    Attributes:
      support: [tasks, way * shot, ...].
      query: [tasks, way * queries, ...].
      way: Labels a task.
    """

    support: Batch
    query: Batch
    way: int = flax.struct.field(pytree_node=False)

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.query.label.shape[0]

    @property
    def shot(self) -> int:
        """Support photos a label."""
        return self.support.label.shape[-1] // self.way

    @property
    def queries(self) -> int:
        """Query photos a label."""
        return self.query.label.shape[-1] // self.way


@flax.struct.dataclass
class PerItem:
    """One value an item, and which items count; only reducers divide.

    Attributes:
      value: 0 where masked out.
      mask: True where the item takes part.
    """

    value: Float[Array, "*n"]
    mask: Bool[Array, "*n"]


@flax.struct.dataclass
class PerAnchor:
    """Sums an anchor, where the single elements would not fit into memory; only reducers divide.

    Attributes:
      total: Sum of an anchor's elements.
      count: How many they are.
      active: How many of them are above 0.
    """

    total: Float[Array, "a"]
    count: Num[Array, "a"]
    active: Num[Array, "a"]


@flax.struct.dataclass
class Mean:
    """A sum and a count, so that parts of a set can be added (over tasks, over devices) before the one division.

    Attributes:
      total: Sum of the values.
      count: Number of values.
    """

    total: Scalar
    count: Scalar

    @classmethod
    def of(cls, values: Num[Array, "*n"]) -> "Mean":
        """Sums up an array."""
        return cls(jnp.sum(values, dtype=jnp.float32), jnp.asarray(values.size, jnp.float32))

    def value(self) -> Scalar:
        """Divides; NaN where nothing was counted."""
        return self.total / jnp.where(self.count > 0, self.count, jnp.nan)


@flax.struct.dataclass
class Aux:
    """What a loss gives besides its value.

    Attributes:
      collections: Collections after the step, such as new running statistics.
      metrics: Figures for the log, by name.
    """

    collections: Collections
    metrics: dict[str, Mean]
