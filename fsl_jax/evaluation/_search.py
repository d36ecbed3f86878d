"""Places both sides of a retrieval on the devices, looks up each query's positives, runs block by block."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.evaluation._expected import Ties
from fsl_jax.evaluation._ranking import DTYPES, Layout, Placed, agree, block_counter, place, share

DISTANCES = ("cosine", "euclidean")
TILE = 1 << 23
"""Scores that a device holds for one block of queries: 32 MB."""
AHEAD = 2
"""Blocks under way while one is fetched: on a CPU the product of one runs beside the counting of another."""
PENDING = 1 << 20
"""Counted positives that are kept before they are turned into measures."""


@dataclasses.dataclass(frozen=True)
class Search:
    """Both sides on the devices.

    Attributes:
      layout: The devices.
      query: The queries; with leave-one-out the gallery itself.
      gallery: The gallery.
      query_position: Where each query lies.
      gallery_position: Where each gallery row lies, of all processes.
      local_rows: Gallery rows of this process.
      block: Queries that are multiplied at once.
    """

    layout: Layout
    query: Placed
    gallery: Placed
    query_position: Int[np.ndarray, "q"]
    gallery_position: Int[np.ndarray, "g"]
    local_rows: int
    block: int

    @classmethod
    def of(
        cls,
        query: Any,
        gallery: Any,
        layout: Layout,
        *,
        distance: str,
        precision: str,
        block: int | None,
    ) -> "Search":
        """Checks and places the embeddings; gallery None is leave-one-out."""
        for name, value, known in (
            ("distance", distance, DISTANCES),
            ("precision", precision, tuple(DTYPES)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")
        if gallery is None and layout.collective:
            raise ValueError(
                "gallery is None with collective=True; expected this process's gallery, and exclude_self"
            )
        if block is not None and block < 1:
            raise ValueError(f"block is {block}; expected at least 1 query, or None")
        query = _embeddings("query", query)
        rows = query if gallery is None else _embeddings("gallery", gallery)
        if rows.shape[1] != query.shape[1]:
            raise ValueError(
                f"query has {query.shape[1]} dimensions, gallery {rows.shape[1]}; expected those of one model"
            )
        how = {"distance": distance, "precision": precision}
        placed = place(rows, layout, **how)
        position = _positions("query" if gallery is None else "gallery", placed, layout, len(rows))
        if not len(position):
            raise ValueError("gallery has no rows; expected at least one photo to search in")
        side, query_position = placed, position
        if gallery is not None:
            mine = share(layout, query)
            side = place(mine, layout, **how)
            query_position = _positions("query", side, layout, len(mine))
        fitting = min(max(TILE // placed.vectors.shape[1] // 64 * 64, 64), 1024)
        size = min(block or fitting, max(len(query), 1))
        return cls(layout, side, placed, query_position, position, len(rows), size)

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.query_position)

    def gallery_column(self, name: str, values: Any) -> np.ndarray:
        """Checks a column of the gallery's and joins those of all processes."""
        column = column_of(name, values, "gallery photos", self.local_rows)
        if not self.layout.collective:
            return column
        if not np.issubdtype(column.dtype, np.integer):
            raise ValueError(f"{name} is of {column.dtype}; expected integers with collective=True")
        counts = agree(self.layout, len(column))
        filled = np.zeros(max(counts), np.int32)
        filled[: len(column)] = column
        parts = multihost_utils.process_allgather(filled).reshape(len(counts), -1)
        return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])

    def blocks(self, queries: Int[np.ndarray, "n"]) -> Iterator[tuple[Int[np.ndarray, "b"], int]]:
        """Cuts queries into blocks of one size, the last one filled up; gives the true size with each."""
        for start in range(0, len(queries), self.block):
            part = queries[start : start + self.block]
            yield np.concatenate([part, np.full(self.block - len(part), part[0])]), len(part)


def _positions(name: str, placed: Placed, layout: Layout, count: int) -> Int[np.ndarray, "n"]:
    """Lists where the rows of all processes lie, in order; a row that is not finite is an error."""
    rows = placed.vectors.shape[1]
    starts = np.cumsum([0, *agree(layout, len(layout.local))])[:-1] * rows
    position = np.concatenate(
        [start + np.arange(n) for start, n in zip(starts, agree(layout, count), strict=True)]
    ).astype(np.int32)
    if (wrong := int(placed.first_wrong)) >= 0:
        row = int(np.searchsorted(position, wrong))
        raise ValueError(
            f"{name} row {row} holds a NaN, an infinity, or numbers too large to be squared; expected finite "
            "embeddings: has training diverged?"
        )
    return position


def _embeddings(name: str, embeddings: Any) -> Float[Array | np.ndarray, "n d"]:
    """Checks the shape of embeddings; arrays on devices stay there."""
    array = embeddings if isinstance(embeddings, jax.Array) else np.asarray(embeddings)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} has the shape {array.shape}; expected [photos, dimensions]")
    return array


def column_of(name: str, values: Any, rows: str, count: int) -> np.ndarray:
    """Checks the length of a column."""
    column = np.asarray(values)
    if column.shape != (count,):
        raise ValueError(
            f"{name} has the shape {column.shape}; expected ({count},), one for each of the {rows}"
        )
    return column


