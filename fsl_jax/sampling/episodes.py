"""Draws few-shot episodes: N labels, and K support and Q query photos of each, none twice.

The plan is a pure function of (seed, number of the episode), where task t of step s is episode s * tasks + t. The same
code runs inside the jitted step, where the set lies on the devices, and on the host where photos are read from disk.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from fsl_jax.data.table import Table
from fsl_jax.sampling.flat import category_of_labels
from fsl_jax.types import Batch, Episode, Key


@flax.struct.dataclass
class LabelRows:
    """Rows of a table that is sorted by label.

    Attributes:
      start: First row of each label.
      count: Rows of each label.
      group: Category of each label, where the labels of a task are of one; -1 for labels of too small a category.
    """

    start: Int[Array, "labels"]
    count: Int[Array, "labels"]
    group: Int[Array, "labels"] | None = None

    @classmethod
    def of(cls, table: Table) -> "LabelRows":
        """Counts a table whose rows are sorted by label, as `Table.select` leaves them."""
        count = table.label.counts()
        return cls(jnp.asarray(np.cumsum(count) - count, jnp.int32), jnp.asarray(count, jnp.int32))


def draw_without_replacement(
    key: Key, count: Int[Array, ""] | int, *, size: int, most: int
) -> Int[Array, "size"]:
    """Draws different numbers from 0 to count - 1, each set equally likely.

    Integer random bits are sorted, so every backend draws the same.

    Args:
      key: Random key.
      count: How many numbers there are; at least `size`, at most `most`.
      size: How many to draw.
      most: Static bound of `count`.
    """
    bits = jax.random.bits(key, (most,), jnp.uint32) >> 1
    beyond = jnp.arange(most) >= count
    return jnp.argsort(jnp.where(beyond, jnp.uint32(0xFFFFFFFF), bits), stable=True)[:size]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodePlan:
    """N-way K-shot Q-query episodes from one table.

    Attributes:
      tasks: Tasks a step.
      way: Labels a task.
      shot: Support photos a label.
      queries: Query photos a label.
      labels: Labels in the table.
      most_photos: Photos of the label that has most.
      group_of: Category of each label, from which a task takes all its labels; -1 for labels that take no part.
        Without any, a task mixes all labels.
    """

    tasks: int
    way: int
    shot: int
    queries: int
    labels: int
    most_photos: int
    group_of: tuple[int, ...] = ()

    def columns(self, table: Table) -> LabelRows:
        """Takes what `rows` needs from the table."""
        rows = LabelRows.of(table)
        return rows.replace(group=jnp.asarray(self.group_of, jnp.int32)) if self.group_of else rows  # type: ignore[attr-defined]

    def rows(
        self, columns: LabelRows, key: Key, step: Int[Array, ""] | int, window: Any = ()
    ) -> Int[Array, "tasks way photos"]:
        """Draws the rows of one step's tasks.

        Args:
          columns: Where the table's labels lie.
          key: Of the run; the same key and step give the same rows, on any number of devices.
          step: Number of the step.
          window: Nothing; of plans that look at embeddings.

        Returns:
          Row numbers; the first `shot` of a label are its support.
        """
        del window
        episodes = jnp.asarray(step, jnp.uint32) * self.tasks + jnp.arange(self.tasks, dtype=jnp.uint32)
        keys = jax.vmap(partial(jax.random.fold_in, key))(episodes)
        return jax.vmap(partial(self._task, columns))(keys)

    def _task(self, columns: LabelRows, key: Key) -> Int[Array, "way photos"]:
        of_labels, of_photos = jax.random.split(key)
        labels = self._labels(columns, of_labels)
        size = self.shot + self.queries
        draw = partial(draw_without_replacement, size=size, most=self.most_photos)
        photos = jax.vmap(draw)(jax.random.split(of_photos, self.way), columns.count[labels])
        return columns.start[labels][:, None] + photos

    def _labels(self, columns: LabelRows, key: Key) -> Int[Array, "way"]:
        """Draws a task's labels, each equally often; with categories, all of that of the first."""
        if columns.group is None:
            return draw_without_replacement(key, self.labels, size=self.way, most=self.labels)
        bits = jax.random.bits(key, (self.labels,), jnp.uint32) >> 1
        first = jnp.argmin(jnp.where(columns.group < 0, jnp.uint32(0xFFFFFFFF), bits))
        others = columns.group != columns.group[first]
        return jnp.argsort(jnp.where(others, jnp.uint32(0xFFFFFFFF), bits), stable=True)[: self.way]

    def assemble(
        self, images: Num[Array, "tasks way photos h w c"], columns: Any = None, rows: Any = None
    ) -> Episode:
        """Parts the photos of the drawn rows into support and query; labels count from 0 in each task."""
        del columns, rows
        support, query = images[:, :, : self.shot], images[:, :, self.shot :]
        return Episode(self._batch(support), self._batch(query), way=self.way)

    def _batch(self, images: Num[Array, "tasks way photos h w c"]) -> Batch:
        photos = images.shape[2]
        label = jnp.repeat(jnp.arange(self.way), photos)
        return Batch(
            images.reshape(self.tasks, self.way * photos, *images.shape[3:]),
            jnp.broadcast_to(label[None], (self.tasks, self.way * photos)),
        )


