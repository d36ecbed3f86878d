"""Judges embeddings by retrieval: exact over the whole ranking, on all devices, in memory that does not grow
with the set.

The devices count, as integers, what stands before each positive (`_ranking`); the host turns counts into
measures in float64 (`_expected`). So the result is the same on any number of devices. docs/metrics.md defines
every measure and its rule for ties.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from fsl_jax.evaluation import _expected
from fsl_jax.evaluation._ranking import Layout, nearest_finder
from fsl_jax.evaluation._search import Same, Search, ahead, column_of, counted, joined

Embeddings = Float[Array | np.ndarray, "n d"]
Column = Shaped[Array | np.ndarray, "n"]
Progress = Callable[[int, int], None]


RECALL_LEVELS = 11


@dataclasses.dataclass(frozen=True)
class PerQuery:
    """The measures of each query; NaN where the gallery has no positive for it.

    Attributes:
      ks: Cut-offs, the columns of `hit` and `ndcg`.
      has_match: Whether the gallery has a positive.
      positives: How many.
      average_precision: 0 to 1.
      average_precision_at_r: 0 to 1.
      r_precision: 0 to 1.
      reciprocal_rank: 0 to 1.
      first_hit_rank: From 1.
      hit: Whether a positive is among the first k; between 0 and 1 where ties leave it open.
      ndcg: 0 to 1.
      interpolated_precision: 0 to 1, at the recall levels 0, 0.1, ..., 1.
    """

    ks: tuple[int, ...]
    has_match: Bool[np.ndarray, "q"]
    positives: Int[np.ndarray, "q"]
    average_precision: Float[np.ndarray, "q"]
    average_precision_at_r: Float[np.ndarray, "q"]
    r_precision: Float[np.ndarray, "q"]
    reciprocal_rank: Float[np.ndarray, "q"]
    first_hit_rank: Float[np.ndarray, "q"]
    hit: Float[np.ndarray, "q k"]
    ndcg: Float[np.ndarray, "q k"]
    interpolated_precision: Float[np.ndarray, "q 11"]

    def precision_at_recall(self) -> Float[np.ndarray, "11"]:
        """Averages the interpolated precision over the queries that have a match; NaN where none has."""
        if not self.has_match.any():
            return np.full(RECALL_LEVELS, np.nan)
        return self.interpolated_precision[self.has_match].mean(axis=0)

    def named(self) -> dict[str, Float[np.ndarray, "q"]]:
        """Lists the measures under the names of `retrieval_metrics`."""
        columns = {
            "mAP": self.average_precision,
            "mAP@R": self.average_precision_at_r,
            "R-precision": self.r_precision,
            "MRR": self.reciprocal_rank,
        }
        for name, by_k in {"R": self.hit, "CMC": self.hit, "nDCG": self.ndcg}.items():
            columns |= {f"{name}@{k}": by_k[:, i] for i, k in enumerate(self.ks)}
        return columns

    def means(self, rows: Bool[np.ndarray, "q"] | None = None) -> dict[str, float]:
        """Averages over the queries that have a match.

        Args:
          rows: Queries to take; None is all.

        Returns:
          Means by name, NaN where no query has a match, with the counts "queries" and
          "queries_without_match".
        """
        taken = np.ones_like(self.has_match) if rows is None else rows
        judged = taken & self.has_match
        count = int(judged.sum())
        means = {
            name: float(values[judged].mean()) if count else float("nan")
            for name, values in self.named().items()
        }
        return means | {"queries": float(taken.sum()), "queries_without_match": float(taken.sum() - count)}


class Nearest(NamedTuple):
    """Gallery rows by distance, nearest first.

    Attributes:
      row: Gallery rows; of equal distances the first in the gallery comes first.
      distance: 1 minus the cosine, or the Euclidean distance.
    """

    row: Int[np.ndarray, "q k"]
    distance: Float[np.ndarray, "q k"]


def retrieval_metrics(
    query: Embeddings,
    gallery: Embeddings | None,
    query_labels: Column,
    gallery_labels: Column | None,
    *,
    distance: str,
    ks: Sequence[int] = (1, 5, 10, 20),
    **options: Any,
) -> dict[str, float]:
    """Averages the retrieval measures over the queries that have a match.

    Args:
      query: [q, d].
      gallery: [g, d], or None for leave-one-out: the queries are searched in themselves, each without itself.
      query_labels: [q].
      gallery_labels: [g]; None with leave-one-out.
      distance: "cosine" or "euclidean". The cosine with a zero vector is 0.
      ks: Cut-offs of R@k, CMC@k and nDCG@k; beyond the gallery they equal its size.
      **options: Of `retrieval_per_query`.

    Returns:
      "mAP", "mAP@R", "R-precision", "MRR", "R@k", "CMC@k" (the same as R@k), "nDCG@k", "queries",
      "queries_without_match". Without any match the means are NaN.

    Raises:
      ValueError: As `retrieval_per_query`.

    Example:
      >>> photos = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
      >>> retrieval_metrics(photos, None, np.array([0, 0, 1]), None, distance="cosine")["mAP"]
      1.0
    """
    return retrieval_per_query(
        query, gallery, query_labels, gallery_labels, distance=distance, ks=ks, **options
    ).means()


def metrics_by_category(
    result: PerQuery, categories: Sequence[Any] | np.ndarray
) -> dict[Any, dict[str, float]]:
    """Averages over the queries of each category.

    Args:
      result: Of `retrieval_per_query`.
      categories: Category of each query.

    Returns:
      Means as in `retrieval_metrics`, by category, sorted.

    Raises:
      ValueError: There are not as many categories as queries.
    """
    values = column_of("categories", categories, "queries", len(result.has_match))
    return {name.item(): result.means(values == name) for name in np.unique(values)}


def retrieval_per_query(
    query: Embeddings,
    gallery: Embeddings | None,
    query_labels: Column,
    gallery_labels: Column | None,
    *,
    distance: str,
    ks: Sequence[int] = (1, 5, 10, 20),
    query_groups: Column | None = None,
    gallery_groups: Column | None = None,
    exclude_self: bool = False,
    block: int | None = None,
    precision: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    collective: bool = False,
    progress: Progress | None = None,
) -> PerQuery:
    """Measures each query against the whole gallery.

    Args:
      query: [q, d]. An array that lies on devices is not taken to the host.
      gallery: [g, d], or None for leave-one-out.
      query_labels: [q], integers or names.
      gallery_labels: [g]; None with leave-one-out.
      distance: "cosine" or "euclidean".
      ks: Cut-offs.
      query_groups: [q], camera or domain. A gallery photo with the label and the group of the query is junk:
        it is ignored.
      gallery_groups: [g].
      exclude_self: Query i is gallery row i, and is ignored there.
      block: Queries that are multiplied at once; None fits them to memory.
      precision: Of the products, "float32" or "bfloat16"; docs/metrics.md says what the second costs.
      devices: Devices to work on; None is all of this process, or of all processes with `collective`. Where
        they are of several processes, all of these call, with the same arrays or with arrays spread over the
        devices.
      collective: Every process calls with its own gallery rows, labels and groups instead, and with all
        queries; all get the whole result. Gallery rows are numbered in the order of the processes; labels and
        groups must be integers.
      progress: Called with the queries done and their number after each block.

    Returns:
      The measures of each query, in the order given.

    Raises:
      ValueError: Arrays do not fit together, the gallery is empty, an embedding holds a NaN or an infinity,
        or an option is unknown.
    """
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(f"ks are {tuple(ks)}; expected integers from 1")
    layout = Layout.of(devices, collective)
    search = Search.of(query, gallery, layout, distance=distance, precision=precision, block=block)
    labels = _both("labels", query_labels, gallery_labels, search, gallery is None)
    if labels is None:
        raise ValueError("query_labels is None; expected the label of each query")
    groups = _both("groups", query_groups, gallery_groups, search, gallery is None)
    same = Same.of(labels, groups, exclude_self or gallery is None)
    return _judge(search, same, tuple(int(k) for k in ks), progress)


def _both(
    name: str, query: Column | None, gallery: Column | None, search: Search, alone: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Checks a column of both sides; alone, the queries' column is the gallery's too."""
    if alone and gallery is not None:
        raise ValueError(f"gallery is None (leave-one-out), gallery_{name} is given; expected None")
    if not alone and (query is None) != (gallery is None):
        raise ValueError(f"only one of query_{name} and gallery_{name} is given; expected both")
    if query is None:
        return None
    column = column_of(f"query_{name}", query, "queries", search.queries)
    other = column if alone else search.gallery_column(f"gallery_{name}", gallery)
    if (column.dtype.kind in "US") != (other.dtype.kind in "US"):
        raise ValueError(
            f"{name} are of {column.dtype} and {other.dtype}; expected numbers or names on both sides"
        )
    return column, other


