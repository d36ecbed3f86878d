"""An index of photos in a folder: it is whole after any kill, and readable while it is written."""

import bisect
import dataclasses
import functools
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import polars as pl
from absl import logging
from jaxtyping import Bool, Float, Int

from fsl_jax.data.augment import Preprocess
from fsl_jax.data.table import Table
from fsl_jax.embedder import Embedder
from fsl_jax.lookup import closest
from fsl_jax.search import _disk
from fsl_jax.search._adding import (
    TWICE,
    Reading,
    Reported,
    Rows,
    already,
    duplicates,
    items_of,
    known,
    text,
    unit,
    without_direction,
)
from fsl_jax.search._segments import (
    SCHEMA,
    Damaged,
    Segment,
    npy,
    open_segment,
    read_npy,
    write_segment,
)
from fsl_jax.search._state import State, read_state

if TYPE_CHECKING:
    from fsl_jax.search.calibration import Calibration

CHUNK = 8192
"""Photos that are added at once; what an interrupted `add_table` loses at most."""
MOST_SEGMENTS = 16
COMPARED = 5000
"""So many names at most are compared with one that is not there."""


@dataclasses.dataclass(frozen=True)
class Added:
    """What became of photos that were to be added.

    Attributes:
      added: How many were.
      unreadable: (photo, reason) of those that cannot be read, or that the model makes nothing of.
      duplicates: (id, reason) of those that are there already.
    """

    added: int
    unreadable: list[Reported]
    duplicates: list[Reported]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """One state of an index; changes return the next one, and leave this one readable.

    Attributes:
      folder: Where it is.
    """

    folder: Path
    _state: State = dataclasses.field(repr=False)
    _segments: tuple[Segment, ...] = dataclasses.field(repr=False)
    _removed: Int[np.ndarray, "r"] = dataclasses.field(repr=False)

    @classmethod
    def create(cls, folder: Path, *, embedder: Embedder, model: Mapping[str, str]) -> "Index":
        """Makes an empty index.

        Args:
          folder: New, or empty.
          embedder: Whose embeddings it will hold.
          model: What loads it again; see `models.spec_of`.

        Raises:
          ValueError: There is an index, or something else, in the folder.
          OSError: The folder cannot be written.
        """
        how = embedder.preprocess
        photo = jax.ShapeDtypeStruct((1, how.size, how.size, how.channels), np.uint8)
        dimensions = jax.eval_shape(embedder.embed, photo).shape[-1]
        check_place(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the index {folder}: {error.strerror}") from error
        with _disk.writing(folder):
            check_place(folder)
            state = State(secrets.token_hex(8), dict(model), embedder.digest, how, dimensions)
            _disk.sweep(folder, segments=(), removed=None)
            _disk.commit(folder, state.as_json())
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Opens an index.

        Raises:
          ValueError: There is none, it has another format, or a file of it is damaged; the message says which.
        """
        return _opened(folder, {})

    def newest(self) -> "Index":
        """Returns what the folder holds now, where another process may have changed it; this one where none has.

        Raises:
          ValueError: There is none any more, or a file of it is damaged.
        """
        return self if read_state(self.folder)[1] == self._state else self._reopened()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def model(self) -> dict[str, str]:
        """What loads the model; see `models.load_model`."""
        return dict(self._state.model)

    @property
    def digest(self) -> str:
        """Of the model's weights and preprocessing."""
        return self._state.digest

    @property
    def preprocess(self) -> Preprocess:
        """How the model's photos are prepared."""
        return self._state.preprocess

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return self._state.dimensions

    @functools.cached_property
    def calibration(self) -> "Calibration | None":
        """What makes a probability of a score; None where the index is not calibrated."""
        if self._state.calibration is None:
            return None
        from fsl_jax.search.calibration import Calibration

        return Calibration.from_json(self._state.calibration)

    @functools.cached_property
    def _mask(self) -> Bool[np.ndarray, "rows"]:
        mask = np.ones(self._state.rows, bool)
        mask[self._removed] = False
        return mask

    @functools.cached_property
    def _live(self) -> Int[np.ndarray, "n"]:
        return np.flatnonzero(self._mask)

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, "segments"]:
        """The row at which each segment begins."""
        return np.cumsum([0, *(len(segment) for segment in self._segments)])[:-1]

    def _masks(self) -> list[Bool[np.ndarray, "n"]]:
        return [
            self._mask[start : start + len(segment)]
            for start, segment in zip(self._starts, self._segments, strict=True)
        ]

    @functools.cached_property
    def _items(self) -> pl.DataFrame:
        live = [
            segment.items.filter(mask) for segment, mask in zip(self._segments, self._masks(), strict=True)
        ]
        return pl.concat([pl.DataFrame(schema=SCHEMA), *live])

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """Id of each photo."""
        return self._items["id"].to_numpy().astype(str)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Label of each photo."""
        return self._items["label"].to_numpy().astype(str)

    @functools.cached_property
    def label_codes(self) -> Int[np.ndarray, "n"]:
        """Number of each photo's label, from 0 in the order of the alphabet."""
        return self._items["label"].rank("dense").to_numpy().astype(np.int64) - 1

    @functools.cached_property
    def paths(self) -> np.ndarray:
        """File of each photo as it was added; "" where it came from no file."""
        return self._items["path"].to_numpy().astype(str)

    @functools.cached_property
    def embeddings(self) -> Float[np.ndarray, "n d"]:
        """Rows of length 1; a memory map where nothing was removed and there is one segment."""
        if len(self._segments) == 1 and not len(self._removed):
            return self._segments[0].embeddings
        live = [segment.embeddings[mask] for segment, mask in zip(self._segments, self._masks(), strict=True)]
        return np.concatenate([np.zeros((0, self.dimensions), np.float32), *live])

    def thumbnail(self, row: int) -> bytes:
        """Returns the JPEG of a photo, its longest side at most 160 pixels."""
        place = self._live[row]
        segment = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._segments[segment].thumbnail(place - self._starts[segment])

    def info(self) -> dict[str, Any]:
        """Says what the index holds, as plain numbers and text."""
        return {
            "folder": str(self.folder),
            "photos": len(self),
            "labels": self._items["label"].n_unique(),
            "dimensions": self.dimensions,
            "model": self.model,
            "digest": self.digest,
            "preprocess": dataclasses.asdict(self.preprocess),
            "segments": len(self._segments),
            "removed_photos_on_disk": len(self._removed),
            "bytes": _disk.size_of(self.folder),
            "calibration": self._state.calibration,
        }

    def check_digest(self, digest: str) -> None:
        """Refuses embeddings of another model."""
        if digest != self.digest:
            raise ValueError(
                f"the index {self.folder} holds embeddings of the model {_told(self.model)} (digest "
                f"{self.digest[:12]}), and these are of another one (digest {digest[:12]}): use its model, or make "
                "another index"
            )

    def add(
        self,
        embeddings: Float[np.ndarray, "n d"],
        *,
        ids: Sequence[str],
        labels: Sequence[str],
        paths: Sequence[str],
        thumbnails: Sequence[bytes],
        digest: str,
        pixels: Sequence[str] | None = None,
    ) -> "Index":
        """Adds rows, all of them or none.

        Args:
          embeddings: Of any length but 0; they are brought to length 1.
          ids: Of the photos; each once, and not in the index yet.
          labels: Of the photos; not empty.
          paths: Of the photos, or "".
          thumbnails: JPEGs.
          digest: Of the model that made the embeddings.
          pixels: Checksums of the photos, by which `add_table` knows them again; "" where there is none.

        Returns:
          The index with them.

        Raises:
          ValueError: Embeddings are of another model, another length, zero or not finite; columns differ in length; an
            id is there twice, or a photo is.
          OSError: The folder cannot be written; nothing is added.
        """
        columns = {"ids": ids, "labels": labels, "paths": paths, "thumbnails": thumbnails}
        columns |= {} if pixels is None else {"pixels": pixels}
        if np.ndim(embeddings) != 2 or np.shape(embeddings)[1] != self.dimensions:
            raise ValueError(
                f"embeddings are {list(np.shape(embeddings))}; expected [n, {self.dimensions}], as in {self.folder}"
            )
        for name, column in columns.items():
            if len(column) != len(embeddings):
                raise ValueError(f"{len(column)} {name} are given for {len(embeddings)} embeddings")
        empty = [id for id, label in zip(ids, labels, strict=True) if not label or not id]
        if empty:
            raise ValueError(f"photo {empty[0]!r} has no label or no id; give both")
        rows = unit(embeddings)
        for row, reason in without_direction(rows):
            raise ValueError(f"photo {ids[row]!r} cannot be added: {reason}")
        items = items_of(ids, labels, paths, [""] * len(rows) if pixels is None else pixels)
        return self._append(Rows(rows, items, thumbnails), digest, refuse=True)[0]

    def add_table(
        self, table: Table, embedder: Embedder, *, block: int = 32, ids: Sequence[str] | None = None
    ) -> tuple["Index", Added]:
        """Embeds the photos of a table and adds them, `CHUNK` photos at once.

        Photos that cannot be read are left out, and so are those whose id is in the index, or whose photo is under the
        same label. So the same call goes on where one was interrupted.

        Args:
          table: Photos.
          embedder: The index's model.
          block: Photos at once on each device.
          ids: Of the photos; `table.name` by default.

        Returns:
          The index with them, and what became of each.

        Raises:
          ValueError: The embedder is not the index's model, or the table has features in place of photos.
          OSError: The folder cannot be written; what was added before stays.
        """
        self.check_digest(embedder.digest)
        if table.has_features:
            raise ValueError(f"{table.source} has features in place of photos; an index needs photos")
        if ids is not None and len(ids) != len(table):
            raise ValueError(f"{len(ids)} ids are given for {len(table)} photos")
        names = [text(name) for name in (map(table.name, range(len(table))) if ids is None else ids)]
        index, unreadable, rows, skipped = self, [], *self._fresh_rows(names)
        read, added = Reading(table, names, embedder, block), 0
        for start in range(0, len(rows), CHUNK):
            new, broken = read(rows[start : start + CHUNK], done=start, total=len(rows))
            index, found = index._append(new, embedder.digest, refuse=False)
            added += len(new) - len(found)
            unreadable += broken
            skipped += found
        return index, Added(added, unreadable, skipped)

    def _fresh_rows(self, names: Sequence[str]) -> tuple[Int[np.ndarray, "m"], list[Reported]]:
        """Finds the rows that need not be read at all, since their id is there, or came before."""
        there, seen, fresh, skipped = known(self._items, names), set(), [], []
        for row, name in enumerate(names):
            if name in there:
                skipped.append((name, already(there[name])))
            elif name in seen:
                skipped.append((name, TWICE))
            else:
                fresh.append(row)
            seen.add(name)
        return np.array(fresh, int), skipped

    def _append(self, rows: Rows, digest: str, *, refuse: bool) -> tuple["Index", list[Reported]]:
        """Adds rows; those that are there already are refused, or left out and returned."""
        found: list[Reported] = []

        def appended(index: Index) -> State | None:
            index.check_digest(digest)
            twice = duplicates(index._items, rows.items)
            found.extend(twice.values())
            if twice and refuse:
                raise ValueError(f"photo {found[0][0]!r} cannot be added: {found[0][1]}")
            new = rows.take(np.array([row for row in range(len(rows)) if row not in twice], int))
            if not len(new):
                return None
            state, name = index._state, f"{index._state.next:06d}"
            blocks = [(new.embeddings, new.thumbnails)]
            written = write_segment(self.folder / _disk.SEGMENTS / name, new.items, self.dimensions, blocks)
            return dataclasses.replace(state, segments=(*state.segments, written), next=state.next + 1)

        return self._changed(appended), found

    def remove(self, *, ids: Collection[str] = (), labels: Collection[str] = ()) -> tuple["Index", int]:
        """Removes photos by their ids, and all photos of labels.

        Returns:
          The index without them, and how many they were.

        Raises:
          ValueError: An id or label is not in the index; then nothing is removed.
          OSError: The folder cannot be written; nothing is removed.
        """
        count = 0

        def removed(index: Index) -> State | None:
            nonlocal count
            gone = index._found("id", ids) | index._found("label", labels)
            count = int(gone.sum())
            if not count:
                return None
            name = f"{index._state.next:06d}.npy"
            _write_removed(self.folder, name, np.union1d(index._removed, index._live[gone]))
            return dataclasses.replace(index._state, removed=name, next=index._state.next + 1)

        return self._changed(removed), count

    def _found(self, column: str, wanted: Collection[str]) -> Bool[np.ndarray, "n"]:
        there = self._items[column]
        asked_for = there.is_in(list(wanted))
        found = set(there.filter(asked_for))
        unknown = [name for name in wanted if name not in found]
        if unknown:
            choices = _comparable(unknown[0], there.unique().to_list())
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ValueError(
                f"no {column} {unknown[0]!r}{more} in the index {self.folder}; {closest(unknown[0], choices)}"
            )
        return asked_for.to_numpy()

    def calibrated(self, calibration: "Calibration | None") -> "Index":
        """Stores a calibration in place of the one before; None takes it away.

        Raises:
          OSError: The folder cannot be written.
        """
        plain = None if calibration is None else calibration.as_json()
        return self._changed(lambda index: dataclasses.replace(index._state, calibration=plain))

    def _changed(self, change: "Callable[[Index], State | None]") -> "Index":
        """Applies a change to what the folder holds now, which may be more than this state; None changes nothing."""
        with _disk.writing(self.folder):
            index = self._reopened()
            _sweep(self.folder, index._state)
            with index._swept_after_failure():
                state = change(index)
                if state is None:
                    return index
                _disk.commit(self.folder, state.as_json())
            index = index._reopened()
            _sweep(self.folder, index._state)
            return index._merged()

    @contextmanager
    def _swept_after_failure(self) -> Iterator[None]:
        """Takes away at once what a change has written that did not come to its end; a disk may be full of it."""
        try:
            yield
        except BaseException:
            # What holds is read anew: an interrupt may come when the change holds already.
            _sweep(self.folder, read_state(self.folder)[1])
            raise

    def _reopened(self) -> "Index":
        return _opened(self.folder, {(self._state.identity, each.name): each for each in self._segments})

    def _merged(self) -> "Index":
        """Merges small segments where there are many, and drops removed rows where they are most."""
        start = _first_to_merge([len(segment) for segment in self._segments], len(self._removed))
        if start is None:
            return self
        try:
            with self._swept_after_failure():
                _disk.commit(self.folder, self._write_merged(start).as_json())
        except OSError as error:  # The change before it holds already, and is all that was asked for.
            logging.warning("%s: cannot merge its %d segments (%s)", self.folder, len(self._segments), error)
            return self
        index = self._reopened()
        _sweep(self.folder, index._state)
        return index

    def _write_merged(self, start: int) -> State:
        """Writes one segment in the place of those from `start` on, without what was removed of them."""
        state, masks = self._state, self._masks()[start:]
        first = self._starts[start]
        items = self._items.slice(int(self._mask[:first].sum()))
        number, kept, removed = state.next, state.segments[:start], None
        if len(items):
            name = f"{number:06d}"
            blocks = (
                block
                for segment, mask in zip(self._segments[start:], masks, strict=True)
                for block in segment.blocks(mask)
            )
            written = write_segment(self.folder / _disk.SEGMENTS / name, items, self.dimensions, blocks)
            number, kept = number + 1, (*kept, written)
        left = self._removed[self._removed < first]
        if len(left):
            number, removed = number + 1, f"{number:06d}.npy"
            _write_removed(self.folder, removed, left)
        return dataclasses.replace(state, segments=kept, removed=removed, next=number)


