"""miniImageNet: 60,000 photos of 100 labels of ImageNet, as lists of files, folders, or pickles."""

import collections
import csv
import dataclasses
import functools
import itertools
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fsl_jax.data.sources._files import Skipped, report, why_skipped
from fsl_jax.data.sources._lists import Listing, check_published, photo_folder
from fsl_jax.data.table import SPLITS, Coded, Table

LABELS = {"train": 64, "val": 16, "test": 20}
PHOTOS = 600
NUMBERS = {"train": range(64), "val": range(64, 80), "test": range(80, 100)}
"""Labels of the pickles that number them."""
LIST_FOLDERS = ("", "splits/", "split/", "ravi/", "Ravi/")
CACHES = {
    "train": ("mini-imagenet-cache-train.pkl",),
    "val": ("mini-imagenet-cache-val.pkl", "mini-imagenet-cache-validation.pkl"),
    "test": ("mini-imagenet-cache-test.pkl",),
}
NUMBERED = {
    "train": ("miniImageNet_category_split_train_phase_train.pickle",),
    "val": ("miniImageNet_category_split_val.pickle",),
    "test": ("miniImageNet_category_split_test.pickle",),
}
OBTAIN = (
    "get train.csv, val.csv and test.csv of https://github.com/twitter-research/meta-learning-lstm (data/miniImagenet) "
    "and put the photos of ImageNet that they name into images/, or get mini-imagenet-cache-train.pkl, "
    "mini-imagenet-cache-validation.pkl and mini-imagenet-cache-test.pkl of https://zenodo.org/records/7978538"
)


def load(root: str | Path | None, split: str, *, check_counts: bool = True) -> Table:
    """Reads the splits of Ravi and Larochelle, in the first of these forms of which the root has a part.

    - train.csv, val.csv and test.csv with the columns filename,label, in the root or in splits/, split/ or ravi/;
      photos in images/.
    - mini-imagenet-cache-train.pkl, -val.pkl (or -validation.pkl) and -test.pkl: `image_data` and `class_dict`.
    - miniImageNet_category_split_train_phase_train.pickle, _val.pickle and _test.pickle: `data` and `labels`.
    - train/<label>/<photo>.jpg, with val/ and test/ beside it.

    Only the splits that are asked for need be there, and only their photos are looked at. The labels of the others are
    compared where lists or folders tell them; a pickle would have to be read whole for that.

    Args:
      root: Folder of the files.
      split: "train", "val", "test", or several joined by "+".
      check_counts: Whether the splits must be whole: 64, 16 and 20 labels, 600 photos each, and the published numbers
        where labels are numbers.

    Returns:
      A table with `path`, or from pickles with `images` [n, 84, 84, 3]. Labels are WordNet ids such as "n01532829", or
      "00" to "99" where a pickle numbers them.

    Raises:
      ValueError: Files are missing, damaged or not as published, a label is in two splits, or counts differ.

    References:
      Vinyals et al. 2016, https://arxiv.org/abs/1606.04080; the splits: Ravi and Larochelle 2017,
      https://openreview.net/forum?id=rJY0-Kcll; the pickles: Ren et al. 2018, https://arxiv.org/abs/1803.00676, and
      Gidaris and Komodakis 2018, https://arxiv.org/abs/1804.09458.
    """
    wanted = _wanted(split)
    folder, layout, places = _find(root)
    for name in wanted:
        if name not in places:
            expected = " or ".join(layout.places[name])
            there = " and ".join(places.values())
            raise ValueError(f"mini_imagenet: no {expected} in {folder}, where {there} is; {OBTAIN}")
    parts = {name: layout.read(folder, places[name]) for name in wanted}
    labels = {name: set(part.labels) for name, part in parts.items()}
    if layout.peek is not None:
        labels |= {name: layout.peek(folder, place) for name, place in places.items() if name not in wanted}
    _check_apart(labels)
    if check_counts:
        for name, part in parts.items():
            _check_counts(name, part.labels, numbered=layout.peek is None)
    return _table(folder, parts).select(split)


def skipped(root: str | Path | None, **options: object) -> list[Skipped]:
    """Lists the files in label folders that `load` leaves out, whatever its options."""
    folder, layout, places = _find(root)
    if layout.read is not _read_folder:
        return []
    return [entry for place in places.values() for entry in _scan(folder, place)[1]]


@dataclasses.dataclass(frozen=True)
class _Part:
    """The photos of a split: files, or arrays."""

    labels: list[str]
    paths: list[str] | None = None
    images: UInt8[np.ndarray, "n h w 3"] | None = None


@dataclasses.dataclass(frozen=True)
class _Layout:
    """One of the forms.

    Attributes:
      places: Files or folders that a split may be in, by split, relative to the root.
      read: Reads a split from its place in the root.
      peek: Reads only its labels; None where the photos would have to be read with them.
    """

    places: Mapping[str, Sequence[str]]
    read: Callable[[Path, str], _Part]
    peek: Callable[[Path, str], set[str]] | None


