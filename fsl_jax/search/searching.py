"""Searching an index: from photos to the labels whose photos are nearest."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from fsl_jax.embedder import Embedder
from fsl_jax.evaluation.embed import embed_blocks
from fsl_jax.mesh import data_mesh
from fsl_jax.search._adding import FEW, unit
from fsl_jax.search.index import Index
from fsl_jax.search.models import load_model

if TYPE_CHECKING:
    from fsl_jax.search.engines import Engine, Found


@dataclasses.dataclass(frozen=True)
class Hit:
    """A label that was found, with its nearest photo.

    Attributes:
      label: The label.
      id: Of its nearest photo.
      row: Of that photo in the index.
      score: Cosine similarity of query and photo; larger is nearer.
      probability: That both show the same label; None where the index is not calibrated.
      photos: Of the label in the index.
    """

    label: str
    id: str
    row: int
    score: float
    probability: float | None
    photos: int


@dataclasses.dataclass(frozen=True, eq=False)
class Searcher:
    """Searches one state of an index; where that has changed, make another one.

    Attributes:
      index: What is searched.
      embedder: Its model.
      engine: Finds rows; made of `index.embeddings`, in their order.

    Raises:
      ValueError: The embedder is not the index's model.
    """

    index: Index
    embedder: Embedder
    engine: "Engine"

    def __post_init__(self) -> None:
        self.index.check_digest(self.embedder.digest)

    @functools.cached_property
    def _photos(self) -> Int[np.ndarray, "labels"]:
        return np.bincount(self.index.label_codes)

    def embed(self, images: UInt8[np.ndarray, "n s s c"]) -> Float[np.ndarray, "n d"]:
        """Embeds photos in blocks of one size, so that any number of them is one program.

        Args:
          images: As `embedder.preprocess` says.

        Returns:
          Rows of length 1; [0, d] without photos.
        """
        how = self.embedder.preprocess
        expected = (how.size, how.size, how.channels)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ValueError(
                f"photos are {images.dtype} {list(images.shape)}; expected uint8 [n, {', '.join(map(str, expected))}]"
            )
        if not len(images):
            return np.zeros((0, self.index.dimensions), np.float32)
        return unit(np.asarray(embed_blocks(self.embedder.embed, images, mesh=data_mesh(1), block=FEW)))

    def search(self, embeddings: Float[np.ndarray, "q d"], *, k: int) -> list[list[Hit]]:
        """Finds the nearest labels of each query; a label is as near as its nearest photo.

        Args:
          embeddings: Of the queries, of any length.
          k: Labels a query.

        Returns:
          For each query `k` labels, best first, or all of them where there are fewer; none where the index is empty.

        Raises:
          ValueError: `k` is below 1, or the embeddings are not as long as those of the index.
        """
        embeddings = np.asarray(embeddings)
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        if embeddings.ndim != 2 or embeddings.shape[1] != self.index.dimensions:
            raise ValueError(
                f"queries are {list(embeddings.shape)}; expected [n, {self.index.dimensions}], as in "
                f"{self.index.folder}"
            )
        found: list[list[Hit]] = [[] for _ in embeddings]
        queries, wanted = unit(embeddings), min(k, len(self._photos))
        waiting, every = np.arange(len(queries)), len(self.index)
        # As many photos as k labels have on average, and twice as many until there are k labels.
        count = min(every, -(-wanted * every // max(len(self._photos), 1)))
        while len(waiting) and every:
            nearest = self.engine.search(queries[waiting], count)
            for query, scores, rows in zip(waiting, nearest.scores, nearest.rows, strict=True):
                found[query] = self._best_of_labels(scores, rows, k)
            short = np.array([len(found[query]) < wanted for query in waiting], bool)
            waiting = waiting[short] if count < every else waiting[:0]
            count = min(2 * count, every)
        return found

    def _best_of_labels(
        self, scores: Float[np.ndarray, "m"], rows: Int[np.ndarray, "m"], k: int
    ) -> list[Hit]:
        there = rows >= 0
        scores, rows = scores[there], rows[there]
        _, first = np.unique(self.index.label_codes[rows], return_index=True)
        return [self._hit(int(rows[place]), float(scores[place])) for place in np.sort(first)[:k]]

    def _hit(self, row: int, score: float) -> Hit:
        index = self.index
        calibration = index.calibration
        return Hit(
            label=str(index.labels[row]),
            id=str(index.ids[row]),
            row=row,
            score=score,
            probability=None if calibration is None else float(calibration.probability(score)),
            photos=int(self._photos[index.label_codes[row]]),
        )


def open_searcher(folder: Path, *, engine: str = "exact", **engine_options: Any) -> Searcher:
    """Opens an index, loads its model and makes an engine.

    Args:
      folder: Of the index.
      engine: "exact", "faiss" or "milvus"; see `search.engines`.
      **engine_options: Of the engine.

    Raises:
      ValueError: There is no index, its model is not there or has changed, or the engine is not known.
    """
    index = Index.open(folder)
    embedder = load_model(index.model)
    return Searcher(index, embedder, engine_of(index, engine, **engine_options))


def engine_of(index: Index, name: str, **options: Any) -> "Engine":
    """Makes an engine of all photos of an index, which may be none."""
    from fsl_jax.search import engines

    return engines.make(name, index.embeddings, **options) if len(index) else Nothing()


class Nothing:
    """The engine of an index without photos, of which the others cannot be made."""

    exact = True

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> "Found":
        """Finds nothing."""
        from fsl_jax.search.engines import Found

        shape = len(queries), k
        return Found(np.full(shape, -np.inf, np.float32), np.full(shape, -1))

    def close(self) -> None:
        """Holds nothing."""
