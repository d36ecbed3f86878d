"""Looks a data set over before it costs a night of training."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fsl_jax.data.read import check_photos, in_threads
from fsl_jax.data.table import SPLITS, Table

BINS = (1, 2, 3, 5, 10, 20, 50, 100)
"""Lower ends of the histogram's bins: photos a label."""


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
      photos: Number of photos.
      labels: Number of labels.
      roles: Number of photos by role; empty where the set has no roles.
      histogram: (bin of photos a label, number of labels), without the empty bins at the ends.
      fewest: Photos of the rarest label.
      most: Photos of the most frequent label.
      scarce: Labels with fewer photos than shot + query.
      unmatched: Queries whose label has no gallery photo in this split.
    """

    photos: int
    labels: int
    roles: dict[str, int]
    histogram: tuple[tuple[str, int], ...]
    fewest: int
    most: int
    scarce: tuple[str, ...]
    unmatched: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
      source: Name of the source.
      needed: Photos that a label needs: shot + query; None where it was not asked.
      splits: By name, in the order train, val, test.
      shared: Labels that are in several splits: right for classification, wrong for few-shot learning.
      skipped: (path, reason) of files and rows that the source leaves out.
      unreadable: (path, reason) of photos that cannot be decoded.
      duplicates: Groups of photos with the same content and the same label.
      conflicts: Groups of photos with the same content and several labels.
    """

    source: str
    needed: int | None
    splits: dict[str, SplitReport]
    shared: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    conflicts: tuple[tuple[str, ...], ...]

    @property
    def problems(self) -> int:
        """Counts what should be mended; stubs, equal photos of one label and shared labels are only told."""
        a_split = sum(len(split.scarce) + len(split.unmatched) for split in self.splits.values())
        return len(self.unreadable) + len(self.conflicts) + a_split

    def as_json(self) -> dict[str, Any]:
        """Returns the report as plain lists, numbers and text."""
        return {**dataclasses.asdict(self), "problems": self.problems}


def validate(
    table: Table,
    *,
    shot: int | None = None,
    query: int | None = None,
    skipped: Sequence[tuple[str, str]] = (),
) -> Report:
    """Looks at every photo of a table.

    Args:
      table: All splits: `load(root, "train+val+test", ...)`.
      shot: Support photos a label that an episode will need.
      query: Query photos a label that an episode will need.
      skipped: What the source left out, to be told along.

    Returns:
      The report. Photos are compared by their bytes, arrays by their pixels.

    Raises:
      ValueError: A count is negative.
    """
    for name, count in {"shot": shot, "query": query}.items():
        if count is not None and count < 0:
            raise ValueError(f"{name} is {count}; expected 0 or more photos a label")
    needed = None if shot is None and query is None else (shot or 0) + (query or 0)
    unreadable = check_photos(table)
    duplicates, conflicts = _equal_photos(table, without={row for row, _ in unreadable})
    there = [split for split in SPLITS if (table.split == split).any()]
    return Report(
        source=table.source,
        needed=needed,
        splits={split: _split_report(table.take(table.split == split), needed) for split in there},
        shared=_shared(table),
        skipped=tuple(skipped),
        unreadable=tuple((table.name(row), reason) for row, reason in unreadable),
        duplicates=duplicates,
        conflicts=conflicts,
    )


def _split_report(table: Table, needed: int | None) -> SplitReport:
    counts = table.label.counts()
    present = counts[counts > 0]
    few = np.flatnonzero((counts > 0) & (counts < (needed or 0)))
    roles = Counter(str(role) for role in table.role) if table.role is not None else {}
    return SplitReport(
        photos=len(table),
        labels=len(present),
        roles={role or "none": count for role, count in sorted(roles.items())},
        histogram=_histogram(present),
        fewest=int(present.min()),
        most=int(present.max()),
        scarce=tuple(table.label.names[label] for label in few),
        unmatched=_unmatched(table),
    )


def _histogram(counts: np.ndarray) -> tuple[tuple[str, int], ...]:
    ends = [*(start - 1 for start in BINS[1:]), None]
    names = [
        f"{start}+" if end is None else (f"{start}" if start == end else f"{start}-{end}")
        for start, end in zip(BINS, ends, strict=True)
    ]
    labels = np.bincount(np.searchsorted(BINS, counts, side="right") - 1, minlength=len(BINS))
    used = np.flatnonzero(labels)
    return tuple((names[i], int(labels[i])) for i in range(used[0], used[-1] + 1))


def _unmatched(table: Table) -> tuple[str, ...]:
    """Names the queries that no gallery photo can answer."""
    if table.role is None or not (table.role == "query").any():
        return ()
    answered = np.isin(table.label.codes, table.label.codes[table.role == "gallery"])
    return tuple(table.name(int(row)) for row in np.flatnonzero((table.role == "query") & ~answered))


def _shared(table: Table) -> tuple[str, ...]:
    pairs = np.unique(np.stack([table.label.codes, _codes(table.split)]), axis=1)
    labels, splits = np.unique(pairs[0], return_counts=True)
    return tuple(table.label.names[label] for label in labels[splits > 1])


def _codes(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


Groups = tuple[tuple[str, ...], ...]


def _equal_photos(table: Table, *, without: set[int]) -> tuple[Groups, Groups]:
    """Groups equal photos: those of one label, and those with several."""
    one, several = [], []
    for rows in _groups(table, [row for row in range(len(table)) if row not in without]):
        labels = {int(table.label.codes[row]) for row in rows}
        if len(labels) == 1:
            one.append(tuple(table.name(row) for row in rows))
        else:
            several.append(
                tuple(f"{table.name(row)} ({table.label.names[table.label.codes[row]]})" for row in rows)
            )
    return tuple(one), tuple(several)


def _groups(table: Table, rows: Sequence[int]) -> Iterator[list[int]]:
    if table.images is None:
        sizes: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            sizes[table.file(row).stat().st_size].append(row)
        # Equal files have equal sizes, so most files are not read again.
        rows = sorted(row for group in sizes.values() if len(group) > 1 for row in group)
    digests = in_threads(lambda row: _digest(table, row), rows, description="comparing photos")
    equal: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in zip(rows, digests, strict=True):
        equal[digest].append(row)
    return (group for group in equal.values() if len(group) > 1)


def _digest(table: Table, row: int) -> bytes:
    content = table.file(row).read_bytes() if table.images is None else table.images[row].tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
