"""One file an engine: each has make(embeddings, **options) -> Engine."""

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from fsl_jax.lookup import find, with_options
from fsl_jax.search.engines._found import Found

__all__ = ["Engine", "Found", "make"]


class Engine(Protocol):
    """Searches embeddings by inner product.

    Attributes:
      exact: Whether the rows found are surely the best ones.
    """

    exact: bool

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """Finds the k rows with the largest inner products.

        Args:
          queries: [q, d], finite; no query gives an empty result.
          k: How many rows a query, at least 1.

        Returns:
          Rows and scores, best first. Places beyond the rows that there are hold row -1 and score -inf.

        Raises:
          ValueError: Queries have other dimensions, hold a NaN or an infinity, or k is below 1.
        """
        ...

    def close(self) -> None:
        """Gives back what the engine holds; nothing may be searched afterwards."""
        ...


def make(name: str, embeddings: Float[np.ndarray, "n d"], **options: Any) -> Engine:
    """Makes an engine that searches embeddings.

    Args:
      name: "exact", "faiss" or "milvus".
      embeddings: [n, d], n at least 1, rows of length 1; a memory map is read part by part and copied.
      **options: Of the `make` in the engine's file; docs/engines.md lists them.

    Returns:
      The engine.

    Raises:
      ValueError: No engine has the name, an option is unknown, embeddings are not finite, or a package that
        the engine needs is not installed.

    Example:
      >>> engine = make("exact", np.eye(3, dtype=np.float32))
      >>> engine.search(np.array([[0.6, 0.8, 0.0]], np.float32), 2).rows
      array([[1, 0]])
    """
    return with_options(find(__name__, name, "make"), options, f"engine {name!r}", embeddings)