def make(table: Table, *, tasks: int, way: int, shot: int, queries: int, group_by: str = "") -> EpisodePlan:
    """Plans episodes, after a check that the table has the labels and photos for them.

    Args:
      table: Photos, sorted by label.
      tasks: Tasks a step.
      way: Labels a task.
      shot: Support photos a label.
      queries: Query photos a label.
      group_by: A category level, such as "alphabet": the labels of a task are then of one category, and categories with
        fewer labels than `way`, or unknown ones, take no part. "" mixes all labels.

    Raises:
      ValueError: There are fewer labels than `way`, a label has fewer than shot + queries photos, or there is no
        such level.
    """
    for name, value in {"tasks": tasks, "way": way, "shot": shot, "queries": queries}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; an episode needs at least 1")
    labels, splits = len(table.label.names), "+".join(sorted(set(table.split)))
    if labels < way:
        raise ValueError(
            f"{way}-way episodes need {way} labels, but split {splits!r} of {table.source} has {labels}: "
            "lower --config.episode.way and --config.eval.way, or give this split more labels"
        )
    count = table.label.counts()
    poorest = int(np.argmin(count))
    if count[poorest] < shot + queries:
        raise ValueError(_too_few(table, poorest, count, shot, queries))
    return EpisodePlan(
        tasks=tasks,
        way=way,
        shot=shot,
        queries=queries,
        labels=labels,
        most_photos=int(count.max()),
        group_of=_groups(table, group_by, way) if group_by else (),
    )


def _groups(table: Table, level: str, way: int) -> tuple[int, ...]:
    """Gives the category of each label, and -1 where that has fewer labels than a task."""
    group = category_of_labels(table, level)
    count = np.bincount(group[group >= 0], minlength=1)
    if count.max() < way:
        raise ValueError(
            f"no {level} of {table.source} has the {way} labels of a task, the largest has {count.max()}: lower "
            f"the way, or mix categories with group_by=''"
        )
    return tuple(np.where((group >= 0) & (count[group] >= way), group, -1).tolist())


def _too_few(table: Table, poorest: int, count: np.ndarray, shot: int, queries: int) -> str:
    needed, have = shot + queries, int(count[poorest])
    others = int((count < needed).sum()) - 1
    return (
        f"label {table.label.names[poorest]!r} has {have} photo{'s' * (have != 1)}"
        f"{f' ({others} more labels have too few)' if others else ''}; {shot} shot + {queries} "
        f"quer{'ies' if queries > 1 else 'y'} needs {needed}: drop it with --config.data.min_photos={needed}"
    )
