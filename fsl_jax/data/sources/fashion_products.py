"""Fashion Product Images: a shop's catalogue, one photo an article, with categories, attributes and a name."""

import csv
import dataclasses
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from fsl_jax.data.archives import members, unpacked
from fsl_jax.data.sources._files import Skipped, deal, frequent, report, why_skipped
from fsl_jax.data.sources._lists import Listing, find
from fsl_jax.data.table import SPLITS, Attributes, Coded, Table, checked_fractions
from fsl_jax.lookup import closest

SplitRule = Literal["articles", "labels"]

LISTS = ("styles.csv", "labels.csv", "fashion-dataset/styles.csv", "myntradataset/styles.csv")
NAME = "productDisplayName"
UNKNOWN = ("", "NA")
OBTAIN = (
    "get Fashion Product Images (Small), https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-small, "
    "and put styles.csv into the root folder, with images/<id>.jpg or images.zip beside it"
)
INSTEAD = "unpack it to a folder images/ beside the csv file, which is then read in its place"


def load(
    root: str | Path | None,
    split: str,
    *,
    label: str = "id",
    levels: str | Sequence[str] = ("masterCategory", "subCategory", "articleType"),
    attributes: str | Sequence[str] = ("gender", "baseColour", "season", "usage"),
    split_rule: SplitRule = "articles",
    stratify: str = "articleType",
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
    min_photos: int = 1,
) -> Table:
    """Reads styles.csv, and the photos beside it.

    Commas in product names need no quotes, as in the published file: cells beyond the title's are parts of the name.
    Empty cells and "NA" are unknown. Rows without a photo, and those whose label is unknown, are left out and
    counted. An archive is unpacked once, into the user's cache folder.

    Args:
      root: Folder with styles.csv (or labels.csv), and images/ or else images.zip.
      split: "train", "val", "test", or several joined by "+".
      label: Column that is the label: "id" makes each article one with a single photo; "articleType" suits few-shot
        learning.
      levels: Columns with category levels, from coarse to fine.
      attributes: Columns that become the attributes "column=value".
      split_rule: "articles" deals photos, by share within each value of `stratify`; which split a photo is in
        depends on neither `label` nor the order of the rows. "labels" deals whole labels, so that no label is in two
        splits.
      stratify: Column within whose values "articles" deals. The first photo of each value goes to train.
      fractions: Shares of train, val and test.
      split_seed: Of the dealing.
      min_photos: Labels with fewer photos in a split are dropped; under "labels", with fewer photos at all.

    Returns:
      A table with `path`, levels, attributes, and the product's name as text.

    Raises:
      ValueError: The csv file or the photos are missing or damaged, an id is there twice, a column is unknown, or an
        option is not allowed.
      OSError: The archive cannot be unpacked since the disk is full or may not be written.

    References:
      https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-dataset.
    """
    level_names, groups = _several(levels), _several(attributes)
    listed = _read(find(root, LISTS, source="fashion_products", obtain=OBTAIN))
    used = {
        "label": (label,),
        "levels": level_names,
        "attributes": groups,
        "stratify": (stratify,) if split_rule == "articles" else (),
    }
    _check_columns(listed, used)
    _check_dealing(split_rule, fractions)
    photos = _photos(listed)
    report("fashion_products", _left_out(listed, photos, label))
    here = np.array([article in photos.names for article in listed["id"]], bool)
    rows = _take(listed, here)
    places = _places(photos, rows["id"])
    splits = np.full(len(rows), "")
    if split_rule == "articles":
        splits = _stratified(rows["id"], rows[stratify], fractions=fractions, seed=split_seed)
    kept = _usable(rows, label, splits, min_photos)
    rows, splits = _take(rows, kept), splits[kept]
    if split_rule == "labels":
        splits = deal(rows[label], fractions=fractions, seed=split_seed)
    return Table(
        source="fashion_products",
        label=Coded.of(rows[label]),
        split=splits,
        path=places.paths[kept],
        root=places.folder,
        levels={name: Coded.of(rows[name]) for name in level_names},
        attributes=Attributes.of_columns({name: rows[name] for name in groups}) if groups else None,
        text=np.array(rows[NAME], dtype=object) if NAME in rows.columns else None,
    ).select(split)


