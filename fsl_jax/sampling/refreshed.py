"""Triplets whose negatives are drawn from the photos that the network confuses with the anchor most.

A window of steps shares one table of neighbours. The table is made at the window's start, from embeddings of that
moment, and saved with the state; so a run that was stopped continues with the same negatives.

References:
  Gajic and Baldrich 2018, Cross-domain fashion image retrieval, CVPR workshops.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fsl_jax.data.table import Table
from fsl_jax.sampling.flat import below, positive
from fsl_jax.sampling.triplets import TripletColumns, TripletPlan, checked_sides
from fsl_jax.types import Key


@flax.struct.dataclass
class Neighbours:
    """The wrong gallery photos nearest to each anchor.

    Attributes:
      place: Places in the gallery, nearest first.
      found: How many of them there are; with none, any photo of another label is drawn.
    """

    place: Int[Array, "q k"]
    found: Int[Array, "q"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefreshedPlan(TripletPlan):
    """Triplets with hard negatives.

    Attributes:
      neighbours: Photos that a negative is drawn from.
      refresh_every: Steps of a window.
    """

    neighbours: int
    refresh_every: int

    def first_window(self) -> Neighbours:
        """Returns an empty table, whose shapes a state has before its first window."""
        return Neighbours(
            jnp.zeros((self.anchors, self.neighbours), jnp.int32), jnp.zeros(self.anchors, jnp.int32)
        )

    def sides(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of anchors and gallery, which a window's embeddings are taken of."""
        columns = self.columns(table)
        return np.asarray(columns.anchor), np.asarray(columns.gallery)

    def _negative(
        self,
        columns: TripletColumns,
        key: Key,
        i: Int[Array, ""],
        label: Int[Array, ""],
        window: Neighbours,
    ) -> Int[Array, ""]:
        found = window.found[i]
        near = window.place[i, below(key, found)]
        return jnp.where(found > 0, near, super()._negative(columns, key, i, label, None))


def make(
    table: Table, *, triplets: int, cross_domain: bool = True, neighbours: int = 25, refresh_every: int
) -> RefreshedPlan:
    """Plans triplets with hard negatives.

    Args:
      table: Photos, sorted by label.
      triplets: Triplets a step.
      cross_domain: Whether anchors are query photos, and positives and negatives gallery photos.
      neighbours: Wrong photos nearest to an anchor, from which its negative is drawn; the paper has 25.
      refresh_every: Steps between new embeddings of all photos; a multiple of config.train.steps_per_call.

    Raises:
      ValueError: An option is not as it may be, or the table has no triplets.
    """
    return RefreshedPlan(
        triplets=positive("triplets", triplets),
        cross_domain=cross_domain,
        negative="any",
        level="",
        anchors=checked_sides(table, cross_domain=cross_domain),
        neighbours=positive("neighbours", neighbours),
        refresh_every=positive("refresh_every", refresh_every),
    )
