"""Cars196: 16,185 photos of 196 models of cars."""

import csv
from pathlib import Path

import numpy as np

from fsl_jax.data.sources._lists import Listing, check_published, find, halved, photo_folder
from fsl_jax.data.table import Coded, Table

LAST_TRAINING = 98
NUMBER = r"[1-9]\d?|1[0-8]\d|19[0-6]"  # counted from 0, one label would change its split unseen
PUBLISHED = {"photos": 16_185, "labels": 196}
OBTAIN = (
    "get car_ims.tgz and cars_annos.mat of https://ai.stanford.edu/~jkrause/cars/car_dataset.html, or of a mirror, "
    "and unpack the photos to car_ims/; cars_annos.csv with the columns path,label is read in place of the Matlab file"
)


def load(
    root: str | Path | None,
    split: str,
    *,
    val_labels: int = 0,
    check_counts: bool = True,
) -> Table:
    """Reads the official annotations, or a csv file in their place.

    The first 98 labels are for training, the last 98 for test. There are no roles: every photo is searched in the
    others of its split. The official split of photos is for classification and is not used.

    Args:
      root: Folder with cars_annos.csv (columns path,label with label 1 to 196) or cars_annos.mat, and car_ims/.
        Where both are there, the csv file is read; the Matlab file needs SciPy.
      split: "train", "val", "test", or several joined by "+".
      val_labels: How many of the first 98, the last of them, are for validation.
      check_counts: Whether the set must be whole: 16,185 photos of 196 labels.

    Returns:
      A table with `path`, and labels "001" to "196".

    Raises:
      ValueError: The annotations or the folder of the photos are missing or not as published, counts differ, or
        SciPy is missing.

    References:
      Krause et al. 2013, https://doi.org/10.1109/ICCVW.2013.77; the split: Song et al. 2016,
      https://arxiv.org/abs/1511.06452.
    """
    file = find(root, ("cars_annos.csv", "cars_annos.mat"), source="cars", obtain=OBTAIN)
    listed = _read_csv(file) if file.suffix == ".csv" else _read_matlab(file)
    listed.position("path")
    listed.parsed("path", r"[^/]+/.+", "car_ims/000001.jpg")
    numbers = [int(match[0]) for match in listed.parsed("label", NUMBER, "1, up to 196")]
    labels = [f"{number:03d}" for number in numbers]
    if check_counts:
        check_published("cars", {"photos": len(listed), "labels": len(set(labels))}, PUBLISHED)
    return Table(
        source="cars",
        label=Coded.of(labels),
        split=halved(numbers, last=LAST_TRAINING, val_labels=val_labels),
        path=np.array(listed["path"], dtype=object),
        root=photo_folder(file.parent, listed["path"], source="cars", obtain=OBTAIN),
    ).select(split)


def _read_csv(file: Path) -> Listing:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = {"path", "label"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{file} has no column {min(missing)!r}; expected the columns path,label")
        rows = [(reader.line_num, row["path"] or "", row["label"] or "") for row in reader]
    return _listing(file, rows)


def _read_matlab(file: Path) -> Listing:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ValueError(
            f"reading {file} needs SciPy: pip install scipy, or put cars_annos.csv with the columns path,label there"
        ) from error
    try:
        annotations = loadmat(file, squeeze_me=True)["annotations"]
        paths, labels = (np.atleast_1d(annotations[name]) for name in ("relative_im_path", "class"))
    except (ValueError, TypeError, KeyError, IndexError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"{file} is not the published Matlab file ({error}); {OBTAIN}") from error
    return _listing(
        file,
        [(i + 1, str(path), str(label)) for i, (path, label) in enumerate(zip(paths, labels, strict=True))],
    )


def _listing(file: Path, rows: list[tuple[int, str, str]]) -> Listing:
    if not rows:
        raise ValueError(f"{file} has no rows; expected one a photo")
    lines, paths, labels = (list(column) for column in zip(*rows, strict=True))
    return Listing(file, lines, {"path": paths, "label": labels})
