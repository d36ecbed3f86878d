"""Calls a data source by its name, with options whose names are checked."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fsl_jax import lookup
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
    load = lookup.find(SOURCES, name, "load")
    check_options(load, name, options)
    return load(root, split, **options)


def skipped_by(name: str, root: str | Path | None, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists (path, reason) of what a source leaves out; only sources of files leave anything out."""
    skipped = optional(name, "skipped")
    return [] if skipped is None else skipped(root, **options)


def optional(name: str, attribute: str) -> Any:
    """Returns what a source may define besides `load`, such as "prepare"; None where it does not."""
    lookup.find(SOURCES, name, "load")
    return getattr(importlib.import_module(f"{SOURCES}.{name}"), attribute, None)


def check_options(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """Compares options with the keyword-only parameters of a function.

    Raises:
      ValueError: An option is unknown, or one without a default is missing.
    """
    parameters = inspect.signature(function).parameters.values()
    known = {each.name: each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; {lookup.closest(option, list(known))}")
    missing = [
        option for option, each in known.items() if each.default is each.empty and option not in options
    ]
    if missing:
        raise ValueError(f"{name} needs the option {missing[0]!r}; give it, such as {missing[0]}=...")
