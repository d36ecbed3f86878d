"""A csv file with one photo a row: the form into which any retrieval set can be brought."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fsl_jax.data.sources._files import SPLIT_NAMES, Skipped, deal, frequent, report, why_skipped
from fsl_jax.data.table import Attributes, Coded, Table
from fsl_jax.lookup import closest

REQUIRED = ("path", "label")
KNOWN = (
    *REQUIRED,
    "split",
    "role",
    "domain",
    "camera",
    "category",
    "subcategory",
    "mask",
    "attributes",
    "text",
    "description",
    "name",
)
"""Columns that are looked at by their names."""
OBTAIN = (
    "a csv file of your own with the columns path,label (and split, role, category, ...); see docs/data.md"
)

Rows = Mapping[str, list[str]]
"""Cells of each column."""
Renames = Mapping[str, str] | str | Sequence[str] | None
"""The file's own column by the name that is known here, or pairs such as "path=image_file"."""


def load(
    root: str | Path | None,
    split: str,
    *,
    photos: str | Path | None = None,
    levels: str | Sequence[str] | None = None,
    columns: Renames = None,
    attribute_columns: str | Sequence[str] = (),
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    min_photos: int = 1,
) -> Table:
    """Reads a csv file.

    `path` and `label` are required. `split`, `role`, `domain` (or `camera`), `mask` (a file beside `path`, or
    empty), `attributes` (separated by "|") and `text` (or `description`, or else `name`) are used where they are
    there; other columns are left alone.
    Paths may have backslashes. Rows of macOS stubs are left out and counted.

    Args:
      root: The csv file, or a folder with manifest.csv.
      split: "train", "val", "test", or several joined by "+".
      photos: Folder that the paths start from, itself relative to the csv file's folder, which is the
        default.
      levels: Columns with category levels, from coarse to fine; by default "category" and "subcategory",
        where they are there.
      columns: The file's own names of columns that are known here: {"path": "image_file", "label": "p_id"}, or
        ("path=image_file", "label=p_id"). Options may name such a column in either way.
      attribute_columns: Columns with one value a row that become the attributes "column=value", beside those of
        the column `attributes`. An empty cell or "NA" is unknown.
      fractions: Shares of the labels that train, val and test get where there is no column "split".
      split_seed: Of that dealing.
      min_photos: Labels with fewer photos in a split are dropped.

    Returns:
      A table with `path`, in the order of the file.

    Raises:
      ValueError: The file is missing or is no csv, a column is missing, a cell is empty or not allowed, or a
        path is there twice.
    """
    file = _file(root)
    rows, skipped = _without_stubs(_read(file, columns))
    report("csv_manifest", skipped)
    _check(file, rows)
    named = [SPLIT_NAMES.get(cell.lower(), cell) for cell in rows.get("split", [])]
    kept = frequent(
        rows["label"], named or [""] * len(rows["label"]), source="csv_manifest", min_photos=min_photos
    )
    rows = {
        name: [cell for cell, stays in zip(cells, kept, strict=True) if stays] for name, cells in rows.items()
    }
    dealt = np.array(named)[kept] if named else deal(rows["label"], fractions=fractions, seed=split_seed)
    level_names = _levels(rows, levels)
    attributes = _attributes(rows, attribute_columns)
    return _table(rows, dealt, file.parent / (photos or ""), level_names, attributes).select(split)


def skipped(root: str | Path | None, *, columns: Renames = None, **options: object) -> list[Skipped]:
    """Lists the rows that `load` leaves out, whatever its other options."""
    return _without_stubs(_read(_file(root), columns))[1]


def _file(root: str | Path | None) -> Path:
    file = Path(root) if root is not None else Path("manifest.csv")
    file = file / "manifest.csv" if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"no file {file}; expected a csv file, or a folder with manifest.csv")
    return file


def _read(file: Path, columns: Renames) -> Rows:
    """Reads every cell as text: "NA" is a word, and a label 007 keeps its zeros."""
    import polars

    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:  # older spreadsheets on Windows write this one
        text = data.decode("latin-1")
    try:
        frame = polars.read_csv(io.StringIO(text), infer_schema=False, raise_if_empty=False)
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"{file} is no regular csv file: {str(error).splitlines()[0]}") from error
    rows = {name: frame[name].fill_null("").str.strip_chars().to_list() for name in frame.columns}
    rows = _renamed(file, rows, columns)
    for name in REQUIRED:
        if name not in rows:
            apart = any(";" in column for column in rows)
            hint = (
                " (separate them by commas)" if apart else f"; say which it is with columns={name}=ITS_NAME"
            )
            raise ValueError(f"{file} has no column {name!r}; {closest(name, [n for n in rows if n])}{hint}")
    paths = {name: rows[name] for name in ("path", "mask") if name in rows}
    return rows | {name: [path.replace("\\", "/") for path in cells] for name, cells in paths.items()}


