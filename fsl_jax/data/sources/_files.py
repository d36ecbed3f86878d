"""What the sources of photo files share: which files count, how labels are dealt, what is left out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from absl import logging

from fsl_jax.data.table import split_labels

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names that folders and csv files use, and the split they mean."""

Skipped = tuple[str, str]
"""A path that is left out, and the reason."""


def why_skipped(path: str) -> str | None:
    """Says why a path with forward slashes cannot be a photo of the set; None where it can."""
    parts = path.split("/")
    if "__MACOSX" in parts or parts[-1].startswith("._"):
        return "a stub that macOS adds to archives"
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    if not path.lower().endswith(EXTENSIONS):
        return "no photo by its extension"
    return None


def report(source: str, skipped: Sequence[Skipped]) -> None:
    """Logs how many paths are left out, by reason."""
    if skipped:
        counts = Counter(reason for _, reason in skipped)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        logging.warning(
            "%s: %d files are left out (%s), such as %s", source, len(skipped), reasons, skipped[0][0]
        )


def frequent(labels: Sequence[str], splits: Sequence[str], *, source: str, min_photos: int) -> np.ndarray:
    """Finds the rows whose label has enough photos in its split.

    Returns:
      Whether each row stays; how many labels go is logged.

    Raises:
      ValueError: No label has enough.
    """
    pairs = list(zip(splits, labels, strict=True))
    counts = Counter(pairs)
    kept = np.array([counts[pair] >= min_photos for pair in pairs], bool)
    if not kept.any():
        most = max(counts.values())
        raise ValueError(f"{source}: min_photos is {min_photos}, and no label has more than {most}: lower it")
    if not kept.all():
        rare = [label for (_, label), count in counts.items() if count < min_photos]
        logging.info(
            "%s: %d labels with fewer than %d photos are dropped, such as %s",
            source,
            len(rare),
            min_photos,
            rare[0],
        )
    return kept


def deal(labels: Sequence[str], *, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Gives the split of each row, by dealing its label."""
    split = split_labels(sorted(set(labels)), fractions=fractions, seed=seed)
    return np.array([split[label] for label in labels])