@dataclasses.dataclass(frozen=True)
class Same:
    """The gallery rows with each query's label: `order[start:stop]`.

    Attributes:
      order: Gallery rows by label.
      start: First place of each query's label.
      stop: One after its last place.
      groups: Of queries and gallery, or None.
      exclude_self: Query i ignores gallery row i.
      positives: Rows that are neither junk nor the query itself.
    """

    order: Int[np.ndarray, "g"]
    start: Int[np.ndarray, "q"]
    stop: Int[np.ndarray, "q"]
    groups: tuple[np.ndarray, np.ndarray] | None
    exclude_self: bool
    positives: Int[np.ndarray, "q"]

    @classmethod
    def of(
        cls,
        labels: tuple[np.ndarray, np.ndarray],
        groups: tuple[np.ndarray, np.ndarray] | None,
        exclude_self: bool,
    ) -> "Same":
        """Looks the rows up; labels and groups are those of the queries and of the gallery."""
        query, gallery = labels
        if exclude_self and not np.array_equal(query, gallery[: len(query)]):
            raise ValueError(
                "exclude_self, but query and gallery labels differ; expected query i to be gallery row i"
            )
        order = np.argsort(gallery, kind="stable")
        start, stop = (np.searchsorted(gallery[order], query, side) for side in ("left", "right"))
        positives = stop - start
        own = np.full(len(query), int(exclude_self))
        if groups is not None:
            positives = positives - _occurrences(labels, groups)
            own &= groups[0] != groups[1][: len(query)] if exclude_self else 0
        return cls(order, start, stop, groups, exclude_self, positives - own)

    def members(
        self, rows: Int[np.ndarray, "b"]
    ) -> tuple[Int[np.ndarray, "b m"], Bool[np.ndarray, "b m"], Bool[np.ndarray, "b m"]]:
        """Lists the gallery rows with the label of some queries, positives first.

        Args:
          rows: Queries.

        Returns:
          Gallery rows, which of them are positives, and which are ignored (junk, or the query itself).
        """
        start, count = self.start[rows, None], (self.stop - self.start)[rows, None]
        place = np.arange(_rounded(int(count.max())))
        there = place < count
        member = self.order[np.where(there, start + place, 0)]
        ignored = np.zeros_like(there)
        if self.groups is not None:
            ignored |= self.groups[0][rows, None] == self.groups[1][member]
        if self.exclude_self:
            ignored |= member == rows[:, None]
        positive, ignored = there & ~ignored, there & ignored
        first = np.argsort(~positive, axis=1, kind="stable")
        member, positive, ignored = (
            np.take_along_axis(each, first, axis=1) for each in (member, positive, ignored)
        )
        return member, positive, ignored


def _occurrences(
    labels: tuple[np.ndarray, np.ndarray], groups: tuple[np.ndarray, np.ndarray]
) -> Int[np.ndarray, "q"]:
    """Counts the gallery rows that have both the label and the group of each query."""
    queries = len(labels[0])
    codes = [np.unique(np.concatenate(column), return_inverse=True)[1] for column in (labels, groups)]
    pairs = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return np.bincount(pairs[queries:], minlength=pairs.max(initial=0) + 1)[pairs[:queries]]


def _rounded(count: int) -> int:
    """Rounds up to 1, 2, 3, 4, 6, 8, 12, 16, ..., so that few programs are compiled."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def counted(
    search: Search, same: Same, queries: Int[np.ndarray, "n"]
) -> Iterator[tuple[Int[np.ndarray, "b"], Ties]]:
    """Counts, block by block.

    Args:
      search: Both sides.
      same: The positives.
      queries: Those to judge, in the order of their number of positives.

    Yields:
      Some of the queries, and where their positives stand.
    """

    def start(part, real):
        members, positive, ignored = same.members(part)
        positives = _rounded(int(same.positives[part].max()))
        counts = block_counter(search.layout, positives)(
            search.query,
            search.gallery,
            search.query_position[part],
            search.gallery_position[members],
            positive,
            ignored,
        )
        return part[:real], counts, positive[:, :positives]

    for rows, counts, positive in ahead(start(*block) for block in search.blocks(queries)):
        yield rows, Ties.of(*(np.asarray(each)[: len(rows)] for each in (*counts, positive)))


def ahead(started: Iterator[Any]) -> Iterator[Any]:
    """Starts some items before it hands out the first, so that devices never wait for the host."""
    waiting: collections.deque = collections.deque()
    for item in started:
        waiting.append(item)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def joined(parts: Iterable[tuple[Int[np.ndarray, "b"], Ties]]) -> Iterator[tuple[Int[np.ndarray, "n"], Ties]]:
    """Joins consecutive parts of the same width, up to a size: NumPy is slow on many small arrays."""
    for _, run in itertools.groupby(parts, key=lambda part: part[1].positive.shape[1]):
        kept: list[tuple[np.ndarray, Ties]] = []
        for part in run:
            kept.append(part)
            if sum(ties.positive.size for _, ties in kept) >= PENDING:
                yield _concatenated(kept)
                kept = []
        if kept:
            yield _concatenated(kept)


def _concatenated(parts: list[tuple[Int[np.ndarray, "b"], Ties]]) -> tuple[Int[np.ndarray, "n"], Ties]:
    rows, ties = zip(*parts, strict=True)
    return np.concatenate(rows), Ties(*(np.concatenate(each) for each in zip(*ties, strict=True)))
