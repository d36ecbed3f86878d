"""Counts of predicted against true categories, on one level and in the tree that the levels form.

The devices count; counts of blocks and devices add up; the host divides once, in float64. docs/metrics.md
defines every measure and its rule for ties.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from fsl_jax.types import Mean

Parents = tuple[tuple[int, ...], ...]
"""parents[k][j] is the code, on level k - 1, of the parent of name j of level k; -1 where unknown. The coarsest
level is 0, and parents[0] is empty."""


class PerName(NamedTuple):
    """How well each name is predicted; 0 where one would divide by 0, as scikit-learn's zero_division=0.

    Attributes:
      precision: Share of the rows predicted as the name that have it.
      recall: Share of the rows with the name that are predicted as it.
      f1: Harmonic mean of both.
      support: Rows with the name.
    """

    precision: Float[np.ndarray, "c"]
    recall: Float[np.ndarray, "c"]
    f1: Float[np.ndarray, "c"]
    support: Int[np.ndarray, "c"]

    @classmethod
    def of(
        cls, right: Num[np.ndarray, "c"], predicted: Num[np.ndarray, "c"], support: Int[np.ndarray, "c"]
    ) -> "PerName":
        """Divides the rows that are rightly predicted as a name by those predicted as it and those with it."""

        def share(part: Num[np.ndarray, "c"], whole: Num[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
            return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)

        f1 = share(2.0 * right, np.add(predicted, support, dtype=np.float64))
        return cls(share(right, predicted), share(right, support), f1, support)

    def weighted(self) -> dict[str, float]:
        """Averages precision, recall and f1 over the names by their support; NaN without any support."""
        total = self.support.sum()
        columns = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {name: ratio((values * self.support).sum(), total) for name, values in columns.items()}


def ratio(part: float, whole: float) -> float:
    """Divides on the host; NaN where nothing was counted."""
    return float(part) / float(whole) if whole else float("nan")


@flax.struct.dataclass
class LevelCounts:
    """What `level_counts` counts; counts of two blocks add with `jax.tree.map(jnp.add, a, b)`.

    Attributes:
      confusion: Rows by their true name (row) and their predicted name (column).
      top_k: By "top{k}", the rows whose true name is among the k best. Exact up to 2**24 rows, where float32
        stops to count.
    """

    confusion: Int[Array, "c c"]
    top_k: dict[str, Mean]

    def per_name(self) -> PerName:
        """Judges each name."""
        confusion = np.asarray(self.confusion, np.int64)
        return PerName.of(np.diagonal(confusion), confusion.sum(axis=0), confusion.sum(axis=1))

    def figures(self) -> dict[str, float]:
        """Divides.

        Returns:
          "accuracy"; "precision", "recall" and "f1", weighted by support; "macro_f1" over the names that appear
          in truth or prediction; "top{k}"; "count", the rows counted. NaN, and a count of 0, without any row.
        """
        confusion = np.asarray(self.confusion, np.int64)
        per_name = self.per_name()
        appears = confusion.any(axis=0) | confusion.any(axis=1)
        return {
            "accuracy": ratio(np.trace(confusion), confusion.sum()),
            **per_name.weighted(),
            "macro_f1": ratio(per_name.f1[appears].sum(), appears.sum()),
            **{name: ratio(float(hits.total), float(hits.count)) for name, hits in self.top_k.items()},
            "count": float(confusion.sum()),
        }


@functools.partial(jax.jit, static_argnames="ks")
def level_counts(logits: Float[Array, "n c"], codes: Int[Array, "n"], *, ks: tuple[int, ...]) -> LevelCounts:
    """Compares each row's logits with its true name.

    Args:
      logits: Larger is likelier. The prediction is the largest, the first one where several are equal.
      codes: True name, 0 to c - 1; rows below 0 are unknown, or padding, and not counted.
      ks: Cut-offs; from c on, every row hits.

    Returns:
      Counts. Where g logits are greater than the true name's and t, itself included, equal to it, the true name
      is among the k best with probability (k - g) / t, held between 0 and 1: the expected value over all orders
      of the tied ones. A counted row with a NaN among its logits makes the sums of `top_k` NaN.

    Raises:
      ValueError: Shapes do not fit together, or a cut-off is below 1.
    """
    if logits.ndim != 2 or codes.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have the shape {logits.shape}, codes {codes.shape}; expected (n, c) and (n,)"
        )
    if any(k < 1 for k in ks):
        raise ValueError(f"ks are {ks}; expected integers from 1")
    counted = codes >= 0
    true = jnp.where(counted, codes, 0)  # a negative index would count from the end
    # Integers are added, so the order in which a device scatters them changes nothing: one addition a row, where
    # a product of one-hot rows has n c c of them and is exact below 2**24 only.
    empty = jnp.zeros((logits.shape[1], logits.shape[1]), jnp.int32)
    confusion = empty.at[true, jnp.argmax(logits, axis=1)].add(counted.astype(jnp.int32))
    own = jnp.take_along_axis(logits, true[:, None], axis=1)
    greater, tied = jnp.sum(logits > own, axis=1), jnp.sum(logits == own, axis=1)
    broken = jnp.isnan(logits).any(axis=1)

    def within(k: int) -> Mean:
        hit = jnp.where(broken, jnp.nan, jnp.clip((k - greater) / jnp.maximum(tied, 1), 0.0, 1.0))
        return Mean(jnp.sum(jnp.where(counted, hit, 0.0)), jnp.sum(counted, dtype=jnp.float32))

    return LevelCounts(confusion, {f"top{k}": within(k) for k in ks})


@flax.struct.dataclass
class TreeCounts:
    """What `tree_counts` counts; counts of two blocks add with `jax.tree.map(jnp.add, a, b)`.

    Attributes:
      rows: Rows counted.
      consistent: Of these, those whose predictions form a path of the tree.
      judged: Rows counted whose finest true name is known.
      mistakes: Of these, those with another finest name predicted.
      shared: Summed over the judged: levels on which the predicted and the true finest name have one ancestor.
      levels: Levels of the tree.
    """

    rows: Int[Array, ""]
    consistent: Int[Array, ""]
    judged: Int[Array, ""]
    mistakes: Int[Array, ""]
    shared: Int[Array, ""]
    levels: int = flax.struct.field(pytree_node=False)

    def figures(self) -> dict[str, float]:
        """Divides.

        Returns:
          "consistency", 0 to 1; "hierarchical_precision", 0 to 1; "tree_distance", 0 to 2 levels;
          "mistake_severity", 1 to levels. NaN where nothing was counted.

        References:
          Kiritchenko et al. 2006, https://doi.org/10.1007/11766247_34, for hierarchical precision.
          Bertinetto et al. 2020, https://arxiv.org/abs/1912.09393, for the severity of mistakes.
        """
        judged, shared = int(self.judged), int(self.shared)
        # The lowest common ancestor lies as many levels above the finest names as these do not share.
        climbed = self.levels * judged - shared
        return {
            "consistency": ratio(int(self.consistent), int(self.rows)),
            "hierarchical_precision": ratio(shared, self.levels * judged),
            "tree_distance": ratio(2 * climbed, judged),
            "mistake_severity": ratio(climbed, int(self.mistakes)),
        }


@functools.partial(jax.jit, static_argnames="parents")
def tree_counts(
    predicted: Int[Array, "n levels"],
    codes: Int[Array, "n levels"],
    parents: Parents,
    *,
    counted: Bool[Array, "n"] | None = None,
) -> TreeCounts:
    """Places predictions in the tree of categories.

    Args:
      predicted: Predicted name on each level, coarse to fine.
      codes: True name on each level. The finest alone is read; its ancestors are those of the tree. Below 0 is
        unknown.
      parents: The tree.
      counted: False for rows of padding; None counts all.

    Returns:
      Counts. A name whose parent is unknown lies under no prediction, and shares no ancestor with another name.

    Raises:
      ValueError: The tree and the predictions differ in levels, or shapes do not fit together.
    """
    levels = len(parents)
    if predicted.ndim != 2 or predicted.shape != codes.shape or predicted.shape[1] != levels:
        raise ValueError(
            f"predicted has the shape {predicted.shape}, codes {codes.shape}; expected (n, {levels}) of both, for "
            f"parents have {levels} levels"
        )
    if levels == 0 or parents[0]:
        raise ValueError(f"parents are {parents}; expected an empty tuple first, for level 0 has no parents")
    counted = jnp.ones(predicted.shape[0], bool) if counted is None else counted
    predicted, codes = jnp.maximum(predicted, -1), jnp.maximum(codes, -1)
    # An unknown name, -1, finds the last element: an unknown parent.
    above = [jnp.array([*names, -1], jnp.int32) for names in parents]
    consistent = counted
    for level in range(1, levels):
        parent = above[level][predicted[:, level]]
        consistent &= (parent == predicted[:, level - 1]) & (parent >= 0)
    shared = _shared_levels(predicted[:, -1], codes[:, -1], above)
    judged = counted & (codes[:, -1] >= 0)
    return TreeCounts(
        rows=jnp.sum(counted, dtype=jnp.int32),
        consistent=jnp.sum(consistent, dtype=jnp.int32),
        judged=jnp.sum(judged, dtype=jnp.int32),
        mistakes=jnp.sum(judged & (shared < levels), dtype=jnp.int32),
        shared=jnp.sum(jnp.where(judged, shared, 0), dtype=jnp.int32),
        levels=levels,
    )


def _shared_levels(
    one: Int[Array, "n"], other: Int[Array, "n"], above: list[Int[Array, "names"]]
) -> Int[Array, "n"]:
    """Climbs from two finest names to the first that is the same; from there up all levels are shared."""
    shared = jnp.zeros(one.shape, jnp.int32)
    for level in reversed(range(len(above))):
        shared = jnp.where((shared == 0) & (one == other) & (one >= 0), level + 1, shared)
        if level > 0:
            one, other = above[level][one], above[level][other]
    return shared
