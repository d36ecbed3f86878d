"""Brings data sets to where the sources read them: downloads, drawings, or advice; whole or not at all."""

import csv
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from fsl_jax.data.cache import write_whole
from fsl_jax.data.read import in_threads
from fsl_jax.data.source import ALL_SPLITS, load_source, optional
from fsl_jax.data.table import Coded, Table
from fsl_jax.lookup import with_options

DRAWN = ("catalogue",)
"""Sources that need no files: preparing one writes its photos out."""
JPEG_QUALITY = 95
TIMEOUT_SECONDS = 60


def prepare(source: str, root: str | Path | None, options: Mapping[str, Any]) -> str:
    """Puts a data set in place.

    A source that can be downloaded by a program defines `prepare(root, ...)`; one that cannot says in
    `OBTAIN` what to get. A drawn source is written as JPEGs with a manifest.csv, which the source
    csv_manifest reads.

    Args:
      source: Module in `fsl_jax.data.sources`.
      root: Where to put it.
      options: Of the source's `prepare`, or of its `load` where it is drawn.

    Returns:
      One line that says what is there now.

    Raises:
      ValueError: It cannot be had, or must be got by hand; the message says what, from where, and the layout.
    """
    if source in DRAWN:
        if root is None:
            raise ValueError(f"{source} needs a root folder to write into")
        table = load_source(source, None, ALL_SPLITS, options)
        write_table(table, Path(root))
        return f"{source}: {len(table):,} photos of {len(table.label.names):,} labels in {root}"
    get = optional(source, "prepare")
    if get is None:
        raise ValueError(
            f"{source} has to be got by hand: {optional(source, 'OBTAIN') or 'see docs/data.md'}"
        )
    return with_options(get, options, source, root)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write into, which becomes `folder` in the end, or leaves no trace after an
    error.

    Raises:
      ValueError: `folder` is there already and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty; remove it, or choose another place")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / folder.name
        whole.mkdir()
        yield whole
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)


def download(url: str, file: Path) -> None:
    """Downloads a file whole.

    Raises:
      ValueError: It cannot be reached, or breaks off; the message says what to get by hand.
    """
    by_hand = f"get it by hand and put it at {file}"

    def fetch(stream: BinaryIO) -> None:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            expected = answer.headers.get("Content-Length")
            shutil.copyfileobj(answer, stream)
        if expected is not None and stream.tell() != int(expected):
            raise ValueError(f"{url} broke off after {stream.tell():,} of {int(expected):,} bytes; {by_hand}")

    try:
        write_whole(file, fetch)
    except urllib.error.URLError as error:
        raise ValueError(f"cannot download {url} ({error.reason}); {by_hand}") from error


def write_table(table: Table, root: Path) -> None:
    """Writes a table of arrays as JPEGs and a manifest.csv, which the source csv_manifest reads back.

    Raises:
      ValueError: The table's photos are files already, or the folder is not empty.
    """
    if table.images is None:
        raise ValueError(f"{table.source}: its photos are files already, in {table.root}")
    images = table.images
    paths = [_path(table, row) for row in range(len(table))]
    with whole_folder(root) as folder:

        def write(row: int) -> None:
            file = folder / paths[row]
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = images[row]
            photo = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            photo.save(file, quality=JPEG_QUALITY, subsampling=0)

        in_threads(write, range(len(table)), description="writing photos")
        _write_manifest(table, paths, folder / "manifest.csv")


def _path(table: Table, row: int) -> str:
    # The row's number keeps names apart that differ only in signs a file system may not know.
    label = re.sub(r"[^\w.-]+", "_", table.label.names[table.label.codes[row]])
    return f"images/{label}/{row:06d}.jpg"


def _write_manifest(table: Table, paths: list[str], file: Path) -> None:
    columns: dict[str, list[str]] = {
        "path": paths,
        "label": _names(table.label),
        "split": [str(split) for split in table.split],
    }
    if table.role is not None:
        columns["role"] = [str(role) for role in table.role]
    if table.domain is not None:
        columns["domain"] = _names(table.domain)
    columns |= {name: _names(level) for name, level in table.levels.items()}
    if table.attributes is not None:
        names = table.attributes.names
        columns["attributes"] = [
            "|".join(names[j] for j in row.nonzero()[0]) for row in table.attributes.values
        ]
    if table.text is not None:
        columns["text"] = [str(text) for text in table.text]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _names(column: Coded) -> list[str]:
    return [column.names[code] if code >= 0 else "" for code in column.codes]
