"""From the config's data section to tables that can be sampled."""

import dataclasses

from absl import logging
from ml_collections import ConfigDict

from fsl_jax.data.augment import Preprocess
from fsl_jax.data.describe import description_vectors
from fsl_jax.data.read import Unreadable, check_photos, read_all, without_broken
from fsl_jax.data.source import load_source
from fsl_jax.data.table import Table


def preprocess_of(config: ConfigDict) -> Preprocess:
    """Returns how photos are prepared, from `config.data`."""
    return Preprocess(
        size=config.size,
        channels=config.channels,
        fit=config.fit,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )


def load_split(config: ConfigDict, split: str, *, described: bool = False) -> Table:
    """Loads one split of the configured source, ready for a reader.

    Photos are read into memory where they fit `config.resident_gb`; otherwise every file is checked, and stays a
    file. Unreadable photos are refused or dropped here, never met in training.

    Args:
      config: `config.data`.
      split: "train", "val", "test", or several joined by "+".
      described: Whether the table gets description vectors, as `config.text` says, in its `numbers`.

    Returns:
      Rows sorted by label, each label with at least `config.min_photos` photos.

    Raises:
      ValueError: The source, its folder, or its photos are not as expected.
    """
    options = config.get(config.source, ConfigDict())
    table = load_source(config.source, config.root or None, split, options)
    if described:
        # Before the photos are read, since vectors from a file are found by the names of photos.
        table = dataclasses.replace(table, numbers={"text": description_vectors(table, config.text)})
    if table.has_features:
        return with_enough_photos(table, config.min_photos)
    if fits(table, config):
        table = read_all(
            table, size=config.size, channels=config.channels, fit=config.fit, unreadable=config.unreadable
        )
    else:
        # A mask that no network is given may be as broken as it likes.
        table = _checked(
            table if config.channels == 4 else dataclasses.replace(table, mask=None), config.unreadable
        )
    return with_enough_photos(table, config.min_photos)


def fits(table: Table, config: ConfigDict) -> bool:
    """Whether a table's photos fit the memory that they may take on each device."""
    return len(table) * config.size**2 * config.channels <= config.resident_gb * 1e9


def _checked(table: Table, unreadable: Unreadable) -> Table:
    broken = check_photos(table)
    return without_broken(table, broken, unreadable)[0] if broken else table


def with_enough_photos(table: Table, least: int) -> Table:
    """Drops the labels with fewer than `least` photos, and says how many."""
    counts = table.label.counts()
    poor = counts < least
    if not poor.any():
        return table
    logging.warning(
        "%s: dropped %d of %d labels with fewer than %d photos",
        table.source,
        int(poor.sum()),
        len(counts),
        least,
    )
    kept = ~poor[table.label.codes]
    if not kept.any():
        raise ValueError(
            f"no label of {table.source} has {least} photos: lower --config.data.min_photos "
            f"(the most that a label has is {int(counts.max())})"
        )
    return _without_empty_labels(table.take(kept))


def _without_empty_labels(table: Table) -> Table:
    return table.select("+".join(sorted(set(table.split))))
