"""Searches with faiss on the CPU: exactly, or approximately and faster in large galleries.

References:
  Douze et al. 2024, The faiss library, https://arxiv.org/abs/2401.08281
  Malkov and Yashunin 2018, https://arxiv.org/abs/1603.09320 (HNSW)
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from fsl_jax.lookup import closest
from fsl_jax.search.engines._found import Found, checked_embeddings, checked_queries, in_order, parts_of

KINDS = ("flat", "hnsw", "ivf")
TRAINED_ON = 64
"""Rows a list that the lists are found with; faiss takes 256 at most and warns below 39."""
LEAST_A_LIST = 39


class Faiss:
    """Searches a faiss index; `make` makes it."""

    def __init__(self, index: Any, *, exact: bool) -> None:
        """Takes an index of inner products.

        Args:
          index: A filled `faiss.Index`.
          exact: Whether it compares queries with every row.
        """
        self._index, self.exact = index, exact

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """Finds rows with large inner products; see `engines.Engine`.

        Approximate kinds may find fewer than k rows where there are k; the places left have row -1.
        """
        queries = checked_queries(queries, k, dimensions=self._index.d)
        if not len(queries):
            return in_order(np.zeros((0, k)), np.zeros((0, k), np.int64), k)
        scores, rows = self._index.search(queries, min(k, self._index.ntotal))
        return in_order(scores, rows, k)

    def close(self) -> None:
        """Frees the index."""
        self._index.reset()


def make(
    embeddings: Float[np.ndarray, "n d"],
    *,
    kind: str = "flat",
    lists: int | None = None,
    probes: int | None = None,
    links: int = 32,
    build_width: int = 128,
    search_width: int = 128,
) -> Faiss:
    """Fills a faiss index.

    Args:
      embeddings: [n, d]. A memory map is read part by part; the index holds a copy.
      kind: "flat" compares with every row. "ivf" compares with the rows of the lists (k-means cells) nearest to the
        query. "hnsw" walks a graph of neighbours.
      lists: nlist of "ivf"; None is 4 sqrt(n), at most one for 39 rows.
      probes: nprobe of "ivf", the lists that a query looks through; None is an eighth of them, at least 8.
      links: M of "hnsw", neighbours a row.
      build_width: efConstruction of "hnsw", candidates that are looked at for each row added.
      search_width: efSearch of "hnsw", candidates that a query keeps; k where k is larger.

    Returns:
      The engine. docs/engines.md states the recall of each kind.

    Raises:
      ValueError: faiss is not installed, embeddings are empty or not finite, or an option is unknown or out of range.
    """
    faiss = _library()
    rows, dimensions = checked_embeddings(embeddings).shape
    if kind not in KINDS:
        raise ValueError(f"no faiss kind {kind!r}; {closest(kind, list(KINDS))}")
    lists = max(1, min(round(4 * rows**0.5), rows // LEAST_A_LIST)) if lists is None else lists
    probes = min(max(8, lists // 8), lists) if probes is None else probes
    for name, value, most in (
        ("lists", lists, rows),
        ("probes", probes, lists),
        ("links", links, 512),
        ("build_width", build_width, None),
        ("search_width", search_width, None),
    ):
        if value < 1 or (most is not None and value > most):
            raise ValueError(
                f"{name} is {value}; expected at least 1" + (f", at most {most}" if most else "")
            )
    if kind == "flat":
        index = faiss.IndexFlatIP(dimensions)
    elif kind == "ivf":
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = probes
        index.cp.min_points_per_centroid = (
            1  # no warning on standard output: the default of lists is above it
        )
        index.train(_sample(embeddings, min(rows, lists * TRAINED_ON)))
    else:
        index = faiss.IndexHNSWFlat(dimensions, links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = build_width, search_width
    for _, part in parts_of(embeddings):
        index.add(part)
    return Faiss(index, exact=kind == "flat")


def _sample(embeddings: Float[np.ndarray, "n d"], count: int) -> Float[np.ndarray, "m d"]:
    """Takes some rows, the same ones in every run."""
    taken = np.sort(np.random.default_rng(0).choice(len(embeddings), count, replace=False))
    parts = []
    for start, part in parts_of(embeddings):
        first, last = np.searchsorted(taken, [start, start + len(part)])
        parts.append(part[taken[first:last] - start])
    return np.concatenate(parts)


def _library() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ValueError("the engine 'faiss' needs faiss: pip install 'fsl_jax[faiss]'") from error
    return faiss