def _told(model: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in model.items())


def check_place(folder: Path) -> None:
    """Refuses a folder that is in use; what a killed `create` left is no use."""
    if (folder / _disk.TRUTH).exists():
        raise ValueError(
            f"there is an index in {folder} already: add to it with fsl-jax index add, or choose another folder"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a new folder")
    ours = (_disk.LOCK, _disk.SEGMENTS, _disk.REMOVED)
    others = [
        entry.name
        for entry in (folder.iterdir() if folder.exists() else ())
        if entry.name not in ours and not entry.name.startswith(f".{_disk.TRUTH}.")
    ]
    if others:
        raise ValueError(f"{folder} is not empty (it has {min(others)}): choose a new folder for the index")


def _sweep(folder: Path, state: State) -> None:
    _disk.sweep(folder, segments={each.name for each in state.segments}, removed=state.removed)


def _opened(folder: Path, there: Mapping[tuple[str, str], Segment]) -> Index:
    """Opens an index; segments that are open already, by identity and name, are not read again."""
    before = None
    while True:
        content, state = read_state(folder)
        try:
            segments = [
                there.get((state.identity, each.name))
                or open_segment(folder / _disk.SEGMENTS, each, dimensions=state.dimensions)
                for each in state.segments
            ]
            return Index(folder, state, tuple(segments), _read_removed(folder, state))
        except FileNotFoundError as error:
            # A writer may have merged the segments since index.json was read; then it has changed.
            if content == before:
                raise Damaged(f"the index {folder} is damaged: {error.filename} is missing") from error
            before = content
        except Damaged as error:
            raise Damaged(
                f"the index {folder} is damaged: {error}; put it back from a copy, or build it anew"
            ) from error


def _read_removed(folder: Path, state: State) -> Int[np.ndarray, "r"]:
    if state.removed is None:
        return np.zeros(0, np.int64)
    file = folder / _disk.REMOVED / state.removed
    removed = read_npy(file)
    right = removed.dtype == np.int64 and removed.ndim == 1
    if not right or (len(removed) and (removed.min() < 0 or removed.max() >= state.rows)):
        raise Damaged(f"{file} has {removed.dtype} {list(removed.shape)}; expected rows below {state.rows}")
    return removed


def _write_removed(folder: Path, name: str, rows: Int[np.ndarray, "r"]) -> None:
    file = folder / _disk.REMOVED / name
    file.parent.mkdir(exist_ok=True)
    _disk.write(file, lambda stream: stream.write(npy(rows.astype(np.int64))))
    _disk.folder_to_disk(file.parent)
    _disk.folder_to_disk(folder)


def _first_to_merge(rows: Sequence[int], removed: int) -> int | None:
    """Says from which segment on all are merged into one; None where they are fine as they are.

    As many of the last segments are merged as are no larger than those after them together: each that stays is larger
    than all after it, and so no row is copied more often than the logarithm of their number.

    Args:
      rows: Of each segment.
      removed: Rows of all segments that were removed.
    """
    if 2 * removed > sum(rows):
        return 0
    if len(rows) <= MOST_SEGMENTS:
        return None
    start = len(rows) - 1
    while start and (start >= MOST_SEGMENTS or rows[start - 1] <= sum(rows[start:])):
        start -= 1
    return start


def _comparable(name: str, choices: list[str]) -> list[str]:
    """Takes the neighbours of a name in the order of the alphabet, where there are too many to compare them all."""
    choices = sorted(choices)
    start = max(0, bisect.bisect(choices, name) - COMPARED // 2) if len(choices) > COMPARED else 0
    return choices[start : start + COMPARED]
