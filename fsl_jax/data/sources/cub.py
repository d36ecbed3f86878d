"""CUB-200-2011: 11,788 photos of 200 species of birds."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fsl_jax.data.sources._files import deal
from fsl_jax.data.sources._lists import Listing, check_published, find, halved, photo_folder, read_list
from fsl_jax.data.table import Coded, Table

SplitRule = Literal["retrieval", "few_shot"]

LAST_TRAINING = 100
FEW_SHOT = (0.5, 0.25, 0.25)
PUBLISHED = {"photos": 11_788, "labels": 200}
OBTAIN = (
    "get CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158 and unpack it: images.txt, "
    "image_class_labels.txt, classes.txt and images/"
)


def load(
    root: str | Path | None,
    split: str,
    *,
    split_rule: SplitRule = "retrieval",
    val_labels: int = 0,
    split_seed: int = 0,
    check_counts: bool = True,
) -> Table:
    """Reads the official lists. There are no roles: every photo is searched in the others of its split.

    Args:
      root: Folder with images.txt, or the one above it, with CUB_200_2011/.
      split: "train", "val", "test", or several joined by "+".
      split_rule: "retrieval" trains on the first 100 labels and tests on the last 100; "few_shot" deals the labels,
        100/50/50. The split of photos in train_test_split.txt is for classification and is not used.
      val_labels: How many of the first 100, the last of them, "retrieval" keeps for validation.
      split_seed: Of the dealing of "few_shot".
      check_counts: Whether the set must be whole: 11,788 photos of 200 labels.

    Returns:
      A table with `path`, and labels such as "001.Black_footed_Albatross".

    Raises:
      ValueError: A list or the folder of the photos is missing, a line is not as published, counts differ, or an
        option is not allowed.

    References:
      Wah et al. 2011, https://authors.library.caltech.edu/27452/; "retrieval": Song et al. 2016,
      https://arxiv.org/abs/1511.06452; "few_shot": Chen et al. 2019, https://arxiv.org/abs/1904.04232.
    """
    _check_options(split_rule, val_labels)
    folder = find(root, ("images.txt", "CUB_200_2011/images.txt"), source="cub", obtain=OBTAIN).parent
    images, of_image, classes = (
        read_list(find(folder, (name,), source="cub", obtain=OBTAIN), columns)
        for name, columns in (
            ("images.txt", ("image_id", "path")),
            ("image_class_labels.txt", ("image_id", "class_id")),
            ("classes.txt", ("class_id", "name")),
        )
    )
    images.position("image_id")
    classes.parsed("class_id", r"\d+", "1")
    numbers = _joined(images, "image_id", of_image, "class_id")
    names = _joined(of_image, "class_id", classes, "name")
    label_of = dict(zip(of_image["class_id"], names, strict=True))
    labels = [label_of[number] for number in numbers]
    paths = [f"images/{path}" for path in images["path"]]
    if check_counts:
        check_published("cub", {"photos": len(paths), "labels": len(set(labels))}, PUBLISHED)
    return Table(
        source="cub",
        label=Coded.of(labels),
        split=halved([int(number) for number in numbers], last=LAST_TRAINING, val_labels=val_labels)
        if split_rule == "retrieval"
        else deal(labels, fractions=FEW_SHOT, seed=split_seed),
        path=np.array(paths, dtype=object),
        root=photo_folder(folder, paths, source="cub", obtain=OBTAIN),
    ).select(split)


def _check_options(split_rule: str, val_labels: int) -> None:
    if split_rule not in get_args(SplitRule):
        raise ValueError(f"split_rule is {split_rule!r}; expected one of {', '.join(get_args(SplitRule))}")
    if split_rule == "few_shot" and val_labels:
        raise ValueError(
            f"val_labels is {val_labels} under split_rule='few_shot', which has 50 of its own: leave it 0"
        )


def _joined(rows: Listing, key: str, other: Listing, value: str) -> list[str]:
    """Looks up each row's `key` in the other list."""
    place = other.position(key)
    for row, cell in enumerate(rows[key]):
        if cell not in place:
            raise rows.wrong(row, f"a row whose {key} is in {other.file.name}")
    return [other[value][place[cell]] for cell in rows[key]]
