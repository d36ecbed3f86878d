"""Starts a linear head as the learned whitening of a pretrained network's embeddings.

Directions in which photos of one label differ from each other are made short, so that before the first step distances
already look at what tells labels apart. Training goes on from there.

References:
  Mikolajczyk and Matas 2007, Improving descriptors for fast tree matching by optimal linear projection; for retrieval:
  Radenovic et al. 2018, https://arxiv.org/abs/1711.02512, section 3.3.
"""

import itertools
from collections.abc import Callable

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Int

from fsl_jax.algorithms.base import Algorithm, Variables
from fsl_jax.data.augment import Augment, Preprocess
from fsl_jax.data.table import Table
from fsl_jax.evaluation.embed import embed_table
from fsl_jax.mesh import data_mesh
from fsl_jax.models.heads import Embedder
from fsl_jax.types import Key

BLOCK = 64
PASSES = 4
"""Augmented passes over the photos, besides a plain one: what augmentation changes is within a label too."""


def within_label_whitening(
    embeddings: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], *, epsilon: float
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, "d"]]:
    """Finds the linear layer after which the differences within labels have no preferred direction.

    Args:
      embeddings: Of all training photos.
      labels: Of each.
      epsilon: Added to the variances, as a share of the largest one: with few photos most directions are hardly known.

    Returns:
      Kernel and bias, (embedding - mean) C^(-1/2) with C the covariance within labels.

    Raises:
      ValueError: No label has two photos, or epsilon is not above 0.
    """
    if not epsilon > 0:
        raise ValueError(f"config.model.head.whitened is {epsilon}; expected above 0, such as 0.01")
    _, codes, count = np.unique(labels, return_inverse=True, return_counts=True)
    if count.max(initial=0) < 2:
        raise ValueError("whitening needs a label with two photos: set config.model.head.whitened to 0")
    points = embeddings.astype(np.float64)
    sums = np.zeros((len(count), points.shape[1]))
    np.add.at(sums, codes, points)
    apart = points - (sums / count[:, None])[codes]
    variance, directions = np.linalg.eigh(apart.T @ apart / len(points))
    variance = np.maximum(variance, 0.0)
    kernel = (directions / np.sqrt(variance + epsilon * variance[-1])) @ directions.T
    return kernel.astype(np.float32), (-points.mean(axis=0) @ kernel).astype(np.float32)


def whitened_head(
    embed: Callable[[Float[Array, "b h w c"]], Float[Array, "b d"]],
    table: Table,
    preprocess: Preprocess,
    augment: Augment,
    key: Key,
    *,
    epsilon: float,
) -> dict[str, Float[np.ndarray, "..."]]:
    """Embeds the training photos, plainly and augmented, and returns the layer that whitens them.

    Args:
      embed: From prepared photos to the embeddings below the head.
      table: Training photos.
      preprocess: How they are prepared.
      augment: How they are changed in training.
      key: Of the changes.
      epsilon: See `within_label_whitening`.

    Returns:
      {"kernel": [d, d], "bias": [d]}.
    """
    mesh = data_mesh(jax.device_count())

    plain = jax.jit(lambda images, key: embed(preprocess(images)))
    changed = jax.jit(lambda images, key: embed(preprocess(augment(key, images))))

    def of_pass(number: int) -> Float[np.ndarray, "n d"]:
        blocks = (jax.random.fold_in(jax.random.fold_in(key, number), i) for i in itertools.count())
        how = changed if number else plain
        found = embed_table(
            lambda images: how(images, next(blocks)),
            table,
            preprocess,
            mesh=mesh,
            block=BLOCK,
            description="embedding for the first head",
        )
        return np.asarray(found)

    passes = 1 if table.has_features else 1 + PASSES
    embeddings = np.concatenate([of_pass(number) for number in range(passes)])
    kernel, bias = within_label_whitening(embeddings, np.tile(table.label.codes, passes), epsilon=epsilon)
    return {"kernel": kernel, "bias": bias}


def with_whitened_head(
    algorithm: Algorithm,
    variables: Variables,
    table: Table,
    preprocess: Preprocess,
    augment: Augment,
    key: Key,
    *,
    epsilon: float,
) -> Variables:
    """Gives the head of a method's network its first values.

    Args:
      algorithm: Whose network is a `models.heads.Embedder`.
      variables: Its first variables, pretrained below the head.
      table: Training photos.
      preprocess: How they are prepared.
      augment: How they are changed in training.
      key: Of the changes.
      epsilon: See `within_label_whitening`.

    Raises:
      ValueError: The head is not one layer as wide as the embedding below it.
    """
    network, place = algorithm.network, algorithm.body_place
    if not isinstance(network, Embedder):
        raise ValueError(
            "config.model.head.whitened is set, but this method puts a head of its own on the network"
        )

    here = jax.tree.map(np.asarray, variables)  # what is closed over may not lie on another process's devices

    def below_head(images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        trees = {"params": here.params, **here.collections}
        for name in place:
            trees = {collection: tree[name] for collection, tree in trees.items() if name in tree}
        return network.apply(trees, images, statistics="running")[1]["body"]

    layer = whitened_head(below_head, table, preprocess, augment, key, epsilon=epsilon)
    flat = traverse_util.flatten_dict(variables.params, keep_empty_nodes=True)
    head = (*place, "head")
    for name, values in layer.items():
        path = (*head, "linear1", name)
        if (*head, "linear2", name) in flat or path not in flat or flat[path].shape != values.shape:
            raise ValueError(
                "config.model.head.whitened needs a head of one layer as wide as the embedding below: set "
                f"--config.model.head.sizes=({len(layer['bias'])},)"
            )
        flat[path] = values
    return variables.replace(params=traverse_util.unflatten_dict(flat))  # type: ignore[attr-defined]
