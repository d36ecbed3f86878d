"""What the plans of flat batches share: where labels lie, shuffled epochs, and the batch of some rows."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from fsl_jax.data.table import Table
from fsl_jax.lookup import closest
from fsl_jax.types import Batch, Key


@flax.struct.dataclass
class Columns:
    """A table that is sorted by label, as arrays.

    Attributes:
      label: Of each row.
      start: First row of each label.
      count: Rows of each label.
      numbers: Vectors or numbers of each row, by name.
    """

    label: Int[Array, "n"]
    start: Int[Array, "labels"]
    count: Int[Array, "labels"]
    numbers: dict[str, Num[Array, "n *t"]]

    @classmethod
    def of(cls, table: Table) -> "Columns":
        """Takes what a plan needs from a table, as `Table.select` leaves it."""
        count = table.label.counts()
        numbers = {name: _as_given(column) for name, column in table.numbers.items()}
        codes, start = (
            jnp.asarray(table.label.codes, jnp.int32),
            jnp.asarray(np.cumsum(count) - count, jnp.int32),
        )
        return cls(codes, start, jnp.asarray(count, jnp.int32), numbers)


def _as_given(column: np.ndarray) -> Num[Array, "n *t"]:
    """Keeps codes as the integers that they are; a device has float32."""
    return jnp.asarray(column, jnp.float32 if np.issubdtype(column.dtype, np.floating) else None)


def batch_of(images: Num[Array, "b h w c"], columns: Columns, rows: Int[Array, "b"]) -> Batch:
    """Joins the photos of some rows with what is known of them; the column "row" says which photo each is."""
    more = {name: column[rows] for name, column in columns.numbers.items()}
    return Batch(images, columns.label[rows], {"row": rows, **more})


def permutation(key: Key, number: Int[Array, ""], count: int) -> Int[Array, "count"]:
    """Returns the order of the epoch with this number: sorted integer bits, the same on every backend."""
    bits = jax.random.bits(jax.random.fold_in(key, number), (count,), jnp.uint32)
    return jnp.argsort(bits, stable=True).astype(jnp.int32)


def from_epochs(key: Key, step: Int[Array, ""] | int, *, take: int, count: int) -> Int[Array, "take"]:
    """Takes the next numbers of an endless row of shuffled epochs, each of which has 0 to count - 1 once.

    Args:
      key: Of the shuffles.
      step: Steps before this one, each of which took as many.
      take: How many; a step may end one epoch and begin the next.
      count: Length of an epoch.
    """
    place = jnp.asarray(step, jnp.uint32) * take + jnp.arange(take, dtype=jnp.uint32)
    epoch = place // count
    touched = (take - 1) // count + 2
    orders = jax.vmap(lambda i: permutation(key, epoch[0] + i, count))(jnp.arange(touched, dtype=jnp.uint32))
    return orders[(epoch - epoch[0]).astype(jnp.int32), (place % count).astype(jnp.int32)]


def numbered_keys(key: Key, step: Int[Array, ""] | int, *, take: int) -> Key:
    """Returns one key an item: of its number among all items of the run."""
    numbers = jnp.asarray(step, jnp.uint32) * take + jnp.arange(take, dtype=jnp.uint32)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


def below(key: Key, count: Int[Array, ""]) -> Int[Array, ""]:
    """Draws a number from 0 to count - 1; 0 where there is none."""
    return jax.random.randint(key, (), 0, jnp.maximum(count, 1), jnp.int32)


def of_another_label(key: Key, columns: Columns, label: Int[Array, ""]) -> Int[Array, ""]:
    """Draws a row of any other label; all are equally likely."""
    start, own = columns.start[label], columns.count[label]
    row = below(key, columns.label.shape[0] - own)
    return jnp.where(row < start, row, row + own)


def positive(name: str, value: int) -> int:
    """Checks a count from the config.

    Raises:
      ValueError: It is below 1.
    """
    if value < 1:
        raise ValueError(f"config.sampler.options.{name} is {value}; expected at least 1")
    return value


def need_two_labels(table: Table) -> None:
    """Checks that there is something to tell apart.

    Raises:
      ValueError: All photos have one label.
    """
    if len(table.label.names) < 2:
        raise ValueError(
            f"{table.source}: all {len(table)} photos of split {'+'.join(sorted(set(table.split)))!r} have one "
            "label; training needs at least two labels"
        )


def category_of_labels(table: Table, level: str) -> Int[np.ndarray, "labels"]:
    """Returns the category of each label: that of its first photo; -1 where it is unknown.

    Raises:
      ValueError: The table has no such level.
    """
    if level not in table.levels:
        raise ValueError(f"{table.source} has no level {level!r}; {closest(level, list(table.levels))}")
    first = np.searchsorted(table.label.codes, np.arange(len(table.label.names)))
    return table.levels[level].codes[first]