def skipped(root: str | Path | None, *, label: str = "id", **options: object) -> list[Skipped]:
    """Lists the rows that `load` leaves out since they have no photo or no label."""
    listed = _read(find(root, LISTS, source="fashion_products", obtain=OBTAIN))
    _check_columns(listed, {"label": (label,)})
    return _left_out(listed, _photos(listed), label)


def prepare(root: str | Path | None) -> str:
    """Checks the csv file, and unpacks the photos where they are in an archive."""
    table = load(root, "+".join(SPLITS))
    missing = len(skipped(root))
    return (
        f"fashion_products: {len(table):,} photos of {len(table.label.names):,} articles in {table.root}; "
        f"{missing:,} rows of the csv file have no photo"
    )


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_columns(listed: Listing, used: Mapping[str, Sequence[str]]) -> None:
    for option, names in used.items():
        for name in names:
            if name not in listed.columns:
                raise ValueError(
                    f"{option} has {name!r}, which is no column of {listed.file}; {closest(name, list(listed.columns))}"
                )


def _check_dealing(split_rule: str, fractions: Sequence[float]) -> None:
    if split_rule not in get_args(SplitRule):
        raise ValueError(f"split_rule is {split_rule!r}; expected one of {', '.join(get_args(SplitRule))}")
    checked_fractions(fractions)


def _read(file: Path) -> Listing:
    """Reads every cell as text, with "" for what is unknown."""
    reader = csv.reader(io.StringIO(_text(file), newline=""))
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        title = [name.strip() for name in next(reader, [])]
        if "id" not in title:
            raise ValueError(f"{file} has no column 'id'; {closest('id', title)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                rows.append(_row(file, line, title, cells))
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file} is no regular csv file: line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{file} has no rows; expected one an article")
    listed = Listing(
        file, lines, {name: list(cells) for name, cells in zip(title, zip(*rows, strict=True), strict=True)}
    )
    if "" in listed["id"]:
        raise listed.wrong(listed["id"].index(""), "an id in each row")
    listed.position("id")
    return listed


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:  # older spreadsheets on Windows write this one
        return data.decode("latin-1")


def _row(file: Path, line: int, title: Sequence[str], cells: Sequence[str]) -> list[str]:
    """Gives one cell a column: where there are more, the name has commas that nobody quoted."""
    swallowed = (later for cell in cells for later in cell.splitlines()[1:])
    if any(later.count(",") >= len(title) - 1 for later in swallowed):
        raise ValueError(f"{file}: line {line} opens a quote that it does not close: close or remove it")
    extra = len(cells) - len(title)
    if extra < 0 or (extra > 0 and NAME not in title):
        raise ValueError(
            f"{file}: line {line} has {len(cells)} cells; expected {len(title)}: {','.join(title)}"
        )
    if extra:
        start, end = title.index(NAME), title.index(NAME) + extra + 1
        cells = [*cells[:start], ",".join(cells[start:end]), *cells[end:]]
    stripped = (cell.strip() for cell in cells)
    return ["" if cell in UNKNOWN else cell for cell in stripped]


def _take(listed: Listing, rows: Bool[np.ndarray, "n"]) -> Listing:
    kept = np.flatnonzero(rows).tolist()
    columns = {name: [cells[row] for row in kept] for name, cells in listed.columns.items()}
    return Listing(listed.file, [listed.lines[row] for row in kept], columns)


@dataclasses.dataclass(frozen=True)
class _Photos:
    """The photos that are there.

    Attributes:
      place: Folder, or archive.
      names: Photo of each article in it, by the article's id.
    """

    place: Path
    names: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Places:
    """The photos as files: `paths` a row, relative to `folder`."""

    folder: Path
    paths: np.ndarray


def _photos(listed: Listing) -> _Photos:
    """Finds the photos beside the csv file; a folder goes before an archive."""
    beside = listed.file.parent
    if (beside / "images").is_dir():
        photos = _Photos(beside / "images", _by_id(_files(beside / "images")))
    elif (beside / "images.zip").is_file():
        photos = _Photos(beside / "images.zip", _by_id(members(beside / "images.zip")))
    else:
        raise ValueError(f"fashion_products: no images/ and no images.zip in {beside}; {OBTAIN}")
    if not any(article in photos.names for article in listed["id"]):
        raise ValueError(
            f"fashion_products: {photos.place} has no photo of the {len(listed):,} rows of {listed.file}; expected "
            f"such as {listed['id'][0]}.jpg; {OBTAIN}"
        )
    return photos


