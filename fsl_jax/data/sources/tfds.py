"""Any set of the TensorFlow Datasets catalogue that has photos and labels, read without TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fsl_jax.data.read import Fit, fit_photo, in_threads
from fsl_jax.data.sources._files import deal
from fsl_jax.data.table import Coded, Table
from fsl_jax.lookup import closest

OBTAIN = "fsl-jax prepare --source tfds --root PATH --option name=NAME"
FILE_FORMAT = "array_record"
"""The format that can be read at random places."""


def load(
    root: str | Path | None,
    split: str,
    *,
    name: str,
    side: int,
    channels: int = 3,
    fit: Fit = "pad",
    splits: Mapping[str, str] | None = None,
    image: str = "image",
    label: str = "label",
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
) -> Table:
    """Reads a set that was prepared in the array_record format.

    Args:
      root: The `data_dir` of TensorFlow Datasets; None for its own default.
      split: "train", "val", "test", or several joined by "+".
      name: Name in the catalogue, such as "cifar100" or "caltech_birds2011".
      side: Pixels a side.
      channels: 1 or 3.
      fit: How a photo is made square; see `fsl_jax.data.read.read_photo`.
      splits: What each of the set's own splits is here, such as {"train": "train", "test": "test"}; by
        default all photos are taken together and their labels are dealt, for few-shot learning.
      image: Feature with the photo.
      label: Feature with the label.
      fractions: Shares of the labels that train, val and test get where they are dealt.
      split_seed: Of that dealing.

    Returns:
      A table with `images` [n, side, side, channels].

    Raises:
      ValueError: The set is unknown or not prepared, or has no such split or feature.
    """
    builder = _builder(root, name)
    _check_features(builder, (image, label))
    own = sorted(builder.info.splits) if splits is None else list(splits)
    for wrong in set(own) - set(builder.info.splits):
        raise ValueError(
            f"tfds: {name} has no split {wrong!r}; {closest(wrong, sorted(builder.info.splits))}"
        )
    parts = [_part(builder, part, image, label, side=side, channels=channels, fit=fit) for part in own]
    labels = _names(builder.info.features[label], [code for _, codes in parts for code in codes])
    given = np.repeat([(splits or {}).get(part, part) for part in own], [len(codes) for _, codes in parts])
    return Table(
        source="tfds",
        label=Coded.of(labels),
        split=deal(labels, fractions=fractions, seed=split_seed) if splits is None else given,
        images=np.concatenate([images for images, _ in parts]),
    ).select(split)


def prepare(root: str | Path | None, *, name: str) -> str:
    """Downloads a set and writes it in the format that `load` reads."""
    import tensorflow_datasets as tfds

    builder = _find(lambda: tfds.builder(name, data_dir=root, file_format=FILE_FORMAT), name)
    try:
        builder.download_and_prepare(file_format=FILE_FORMAT)
    except ImportError as error:
        raise ValueError(
            f"preparing {name} needs a package that is not here ({error.name or error}); install it"
        ) from error
    return f"{name}: {builder.info.splits.total_num_examples:,} photos in {builder.data_path}"


def _find(build: Any, name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return build()
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"tfds knows no {name!r}; {_near(name, tfds.list_builders(with_community_datasets=False))}"
        ) from error


def _near(name: str, known: list[str]) -> str:
    """Says what may have been meant, out of a thousand names that are better not all printed."""
    hint = closest(name, known).partition("; ")[2]
    return hint or "see https://www.tensorflow.org/datasets/catalog/overview"


def _builder(root: str | Path | None, name: str) -> Any:
    import tensorflow_datasets as tfds

    builder = _find(lambda: tfds.builder(name, data_dir=root, file_format=FILE_FORMAT), name)
    if not builder.info.splits:
        raise ValueError(
            f"tfds: {name} is not prepared as {FILE_FORMAT} in {builder.data_path}; run {OBTAIN}"
        )
    return builder


def _check_features(builder: Any, names: Sequence[str]) -> None:
    features = dict(builder.info.features)
    for name in names:
        if name not in features:
            raise ValueError(
                f"tfds: {builder.name} has no feature {name!r}; {closest(name, sorted(features))}"
            )


def _part(
    builder: Any, part: str, image: str, label: str, *, side: int, channels: int, fit: Fit
) -> tuple[UInt8[np.ndarray, "n side side channels"], list[Any]]:
    """Reads one of the set's own splits: photos and labels."""
    rows = builder.as_data_source(split=part)
    images = np.empty((len(rows), side, side, channels), np.uint8)

    def read(row: int) -> Any:
        example = rows[row]
        array = np.asarray(example[image])
        photo = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        images[row] = fit_photo(photo, size=side, channels=channels, fit=fit)
        return example[label]

    return images, in_threads(read, range(len(rows)), description=f"reading {builder.name} {part}")


def _names(feature: Any, codes: Sequence[Any]) -> list[str]:
    """Names labels, which are numbers of a list of names, numbers, or text."""
    if hasattr(feature, "int2str"):
        return [feature.int2str(int(code)) for code in codes]
    return [code.decode() if isinstance(code, bytes) else str(code) for code in codes]
