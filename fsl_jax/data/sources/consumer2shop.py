"""DeepFashion Consumer-to-shop: garments on photos of customers, asked for in the photos of shops."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fsl_jax.data.sources._files import Skipped, deal, report, why_skipped
from fsl_jax.data.sources._lists import Listing, find, photo_folder, read_list
from fsl_jax.data.table import SPLITS, Coded, Table

COLUMNS = ("image_pair_name_1", "image_pair_name_2", "item_id", "evaluation_status")
LISTS = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
PHOTO = r"img/([^/]+)/([^/]+)/[^/]+/[^/]+"
FOLDERS = ("", "img", "Img/img", "Img")
LAYOUT = "DRESSES/SleevelessDress/00001/comsumer01.jpg and shop01.jpg"
ROLES = {"comsumer": "query", "consumer": "query", "shop": "gallery"}
"""How names of files begin (the published ones have "comsumer"), and the role that this means."""
DOMAINS = {"query": "consumer", "gallery": "shop"}
OBTAIN = (
    "get Eval/list_eval_partition.txt and the photos of the Consumer-to-shop Clothes Retrieval Benchmark from "
    "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/Consumer2ShopRetrieval.html, and unzip the photos to img/ or "
    f"Img/img/; folders without a list have {LAYOUT}"
)

Rows = dict[str, tuple[str, str, str, str, str]]
"""Label, split, role, category and subcategory of each photo, by its path."""


def load(
    root: str | Path | None,
    split: str,
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
) -> Table:
    """Reads the official pairs, or, where there is no list of them, the folders.

    Every photo is one row, however many pairs it is in. Photos of customers are queries, photos of shops the gallery,
    in every split. The published gallery is that of "val" and "test" together; here "test" has its own alone, and
    "val+test" the published one, with the queries of both.

    Counts are not checked: 239,557 photos of 33,881 items are published, but not how many of them the pairs name.

    Args:
      root: Folder with Eval/list_eval_partition.txt, or that file itself in it, and img/ or Img/img/; or a folder
        with photos such as DRESSES/SleevelessDress/00001/comsumer01.jpg, or with img/ above these.
      split: "train", "val", "test", or several joined by "+".
      fractions: Shares of the labels that train, val and test get where there is no list.
      split_seed: Of that dealing.

    Returns:
      A table with `path`; the label is the item, or, without a list, its folder, such as
      "DRESSES/SleevelessDress/00001". Domains are "consumer" and "shop", levels "category" and "subcategory".

    Raises:
      ValueError: There is neither a list nor such a folder, a line is not as published, or a photo is listed with
        different items, statuses or sides.

    References:
      Liu et al. 2016,
      https://openaccess.thecvf.com/content_cvpr_2016/html/Liu_DeepFashion_Powering_Robust_CVPR_2016_paper.html.
    """
    if _has_list(root):
        file = find(root, LISTS, source="consumer2shop", obtain=OBTAIN)
        rows = _paired(read_list(file, COLUMNS, titled=True, counted=True))
        folder = photo_folder(root, list(rows), source="consumer2shop", obtain=OBTAIN, places=("", "Img"))
    else:
        folder, paths, skipped = _scan(root)
        report("consumer2shop", skipped)
        rows = _foldered(paths, fractions, split_seed)
    labels, splits, roles, categories, subcategories = zip(*rows.values(), strict=True)
    return Table(
        source="consumer2shop",
        label=Coded.of(labels),
        split=np.array(splits),
        path=np.array(list(rows), dtype=object),
        root=folder,
        role=np.array(roles),
        domain=Coded.of([DOMAINS[role] for role in roles]),
        levels={"category": Coded.of(categories), "subcategory": Coded.of(subcategories)},
    ).select(split)


def skipped(root: str | Path | None, **options: object) -> list[Skipped]:
    """Lists the files that `load` leaves out, whatever its options; with a list it leaves out none."""
    return [] if _has_list(root) else _scan(root)[2]


def _has_list(root: str | Path | None) -> bool:
    return root is not None and any((Path(root) / place).is_file() for place in LISTS)


def _paired(pairs: Listing) -> Rows:
    """Takes each photo of the pairs once."""
    pairs.parsed("evaluation_status", "|".join(SPLITS), "train, val or test")
    rows: Rows = {}
    first: dict[str, int] = {}
    for column, role in zip(COLUMNS, ("query", "gallery"), strict=False):
        names = pairs.parsed(column, PHOTO, "img/DRESSES/Sleeveless_Dress/id_00000001/shop_01.jpg")
        for row, name in enumerate(names):
            known = (pairs["item_id"][row], pairs["evaluation_status"][row], role, name[1], name[2])
            if rows.setdefault(name[0], known) != known:
                item, status, side, *_ = rows[name[0]]
                raise pairs.wrong(
                    row,
                    f"{name[0]} with {item} {status} as a {side}, as in line {pairs.lines[first[name[0]]]}",
                )
            first.setdefault(name[0], row)
    return rows


def _scan(root: str | Path | None) -> tuple[Path, list[str], list[Skipped]]:
    """Finds the folder with the categories: its photos, sorted, and what else lies beside them."""
    for place in FOLDERS if root is not None else ():
        folder = Path(root or "") / place
        beside = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*/*/*"))
        paths = [path for path in beside if not _why_skipped(path)]
        if paths:
            return folder, paths, [(path, why) for path in beside if (why := _why_skipped(path))]
    raise ValueError(f"consumer2shop: no {' or '.join(LISTS)}, and no photos in folders, in {root}; {OBTAIN}")


def _why_skipped(path: str) -> str | None:
    return why_skipped(path) or (None if _role(path) else "neither a consumer's nor a shop's by its name")


def _role(path: str) -> str | None:
    begun = re.match("|".join(ROLES), path.rsplit("/", 1)[1])
    return ROLES[begun[0]] if begun else None


def _foldered(paths: Sequence[str], fractions: Sequence[float], seed: int) -> Rows:
    labels = [path.rsplit("/", 1)[0] for path in paths]
    splits = deal(labels, fractions=fractions, seed=seed)
    return {
        path: (label, str(split), str(_role(path)), label.split("/")[0], label.split("/")[1])
        for path, label, split in zip(paths, labels, splits, strict=True)
    }
