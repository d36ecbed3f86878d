"""DeepFashion In-shop: 52,712 photos of 7,982 garments of one shop, asked for with another photo of the shop."""

from pathlib import Path

import numpy as np

from fsl_jax.data.sources._lists import check_published, find, hold_out, photo_folder, read_list
from fsl_jax.data.table import Coded, Table

COLUMNS = ("image_name", "item_id", "evaluation_status")
LISTS = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
PHOTO = r"img/([^/]+)/([^/]+)/[^/]+/[^/]+"
PUBLISHED = {"train photos": 25_882, "query photos": 14_218, "gallery photos": 12_612, "items": 7_982}
OBTAIN = (
    "get Eval/list_eval_partition.txt and Img/img.zip of the In-shop Clothes Retrieval Benchmark from "
    "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html, and unzip the photos to img/ or Img/img/"
)


def load(
    root: str | Path | None,
    split: str,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    check_counts: bool = True,
) -> Table:
    """Reads the official partition.

    Items of status train are "train", but for a part of them that is held out for "val". Both have no roles, so that
    every photo is searched in the others. The photos of status query and gallery are "test", with these roles.

    Args:
      root: Folder with Eval/list_eval_partition.txt, or that file itself in it, and img/ or Img/img/.
      split: "train", "val", "test", or several joined by "+".
      val_fraction: Share of the training items that are for validation; 0 for none, as published.
      split_seed: Of the draw of these items.
      check_counts: Whether the set must be whole: 25,882 training, 14,218 query and 12,612 gallery photos of 7,982
        items.

    Returns:
      A table with `path`, the item as label, and the levels "department" (MEN, WOMEN) and "category".

    Raises:
      ValueError: The list or the folder of the photos is missing, a line is not as published, or counts differ.

    References:
      Liu et al. 2016,
      https://openaccess.thecvf.com/content_cvpr_2016/html/Liu_DeepFashion_Powering_Robust_CVPR_2016_paper.html.
    """
    file = find(root, LISTS, source="inshop", obtain=OBTAIN)
    listed = read_list(file, COLUMNS, titled=True, counted=True)
    listed.position("image_name")
    kinds = listed.parsed("image_name", PHOTO, "img/WOMEN/Dresses/id_00000002/02_1_front.jpg")
    listed.parsed("evaluation_status", "train|query|gallery", "train, query or gallery")
    paths, items, status = listed["image_name"], listed["item_id"], np.array(listed["evaluation_status"])
    folder = photo_folder(root, paths, source="inshop", obtain=OBTAIN, places=("", "Img"))
    if check_counts:
        found = {f"{name} photos": int((status == name).sum()) for name in ("train", "query", "gallery")}
        check_published("inshop", found | {"items": len(set(items))}, PUBLISHED)
    official = np.where(status == "train", "train", "test")
    return Table(
        source="inshop",
        label=Coded.of(items),
        split=hold_out(items, official, val_fraction=val_fraction, seed=split_seed),
        path=np.array(paths, dtype=object),
        root=folder,
        role=np.where(status == "train", "", status),
        levels={
            "department": Coded.of([kind[1] for kind in kinds]),
            "category": Coded.of([kind[2] for kind in kinds]),
        },
    ).select(split)
