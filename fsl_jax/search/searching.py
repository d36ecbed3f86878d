"""Searching an index: from photos to the labels whose photos are nearest."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from fsl_jax.embedder import Embedder
from fsl_jax.evaluation.embed import embed_blocks
from fsl_jax.mesh import data_mesh
from fsl_jax.search import rerank
from fsl_jax.search._adding import FEW, unit
from fsl_jax.search.engines._found import Found
from fsl_jax.search.index import Index
from fsl_jax.search.models import load_model

if TYPE_CHECKING:
    from fsl_jax.search.calibration import Calibration
    from fsl_jax.search.engines import Engine


@dataclasses.dataclass(frozen=True)
class Hit:
    """A label that was found, with its nearest photo.

    Attributes:
      label: The label.
      id: Of its nearest photo.
      row: Of that photo in the index.
      score: Cosine similarity of query and photo; larger is nearer. A `Refinement` may order hits otherwise.
      probability: That both show the same label; None where the index is not calibrated.
      photos: Of the label in the index.
    """

    label: str
    id: str
    row: int
    score: float
    probability: float | None
    photos: int


@dataclasses.dataclass(frozen=True)
class Refinement:
    """A second look at what an engine finds: other photos, in another order; scores stay cosines.

    Attributes:
      expand: The first photos that are added to the query before it is searched once more; 0 adds none.
      alpha: See `rerank.query_expansion`.
      rerank: The first candidates that are ordered by `rerank.k_reciprocal`; 0 orders none.
      k1: See `rerank.k_reciprocal`, as the following ones.
      k2: See there.
      lambda_value: See there.

    Raises:
      ValueError: A number is below 0, or there are too few candidates for k1.
    """

    expand: int = 0
    alpha: float = 3.0
    rerank: int = 0
    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3

    def __post_init__(self) -> None:
        if self.expand < 0 or self.rerank < 0:
            raise ValueError(f"expand is {self.expand}, rerank {self.rerank}; expected 0 for none, or photos")
        if 0 < self.rerank <= self.k1:
            raise ValueError(
                f"rerank is {self.rerank} candidates; expected more than k1, {self.k1}, such as {5 * self.k1}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Searcher:
    """Searches one state of an index; where that has changed, make another one.

    Attributes:
      index: What is searched.
      embedder: Its model.
      engine: Finds rows; made of `gallery`, in its order.
      refinement: Whether a second look is taken.
      whitening: Applied to gallery and queries; None takes them as they are.

    Raises:
      ValueError: The embedder is not the index's model.
    """

    index: Index
    embedder: Embedder
    engine: "Engine"
    refinement: Refinement = Refinement()
    whitening: rerank.Whitening | None = None

    def __post_init__(self) -> None:
        self.index.check_digest(self.embedder.digest)

    @functools.cached_property
    def gallery(self) -> Float[np.ndarray, "n w"]:
        """What queries are compared with."""
        return (
            self.index.embeddings if self.whitening is None else self.whitening.apply(self.index.embeddings)
        )

    @functools.cached_property
    def calibration(self) -> "Calibration | None":
        """What scores mean: the index's, or where it is whitened, one of the same kind that is made of it here."""
        kept = self.index.calibration
        if self.whitening is None or kept is None:
            return kept
        from fsl_jax.search import calibration

        return calibration.fit(self.gallery, self.index.labels, false_accept_rate=kept.false_accept_rate)

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
        queries, wanted = self._queries(embeddings), min(k, len(self._photos))
        waiting, every = np.arange(len(queries)), len(self.index)
        asked = self._expanded(queries) if every else queries
        # As many photos as k labels have on average, and twice as many until there are k labels.
        count = max(-(-wanted * every // max(len(self._photos), 1)), self.refinement.rerank)
        count = min(every, count)
        while len(waiting) and every:
            nearest = self._nearest(queries[waiting], asked[waiting], count)
            for query, scores, rows in zip(waiting, nearest.scores, nearest.rows, strict=True):
                found[query] = self._best_of_labels(scores, rows, k)
            short = np.array([len(found[query]) < wanted for query in waiting], bool)
            waiting = waiting[short] if count < every else waiting[:0]
            count = min(2 * count, every)
        return found

    def _queries(self, embeddings: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "q w"]:
        queries = unit(embeddings)
        return queries if self.whitening is None else self.whitening.apply(queries)

    def _expanded(self, queries: Float[np.ndarray, "q w"]) -> Float[np.ndarray, "q w"]:
        how = self.refinement
        if not how.expand or not len(queries):
            return queries
        count = min(how.expand, len(self.index))
        first = self.engine.search(queries, count)
        return rerank.query_expansion(queries, self.gallery, first, neighbours=count, alpha=how.alpha)

    def _nearest(
        self, queries: Float[np.ndarray, "q w"], asked: Float[np.ndarray, "q w"], count: int
    ) -> Found:
        """Finds rows for what is asked, and orders them; their scores are those of the queries themselves."""
        how, found = self.refinement, self.engine.search(asked, count)
        if not how.expand and not how.rerank:
            return found
        rows = found.rows
        if how.rerank:
            first = Found(found.scores[:, : how.rerank], rows[:, : how.rerank])
            ordered = rerank.k_reciprocal(
                asked, self.gallery, first, k1=how.k1, k2=how.k2, lambda_value=how.lambda_value
            )
            rows = np.concatenate([ordered.rows, rows[:, how.rerank :]], axis=1)
        scores = np.empty(rows.shape, np.float32)
        for query, row, into in zip(queries, rows, scores, strict=True):
            into[:] = np.where(row >= 0, np.asarray(self.gallery[np.maximum(row, 0)]) @ query, -np.inf)
        return Found(scores, rows)

    def _best_of_labels(
        self, scores: Float[np.ndarray, "m"], rows: Int[np.ndarray, "m"], k: int
    ) -> list[Hit]:
        there = rows >= 0
        scores, rows = scores[there], rows[there]
        _, first = np.unique(self.index.label_codes[rows], return_index=True)
        return [self._hit(int(rows[place]), float(scores[place])) for place in np.sort(first)[:k]]

    def _hit(self, row: int, score: float) -> Hit:
        index, calibration = self.index, self.calibration
        return Hit(
            label=str(index.labels[row]),
            id=str(index.ids[row]),
            row=row,
            score=score,
            probability=None if calibration is None else float(calibration.probability(score)),
            photos=int(self._photos[index.label_codes[row]]),
        )


def open_searcher(
    folder: Path,
    *,
    engine: str = "exact",
    refinement: Refinement = Refinement(),
    whiten: int = 0,
    **engine_options: Any,
) -> Searcher:
    """Opens an index, loads its model and makes an engine.

    Args:
      folder: Of the index.
      engine: "exact", "faiss" or "milvus"; see `search.engines`.
      refinement: Whether a second look is taken.
      whiten: Directions that are kept of embeddings, and vary alike; 0 takes embeddings as they are.
      **engine_options: Of the engine.

    Raises:
      ValueError: There is no index, its model is not there or has changed, the engine is not known, or the index's
        embeddings do not vary in so many directions.
    """
    index = Index.open(folder)
    return make_searcher(
        index, load_model(index.model), engine, engine_options, refinement=refinement, whiten=whiten
    )


def make_searcher(
    index: Index,
    embedder: Embedder,
    engine: str,
    engine_options: Mapping[str, Any] | None = None,
    *,
    refinement: Refinement = Refinement(),
    whiten: int = 0,
) -> Searcher:
    """Makes an engine of all photos of an open index, which may be none; see `open_searcher`."""
    from fsl_jax.search import engines

    if not len(index):
        return Searcher(index, embedder, Nothing())
    whitening = rerank.Whitening.fit(index.embeddings, dimensions=whiten) if whiten else None
    gallery = index.embeddings if whitening is None else whitening.apply(index.embeddings)
    return Searcher(
        index, embedder, engines.make(engine, gallery, **(engine_options or {})), refinement, whitening
    )


class Nothing:
    """The engine of an index without photos, of which the others cannot be made."""

    exact = True

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """Finds nothing."""
        shape = len(queries), k
        return Found(np.full(shape, -np.inf, np.float32), np.full(shape, -1))

    def close(self) -> None:
        """Holds nothing."""
