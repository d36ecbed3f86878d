"""From a table to an index that is filled and calibrated."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from fsl_jax.data.table import Coded, Table
from fsl_jax.embedder import Embedder
from fsl_jax.search._adding import Reading, Reported, checksum
from fsl_jax.search.index import Added, Index, check_place


def check_new(folder: Path) -> None:
    """Refuses a folder that is in use, before anything is loaded."""
    check_place(folder)


def check_rate(false_accept_rate: float) -> None:
    """Refuses a rate that is none."""
    if not 0 < false_accept_rate < 1:
        raise ValueError(f"false_accept_rate is {false_accept_rate}; expected a share above 0 and below 1")


def photos_table(photos: Sequence[Path], label: str) -> Table:
    """Makes a table of plain photos of one label."""
    if not label.strip():
        raise ValueError("the label is empty; give the photos a name")
    return Table(
        source="photos",
        label=Coded.of([label] * len(photos)),
        split=np.full(len(photos), "test"),
        path=np.array([photo.as_posix() for photo in photos], object),
    )


def content_ids(table: Table) -> list[str] | None:
    """Names photos that have no file by label and pixels: the same photo has the same id each time, another never.

    Returns:
      None where the photos are files, whose paths are their ids.
    """
    if table.images is None:
        return None
    labels = [table.label.names[code] for code in table.label.codes]
    return [f"{label}/{checksum(image)[:16]}" for label, image in zip(labels, table.images, strict=True)]


def build(
    folder: Path, embedder: Embedder, spec: Mapping[str, str], table: Table, *, block: int
) -> tuple[Index, Added]:
    """Makes an index of a table; where no photo got into it, nothing is left of it.

    Raises:
      ValueError: No photo can be read, or there is an index already.
      OSError: The folder cannot be written.
    """
    index = Index.create(folder, embedder=embedder, model=spec)
    try:
        added = add(index, embedder, table, block=block)
    except BaseException:
        if not len(Index.open(folder)):  # the folder was new, or empty
            shutil.rmtree(folder)
        raise
    return Index.open(folder), added


def add(index: Index, embedder: Embedder, table: Table, *, block: int) -> Added:
    """Adds a table to an index.

    Raises:
      ValueError: None of its photos can be read, or the index is of another model.
      OSError: The folder cannot be written.
    """
    _, added = index.add_table(table, embedder, block=block, ids=content_ids(table))
    _check_read(table, added.unreadable)
    return added


def _check_read(table: Table, broken: Sequence[Reported]) -> None:
    """Refuses a table of which no photo can be read."""
    if len(broken) == len(table):
        photo, reason = broken[0]
        raise ValueError(f"none of {len(table)} photos can be read; the first: {photo} ({reason})")


def calibrate(index: Index, *, false_accept_rate: float) -> Index:
    """Calibrates an index where it has two labels, and two photos of one; elsewhere it stays as it is.

    Raises:
      OSError: The folder cannot be written.
    """
    photos = np.bincount(index.label_codes)
    if len(photos) < 2 or photos.max() < 2:
        return index
    from fsl_jax.search import calibration

    fitted = calibration.fit(index.embeddings, index.labels, false_accept_rate=false_accept_rate)
    return index.calibrated(fitted)


def calibrate_with(
    index: Index, embedder: Embedder, table: Table, *, false_accept_rate: float, block: int
) -> tuple[Index, list[Reported]]:
    """Calibrates an index with photos that are not in it.

    Returns:
      The index, and (photo, reason) of those that cannot be read.

    Raises:
      ValueError: None can be read, none has a label of the index, or the scores do not separate.
      OSError: The folder cannot be written.
    """
    from fsl_jax.search import calibration

    index.check_digest(embedder.digest)
    names = [table.name(row) for row in range(len(table))]
    photos, broken = Reading(table, names, embedder, block)(np.arange(len(table)), done=0, total=len(table))
    if not len(photos):
        raise ValueError(
            f"none of {len(table)} photos can be read; the first: {broken[0][0]} ({broken[0][1]})"
        )
    labels = photos.items["label"].to_numpy().astype(str)
    fitted = calibration.fit_with(
        photos.embeddings, labels, index.embeddings, index.labels, false_accept_rate=false_accept_rate
    )
    return index.calibrated(fitted), broken


def calibrate_where_possible(index: Index, *, false_accept_rate: float) -> Index:
    """Calibrates an index that was filled; where its scores tell no articles apart, a warning says so.

    Raises:
      OSError: The folder cannot be written.
    """
    try:
        return calibrate(index, false_accept_rate=false_accept_rate)
    except ValueError as error:
        logging.warning("%s is not calibrated: %s", index.folder, error)
        return index
