"""Normalisation of feature maps as pure functions of statistics."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
    """Widens bfloat16, in whose 8 bits losses and distances would lose their digits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def moments(features: Float[Array, "*n c"]) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Returns mean and (biased) variance of each channel, in float32.

    Two passes: E[f^2] - E[f]^2 loses all digits where the mean is large against the deviation.
    """
    axes = tuple(range(features.ndim - 1))
    wide = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    mean = jnp.mean(wide, axis=axes)
    centred = wide - lax.expand_dims(mean, axes)
    return mean, jnp.mean(jnp.square(centred), axis=axes)


def normalise(
    features: Float[Array, "*n c"],
    mean: Float[Array, "c"],
    variance: Float[Array, "c"],
    scale: Float[Array, "c"] | None,
    bias: Float[Array, "c"] | None,
    *,
    epsilon: float,
) -> Float[Array, "*n c"]:
    """Centres and scales each channel; the result has the dtype of the features."""
    axes = tuple(range(features.ndim - 1))
    factor = lax.rsqrt(variance + epsilon) * (1 if scale is None else scale)
    shift = -mean * factor + (0 if bias is None else bias)
    return (features * lax.expand_dims(factor, axes) + lax.expand_dims(shift, axes)).astype(features.dtype)


def group_normalise(
    features: Float[Array, "n h w c"],
    scale: Float[Array, "c"] | None,
    bias: Float[Array, "c"] | None,
    *,
    groups: int,
    epsilon: float,
) -> Float[Array, "n h w c"]:
    """Normalises each photo's groups of channels by themselves; one group is layer normalisation.

    References:
      Wu and He 2018, https://arxiv.org/abs/1803.08494.
    """
    count, height, width, channels = features.shape
    grouped = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    grouped = grouped.reshape(count, height * width, groups, channels // groups)
    mean = jnp.mean(grouped, axis=(1, 3), keepdims=True)
    variance = jnp.mean(jnp.square(grouped - mean), axis=(1, 3), keepdims=True)
    normal = ((grouped - mean) * lax.rsqrt(variance + epsilon)).reshape(features.shape)
    scaled = normal * (1 if scale is None else scale.reshape(1, 1, 1, -1))
    return (scaled + (0 if bias is None else bias.reshape(1, 1, 1, -1))).astype(features.dtype)


def l2_normalise(embeddings: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Scales each row to length 1; a zero row stays zero, with a zero gradient."""
    squares = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
    # Twice `where`: a gradient of infinity times 0 would be NaN.
    return embeddings * jnp.where(squares > 0, lax.rsqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
