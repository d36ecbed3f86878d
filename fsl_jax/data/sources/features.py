"""Embeddings that `fsl-jax embed` wrote, in place of photos: work on a frozen backbone in seconds."""

from pathlib import Path

import numpy as np

from fsl_jax.data.table import Coded, Table, split_labels

OBTAIN = "fsl-jax embed --model NAME --source ... --root ... --out features.npz"


def load(
    root: str | Path | None,
    split: str,
    *,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    keep_splits: bool = True,
) -> Table:
    """Reads a features file.

    Args:
      root: The .npz file.
      split: "train", "val", "test", or several joined by "+".
      fractions: Shares of the labels for train, val and test, where the file has no splits.
      split_seed: Of that dealing.
      keep_splits: Whether the splits of the embedded source are taken, where it had more than one.

    Raises:
      ValueError: There is no such file, or it holds no features.
    """
    file = Path(root or "")
    if not file.is_file():
        raise ValueError(f"no features file {str(root)!r}; make one with: {OBTAIN}")
    with np.load(file, allow_pickle=False) as arrays:
        missing = {"embedding", "path", "label", "split", "role"} - set(arrays)
        if missing:
            raise ValueError(f"{file} has no {', '.join(sorted(missing))}; make it with: {OBTAIN}")
        embedding, label, splits, role = (arrays[name] for name in ("embedding", "label", "split", "role"))
    if not (keep_splits and len(set(splits)) > 1):
        dealt = split_labels(sorted(set(label)), fractions=fractions, seed=split_seed)
        splits = np.array([dealt[str(name)] for name in label])
    images = embedding.astype(np.float32)[:, None, None, :]
    return Table(
        source="features",
        label=Coded.of(label),
        split=splits,
        images=images,
        role=role if any(role) else None,
    ).select(split)