def _judge(search: Search, same: Same, ks: tuple[int, ...], progress: Progress | None) -> PerQuery:
    """Measures the queries that have a match, few positives first, so that tables hold little filling."""
    matched = np.flatnonzero(same.positives)
    matched = matched[np.argsort(same.positives[matched], kind="stable")]
    columns: dict[str, np.ndarray] = {}

    def told(parts):
        done = 0
        for rows, ties in parts:
            done += len(rows)
            if progress is not None:
                progress(done, len(matched))
            yield rows, ties

    nothing = matched[:0], _expected.Ties.empty()
    for rows, ties in itertools.chain([nothing], joined(told(counted(search, same, matched)))):
        for name, values in _measures(ties, ks).items():
            columns.setdefault(name, np.full((search.queries, *values.shape[1:]), np.nan))[rows] = values
    return PerQuery(ks=ks, has_match=same.positives > 0, positives=same.positives, **columns)


def _measures(ties: _expected.Ties, ks: tuple[int, ...]) -> dict[str, Float[np.ndarray, "q ..."]]:
    """Turns counts into the columns of `PerQuery`."""
    first = _expected.first_group(ties)
    hit, reciprocal_rank = _expected.hits(first, ks)
    return {
        "average_precision": _expected.average_precision(ties),
        "average_precision_at_r": _expected.average_precision_at_r(ties),
        "r_precision": _expected.r_precision(ties),
        "reciprocal_rank": reciprocal_rank,
        "first_hit_rank": _expected.first_hit_rank(first),
        "hit": hit,
        "ndcg": np.stack([_expected.ndcg(ties, k) for k in ks], axis=1),
        "interpolated_precision": _expected.interpolated_precision(ties, RECALL_LEVELS),
    }