def _renamed(file: Path, rows: Rows, columns: Renames) -> dict[str, list[str]]:
    """Adds columns under the names that are known here; the file's own names stay."""
    renamed: dict[str, list[str]] = {}
    for name, own in _pairs(columns).items():
        if name not in KNOWN:
            raise ValueError(
                f"columns has {name!r}, which is no name that csv_manifest knows; {closest(name, [*KNOWN])}"
            )
        if own not in rows:
            raise ValueError(
                f"columns has {name}={own}, and {file} has no {own!r}; {closest(own, [n for n in rows if n])}"
            )
        renamed[name] = rows[own]
    return {**rows, **renamed}


def _pairs(columns: Renames) -> dict[str, str]:
    if columns is None:
        return {}
    if hasattr(columns, "items"):  # also a config's dict, which is no Mapping
        return dict(columns.items())
    pairs: dict[str, str] = {}
    for pair in (columns,) if isinstance(columns, str) else columns:
        name, equals, own = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(
                f"columns has {pair!r}; expected a name and the file's own, such as path=image_file"
            )
        if name in pairs:
            raise ValueError(f"columns has {name!r} twice; keep one")
        pairs[name] = own
    return pairs


def _without_stubs(rows: Rows) -> tuple[Rows, list[Skipped]]:
    reasons = [why_skipped(path) if path else None for path in rows["path"]]
    stub = [reason is not None and "macOS" in reason for reason in reasons]
    skipped = [
        (path, str(reason)) for path, reason, out in zip(rows["path"], reasons, stub, strict=True) if out
    ]
    if not skipped:
        return rows, []
    kept = {
        name: [cell for cell, out in zip(cells, stub, strict=True) if not out] for name, cells in rows.items()
    }
    return kept, skipped


def _check(file: Path, rows: Rows) -> None:
    if not rows["path"]:
        raise ValueError(f"{file} has no rows; expected one a photo")
    first: dict[str, int] = {}
    for row, (path, label) in enumerate(zip(rows["path"], rows["label"], strict=True), start=1):
        if not path or not label:
            raise ValueError(
                f"{file}: row {row} ({path or label or 'empty'}) has no {'label' if path else 'path'}"
            )
        if path in first:
            raise ValueError(f"{file}: row {row} has path {path!r}, as row {first[path]}; remove one of them")
        first[path] = row


def _levels(rows: Rows, asked: str | Sequence[str] | None) -> tuple[str, ...]:
    if asked is None:
        return tuple(name for name in ("category", "subcategory") if name in rows)
    return _columns(rows, "levels", asked)


def _columns(rows: Rows, option: str, asked: str | Sequence[str]) -> tuple[str, ...]:
    """Checks the columns that an option names."""
    asked = (asked,) if isinstance(asked, str) else tuple(asked)
    for name in asked:
        if name not in rows:
            raise ValueError(
                f"{option} has {name!r}, which is no column; {closest(name, [n for n in rows if n])}"
            )
    return asked


def _attributes(rows: Rows, asked: str | Sequence[str]) -> Attributes | None:
    names = _columns(rows, "attribute_columns", asked)
    listed = Attributes.of(rows["attributes"]) if "attributes" in rows else None
    if not names:
        return listed
    stated = Attributes.of_columns({name: rows[name] for name in names})
    return stated if listed is None else listed.join(stated)


def _table(
    rows: Rows, split: np.ndarray, folder: Path, levels: Sequence[str], attributes: Attributes | None
) -> Table:
    def first(*names: str) -> list[str] | None:
        return next((rows[name] for name in names if name in rows), None)

    role, domain, text = rows.get("role"), first("domain", "camera"), first("text", "description", "name")
    return Table(
        source="csv_manifest",
        label=Coded.of(rows["label"]),
        split=split,
        path=np.array(rows["path"], dtype=object),
        root=folder,
        mask=np.array(rows["mask"], dtype=object) if "mask" in rows else None,
        role=None if role is None else np.array([cell.lower() for cell in role]),
        domain=None if domain is None else Coded.of(domain),
        levels={name: Coded.of(rows[name]) for name in levels},
        attributes=attributes,
        text=None if text is None else np.array(text, dtype=object),
    )
