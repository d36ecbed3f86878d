"""Judges classification: categories on one level or in a tree, and multi-label attributes.

All functions run under `jax.jit`, on the rows of one block or one device. They return counts, which add up over
blocks with `jax.tree.map(jnp.add, a, b)` and over devices with `psum`; `figures()` of the sum divides once. Areas
under curves need all rows at once: `attribute_ranking`, and `spread_ranking` on several devices. docs/metrics.md
defines every measure and its rule for ties.
"""

from fsl_jax.evaluation._attributes import (
    MOST_ROWS,
    AttributeCounts,
    attribute_counts,
    attribute_ranking,
    mean_over_attributes,
    spread_ranking,
)
from fsl_jax.evaluation._levels import (
    LevelCounts,
    Parents,
    PerName,
    TreeCounts,
    level_counts,
    tree_counts,
)

__all__ = [
    "MOST_ROWS",
    "AttributeCounts",
    "LevelCounts",
    "Parents",
    "PerName",
    "TreeCounts",
    "attribute_counts",
    "attribute_ranking",
    "level_counts",
    "mean_over_attributes",
    "spread_ranking",
    "tree_counts",
]