def _wanted(split: str) -> list[str]:
    names = split.split("+")
    for name in names:
        if name not in SPLITS:
            raise ValueError(
                f"mini_imagenet: split is {split!r}; expected {', '.join(SPLITS)}, or some joined by '+'"
            )
    return [name for name in SPLITS if name in names]


def _find(root: str | Path | None) -> tuple[Path, _Layout, dict[str, str]]:
    """Finds the form, and the place of each split that is there."""
    if root is None:
        raise ValueError(f"mini_imagenet needs a root folder; {OBTAIN}")
    folder = Path(root)
    for layout in _LAYOUTS:
        there = {
            split: next((place for place in places if (folder / place).exists()), None)
            for split, places in layout.places.items()
        }
        found = {split: place for split, place in there.items() if place is not None}
        if found:
            return folder, layout, found
    raise ValueError(
        f"mini_imagenet: none of its forms is in {root}; looked for train.csv in it or in "
        f"{', '.join(LIST_FOLDERS[1:])}, for {CACHES['train'][0]}, for {NUMBERED['train'][0]} and for train/, and for "
        f"val and test in the same ways; {OBTAIN}"
    )


def _check_apart(labels: Mapping[str, set[str]]) -> None:
    for one, other in itertools.combinations(labels, 2):
        shared = sorted(labels[one] & labels[other])
        if shared:
            raise ValueError(
                f"mini_imagenet: {len(shared)} labels, such as {shared[0]!r}, are in {one} and in {other}; expected "
                "splits that share none: take them out of one"
            )


def _check_counts(split: str, labels: Sequence[str], *, numbered: bool) -> None:
    counts = collections.Counter(labels)
    what = f"{split} labels"
    check_published("mini_imagenet", {what: len(counts)}, {what: LABELS[split]})
    for label, count in counts.items():
        what = f"photos of {split} label {label!r}"
        check_published("mini_imagenet", {what: count}, {what: PHOTOS})
        # The other pickles are not read, so that this is how a label of theirs is noticed.
        if numbered and label.isdecimal() and int(label) not in NUMBERS[split]:
            raise ValueError(
                f"mini_imagenet: {split} has label {label}, expected {NUMBERS[split][0]} to {NUMBERS[split][-1]} as "
                "published: take the published file, or read this one with check_counts=False"
            )


def _table(folder: Path, parts: Mapping[str, _Part]) -> Table:
    paths = [path for part in parts.values() for path in part.paths or ()]
    images = [part.images for part in parts.values() if part.images is not None]
    return Table(
        source="mini_imagenet",
        label=Coded.of([label for part in parts.values() for label in part.labels]),
        split=np.repeat(list(parts), [len(part.labels) for part in parts.values()]),
        path=None if images else np.array(paths, dtype=object),
        root=None if images else folder,
        # One split is not copied: the training photos are 0.8 GB.
        images=None if not images else images[0] if len(images) == 1 else np.concatenate(images),
    )


def _read_list(root: Path, place: str) -> _Part:
    listed = _listing(root / place)
    paths = [f"images/{name}" for name in listed["filename"]]
    photos = photo_folder(root, paths, source="mini_imagenet", obtain=OBTAIN) / "images"
    # One look at one folder, where a look at each of its files would take minutes on a network's disk.
    there = set(os.listdir(photos))
    missing = [row for row, name in enumerate(listed["filename"]) if name not in there]
    if missing:
        raise listed.wrong(
            missing[0], f"a photo in {photos}, which lacks {len(missing)} of {len(listed)}; {OBTAIN}"
        )
    return _Part(listed["label"], paths=paths)


def _list_labels(root: Path, place: str) -> set[str]:
    return set(_listing(root / place)["label"])


