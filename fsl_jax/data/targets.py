"""From a table's columns to what a classifier is trained on: codes of each level, and attributes yes, no or unknown."""

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from absl import logging
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from fsl_jax.data.table import Coded, Table
from fsl_jax.lookup import closest
from fsl_jax.taxonomy import Level, Taxonomy, group_of

Unstated = Literal["unknown", "absent"]
LEVELS, ATTRIBUTES = "levels", "attributes"
"""Columns that `with_targets` adds: codes [n, levels], and 1 yes, 0 no, -1 unknown [n, attributes]."""


def taxonomy_of(table: Table, config: ConfigDict) -> Taxonomy:
    """Learns from training photos what there is to tell apart.

    Args:
      table: The training photos.
      config: `config.data.targets`: `levels` and `attributes` are patterns of names, such as ("category", "sub*") and
        ("material=*",), in the order wanted; `least` is how many training photos must have an attribute, and how
        many must not; `unstated` as in `with_targets`.

    Returns:
      Levels in the order of the patterns and, within one, of the table. The parent of a name is the one that most of
      its photos have; of equally many the first by the alphabet.

    Raises:
      ValueError: A pattern matches nothing, or nothing is left to tell apart.
    """
    levels = _matching(table, config.levels, list(table.levels), "levels")
    coded = {name: table.levels[name].recode() for name in levels}
    made = tuple(
        _level(name, coded[name], coded[levels[i - 1]] if i else None) for i, name in enumerate(levels)
    )
    names = () if table.attributes is None else table.attributes.names
    wanted = _matching(table, config.attributes, list(names), "attributes")
    taxonomy = _with_attributes(Taxonomy(levels=made), table, wanted, config)
    if not taxonomy.outputs:
        raise ValueError(
            f"{table.source} has no level and no attribute to classify by: a csv needs a column category, subcategory "
            "or attributes (docs/data.md), or choose others with --config.data.targets.levels and .attributes"
        )
    for level in made:
        if len(level.names) < 2:
            raise ValueError(
                f"level {level.name!r} of {table.source} has {len(level.names)} names in training; expected two or "
                "more: leave it out of --config.data.targets.levels"
            )
    return taxonomy


def _matching(table: Table, patterns: Sequence[str], names: list[str], what: str) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matched and pattern != "*":
            raise ValueError(
                f"config.data.targets.{what} has {pattern!r}, which no {what.removesuffix('s')} of {table.source} "
                f"matches; {closest(pattern, names)}"
            )
        found += [name for name in matched if name not in found]
    return found


def _level(name: str, level: Coded, above: Coded | None) -> Level:
    counts = tuple(level.counts().tolist())
    if above is None:
        return Level(name, level.names, (), counts)
    together = np.zeros((len(level.names), len(above.names)), int)
    both = (level.codes >= 0) & (above.codes >= 0)
    np.add.at(together, (level.codes[both], above.codes[both]), 1)
    parents = tuple(int(row.argmax()) if row.any() else -1 for row in together)
    return Level(name, level.names, parents, counts)


def _with_attributes(taxonomy: Taxonomy, table: Table, wanted: list[str], config: ConfigDict) -> Taxonomy:
    if not wanted:
        return taxonomy
    truth = _attributes(table, wanted, config.unstated)
    positives, negatives = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    kept = (positives >= config.least) & (negatives >= config.least)
    if not kept.all():
        logging.warning(
            "%s: %d of %d attributes are left out, since fewer than %d training photos have them, or have not, "
            "such as %s",
            table.source, int((~kept).sum()), len(kept), config.least, wanted[int(np.argmin(kept))],
        )  # fmt: skip
    return dataclasses.replace(
        taxonomy,
        attributes=tuple(name for name, stays in zip(wanted, kept, strict=True) if stays),
        positives=tuple(positives[kept].tolist()),
        negatives=tuple(negatives[kept].tolist()),
    )


def told(taxonomy: Taxonomy) -> str:
    """Says in one line what there is to tell apart."""
    parts = [f"{level.name} ({len(level.names):,})" for level in taxonomy.levels]
    if taxonomy.attributes:
        parts.append(f"{len(taxonomy.attributes):,} attributes ({', '.join(taxonomy.groups)})")
    return f"to tell apart: {', '.join(parts)}"


def with_targets(table: Table, taxonomy: Taxonomy, *, unstated: Unstated) -> Table:
    """Adds what a classifier is trained on to the columns that a step is given.

    Args:
      table: Photos of any split.
      taxonomy: Of the training photos. A name that it does not have is unknown.
      unstated: Where a photo states no value of a group, such as no "material=...", whether all values of the group
        are "unknown" to it, or "absent". A value that the source itself calls unknown stays so. An attribute without
        a group, such as "waterproof", is absent where it is not stated.

    Returns:
      The table with `numbers["levels"]`, int32 [n, levels], -1 where unknown, and `numbers["attributes"]`, int8
      [n, attributes], 1 yes, 0 no, -1 unknown; one of no columns is left out.
    """
    numbers = dict(table.numbers)
    if taxonomy.levels:
        numbers[LEVELS] = np.stack([_codes(table, level) for level in taxonomy.levels], axis=1)
    if taxonomy.attributes:
        numbers[ATTRIBUTES] = _attributes(table, taxonomy.attributes, unstated)
    return dataclasses.replace(table, numbers=numbers)


def _codes(table: Table, level: Level) -> Int[np.ndarray, "n"]:
    if level.name not in table.levels:
        return np.full(len(table), -1, np.int32)
    column = table.levels[level.name]
    place = {name: i for i, name in enumerate(level.names)}
    codes = np.array([*(place.get(name, -1) for name in column.names), -1], np.int32)
    return codes[column.codes]


def _attributes(table: Table, names: Sequence[str], unstated: Unstated) -> Int[np.ndarray, "n a"]:
    if unstated not in get_args(Unstated):
        raise ValueError(
            f"config.data.targets.unstated is {unstated!r}; {closest(unstated, list(get_args(Unstated)))}"
        )
    if table.attributes is None:
        return np.full((len(table), len(names)), -1, np.int8)
    place = {name: i for i, name in enumerate(table.attributes.names)}
    values = np.zeros((len(table), len(names)), bool)
    known = np.zeros((len(table), len(names)), bool)
    stated, nowhere = _stated(table), np.zeros(len(table), bool)
    for j, name in enumerate(names):
        counts = unstated == "absent" or "=" not in name
        of_group = True if counts else stated.get(group_of(name), nowhere)
        if name in place:
            values[:, j] = table.attributes.values[:, place[name]]
            said = True if table.attributes.known is None else table.attributes.known[:, place[name]]
            known[:, j] = of_group & said
        else:  # no photo of this table has it, so none that states its group does
            known[:, j] = of_group
    return np.where(known, values, -1).astype(np.int8)


def _stated(table: Table) -> dict[str, Bool[np.ndarray, "n"]]:
    """Says of each group which photos state a value of it."""
    assert table.attributes is not None
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(table.attributes.names):
        if "=" in name:
            groups.setdefault(group_of(name), []).append(i)
    return {group: np.any(table.attributes.values[:, places], axis=1) for group, places in groups.items()}
