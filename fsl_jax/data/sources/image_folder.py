"""Your own photos: one folder a label."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fsl_jax.data.sources._files import SPLIT_NAMES, Skipped, deal, frequent, report, why_skipped
from fsl_jax.data.table import Coded, Table

LAYOUT = "<label>/<photo>.jpg, or train/<label>/<photo>.jpg with val/ and test/ beside it"
OBTAIN = f"photos of your own in folders: {LAYOUT}"


def load(
    root: str | Path | None,
    split: str,
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    min_photos: int = 1,
    only: str | Path | None = None,
) -> Table:
    """Reads a folder tree.

    Nested folders are labels joined by "/". Top-level folders named train, val (or valid, validation) and
    test are the splits; otherwise labels are dealt, so that no label is in two splits. Hidden files, stubs of
    macOS and files that are no photos by their extension are left out and counted.

    Args:
      root: The folder.
      split: "train", "val", "test", or several joined by "+".
      fractions: Shares of the labels that train, val and test get, where the folders do not say.
      split_seed: Of that dealing.
      min_photos: Labels with fewer photos in a split are dropped.
      only: Text file with one label a line; all others are dropped before the dealing. Empty lines are skipped.

    Returns:
      A table with `path`, in a stable order.

    Raises:
      ValueError: There is no folder, no photo, or no label folder; or `only` names a label that has none.
    """
    folder = _folder(root)
    paths, skipped = _scan(folder)
    paths = paths if only is None else _only(folder, paths, Path(only))
    if not paths:
        raise ValueError(f"no photo in a label's folder in {root}; expected {LAYOUT}")
    report("image_folder", skipped)
    named, labels = _named_splits(folder, paths)
    kept = frequent(labels, named or [""] * len(labels), source="image_folder", min_photos=min_photos)
    labels = [label for label, stays in zip(labels, kept, strict=True) if stays]
    return Table(
        source="image_folder",
        label=Coded.of(labels),
        split=np.array(named)[kept] if named else deal(labels, fractions=fractions, seed=split_seed),
        path=np.array(paths, dtype=object)[kept],
        root=folder,
    ).select(split)


def skipped(root: str | Path | None, **options: object) -> list[Skipped]:
    """Lists the files that `load` leaves out, whatever its options."""
    return _scan(_folder(root))[1]


def _folder(root: str | Path | None) -> Path:
    if root is None or not Path(root).is_dir():
        raise ValueError(f"no folder {root}; expected a folder with {LAYOUT}")
    return Path(root)


def _scan(folder: Path) -> tuple[list[str], list[Skipped]]:
    """Lists the photos that lie in a label's folder, sorted, and everything else."""
    paths: list[str] = []
    skipped: list[Skipped] = []
    depth = 2 if _has_splits(folder) else 1
    for path in sorted(_files(folder)):
        reason = why_skipped(path) or (None if path.count("/") >= depth else "not in a label's folder")
        if reason is None:
            paths.append(path)
        else:
            skipped.append((path, reason))
    return paths, skipped


def _only(folder: Path, paths: Sequence[str], file: Path) -> list[str]:
    """Keeps the photos of the labels that a file lists."""
    if not file.is_file():
        raise ValueError(
            f"no file {file}; config.data.image_folder.only names a text file with one label a line"
        )
    wanted = {line.strip() for line in file.read_text(encoding="utf-8").splitlines()} - {""}
    _, labels = _named_splits(folder, paths)
    absent = sorted(wanted - set(labels))
    if absent:
        raise ValueError(
            f"{file} lists {len(absent)} of {len(wanted)} labels that have no photo in {folder}, such as "
            f"{absent[0]!r}: expected names of folders, as in {LAYOUT}"
        )
    return [path for path, label in zip(paths, labels, strict=True) if label in wanted]


def _files(folder: Path) -> Iterator[str]:
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(here)
        for file in files:
            yield (Path(place) / file).relative_to(folder).as_posix()


def _has_splits(folder: Path) -> bool:
    folders = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    tops = {name for name in folders if why_skipped(f"{name}/photo.jpg") is None}
    splits = tops & set(SPLIT_NAMES)
    if splits and tops - splits:
        raise ValueError(
            f"{folder} has {', '.join(sorted(splits))} beside {min(tops - splits)!r}; expected folders that "
            "are all splits, or all labels: move or rename some"
        )
    return bool(splits)


def _named_splits(folder: Path, paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cuts paths into splits and labels; no splits where the top-level folders are labels."""
    folders = [path.rsplit("/", 1)[0] for path in paths]
    if not _has_splits(folder):
        return [], folders
    tops, labels = zip(*(folder.split("/", 1) for folder in folders), strict=True)
    return [SPLIT_NAMES[top] for top in tops], list(labels)
