"""Small tables and episodes for tests."""

import jax.numpy as jnp
import numpy as np

from fsl_jax.data.table import Coded, Table
from fsl_jax.types import Batch, Episode


def table_of_counts(counts, *, side=8, channels=1, seed=0):
    """A table of random photos, with so many photos of each label."""
    labels = [f"label_{i:03d}" for i, count in enumerate(counts) for _ in range(count)]
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), side, side, channels), dtype=np.uint8)
    return Table(source="test", label=Coded.of(labels), split=np.full(len(labels), "train"), images=images)


def random_episode(*, tasks, way, shot, queries, side=8, channels=1, seed=0):
    """An episode of prepared random photos that are a little alike within a label."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((tasks, way, 1, side, side, channels))
    noise = rng.standard_normal((tasks, way, shot + queries, side, side, channels))
    images = (centres + 0.5 * noise).astype(np.float32)

    def batch(part):
        photos = part.shape[2]
        label = np.broadcast_to(np.repeat(np.arange(way), photos), (tasks, way * photos))
        return Batch(jnp.asarray(part.reshape(tasks, way * photos, side, side, channels)), jnp.asarray(label))

    return Episode(batch(images[:, :, :shot]), batch(images[:, :, shot:]), way=way)
