"""Classifiers that learn from a few embeddings a label: nearest neighbours, nearest mean, logistic."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fsl_jax.evaluation._lbfgs import minimise

CLASSIFIERS = ("1-nn", "k-nn", "prototype", "logistic")
STEPS = 200
"""Most evaluations of the logistic regression's loss; scikit-learn takes at most 100 steps."""
TOLERANCE = 1e-4
"""It stops when no element of the gradient is larger."""

Classifier = Callable[
    [Float[Array, "way shots d"], Bool[Array, "shots"], Float[Array, "q d"]], Int[Array, "q"]
]
"""(support, which of its photos count, queries) -> place of each query's label among the ways."""


@functools.cache
def classifier(name: str, neighbours: int | None) -> Classifier:
    """Returns the same function for the same name, so that programs are compiled once."""
    if name.endswith("-nn"):
        return functools.partial(
            nearest_neighbours, neighbours=neighbours if name == "k-nn" and neighbours else 1
        )
    return prototype if name == "prototype" else logistic


def _squared_distances(query: Float[Array, "q d"], other: Float[Array, "m d"]) -> Float[Array, "q m"]:
    """Squared Euclidean distances up to the query's own length, which does not change an order."""
    product = jnp.matmul(query, other.T, precision=lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(other), axis=1)[None, :] - 2 * product


def nearest_neighbours(
    support: Float[Array, "way shots d"],
    there: Bool[Array, "shots"],
    query: Float[Array, "q d"],
    *,
    neighbours: int,
) -> Int[Array, "q"]:
    """Votes among the nearest support photos; of equal counts, the label of the nearest photo wins.

    Args:
      support: Photos by label.
      there: Which photos of each label take part.
      query: To be labelled.
      neighbours: Photos that vote; all where there are fewer.

    Returns:
      Place of the label, 0 to way - 1.
    """
    way, shots, dimensions = support.shape
    distances = _squared_distances(query, support.reshape(way * shots, dimensions))
    distances = jnp.where(jnp.tile(there, way)[None, :], distances, jnp.inf)
    k = min(neighbours, way * shots)
    negative, nearest = lax.top_k(-distances, k)
    label = jnp.arange(way)[None, None, :]
    votes = (nearest[:, :, None] // shots == label) & jnp.isfinite(negative)[:, :, None]
    rank = jnp.arange(k)[None, :, None]
    first = jnp.min(jnp.where(votes, rank, k), axis=1)
    return jnp.argmax(votes.sum(axis=1) * (k + 1) - first, axis=1)


def prototype(
    support: Float[Array, "way shots d"], there: Bool[Array, "shots"], query: Float[Array, "q d"]
) -> Int[Array, "q"]:
    """Gives each query the label with the nearest mean.

    Args:
      support: Photos by label.
      there: Which photos of each label take part.
      query: To be labelled.

    Returns:
      Place of the label, 0 to way - 1.

    References:
      Snell et al. 2017, https://arxiv.org/abs/1703.05175.
    """
    means = jnp.sum(support, axis=1, where=there[None, :, None]) / there.sum()
    return jnp.argmin(_squared_distances(query, means), axis=1)


def logistic(
    support: Float[Array, "way shots d"], there: Bool[Array, "shots"], query: Float[Array, "q d"]
) -> Int[Array, "q"]:
    """Fits a multinomial logistic regression, and labels the queries.

    Args:
      support: Photos by label.
      there: Which photos of each label take part.
      query: To be labelled.

    Returns:
      Place of the label, 0 to way - 1.
    """
    way, shots, dimensions = support.shape
    label = jnp.repeat(jnp.arange(way), shots)
    features = support.reshape(way * shots, dimensions)
    weight, bias = fit_logistic(features, label, jnp.tile(there, way), way=way)
    logits = jnp.matmul(query, weight, precision=lax.Precision.HIGHEST) + bias[None, :]
    return jnp.argmax(logits, axis=1)


def fit_logistic(
    features: Float[Array, "n d"], label: Int[Array, "n"], there: Bool[Array, "n"], *, way: int
) -> tuple[Float[Array, "d way"], Float[Array, "way"]]:
    """Minimises the summed cross entropy plus half the squared weights: scikit-learn's C = 1; the bias is
    free.

    Args:
      features: One row a photo.
      label: 0 to way - 1.
      there: Which photos count.
      way: Labels.

    Returns:
      Weights and bias after L-BFGS until the largest element of the gradient is under 1e-4, at most 200
      evaluations.
    """

    target, photos = jax.nn.one_hot(label, way) * there[:, None], constant(features)

    def loss(parameters):
        weight, bias = parameters
        each = optax.softmax_cross_entropy(product(photos, weight) + bias[None, :], target)
        return jnp.sum(each) + jnp.sum(jnp.square(weight)) / 2

    start = jnp.zeros((features.shape[1], way)), jnp.zeros(way)
    return minimise(loss, start, steps=STEPS, tolerance=TOLERANCE)


Constant = tuple[Float[Array, "*b n d"], Float[Array, "*b d n"]]
"""Features and their transpose; see `constant`."""


def constant(features: Float[Array, "*b n d"]) -> Constant:
    """Prepares features for many products, and their gradients, with ever other weights.

    The transpose is written out: a CPU multiplies rows that lie one after another about twice as fast. Without the
    barrier XLA would put it back into the product.
    """
    return features, lax.optimization_barrier(jnp.swapaxes(features, -1, -2))


@jax.custom_vjp
def product(features: Constant, weight: Float[Array, "*b d way"]) -> Float[Array, "*b n way"]:
    """Multiplies features by weights; there is no gradient of the features."""
    return jnp.matmul(features[0], weight, precision=lax.Precision.HIGHEST)


def _product_gradient(features: Constant, gradient: Array) -> tuple[None, Array]:
    return None, jnp.matmul(features[1], gradient, precision=lax.Precision.HIGHEST)


product.defvjp(lambda features, weight: (product(features, weight), features), _product_gradient)