def _files(folder: Path) -> Iterator[str]:
    for place, _, files in os.walk(folder):
        inner = Path(place).relative_to(folder)
        yield from ((inner / file).as_posix() for file in files) if inner.parts else files


def _by_id(paths: Iterable[str]) -> dict[str, str]:
    """Finds the photo of each id, in whatever folder; of several copies, the one in the fewest folders."""
    photos: dict[str, str] = {}
    slashed = ((path.replace("\\", "/"), path) for path in paths)
    for plain, path in sorted(slashed, key=lambda pair: (pair[0].count("/"), pair[0])):
        if why_skipped(plain) is None:
            photos.setdefault(plain.rsplit("/", 1)[-1].rsplit(".", 1)[0], path)
    return photos


def _left_out(listed: Listing, photos: _Photos, label: str) -> list[Skipped]:
    left_out: list[Skipped] = []
    for article, stated in zip(listed["id"], listed[label], strict=True):
        if article not in photos.names:
            left_out.append((f"{article}.jpg", "without a photo"))
        elif not stated:
            left_out.append((photos.names[article], f"no {label}"))
    return left_out


def _usable(rows: Listing, label: str, splits: np.ndarray, min_photos: int) -> Bool[np.ndarray, "n"]:
    """Finds the rows whose label is known, and frequent enough in its split."""
    usable = np.array([bool(stated) for stated in rows[label]])
    if not usable.any():
        raise ValueError(f"{rows.file}: {label} is unknown in every row with a photo; choose another label")
    labels = _take(rows, usable)[label]
    usable[usable] = frequent(
        labels, splits[usable].tolist(), source="fashion_products", min_photos=min_photos
    )
    return usable


def _places(photos: _Photos, articles: Sequence[str]) -> _Places:
    names = [photos.names[article] for article in articles]
    if photos.place.is_dir():
        return _Places(photos.place, np.array(names, dtype=object))
    # Every photo of a row, whatever the options say, so that they share one folder in the cache.
    files = [name.replace("\\", "/").rsplit("/", 1)[-1] for name in names]
    folder = unpacked(photos.place, dict(zip(names, files, strict=True)), instead=INSTEAD)
    return _Places(folder, np.array(files, dtype=object))


def _stratified(
    articles: Sequence[str], strata: Sequence[str], *, fractions: Sequence[float], seed: int
) -> np.ndarray:
    """Deals articles to train, val and test, by share within each stratum.

    Args:
      articles: Distinct ids.
      strata: Stratum a row; "" is one as well.
      fractions: Shares of train, val and test.
      seed: Of the order in which articles are dealt, which is that of digests of their ids: the same on every machine
        and in every version of NumPy, whatever the order of the rows.

    Returns:
      Split a row. A stratum gets its share of each split, rounded up or down so that the whole comes closest; where
      train has a share at all, at least one.
    """
    shares = checked_fractions(fractions)
    members_of: dict[str, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata):
        members_of[stratum].append(row)
    splits = np.full(len(articles), SPLITS[0])
    owed = np.zeros(3)  # what rounding has taken from each split so far
    for stratum in sorted(members_of):
        rows = sorted(members_of[stratum], key=lambda row: _draw(articles[row], seed))
        counts = _counts(len(rows), shares, owed)
        owed += len(rows) * shares - counts
        splits[rows] = np.repeat(SPLITS, counts)
    return splits


def _draw(article: str, seed: int) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{seed}/{article}".encode(), digest_size=8).digest(), article


def _counts(total: int, shares: Float[np.ndarray, "3"], owed: Float[np.ndarray, "3"]) -> Int[np.ndarray, "3"]:
    """Splits a total by shares, each rounded down or up; those to whom most is owed are rounded up."""
    exact = total * shares
    counts = np.floor(exact + 1e-9).astype(int)
    rest = exact - counts
    claims = np.where(rest > 1e-9, rest + owed, -np.inf)
    if counts[0] == 0 and shares[0] > 0:
        claims[0] = np.inf
    counts[np.argsort(-claims, kind="stable")[: total - counts.sum()]] += 1
    return counts
