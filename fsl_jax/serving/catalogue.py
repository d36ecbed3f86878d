"""The catalogue that is served: asked in the model's thread, by programs that are compiled at the start.

Blocks of photos have two sizes only, and searches two numbers of articles, so that nothing is compiled later. When
articles come or go, the catalogue is replaced whole, by one assignment: an answer is of the old one or of the new one.
"""

import dataclasses
import functools
import queue
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from fsl_jax.evaluation.embed import embed_blocks
from fsl_jax.mesh import data_mesh
from fsl_jax.serving.metrics import LOG, Meter

if TYPE_CHECKING:
    from fsl_jax.embedder import Embedder
    from fsl_jax.search.few_shot import Classifier, Guess
    from fsl_jax.search.index import Index
    from fsl_jax.search.searching import Hit, Searcher

BLOCKS = (1, 8)
"""Photos the model takes at once; fewer are filled up with black ones."""
TIMED = 3
"""Runs of a block at the start, of which the fastest counts."""
MOST = 100
"""Articles of one answer."""
KEPT = 8
"""Catalogues of before whose thumbnails can still be fetched, since a client may be about to."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked about a photo.

    Attributes:
      image: The prepared square.
      kind: "search" for articles, "classify" for a guess, "embed" for neither.
      k: Articles of a search.
    """

    image: UInt8[np.ndarray, "s s c"]
    kind: Literal["search", "classify", "embed"]
    k: int = 1


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of a photo.

    Attributes:
      shelf: The catalogue that was asked.
      embedding: Of the photo.
      hits: Of a search, best first.
      guess: Of "classify"; None where the catalogue is empty.
    """

    shelf: "Shelf"
    embedding: Float[np.ndarray, "d"]
    hits: "Sequence[Hit]" = ()
    guess: "Guess | None" = None


@dataclasses.dataclass(frozen=True)
class Article:
    """A label with its photos: rows of the index."""

    label: str
    rows: Int[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Shelf:
    """One state of the catalogue; it never changes.

    Attributes:
      searcher: Index, model and engine.
      version: Of this state; part of the addresses of thumbnails, whose rows move when photos go.
    """

    searcher: "Searcher"
    version: str = dataclasses.field(default_factory=lambda: secrets.token_hex(4))

    @property
    def index(self) -> "Index":
        """The photos."""
        return self.searcher.index

    @functools.cached_property
    def _order(self) -> Int[np.ndarray, "n"]:
        return np.argsort(self.index.labels, kind="stable")

    @functools.cached_property
    def _names(self) -> tuple[np.ndarray, Int[np.ndarray, "labels"]]:
        return np.unique(self.index.labels[self._order], return_index=True)

    @property
    def labels(self) -> np.ndarray:
        """The labels, sorted."""
        return self._names[0]

    def article(self, place: int) -> Article:
        """Returns a label with its photos, by its place among the sorted labels."""
        names, starts = self._names
        end = starts[place + 1] if place + 1 < len(starts) else None
        return Article(str(names[place]), self._order[starts[place] : end])

    def photos_of(self, label: str) -> int:
        """Counts the photos of a label; 0 where it is not there."""
        place = int(np.searchsorted(self.labels, label))
        there = place < len(self.labels) and self.labels[place] == label
        return len(self.article(place).rows) if there else 0

    @functools.cached_property
    def classifier(self) -> "Classifier | None":
        """Compares photos with the mean direction of each label; None where there is no label."""
        from fsl_jax.search import few_shot

        return (
            few_shot.fit(few_shot.support_of_index(self.index), head="prototype") if len(self.index) else None
        )


class Catalogue:
    """The index as it is served: asked in the model's thread, changed in another, one change after the other.

    Attributes:
      shelf: The present state.
      blocks: In which blocks each number of photos is embedded.
    """

    def __init__(
        self, searcher: "Searcher", *, renew: "Callable[[Index], Searcher]", k: int, meter: Meter
    ) -> None:
        """Takes an open searcher.

        Args:
          searcher: Index, model and engine.
          renew: Makes a searcher with the same model for a changed index.
          k: The usual number of articles; searches run with this number or with `MOST`.
          meter: Gets the number of photos and articles.
        """
        self._renew, self._meter = renew, meter
        self._ks = tuple(sorted({min(k, MOST), MOST}))
        self.blocks: dict[int, tuple[int, ...]] = fastest({BLOCKS[-1]: 1.0})  # until they are timed
        self._before: dict[str, Index] = {}
        self._retired: queue.SimpleQueue[Searcher] = queue.SimpleQueue()
        self.shelf = Shelf(searcher)
        self._show(self.shelf)

    @property
    def largest(self) -> int:
        """As many photos as it makes sense to take at once."""
        return max(self.blocks[BLOCKS[-1]])

    def warm_up(self) -> None:
        """Compiles all that will ever run: each size of block, each number of articles; and times the blocks."""
        how, embedder = self.shelf.index.preprocess, self.shelf.searcher.embedder
        black = np.zeros((how.size, how.size, how.channels), np.uint8)
        seconds = {}
        for size in BLOCKS:
            _embed(embedder, [black] * size, (size,))
            seconds[size] = min(_seconds(_embed, embedder, [black] * size, (size,)) for _ in range(TIMED))
        self.blocks = fastest(seconds)
        LOG.info(
            "model ready", extra={"fields": {"ms": {size: round(1000 * t, 1) for size, t in seconds.items()}}}
        )
        self.answer([Question(black, "classify")])
        _try_out(self.shelf, self._ks)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Answers up to eight questions, in order."""
        self._close_retired()
        shelf, count = self.shelf, len(questions)
        images = [question.image for question in questions]
        embeddings = _embed(shelf.searcher.embedder, images, self.blocks[count])
        found = self._found(shelf, questions, embeddings)
        guesses = _guesses(shelf, questions, embeddings)
        return [
            Answer(shelf, embeddings[row], found[row][: questions[row].k], guesses.get(row))
            for row in range(count)
        ]

    def _found(
        self, shelf: Shelf, questions: Sequence[Question], embeddings: Float[np.ndarray, "b d"]
    ) -> "list[Sequence[Hit]]":
        asked = [question.k for question in questions if question.kind == "search"]
        if not asked or not len(shelf.index):
            return [()] * len(questions)
        k = next(k for k in self._ks if k >= max(asked))
        found = shelf.searcher.search(_filled(embeddings), k=k)
        return [
            hits if question.kind == "search" else ()
            for question, hits in zip(questions, found, strict=False)
        ]

    def _close_retired(self) -> None:
        """Gives engines back that have been replaced; here, since only this thread could still have used them."""
        while not self._retired.empty():
            close = getattr(self._retired.get().engine, "close", None)
            if close is not None:
                close()

    def thumbnail(self, row: int, version: str | None) -> bytes | None:
        """Returns the small photo of a row; None where there is no such row, or the version is long gone."""
        index = self.shelf.index
        if version is not None and version != self.shelf.version:
            kept = self._before.get(version)
            if kept is None:
                return None
            index = kept
        return index.thumbnail(row) if 0 <= row < len(index) else None

    def add(
        self,
        embeddings: Float[np.ndarray, "n d"],
        *,
        label: str,
        ids: Sequence[str],
        thumbnails: Sequence[bytes],
        pixels: Sequence[str],
    ) -> None:
        """Adds photos of one label, all of them or none; the next question finds them.

        Raises:
          ValueError: The index does not take them, since one is there already, or twice among them.
          OSError: They cannot be written.
        """
        index = self.shelf.index.add(
            embeddings,
            ids=ids,
            labels=[label] * len(ids),
            paths=[""] * len(ids),
            thumbnails=thumbnails,
            pixels=pixels,
            digest=self.shelf.index.digest,
        )
        self._swap(index)

    def remove(self, *, ids: Sequence[str] = (), labels: Sequence[str] = ()) -> int:
        """Removes photos; the next question does not find them any more.

        Returns:
          How many.

        Raises:
          ValueError: One is not there; then none is removed.
          OSError: The change cannot be written.
        """
        index, count = self.shelf.index.remove(ids=ids, labels=labels)
        self._swap(index)
        return count

    def refresh(self) -> bool:
        """Takes over what another process has changed in the index's folder.

        Returns:
          Whether there was anything.

        Raises:
          ValueError: The folder holds another index now, or none.
        """
        index = self.shelf.index.newest()
        if index is self.shelf.index:
            return False
        self._swap(index)
        return True

    def _swap(self, index: "Index") -> None:
        shelf, before = Shelf(self._renew(index)), self.shelf
        _try_out(shelf, self._ks)
        self._before[before.version] = before.index
        for version in list(self._before)[:-KEPT]:
            del self._before[version]
        self.shelf = shelf
        self._retired.put(before.searcher)
        self._show(shelf)
        LOG.info("index changed", extra={"fields": {"photos": len(index), "articles": len(shelf.labels)}})

    def _show(self, shelf: Shelf) -> None:
        self._meter.photos.set(len(shelf.index))
        self._meter.articles.set(len(shelf.labels))


