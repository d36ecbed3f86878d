"""VeRi-776: photos of 776 vehicles by 20 cameras of one district, asked for with the photo of another camera."""

from pathlib import Path

import numpy as np

from fsl_jax.data.sources._lists import check_published, find, hold_out, photo_folder, read_list
from fsl_jax.data.table import Coded, Table

PARTS = {"train": "", "query": "query", "test": "gallery"}
"""Names in the lists and folders of the set, and the role that their photos have here."""
PUBLISHED = {"query photos": 1_678, "gallery photos": 11_579, "gallery vehicles": 200}
OBTAIN = (
    "ask for it as https://vehiclereid.github.io/VeRi/ says, and unzip it: name_train.txt, name_query.txt, "
    "name_test.txt, image_train/, image_query/ and image_test/"
)


def load(
    root: str | Path | None,
    split: str,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    check_counts: bool = True,
) -> Table:
    """Reads the official lists.

    Vehicles of name_train.txt are "train", but for a part of them that is held out for "val". Both have no roles, so
    that every photo is searched in the others. "test" has the photos of name_query.txt as queries and those of
    name_test.txt as gallery. A photo is often in both, as two files: its camera keeps the query from finding itself
    where photos with the query's label and camera are passed over, as the protocol has it.

    Args:
      root: Folder with the lists and the folders of photos, or the one above it, with VeRi/.
      split: "train", "val", "test", or several joined by "+".
      val_fraction: Share of the training vehicles that are for validation; 0 for none, as published.
      split_seed: Of the draw of these vehicles.
      check_counts: Whether the test must be whole: 1,678 query photos, 11,579 gallery photos, 200 vehicles. The
        training photos are not counted: 37,778 of 576 vehicles are published, but figures that others report for
        their copies differ.

    Returns:
      A table with `path`, the vehicle as label and the camera as domain.

    Raises:
      ValueError: A list or a folder of photos is missing, a line is not as published, or counts differ.

    References:
      Liu et al. 2016, https://doi.org/10.1007/978-3-319-46475-6_53.
    """
    places = ("name_train.txt", "VeRi/name_train.txt")
    folder = find(root, places, source="veri776", obtain=OBTAIN).parent
    paths: list[str] = []
    vehicles: list[str] = []
    cameras: list[str] = []
    roles: list[str] = []
    for part, role in PARTS.items():
        listed = read_list(find(folder, (f"name_{part}.txt",), source="veri776", obtain=OBTAIN), ("name",))
        listed.position("name")
        names = listed.parsed("name", r"(\d+)_(c\d+)_.+", "0001_c001_00016450_0.jpg")
        paths += [f"image_{part}/{name}" for name in listed["name"]]
        vehicles += [name[1] for name in names]
        cameras += [name[2] for name in names]
        roles += [role] * len(listed)
    if check_counts:
        found = {
            "query photos": roles.count("query"),
            "gallery photos": roles.count("gallery"),
            "gallery vehicles": len(
                {v for v, role in zip(vehicles, roles, strict=True) if role == "gallery"}
            ),
        }
        check_published("veri776", found, PUBLISHED)
    official = np.array(["test" if role else "train" for role in roles])
    return Table(
        source="veri776",
        label=Coded.of(vehicles),
        split=hold_out(vehicles, official, val_fraction=val_fraction, seed=split_seed),
        path=np.array(paths, dtype=object),
        root=photo_folder(folder, paths, source="veri776", obtain=OBTAIN),
        role=np.array(roles),
        domain=Coded.of(cameras),
    ).select(split)