def _listing(file: Path) -> Listing:
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = {"filename", "label"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(
                    f"{file} has no column {min(missing)!r}; expected the columns filename,label"
                )
            rows = [(reader.line_num, row["filename"] or "", row["label"] or "") for row in reader]
    except csv.Error as error:
        raise ValueError(f"{file} is no regular csv file: {error}") from error
    if not rows:
        raise ValueError(f"{file} has no rows; expected one a photo")
    lines, names, labels = (list(column) for column in zip(*rows, strict=True))
    listed = Listing(file, lines, {"filename": names, "label": labels})
    listed.parsed("filename", r"[^/\\]+", "n0153282900000005.jpg")
    listed.parsed("label", r"\S+", "n01532829")
    listed.position("filename")
    return listed


def _read_folder(root: Path, place: str) -> _Part:
    paths, left_out = _scan(root, place)
    if not paths:
        raise ValueError(
            f"mini_imagenet: no photo in a label's folder in {root / place}; expected <label>/<photo>.jpg"
        )
    report("mini_imagenet", left_out)
    return _Part([path.split("/")[1] for path in paths], paths=paths)


def _scan(root: Path, place: str) -> tuple[list[str], list[Skipped]]:
    """Lists what lies in the label folders of a split: photos, and everything else."""
    paths = sorted(file.relative_to(root).as_posix() for file in (root / place).glob("*/*"))
    reasons = {path: why_skipped(path) for path in paths}
    return (
        [path for path, reason in reasons.items() if reason is None],
        [(path, reason) for path, reason in reasons.items() if reason is not None],
    )


def _folder_labels(root: Path, place: str) -> set[str]:
    folders = [entry.name for entry in (root / place).iterdir() if entry.is_dir()]
    return {name for name in folders if why_skipped(f"{name}/photo.jpg") is None}


def _from_cache(content: Any) -> _Part:
    images = _images(content, "image_data", "class_dict")
    pairs = [
        (int(row), _label(label)) for label, rows in content["class_dict"].items() for row in _plain(rows)
    ]
    pairs.sort()
    if [row for row, _ in pairs] != list(range(len(images))):
        raise _Reason(f"its class_dict has {len(pairs)} rows; expected each of 0 to {len(images) - 1} once")
    return _Part([label for _, label in pairs], images=images)


def _from_numbered(content: Any) -> _Part:
    images = _images(content, "data", "labels")
    labels = [_label(label) for label in _plain(content["labels"])]
    if len(labels) != len(images):
        raise _Reason(f"it has {len(images)} photos and {len(labels)} labels; expected one a photo")
    return _Part(labels, images=images)


def _images(content: Any, photos: str, labels: str) -> UInt8[np.ndarray, "n h w 3"]:
    if not isinstance(content, dict) or not {photos, labels} <= set(content):
        raise _Reason(f"not the published content; expected a dict with {photos!r} and {labels!r}")
    images = _plain(content[photos])
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
    ):
        raise _Reason(f"its {photos!r} is {_described(images)}; expected uint8 [photos, height, width, 3]")
    return images


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _label(value: Any) -> str:
    if isinstance(value, int | np.integer):
        return f"{int(value):02d}"
    if not isinstance(value, str | bytes):
        raise _Reason(f"it has the label {value!r}; expected text or a whole number")
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _Reason(Exception):
    """Why a pickle cannot be read, without its name."""


# A wrong byte in a pickle makes Python look up a wrong name, index, type or length.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


def _read_pickle(take: Callable[[Any], _Part], root: Path, place: str) -> _Part:
    try:
        with (root / place).open("rb") as stream:
            # Python 2 wrote the published files; with any other encoding their byte strings are an error.
            content = _Unpickler(stream, encoding="latin1").load()
        return take(content)
    except _Reason as reason:
        raise ValueError(f"{root / place}: {reason}") from reason
    except _DAMAGE as error:
        raise ValueError(
            f"{root / place}: truncated or damaged ({type(error).__name__}: {error}); {OBTAIN}"
        ) from error


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, name: str, *_: Any) -> None:
        # With objects, or with fields that hide them, NumPy would take bytes of the file for addresses.
        if not re.fullmatch(r"[biufSU]\d+", name):
            raise _Reason(f"refused: it has an array of {name!r}; expected plain numbers or text")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        """Takes the order of bytes; the rest is in the name."""
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray, which is made empty and is given its numbers afterwards."""

    values: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        """Takes version, shape, dtype, whether columns come first, and the numbers."""
        _, shape, dtype, by_columns, numbers = state
        self.values = _filled(numbers, dtype).reshape(shape, order="F" if by_columns else "C")


def _array(numbers: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any, *_: Any) -> _Array:
    array = _Array()
    array.values = _filled(numbers, dtype).reshape(shape, order=order)
    return array


def _scalar(dtype: _Dtype, numbers: Any) -> Any:
    return _filled(numbers, dtype).reshape(())[()]


def _filled(numbers: Any, dtype: _Dtype) -> np.ndarray:
    return np.frombuffer(_encoded(numbers) if isinstance(numbers, str) else numbers, dtype.value)


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value


_KNOWN_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
    ("_codecs", "encode"): _encoded,  # how bytes are written for Python 2
}


class _Unpickler(pickle.Unpickler):
    """Builds dicts, lists, text, numbers and arrays; a pickle can name any function to be called, and no other is."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name, where it is known."""
        if (module, name) not in _KNOWN_NAMES:
            raise _Reason(
                f"refused: it asks for '{module}.{name}', which is no part of plain arrays and may run code; {OBTAIN}"
            )
        return _KNOWN_NAMES[module, name]


_LAYOUTS = (
    *(
        _Layout({split: (f"{folder}{split}.csv",) for split in SPLITS}, _read_list, _list_labels)
        for folder in LIST_FOLDERS
    ),
    _Layout(CACHES, functools.partial(_read_pickle, _from_cache), None),
    _Layout(NUMBERED, functools.partial(_read_pickle, _from_numbered), None),
    _Layout({split: (split,) for split in SPLITS}, _read_folder, _folder_labels),
)
"""The forms, in the order in which they are looked for."""