def _try_out(shelf: Shelf, ks: Sequence[int]) -> None:
    """Searches once with each shape, so that no client waits for a compilation, and a fault shows before the swap."""
    if len(shelf.index):
        for size in BLOCKS:
            rows = np.repeat(np.asarray(shelf.index.embeddings[:1]), size, axis=0)
            for k in ks:
                shelf.searcher.search(rows, k=k)


def fastest(seconds: Mapping[int, float]) -> dict[int, tuple[int, ...]]:
    """Says in which blocks each number of photos is embedded fastest.

    Args:
      seconds: Of a block, by its size.

    Returns:
      Sizes of blocks by the number of photos, up to the largest size; of equal times the fewest blocks.

    Example:
      >>> fastest({1: 1.0, 4: 2.0})
      {1: (1,), 2: (4,), 3: (4,), 4: (4,)}
      >>> fastest({1: 1.0, 4: 9.0})
      {1: (1,), 2: (1, 1), 3: (1, 1, 1), 4: (1, 1, 1, 1)}
    """
    best: dict[int, tuple[float, int, tuple[int, ...]]] = {0: (0.0, 0, ())}
    for count in range(1, max(seconds) + 1):
        rests = [(size, best[max(count - size, 0)]) for size in seconds]
        best[count] = min((seconds[size] + rest[0], rest[1] + 1, (size, *rest[2])) for size, rest in rests)
    return {count: blocks for count, (_, _, blocks) in best.items() if count}


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def _embed(
    embedder: "Embedder", images: Sequence[UInt8[np.ndarray, "s s c"]], blocks: Sequence[int]
) -> Float[np.ndarray, "n d"]:
    """Embeds photos in blocks of these sizes; rows have length 1."""
    parts, start = [], 0
    for size in blocks:
        some = np.stack(images[start : start + size])
        # Fills the block up, so that it is one program for each size.
        parts.append(embed_blocks(embedder.embed, some, mesh=data_mesh(1), block=size))
        start += size
    embeddings = np.concatenate([np.asarray(part, np.float32) for part in parts])
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def _filled(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "b d"]:
    """Repeats the last query up to the next size of a block, so that searches have few shapes."""
    size = next(size for size in BLOCKS if size >= len(embeddings))
    return np.pad(embeddings, ((0, size - len(embeddings)), (0, 0)), mode="edge")


def _guesses(
    shelf: Shelf, questions: Sequence[Question], embeddings: Float[np.ndarray, "n d"]
) -> "dict[int, Guess]":
    rows = [row for row, question in enumerate(questions) if question.kind == "classify"]
    classifier = shelf.classifier if rows else None
    if classifier is None:
        return {}
    # One photo of one label teaches no threshold; then all that is asked for is the nearest label.
    limit = -1.0 if classifier.threshold is None else None
    return dict(zip(rows, classifier(embeddings[rows], unknown_below=limit), strict=True))
