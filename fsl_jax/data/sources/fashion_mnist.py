"""Fashion-MNIST: 70,000 grey photos of clothes, 28 x 28 pixels, of ten kinds."""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from fsl_jax.data.sources._files import deal
from fsl_jax.data.table import Coded, Table

SplitRule = Literal["photos", "labels"]

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
VAL_PHOTOS = 5_000
PARTS = {"train": 60_000, "t10k": 10_000}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
OBTAIN = (
    "install the Debian package dataset-fashion-mnist, or put the four files train-images-idx3-ubyte, "
    "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (or .gz) of "
    "https://github.com/zalandoresearch/fashion-mnist into the root folder"
)


def load(
    root: str | Path | None,
    split: str,
    *,
    split_rule: SplitRule = "photos",
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
) -> Table:
    """Reads the idx files, plain or gzipped.

    Args:
      root: Folder with the four files; None for the place of the Debian package dataset-fashion-mnist.
      split: "train", "val", "test", or several joined by "+".
      split_rule: "photos" is the official split, whose labels are in all parts, with the last 5,000 training
        photos for validation; "labels" deals the ten labels, for few-shot learning.
      fractions: Shares of the labels that train, val and test get under "labels".
      split_seed: Of that dealing.

    Returns:
      A table with `images` [n, 28, 28, 1].

    Raises:
      ValueError: A file is missing or is not the published one.

    References:
      Xiao et al. 2017, https://arxiv.org/abs/1708.07747.
    """
    if split_rule not in get_args(SplitRule):
        raise ValueError(f"split_rule is {split_rule!r}; expected one of {', '.join(get_args(SplitRule))}")
    folder = DEBIAN_FOLDER if root is None else Path(root)
    parts = [_part(folder, part) for part in PARTS]
    images, codes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    labels = [LABELS[code] for code in codes]
    official = np.repeat(["train", "val", "test"], [PARTS["train"] - VAL_PHOTOS, VAL_PHOTOS, PARTS["t10k"]])
    return Table(
        source="fashion_mnist",
        label=Coded.of(labels),
        split=official if split_rule == "photos" else deal(labels, fractions=fractions, seed=split_seed),
        images=images,
    ).select(split)


def _part(folder: Path, part: str) -> tuple[UInt8[np.ndarray, "n 28 28 1"], UInt8[np.ndarray, "n"]]:
    images = _idx(folder, f"{part}-images-idx3-ubyte")
    labels = _idx(folder, f"{part}-labels-idx1-ubyte")
    if images.shape != (PARTS[part], 28, 28) or labels.shape != (PARTS[part],) or labels.max() >= len(LABELS):
        raise ValueError(
            f"{part} in {folder} has images {images.shape} and labels {labels.shape}; "
            f"expected {PARTS[part]} of each, 28 x 28: {OBTAIN}"
        )
    return images[..., None], labels


def _idx(folder: Path, name: str) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file: two zeros, type 8 (bytes), the number of axes, their big-endian lengths, values."""
    plain, zipped = folder / name, folder / f"{name}.gz"
    if not plain.is_file() and not zipped.is_file():
        raise ValueError(f"no {name} or {name}.gz in {folder}; {OBTAIN}")
    data = plain.read_bytes() if plain.is_file() else gzip.decompress(zipped.read_bytes())
    axes = data[3] if data[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist()) if axes and len(data) >= start else ()
    if not shape or len(data) != start + math.prod(shape):
        raise ValueError(f"{name} in {folder} is no complete idx file of bytes; {OBTAIN}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
