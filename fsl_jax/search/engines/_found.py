"""What every engine returns, and what every engine checks."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCK = 1 << 14
"""Rows of a memory map that are read at once."""


class Found(NamedTuple):
    """The best rows of each query, best first.

    Attributes:
      scores: Inner products; -inf where there is no row.
      rows: Rows of the embeddings; -1 where there is none.
    """

    scores: Float[np.ndarray, "q k"]
    rows: Int[np.ndarray, "q k"]


def checked_embeddings(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Checks the shape of embeddings; reads none of them."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"embeddings have the shape {embeddings.shape}; expected [photos, dimensions], both at least 1"
        )
    return embeddings


def checked_queries(
    queries: Float[np.ndarray, "q d"], k: int, *, dimensions: int
) -> Float[np.ndarray, "q d"]:
    """Checks queries and their number of rows to find; returns them as contiguous float32."""
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dimensions:
        raise ValueError(
            f"queries have the shape {queries.shape}; expected [queries, {dimensions}], as the embeddings have"
        )
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    if not np.isfinite(queries).all():
        raise ValueError("a query holds a NaN or an infinity; expected finite embeddings")
    return queries


def parts_of(
    embeddings: Float[np.ndarray, "n d"], *, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, Float[np.ndarray, "b d"]]]:
    """Reads rows part by part.

    Args:
      embeddings: An array or a memory map.
      start: First row.
      stop: One after the last row; None is all.

    Yields:
      The first row's number, and the rows as float32: not to be changed, nor kept.

    Raises:
      ValueError: A row holds a NaN or an infinity.
    """
    stop = len(embeddings) if stop is None else min(stop, len(embeddings))
    for first in range(start, stop, BLOCK):
        part = np.ascontiguousarray(embeddings[first : min(first + BLOCK, stop)], np.float32)
        if not (finite := np.isfinite(part).all(axis=1)).all():
            raise ValueError(
                f"embeddings row {first + int(np.argmin(finite))} holds a NaN or an infinity; expected finite ones"
            )
        yield first, part


def in_order(scores: Float[np.ndarray, "q m"], rows: Int[np.ndarray, "q m"], k: int) -> Found:
    """Puts what a library found into the house's order.

    Args:
      scores: In any order.
      rows: -1 where nothing was found.
      k: How many are wanted; missing ones are filled up.

    Returns:
      Best first; of equal scores the lower row first.
    """
    rows = rows.astype(np.int64)
    scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    return Found(
        np.pad(np.take_along_axis(scores, order, axis=1), missing, constant_values=-np.inf),
        np.pad(np.take_along_axis(rows, order, axis=1), missing, constant_values=-1),
    )
