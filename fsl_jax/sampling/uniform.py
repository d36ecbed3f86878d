"""Shuffled photos: every photo once an epoch."""

import dataclasses
from typing import Any

from jaxtyping import Array, Int, Num

from fsl_jax.data.table import Table
from fsl_jax.sampling.flat import Columns, batch_of, from_epochs, need_two_labels, positive
from fsl_jax.types import Batch, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformPlan:
    """Batches of an endless row of shuffled epochs; a batch may end one epoch and begin the next.

    Attributes:
      size: Photos a step.
      count: Photos of the table.
    """

    size: int
    count: int

    def columns(self, table: Table) -> Columns:
        """Takes what `rows` needs from the table."""
        return Columns.of(table)

    def rows(
        self, columns: Columns, key: Key, step: Int[Array, ""] | int, window: Any = ()
    ) -> Int[Array, "size"]:
        """Returns the rows of one step."""
        del columns, window
        return from_epochs(key, step, take=self.size, count=self.count)

    def assemble(self, images: Num[Array, "b h w c"], columns: Columns, rows: Int[Array, "b"]) -> Batch:
        """Joins photos with their labels."""
        return batch_of(images, columns, rows)


def make(table: Table, *, batch: int, labelled: bool = True) -> UniformPlan:
    """Plans shuffled batches.

    Args:
      table: Photos, sorted by label.
      batch: Photos a step.
      labelled: Whether what is learned needs two labels at least.
    """
    if labelled:
        need_two_labels(table)
    return UniformPlan(size=positive("batch", batch), count=len(table))
