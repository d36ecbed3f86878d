"""Triplets of anchor, positive and negative, within one set of photos or from query to gallery photos.

Every photo that has a positive is an anchor once an epoch.
"""

import dataclasses
from typing import Any, Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Int, Num

from fsl_jax.data.table import Table
from fsl_jax.lookup import closest
from fsl_jax.sampling.flat import (
    Columns,
    batch_of,
    below,
    category_of_labels,
    from_epochs,
    need_two_labels,
    numbered_keys,
    positive,
)
from fsl_jax.types import Batch, Key

Negative = Literal["any", "neighbour"]


@flax.struct.dataclass
class TripletColumns:
    """What the plan needs of a table.

    Attributes:
      table: All of it.
      anchor: Rows that can be anchors.
      gallery: Rows from which positives and negatives are drawn, sorted by label.
      start: Where each label begins in `gallery`.
      count: Gallery rows of each label.
      place: Where each anchor stands in `gallery`; -1 where it does not.
      neighbour: The next label of the same category, for negatives nearby; the label itself where there is none.
    """

    table: Columns
    anchor: Int[Array, "q"]
    gallery: Int[Array, "g"]
    start: Int[Array, "labels"]
    count: Int[Array, "labels"]
    place: Int[Array, "q"]
    neighbour: Int[Array, "labels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TripletPlan:
    """Triplets: rows 3i, 3i + 1 and 3i + 2 of a batch are anchor, positive and negative.

    Attributes:
      triplets: Triplets a step.
      cross_domain: Whether anchors are query photos, positives and negatives gallery photos.
      negative: "any" photo of another label, or one of the "neighbour" label.
      level: Category level of the neighbours.
      anchors: Rows that can be anchors.
    """

    triplets: int
    cross_domain: bool
    negative: Negative
    level: str
    anchors: int

    @property
    def size(self) -> int:
        """Photos a step."""
        return 3 * self.triplets

    def columns(self, table: Table) -> TripletColumns:
        """Takes what `rows` needs from the table."""
        anchor, gallery, start, count, place = _sides(table, cross_domain=self.cross_domain)
        neighbour = np.arange(len(table.label.names))
        if self.negative == "neighbour":
            neighbour = _neighbours(category_of_labels(table, self.level), count)
        arrays = (
            jnp.asarray(values, jnp.int32) for values in (anchor, gallery, start, count, place, neighbour)
        )
        return TripletColumns(Columns.of(table), *arrays)

    def rows(
        self, columns: TripletColumns, key: Key, step: Int[Array, ""] | int, window: Any = ()
    ) -> Int[Array, "size"]:
        """Returns the rows of one step, triplet by triplet."""
        of_anchor, of_others = jax.random.split(key)
        chosen = from_epochs(of_anchor, step, take=self.triplets, count=self.anchors)
        keys = numbered_keys(of_others, step, take=self.triplets)
        return jax.vmap(lambda key, i: self._triplet(columns, key, i, window))(keys, chosen).reshape(-1)

    def _triplet(self, columns: TripletColumns, key: Key, i: Int[Array, ""], window: Any) -> Int[Array, "3"]:
        of_positive, of_negative = jax.random.split(key)
        anchor = columns.anchor[i]
        label, place = columns.table.label[anchor], columns.place[i]
        start, count = columns.start[label], columns.count[label]
        # The anchor itself is passed over where it is among its label's gallery photos.
        other = start + (place - start + 1 + below(of_positive, count - 1)) % count
        drawn = jnp.where(place < 0, start + below(of_positive, count), other)
        negative = self._negative(columns, of_negative, i, label, window)
        return jnp.stack([anchor, columns.gallery[drawn], columns.gallery[negative]])

    def _negative(
        self, columns: TripletColumns, key: Key, i: Int[Array, ""], label: Int[Array, ""], window: Any
    ) -> Int[Array, ""]:
        """Draws a place in the gallery."""
        del i, window
        start, own = columns.start[label], columns.count[label]
        place = below(key, columns.gallery.shape[0] - own)
        place = jnp.where(place < start, place, place + own)
        if self.negative == "any":
            return place
        near = columns.neighbour[label]
        nearby = columns.start[near] + below(key, columns.count[near])
        return jnp.where(near == label, place, nearby)

    def assemble(
        self, images: Num[Array, "b h w c"], columns: TripletColumns, rows: Int[Array, "b"]
    ) -> Batch:
        """Joins photos with their labels."""
        return batch_of(images, columns.table, rows)


def _sides(table: Table, *, cross_domain: bool) -> tuple[np.ndarray, ...]:
    """Returns anchors, gallery, where each label begins in it, how many it has, and where each anchor stands."""
    codes = table.label.codes
    gallery = np.flatnonzero(table.role == "gallery") if cross_domain else np.arange(len(table))
    count = np.bincount(codes[gallery], minlength=len(table.label.names))
    asked = np.flatnonzero(table.role == "query") if cross_domain else gallery
    anchor = asked[count[codes[asked]] > (0 if cross_domain else 1)]
    place = np.full(len(table), -1)
    place[gallery] = np.arange(len(gallery))
    return anchor, gallery, np.cumsum(count) - count, count, place[anchor]


def _neighbours(category: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Returns for each label the next one of its category that has gallery photos, the first after the last."""
    neighbour = np.arange(len(category))
    for code in np.unique(category[category >= 0]):
        there = np.flatnonzero((category == code) & (count > 0))
        of_category = np.flatnonzero(category == code)
        if len(there):
            after = np.searchsorted(there, of_category, side="right") % len(there)
            neighbour[of_category] = there[after]
    return neighbour


def checked_sides(table: Table, *, cross_domain: bool) -> int:
    """Counts the anchors, and says which photos are none.

    Raises:
      ValueError: There is nothing to compare, or the photos have no roles.
    """
    need_two_labels(table)
    if cross_domain and (table.role is None or not {"query", "gallery"} <= set(table.role)):
        raise ValueError(
            f"{table.source}: cross-domain triplets need photos of the roles query and gallery in split "
            f"{'+'.join(sorted(set(table.split)))!r}; set --config.sampler.options.cross_domain=False to do without"
        )
    anchor, gallery, _, count, _ = _sides(table, cross_domain=cross_domain)
    if not len(anchor) or (count > 0).sum() < 2:
        raise ValueError(
            f"{table.source}: no triplet can be made: no photo has another of its label"
            f"{' in the gallery' if cross_domain else ''}, or all gallery photos have one label"
        )
    asked = int(np.sum(table.role == "query")) if cross_domain else len(gallery)
    if len(anchor) < asked:
        logging.warning(
            "%s: %d of %d photos have no positive; they are no anchors",
            table.source,
            asked - len(anchor),
            asked,
        )
    return len(anchor)


def make(
    table: Table,
    *,
    triplets: int,
    cross_domain: bool = False,
    negative: Negative = "any",
    level: str = "category",
) -> TripletPlan:
    """Plans triplets.

    Args:
      table: Photos, sorted by label.
      triplets: Triplets a step.
      cross_domain: Whether anchors are query photos, and positives and negatives gallery photos.
      negative: "any" photo of another label; or "neighbour", one of the next label of the same category: a cheap
        stand-in for hard negatives.
      level: Category level of the neighbours.

    Raises:
      ValueError: An option is not as it may be, or the table has no triplets.
    """
    if negative not in get_args(Negative):
        raise ValueError(
            f"config.sampler.options.negative is {negative!r}; {closest(negative, list(get_args(Negative)))}"
        )
    anchors = checked_sides(table, cross_domain=cross_domain)
    if negative == "neighbour":
        category_of_labels(table, level)
    return TripletPlan(
        triplets=positive("triplets", triplets),
        cross_domain=cross_domain,
        negative=negative,
        level=level,
        anchors=anchors,
    )
