"""Calls a data source by its name, with options whose names are checked."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fsl_jax import lookup
from fsl_jax.data.sources._files import EXTENSIONS, why_skipped
from fsl_jax.data.table import Table

SOURCES = "fsl_jax.data.sources"
ALL_SPLITS = "train+val+test"


def load_source(name: str, root: str | Path | None, split: str, options: Mapping[str, Any]) -> Table:
    """Reads the table of a source.

    Args:
      name: Module in `fsl_jax.data.sources`, such as "image_folder".
      root: Where its files are; None for a source that needs none.
      split: "train", "val", "test", or several joined by "+".
      options: Further arguments of the source's `load`.

    Raises:
      ValueError: There is no such source or option, an option is missing, or the source finds its files
        amiss.
    """
    return lookup.with_options(lookup.find(SOURCES, name, "load"), options, name, root, split)


def skipped_by(name: str, root: str | Path | None, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists (path, reason) of what a source leaves out; only sources of files leave anything out."""
    skipped = optional(name, "skipped")
    return [] if skipped is None else skipped(root, **options)


def optional(name: str, attribute: str) -> Any:
    """Returns what a source may define besides `load`, such as "prepare"; None where it does not."""
    lookup.find(SOURCES, name, "load")
    return getattr(importlib.import_module(f"{SOURCES}.{name}"), attribute, None)


def photos_in(places: Sequence[Path]) -> list[Path]:
    """Lists photos: files as they are given, and those of folders at any depth, sorted by their path.

    Raises:
      ValueError: A place is not there, or a folder has no photo.
    """
    photos: list[Path] = []
    for place in places:
        if place.is_dir():
            files = sorted(file for file in place.rglob("*") if file.is_file())
            found = [file for file in files if why_skipped(file.relative_to(place).as_posix()) is None]
            if not found:
                raise ValueError(f"no photo in {place}; expected files such as {', '.join(EXTENSIONS)}")
            photos += found
        elif place.is_file():
            photos.append(place)
        else:
            raise ValueError(f"{place} is not there; expected a photo, or a folder of photos")
    return photos
