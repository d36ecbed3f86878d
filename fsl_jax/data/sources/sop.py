"""Stanford Online Products: 120,053 photos of 22,634 articles of 12 categories, from offers on eBay."""

from pathlib import Path

import numpy as np

from fsl_jax.data.sources._lists import check_published, find, hold_out, photo_folder, read_list
from fsl_jax.data.table import Coded, Table

COLUMNS = ("image_id", "class_id", "super_class_id", "path")
PARTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
PUBLISHED = {
    "train photos": 59_551,
    "train labels": 11_318,
    "test photos": 60_502,
    "test labels": 11_316,
}
OBTAIN = (
    "get Stanford_Online_Products.zip from https://cvgl.stanford.edu/projects/lifted_struct/ and unzip it: "
    "Ebay_train.txt, Ebay_test.txt and folders such as bicycle_final/"
)


def load(
    root: str | Path | None,
    split: str,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    check_counts: bool = True,
) -> Table:
    """Reads the official lists. There are no roles: every photo is searched in the others of its split.

    Args:
      root: Folder with Ebay_train.txt and Ebay_test.txt, or the one above it.
      split: "train", "val", "test", or several joined by "+".
      val_fraction: Share of the training labels that are for validation; 0 for none, as published.
      split_seed: Of the draw of these labels.
      check_counts: Whether the set must be whole: 59,551 training photos of 11,318 labels, 60,502 test photos of
        11,316.

    Returns:
      A table with `path`, the article (class_id) as label, and the level "category".

    Raises:
      ValueError: A list or a folder of photos is missing, a line is not as published, or counts differ.

    References:
      Song et al. 2016, https://arxiv.org/abs/1511.06452.
    """
    places = (PARTS["train"], f"Stanford_Online_Products/{PARTS['train']}")
    folder = find(root, places, source="sop", obtain=OBTAIN).parent
    labels: list[str] = []
    paths: list[str] = []
    categories: list[str] = []
    found: dict[str, int] = {}
    for part, name in PARTS.items():
        listed = read_list(find(folder, (name,), source="sop", obtain=OBTAIN), COLUMNS, titled=True)
        listed.position("path")
        kinds = listed.parsed("path", r"([^/]+?)(?:_final)?/[^/]+", "bicycle_final/111085122871_0.JPG")
        labels += listed["class_id"]
        paths += listed["path"]
        categories += [kind[1] for kind in kinds]
        found |= {f"{part} photos": len(listed), f"{part} labels": len(set(listed["class_id"]))}
    if check_counts:
        check_published("sop", found, PUBLISHED)
    official = np.repeat(list(PARTS), [found[f"{part} photos"] for part in PARTS])
    return Table(
        source="sop",
        label=Coded.of(labels),
        split=hold_out(labels, official, val_fraction=val_fraction, seed=split_seed),
        path=np.array(paths, dtype=object),
        root=photo_folder(folder, paths, source="sop", obtain=OBTAIN),
        levels={"category": Coded.of(categories)},
    ).select(split)