def nearest(
    query: Embeddings,
    gallery: Embeddings | None,
    *,
    k: int,
    distance: str,
    block: int | None = None,
    precision: str = "float32",
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> Nearest:
    """Finds the nearest gallery rows of each query.

    Args:
      query: [q, d].
      gallery: [g, d], or None to search the queries in themselves, each without itself.
      k: How many, at most the gallery's rows.
      distance: "cosine" or "euclidean".
      block: Queries that are multiplied at once; None fits them to memory.
      precision: Of the products.
      devices: Devices to work on; None is all of this process.
      progress: Called with the queries done and their number after each block.

    Returns:
      Rows and distances, [q, k].

    Raises:
      ValueError: k is not between 1 and the gallery's size, or as in `retrieval_per_query`.
    """
    layout = Layout.of(devices, collective=False)
    search = Search.of(query, gallery, layout, distance=distance, precision=precision, block=block)
    most = len(search.gallery_position) - (gallery is None)
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}; expected 1 to {most}, the gallery photos that a query has")
    find = nearest_finder(layout, k)

    def start(part, real):
        rows = search.query_position[part]
        return real, find(
            search.query, search.gallery, rows, rows if gallery is None else np.full_like(rows, -1)
        )

    row, length = np.empty((search.queries, k), np.int32), np.empty((search.queries, k), np.float32)
    done = 0
    for real, found in ahead(start(*block) for block in search.blocks(np.arange(search.queries))):
        score, position, squared = (np.asarray(each.addressable_shards[0].data)[0, :real] for each in found)
        row[done : done + real] = position
        length[done : done + real] = (
            1.0 - score if distance == "cosine" else np.sqrt(np.maximum(squared[:, None] - 2.0 * score, 0.0))
        )
        done += real
        if progress is not None:
            progress(done, search.queries)
    return Nearest(row, length)
