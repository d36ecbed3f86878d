"""Classifiers that learn from a few embeddings a label: nearest neighbours, nearest mean, logistic."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

CLASSIFIERS = ("1-nn", "k-nn", "prototype", "logistic")
STEPS = 100
"""Most L-BFGS steps of the logistic regression, as in scikit-learn."""
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
      Weights and bias after L-BFGS until the largest element of the gradient is under 1e-4, at most 100
      steps.
    """

    def loss(parameters):
        weight, bias = parameters
        logits = jnp.matmul(features, weight, precision=lax.Precision.HIGHEST) + bias[None, :]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return jnp.sum(each, where=there) + jnp.sum(jnp.square(weight)) / 2

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry):
        count, parameters, state, _ = carry
        value, gradient = value_and_gradient(parameters, state=state)
        updates, state = solver.update(gradient, state, parameters, value=value, grad=gradient, value_fn=loss)
        largest = jnp.maximum(*(jnp.max(jnp.abs(each)) for each in gradient))
        return count + 1, optax.apply_updates(parameters, updates), state, largest

    start = jnp.zeros((features.shape[1], way)), jnp.zeros(way)
    carry = (0, start, solver.init(start), jnp.inf)
    return lax.while_loop(lambda carry: (carry[0] < STEPS) & (carry[3] > TOLERANCE), step, carry)[1]
