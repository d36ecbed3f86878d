"""Distribution calibration: a label with few photos borrows its spread from the base labels that are nearest to it.

Around each support photo a Gaussian is laid, whose mean and covariance are mixed from those of the nearest base labels,
and a logistic regression is fitted to the support photos and many draws. No covariance is decomposed in an episode:
the sum of two independent draws has the sum of their covariances, so that factors of each base label, made once, do.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from fsl_jax.evaluation._few_shot import constant, product
from fsl_jax.evaluation._lbfgs import minimise
from fsl_jax.types import Key

STEPS = 400
"""Most evaluations of the regression's loss."""
TOLERANCE = 1e-6
"""It stops when no element of the gradient of the mean loss is larger. scikit-learn stops at 1e-4, where logits are
still off by tenths, and one query in some hundreds gets another label than at the minimum."""
STEEP = 50.0
"""By how much the direction of alpha is damped, see `_damped`; from 5 to 1,000 it hardly matters."""


@flax.struct.dataclass
class BaseLabels:
    """What is known of labels with many photos.

    Attributes:
      mean: Of the features of each label.
      factor: Whose square, `factor.T @ factor`, is the covariance of each label (of n - 1); rows of zeros fill up.
    """

    mean: Float[Array, "labels d"]
    factor: Float[Array, "labels r d"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"], label: Int[np.ndarray, "n"]) -> "BaseLabels":
        """Measures mean and covariance of each label.

        Args:
          features: One row a photo.
          label: 0 to labels - 1, each at least once.

        Returns:
          Means, and factors with as many rows as the largest label has photos, at most d. A label with a single
          photo has the covariance 0.
        """
        rows = [features[label == one].astype(np.float64) for one in range(int(label.max()) + 1)]
        factors = [_factor(row - row.mean(axis=0)) for row in rows]
        most = max(len(factor) for factor in factors)
        filled = np.stack([np.pad(factor, ((0, most - len(factor)), (0, 0))) for factor in factors])
        return cls(
            jnp.asarray(np.stack([row.mean(axis=0) for row in rows]), jnp.float32),
            jnp.asarray(filled, jnp.float32),
        )


def _factor(centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "r d"]:
    """Returns the fewest rows of the same square as these rows', without squaring them."""
    scaled = centred / math.sqrt(max(len(centred) - 1, 1))
    return np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > scaled.shape[1] else scaled


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributionCalibration:
    """Labels queries by a logistic regression on support photos and draws around them.

    Attributes:
      nearest: Base labels from which a support photo borrows.
      alpha: Added to every entry of a covariance: spread along the direction in which all features grow alike.
      draws: Of each label; a label's support photos share them evenly, and what does not divide is left out.

    References:
      Yang et al. 2021, https://arxiv.org/abs/2101.06395, algorithm 1.
    """

    nearest: int = 2
    alpha: float = 0.21
    draws: int = 750

    def __call__(
        self,
        key: Key,
        base: BaseLabels,
        support: Float[Array, "way shot d"],
        query: Float[Array, "q d"],
    ) -> Int[Array, "q"]:
        """Labels queries.

        Args:
          key: Of the draws.
          base: Labels to borrow from, at least `nearest`.
          support: Photos by label.
          query: To be labelled.

        Returns:
          Place of the label, 0 to way - 1.
        """
        way, shot, dimensions = support.shape
        around = self.calibrate(base, support.reshape(way * shot, dimensions))
        normal = self.normals(key, around, draws=self.draws // shot)
        weight, bias = self.fit(support, around, normal)
        logits = jnp.matmul(query, weight, precision=lax.Precision.HIGHEST) + bias[None, :]
        return jnp.argmax(logits, axis=1)

    def check(self, shots: Sequence[int]) -> None:
        """Looks the settings over.

        Raises:
          ValueError: There are fewer draws than shots, or a setting has no meaning.
        """
        if self.nearest < 1 or self.alpha < 0:
            raise ValueError(
                f"nearest is {self.nearest}, alpha {self.alpha}; expected at least 1, and at least 0"
            )
        if self.draws < max(shots):
            raise ValueError(
                f"{self.draws} draws a label are shared by {max(shots)} shots: expected at least one for each"
            )

    def calibrate(self, base: BaseLabels, vectors: Float[Array, "s d"]) -> BaseLabels:
        """Mixes the distribution around each vector.

        Args:
          base: Labels to borrow from.
          vectors: Support photos.

        Returns:
          Mean of each vector with the `nearest` base means, and a factor of the mean of their covariances plus
          alpha.
        """
        product_ = jnp.matmul(vectors, base.mean.T, precision=lax.Precision.HIGHEST)
        squared = jnp.sum(jnp.square(base.mean), axis=1)[None, :] - 2 * product_
        which = lax.top_k(-squared, self.nearest)[1]
        mean = (base.mean[which].sum(axis=1) + vectors) / (self.nearest + 1)
        borrowed = base.factor[which].reshape(len(vectors), -1, vectors.shape[1]) / math.sqrt(self.nearest)
        alike = jnp.full((len(vectors), 1, vectors.shape[1]), math.sqrt(self.alpha), vectors.dtype)
        return BaseLabels(mean, jnp.concatenate([borrowed, alike], axis=1))

    def normals(self, key: Key, around: BaseLabels, *, draws: int) -> Float[Array, "s draws r"]:
        """Draws what the factors turn into draws of the calibrated distributions."""
        return jax.random.normal(key, (len(around.mean), draws, around.factor.shape[1]))

    def fit(
        self, support: Float[Array, "way shot d"], around: BaseLabels, normal: Float[Array, "s draws r"]
    ) -> tuple[Float[Array, "d way"], Float[Array, "way"]]:
        """Fits the regression, scikit-learn's C = 1, to the support photos and `samples` of the same normals.

        The logits of a draw are linear in its normals, so draws are made only where that saves work: with base labels
        of few photos there are fewer normals than features.

        Returns:
          Weights and bias.
        """
        way, shot, dimensions = support.shape
        vectors = support.reshape(way * shot, dimensions)
        draws = normal.shape[1]
        photos, logits_of_draws = constant(vectors), _logits_of_draws(around, normal)
        target = jax.nn.one_hot(jnp.repeat(jnp.arange(way), shot), way)
        target_of_draws = jnp.repeat(target, draws, axis=0)
        steepness = 1 + STEEP * self.alpha * dimensions

        def loss(parameters: tuple[Array, Array]) -> Float[Array, ""]:
            weight, bias = _damped(parameters[0], steepness), parameters[1][None, :]
            of_support = optax.softmax_cross_entropy(product(photos, weight) + bias, target)
            of_draws = optax.softmax_cross_entropy(logits_of_draws(weight) + bias, target_of_draws)
            return of_support.sum() + of_draws.sum() + jnp.sum(jnp.square(weight)) / 2

        start = jnp.zeros((dimensions, way)), jnp.zeros(way)
        tolerance = TOLERANCE * (draws + 1) * len(vectors)
        weight, bias = minimise(loss, start, steps=STEPS, tolerance=tolerance)
        return _damped(weight, steepness), bias


def _logits_of_draws(
    around: BaseLabels, normal: Float[Array, "s draws r"]
) -> Callable[[Float[Array, "d way"]], Float[Array, "n way"]]:
    """Returns what multiplies all draws by weights, in the order of the products that costs less."""
    (vectors, draws, rank), dimensions = normal.shape, around.mean.shape[1]
    if draws * dimensions <= (draws + dimensions) * rank:
        made = constant(samples(around, normal).reshape(vectors * draws, dimensions))
        return lambda weight: product(made, weight)
    mean, factor = constant(around.mean), constant(around.factor.reshape(vectors * rank, dimensions))
    kept = constant(normal)

    def logits(weight: Float[Array, "d way"]) -> Float[Array, "n way"]:
        way = weight.shape[1]
        spread = product(factor, weight).reshape(vectors, rank, way)
        return (product(mean, weight)[:, None, :] + product(kept, spread)).reshape(vectors * draws, way)

    return logits


def samples(around: BaseLabels, normal: Float[Array, "s draws r"]) -> Float[Array, "s draws d"]:
    """Turns standard normals into draws of the distributions."""
    spread = jnp.matmul(normal, around.factor, precision=lax.Precision.HIGHEST)
    return around.mean[:, None, :] + spread


def _damped(weight: Float[Array, "d way"], steepness: float) -> Float[Array, "d way"]:
    """Shortens weights by the root of `steepness` along the direction in which all features grow alike.

    Alpha spreads the draws there hundreds of times as far as elsewhere; a minimiser that
    knows takes a fifth of the steps.
    """
    mean = jnp.mean(weight, axis=0, keepdims=True)
    return weight + (1 / math.sqrt(steepness) - 1) * mean
