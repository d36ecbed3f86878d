"""Judges what a model says of a split's photos: categories at each level, and attributes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from fsl_jax.algorithms.base import Variables
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.table import Table
from fsl_jax.evaluation import classification, report
from fsl_jax.evaluation.embed import photo_blocks
from fsl_jax.mesh import joined, place, replicated, rows_sharding
from fsl_jax.progress import track
from fsl_jax.taxonomy import Taxonomy

BLOCK = 128
"""Photos at once on each device."""
SHOWN = 16
"""Names of a confusion matrix, the most frequent ones; bars of a chart."""
MISTAKES = 8
"""Photos that are shown, of those that are most surely taken for something else."""

LOGGED = ("accuracy", "f1", "consistency", "auc", "ap")
"""What is logged while a run goes on, of each level and of the attributes."""

Figures = dict[str, float]
Outputs = Callable[[Variables, Array], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Counted:
    """What a pass over a split leaves: sums, and scores where a measure needs their order.

    Attributes:
      levels: Counts of each level.
      tree: Of the levels together; None with fewer than two.
      attributes: Counts at a threshold, and at each photo's own number of attributes; None without attributes.
      auc: Area under the ROC curve of each attribute; NaN where it has no two sides.
      ap: Average precision of each attribute.
      predicted: Place of the best name of each photo and level.
      surely: Its probability.
    """

    levels: tuple[classification.LevelCounts, ...]
    tree: classification.TreeCounts | None
    attributes: classification.AttributeCounts | None
    auc: Float[np.ndarray, "a"]
    ap: Float[np.ndarray, "a"]
    predicted: Int[np.ndarray, "n levels"]
    surely: Float[np.ndarray, "n levels"]


@dataclasses.dataclass(frozen=True)
class CategoryJudge:
    """Classifies one split and compares with what is known of it.

    Attributes:
      config: `config.eval`: `threshold` and `top_k`.
      table: Photos with the columns of `data.targets.with_targets`.
      taxonomy: Of the model.
      outputs: From variables and uint8 photos to logits by name.
      preprocess: How photos are prepared.
      mesh: Devices.
      photo: Reads the photo of a row for the report; None shows none.
    """

    config: ConfigDict
    table: Table
    taxonomy: Taxonomy
    outputs: Outputs
    preprocess: Preprocess
    mesh: Mesh
    photo: Callable[[int], UInt8[np.ndarray, "s s c"]] | None = None

    @functools.cached_property
    def _of_block(self) -> Callable:
        return jax.jit(self._count)

    def _count(self, variables: Variables, images: Array, truth: dict[str, Array]) -> dict[str, Any]:
        """Counts one block; photos that only fill it up are unknown in everything."""
        logits = self.outputs(variables, images)
        found: dict[str, Any] = {"sums": {}}
        if "levels" in logits:
            codes, levels = truth["levels"], logits["levels"]
            # A level that has fewer names than k is always right.
            found["sums"]["levels"] = tuple(
                classification.level_counts(level, codes[:, i], ks=tuple(self.config.top_k))
                for i, level in enumerate(levels)
            )
            found["predicted"] = jnp.stack([jnp.argmax(level, axis=-1) for level in levels], axis=1)
            found["surely"] = jnp.stack([jax.nn.softmax(level).max(axis=-1) for level in levels], axis=1)
            if len(levels) > 1:
                found["sums"]["tree"] = classification.tree_counts(
                    found["predicted"], codes, self.taxonomy.parents, counted=truth["counted"]
                )
        if "attributes" in logits:
            found["scores"] = logits["attributes"]
            found["sums"]["attributes"] = classification.attribute_counts(
                jax.nn.sigmoid(logits["attributes"]), truth["attributes"], threshold=self.config.threshold
            )
        return found

    def count(self, variables: Variables) -> Counted:
        """Classifies every photo."""
        at_once, rows = BLOCK * self.mesh.size, len(self.table)
        blocks = track(
            photo_blocks(self.table, self.preprocess, mesh=self.mesh, block=BLOCK),
            description="classifying",
            total=-(-rows // at_once),
            unit="blocks",
        )
        sums, kept = None, []
        for i, images in enumerate(blocks):
            truth = place(self._truth(i * at_once, at_once), rows_sharding(self.mesh))
            found = self._of_block(variables, images, truth)
            sums = found["sums"] if sums is None else jax.tree.map(jnp.add, sums, found["sums"])
            kept.append({name: value for name, value in found.items() if name != "sums"})
        assert sums is not None
        sums = jax.jit(lambda sums: sums, out_shardings=replicated(self.mesh))(sums)
        of_all = joined(kept, self.mesh, rows=rows)
        auc = ap = np.zeros(0)
        if "scores" in of_all:
            auc, ap = classification.spread_ranking(
                of_all["scores"], jnp.asarray(self.table.numbers["attributes"]), self.mesh
            )
        nothing = np.zeros((rows, 0))
        return Counted(
            sums.get("levels", ()),
            sums.get("tree"),
            sums.get("attributes"),
            auc,
            ap,
            np.asarray(of_all.get("predicted", nothing), np.int32),
            np.asarray(of_all.get("surely", nothing)),
        )

    def _truth(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Takes what is known of a block's photos."""
        end = min(start + count, len(self.table))
        some = {name: column[start:end] for name, column in self.table.numbers.items()}
        truth: dict[str, np.ndarray] = {
            name: np.pad(some[name], ((0, count - (end - start)), (0, 0)), constant_values=-1)
            for name in ("levels", "attributes")
            if name in some
        }
        return {**truth, "counted": np.arange(count) < end - start}

    def figures(self, counted: Counted) -> Figures:
        """Names the figures: "subcategory/f1", "consistency", "attributes/auc"."""
        figures: Figures = {}
        for level, counts in zip(self.taxonomy.levels, counted.levels, strict=False):
            figures |= {f"{level.name}/{name}": value for name, value in counts.figures().items()}
        if counted.levels:
            # A level of which nothing is known in this split has no figure.
            of_levels = [own for own in (counts.figures() for counts in counted.levels) if own["count"]]
            for name in ("accuracy", "f1"):
                found = [own[name] for own in of_levels]
                figures[f"levels/{name}"] = float(np.mean(found)) if found else float("nan")
        figures |= counted.tree.figures() if counted.tree is not None else {}
        if counted.attributes is not None:
            figures |= {f"attributes/{name}": value for name, value in counted.attributes.figures().items()}
            figures["attributes/judged"] = int(np.isfinite(counted.auc).sum())
            for name, values in (("auc", counted.auc), ("ap", counted.ap)):
                figures[f"attributes/{name}"] = classification.mean_over_attributes(values)[0]
        return figures

    def during(self, counted: Counted) -> Figures:
        """Keeps the figures that are worth a look while a run goes on."""
        figures = self.figures(counted)
        return {name: value for name, value in figures.items() if name.rpartition("/")[2] in LOGGED}

    def parts(self, counted: Counted) -> list[report.Part]:
        """Draws confusions, attributes and the surest mistakes."""
        parts: list[report.Part] = self._tables(counted)
        for i, counts in enumerate(counted.levels):
            level = self.taxonomy.levels[i]
            confusion = np.asarray(counts.confusion)
            parts.append(
                report.confusion_grid(f"Confusions of {level.name}", confusion, level.names, most=SHOWN)
            )
            f1 = counts.per_name().f1
            bars = {
                name: (float(f1[i]), int(support))
                for i, (name, support) in enumerate(zip(level.names, confusion.sum(axis=1), strict=True))
                if support
            }
            parts.append(report.bars_by_category(f"F1 by {level.name}", _extremes(bars)))
        if counted.levels and self.photo is not None:
            parts += self._mistakes(counted)
        if counted.attributes is not None:
            for title, values in (("AUC", counted.auc), ("Average precision", counted.ap)):
                support = np.asarray(self.table.numbers["attributes"] == 1).sum(axis=0)
                bars = {
                    name: (float(value), int(count))
                    for name, value, count in zip(self.taxonomy.attributes, values, support, strict=True)
                    if np.isfinite(value)
                }
                parts.append(report.bars_by_category(f"{title} by attribute", _extremes(bars)))
        return parts

    def _tables(self, counted: Counted) -> list[report.Part]:
        """Shows the measures of all levels, and of the attributes."""
        parts: list[report.Part] = []
        if counted.levels:
            of_levels = [counts.figures() for counts in counted.levels]
            measures = [name for name in of_levels[0] if name != "count"]
            photos = [
                f"{level.name} ({own['count']:,.0f})"
                for level, own in zip(self.taxonomy.levels, of_levels, strict=True)
            ]
            values = np.array([[own[name] for name in measures] for own in of_levels])
            heads = [name.replace("_", " ") for name in measures]
            parts.append(report.Grid("Categories", heads, photos, values, ".1%"))
        if counted.attributes is not None:
            figures = self.figures(counted)
            mine = {name: value for name, value in figures.items() if name.startswith("attributes/")}
            parts.append(
                report.result_figures(
                    {name.partition("/")[2]: mine[name] for name in mine}, title="Attributes"
                )
            )
        return parts

    def _mistakes(self, counted: Counted) -> list[report.Part]:
        """Shows the photos that were most surely taken for another name of the finest level."""
        level, truth = self.taxonomy.levels[-1], self.table.numbers["levels"][:, -1]
        wrong = np.flatnonzero((truth >= 0) & (counted.predicted[:, -1] != truth))
        surest = wrong[np.argsort(-counted.surely[wrong, -1], kind="stable")][:MISTAKES]
        if not len(surest) or self.photo is None:
            return []
        pictures = [
            report.Picture(
                self.photo(int(row)),
                f"{level.names[truth[row]]}, taken for {level.names[counted.predicted[row, -1]]} "
                f"({counted.surely[row, -1]:.0%})",
                False,
            )
            for row in surest
        ]
        return [report.Photos(f"The surest mistakes of {level.name}", pictures)]


def _extremes(bars: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """Keeps the best and the worst bars, where there are too many to look at."""
    ordered = sorted(bars.items(), key=lambda item: -item[1][0])
    half = SHOWN // 2
    return dict(ordered if len(ordered) <= SHOWN else ordered[:half] + ordered[-half:])
