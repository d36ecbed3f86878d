"""Pairs of photos, of one label or of two: what siamese networks are given.

Every photo is the first of a pair once an epoch. The second is, with probability `p_same`, another photo of its label,
and otherwise a photo of another label. A photo that is alone in its label is only ever paired with other labels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jaxtyping import Array, Int, Num

from fsl_jax.data.table import Table
from fsl_jax.sampling.flat import (
    Columns,
    batch_of,
    below,
    from_epochs,
    need_two_labels,
    numbered_keys,
    of_another_label,
    positive,
)
from fsl_jax.types import Batch, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairPlan:
    """Pairs: rows 2i and 2i + 1 of a batch belong together.

    Attributes:
      pairs: Pairs a step.
      p_same: Probability of a pair of one label.
      count: Photos of the table.
    """

    pairs: int
    p_same: float
    count: int

    @property
    def size(self) -> int:
        """Photos a step."""
        return 2 * self.pairs

    def columns(self, table: Table) -> Columns:
        """Takes what `rows` needs from the table."""
        return Columns.of(table)

    def rows(
        self, columns: Columns, key: Key, step: Int[Array, ""] | int, window: Any = ()
    ) -> Int[Array, "size"]:
        """Returns the rows of one step, pair by pair."""
        del window
        of_first, of_second = jax.random.split(key)
        first = from_epochs(of_first, step, take=self.pairs, count=self.count)
        keys = numbered_keys(of_second, step, take=self.pairs)
        second = jax.vmap(lambda key, row: self._other(columns, key, row))(keys, first)
        return jnp.stack([first, second], axis=1).reshape(-1)

    def _other(self, columns: Columns, key: Key, row: Int[Array, ""]) -> Int[Array, ""]:
        of_same, of_positive, of_negative = jax.random.split(key, 3)
        label = columns.label[row]
        same = jax.random.bernoulli(of_same, self.p_same) & (columns.count[label] > 1)
        negative = of_another_label(of_negative, columns, label)
        return jnp.where(same, of_same_label(of_positive, columns, row), negative)

    def assemble(self, images: Num[Array, "b h w c"], columns: Columns, rows: Int[Array, "b"]) -> Batch:
        """Joins photos with their labels."""
        return batch_of(images, columns, rows)


def of_same_label(key: Key, columns: Columns, row: Int[Array, ""]) -> Int[Array, ""]:
    """Draws another photo of a row's label; the photo itself where there is no other."""
    label = columns.label[row]
    start, count = columns.start[label], columns.count[label]
    return start + (row - start + 1 + below(key, count - 1)) % count


def make(table: Table, *, pairs: int, p_same: float) -> PairPlan:
    """Plans pairs.

    Args:
      table: Photos, sorted by label.
      pairs: Pairs a step.
      p_same: Probability of a pair of one label, 0 to 1.

    Raises:
      ValueError: There is one label only, or pairs of one label are wanted and no label has two photos.
    """
    need_two_labels(table)
    if not 0 <= p_same <= 1:
        raise ValueError(f"config.sampler.options.p_same is {p_same}; expected 0 to 1")
    alone = int((table.label.counts() == 1).sum())
    if p_same and alone == len(table):
        raise ValueError(f"{table.source}: no label has two photos, so no pair can be of one label")
    if alone:
        logging.warning(
            "%s: %d photos are alone in their label; they are paired with other labels only",
            table.source,
            alone,
        )
    return PairPlan(pairs=positive("pairs", pairs), p_same=float(p_same), count=len(table))
