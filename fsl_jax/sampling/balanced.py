"""P labels x K photos: the batch of all losses that compare photos with each other.

An epoch is ceil(labels / P) steps. It has every label once; where P does not divide the number of labels, its last
step is filled up with the epoch's first ones. A label's photos are taken K by K in a shuffled order, so that each was
there after ceil(photos / K) epochs, and none is in a step twice unless the label has fewer than K.
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
    category_of_labels,
    need_two_labels,
    permutation,
    positive,
)
from fsl_jax.types import Batch, Key

Short = Literal["repeat", "drop", "refuse"]


@flax.struct.dataclass
class BalancedColumns:
    """What the plan needs of a table.

    Attributes:
      table: All of it.
      label: Labels that take part.
      group: Group of each of these, such as its category.
    """

    table: Columns
    label: Int[Array, "chosen"]
    group: Int[Array, "chosen"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedPlan:
    """P x K batches.

    Attributes:
      labels: P.
      photos: K.
      chosen: Labels that take part, in numbers of the table.
      groups: Number of groups.
      group_of: Group of each chosen label.
      most_photos: Photos of the label that has most.
    """

    labels: int
    photos: int
    chosen: tuple[int, ...]
    groups: int
    group_of: tuple[int, ...]
    most_photos: int

    @property
    def size(self) -> int:
        """Photos a step."""
        return self.labels * self.photos

    @property
    def steps_an_epoch(self) -> int:
        """Steps after which every label was there."""
        return -(-len(self.chosen) // self.labels)

    def columns(self, table: Table) -> BalancedColumns:
        """Takes what `rows` needs from the table."""
        chosen, group = (jnp.asarray(values, jnp.int32) for values in (self.chosen, self.group_of))
        return BalancedColumns(Columns.of(table), chosen, group)

    def rows(
        self, columns: BalancedColumns, key: Key, step: Int[Array, ""] | int, window: Any = ()
    ) -> Int[Array, "size"]:
        """Returns the rows of one step, label by label."""
        del window
        epoch, place = jnp.divmod(jnp.asarray(step, jnp.int32), self.steps_an_epoch)
        of_labels, of_photos = jax.random.split(key)
        order = self._order(columns, of_labels, epoch)
        there = (place * self.labels + jnp.arange(self.labels)) % len(self.chosen)
        labels = columns.label[order[there]]
        photos = jax.vmap(lambda label: self._photos(columns.table, of_photos, epoch, label))(labels)
        return photos.reshape(-1)

    def _order(self, columns: BalancedColumns, key: Key, epoch: Int[Array, ""]) -> Int[Array, "chosen"]:
        """Shuffles the labels; those of one group stand together, in a shuffled order of groups."""
        order = permutation(key, epoch, len(self.chosen))
        if self.groups == 1:
            return order
        groups = permutation(jax.random.fold_in(key, 1), epoch, self.groups)
        rank = jnp.zeros(self.groups, jnp.int32).at[groups].set(jnp.arange(self.groups, dtype=jnp.int32))
        return order[jnp.argsort(rank[columns.group[order]], stable=True)]

    def _photos(
        self, table: Columns, key: Key, epoch: Int[Array, ""], label: Int[Array, ""]
    ) -> Int[Array, "photos"]:
        """Takes the label's next photos; after the last one they are shuffled anew."""
        count = table.count[label]
        visits = -(-count // self.photos)
        shuffle, visit = jnp.divmod(epoch, visits)
        shuffled_by = jax.random.fold_in(jax.random.fold_in(key, label), shuffle)
        bits = jax.random.bits(shuffled_by, (self.most_photos,), jnp.uint32) >> 1
        beyond = jnp.arange(self.most_photos) >= count
        order = jnp.argsort(jnp.where(beyond, jnp.uint32(0xFFFFFFFF), bits), stable=True)
        place = (visit * self.photos + jnp.arange(self.photos)) % count
        return table.start[label] + order[place].astype(jnp.int32)

    def assemble(
        self, images: Num[Array, "b h w c"], columns: BalancedColumns, rows: Int[Array, "b"]
    ) -> Batch:
        """Joins photos with their labels."""
        return batch_of(images, columns.table, rows)


def make(
    table: Table, *, labels: int, photos: int, short: Short = "repeat", group_by: str = ""
) -> BalancedPlan:
    """Plans P x K batches.

    Args:
      table: Photos, sorted by label.
      labels: P, labels a step.
      photos: K, photos a label.
      short: What becomes of labels with fewer than K photos: "repeat" takes some of them twice (a photo is never a
        positive of itself), "drop" leaves the labels out with a warning, "refuse" is an error.
      group_by: A category level; labels of one category then stand together, and a step has few categories: its
        negatives are hard. Labels of an unknown category stand together too. "" mixes all.

    Raises:
      ValueError: There are fewer labels than P, a label has too few photos with "refuse", or there is no such level.
    """
    need_two_labels(table)
    positive("labels", labels), positive("photos", photos)
    if short not in get_args(Short):
        raise ValueError(
            f"config.sampler.options.short is {short!r}; {closest(short, list(get_args(Short)))}"
        )
    count = table.label.counts()
    chosen = _chosen(table, count, photos, short)
    if len(chosen) < labels:
        raise ValueError(
            f"a batch of {labels} labels needs as many, but split {'+'.join(sorted(set(table.split)))!r} of "
            f"{table.source} has {len(chosen)}{_dropped(table, chosen)}: lower --config.sampler.options.labels"
        )
    group_of, groups = _groups(table, chosen, group_by)
    return BalancedPlan(
        labels=labels,
        photos=photos,
        chosen=tuple(chosen.tolist()),
        groups=groups,
        group_of=tuple(group_of.tolist()),
        most_photos=int(count.max()),
    )


def _dropped(table: Table, chosen: np.ndarray) -> str:
    gone = len(table.label.names) - len(chosen)
    return f" after {gone} with too few photos were dropped" if gone else ""


def _chosen(table: Table, count: np.ndarray, photos: int, short: str) -> np.ndarray:
    poor = np.flatnonzero(count < photos)
    if not len(poor) or short == "repeat":
        return np.arange(len(count))
    named = f"{len(poor)} of {len(count)} labels have fewer than {photos} photos"
    named = f"{named}, such as {table.label.names[poor[0]]!r}"
    if short == "refuse":
        raise ValueError(
            f"{table.source}: {named}: set --config.sampler.options.short=repeat or drop, or "
            f"--config.data.min_photos={photos}"
        )
    logging.warning("%s: %s; they are left out of training", table.source, named)
    return np.flatnonzero(count >= photos)


def _groups(table: Table, chosen: np.ndarray, group_by: str) -> tuple[np.ndarray, int]:
    if not group_by:
        return np.zeros(len(chosen), int), 1
    group = category_of_labels(table, group_by)[chosen]
    used, codes = np.unique(group, return_inverse=True)
    return codes, len(used)
