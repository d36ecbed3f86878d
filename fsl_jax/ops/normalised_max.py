"""Normalisation by the batch, ReLU and maximum over tiles of 2 x 2, in few passes over memory.

Taken one after the other, these three read and write the largest arrays of a small network a dozen times. Together
they can be had in four passes forward and two backward: the maximum commutes with the normalisation, and what the
gradient sums up is 0 wherever a value was not chosen, so that its sums run over the pooled map alone.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8

from fsl_jax.ops.isolate import isolated
from fsl_jax.ops.remember import remembered
from fsl_jax.ops.winograd import Tiles

Channels = Float[Array, "c"]
Maps = Float[Array, "n p q c"]


def _row(channel: Channels) -> Float[Array, "1 1 1 c"]:
    return channel.reshape(1, 1, 1, -1)


def _total(parts: list[Channels]) -> Channels:
    return functools.reduce(jnp.add, parts)


@isolated
def _moments(tiles: Tiles) -> tuple[Channels, Channels]:
    """Mean and biased variance of each channel, in two passes."""
    count = sum(tile.size for tile in tiles) // tiles[0].shape[-1]
    mean = _total([jnp.sum(tile, axis=(0, 1, 2)) for tile in tiles]) / count
    squares = [jnp.sum(jnp.square(tile - _row(mean)), axis=(0, 1, 2)) for tile in tiles]
    return mean, _total(squares) / count


@isolated
def _first_largest(tiles: Tiles, factor: Channels) -> Int8[Array, "n p q c"]:
    """Place of the first largest value after the scaling."""
    best, place = tiles[0] * _row(factor), jnp.zeros(tiles[0].shape, jnp.int8)
    for i, tile in enumerate(tiles[1:], 1):
        scaled = tile * _row(factor)
        place = lax.select(scaled > best, jnp.full_like(place, i), place)
        best = jnp.maximum(scaled, best)
    return place


@isolated
def _chosen(tiles: Tiles, place: Int8[Array, "n p q c"]) -> Maps:
    """The value at each tile's place."""
    chosen = tiles[-1]
    for i in reversed(range(len(tiles) - 1)):
        chosen = lax.select(place == i, tiles[i], chosen)
    return chosen


def _factor_and_shift(
    mean: Channels, variance: Channels, scale: Channels, bias: Channels, epsilon: float
) -> tuple[Channels, Channels]:
    factor = lax.rsqrt(variance + epsilon) * scale
    return factor, bias - mean * factor


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised_max(
    tiles: Tiles, scale: Channels, bias: Channels, epsilon: float
) -> tuple[Maps, Channels, Channels]:
    return _forward(tiles, scale, bias, epsilon)[0]


def _forward(tiles: Tiles, scale: Channels, bias: Channels, epsilon: float):
    mean, variance = _moments(tiles)
    factor, shift = _factor_and_shift(mean, variance, scale, bias, epsilon)
    place = _first_largest(tiles, factor)
    chosen = _chosen(tiles, place)
    largest = jnp.maximum(chosen * _row(factor) + _row(shift), 0)
    return (largest, mean, variance), (tiles, scale, bias, mean, variance, place, chosen)


@isolated
def _scattered(
    tiles: Tiles, place: Array, gradient: Maps, mean: Channels, constant: Channels, slope: Channels
) -> Tiles:
    """Gradient of the maps: what came to the chosen values, less the parts of mean and variance."""
    return tuple(
        lax.select(place == i, gradient, jnp.zeros_like(gradient))
        - (_row(constant) + (tile - _row(mean)) * _row(slope))
        for i, tile in enumerate(tiles)
    )


def _backward(epsilon: float, kept, given) -> tuple[Tiles, Channels, Channels]:
    tiles, scale, bias, mean, variance, place, chosen = kept
    mean, variance = remembered(_moments, tiles, value=(mean, variance))
    chosen = remembered(_chosen, tiles, place, value=chosen)
    factor, shift = _factor_and_shift(mean, variance, scale, bias, epsilon)
    root = lax.rsqrt(variance + epsilon)
    gradient = jnp.where(chosen * _row(factor) + _row(shift) > 0, given[0], 0)
    to_bias = jnp.sum(gradient, axis=(0, 1, 2))
    to_scale = jnp.sum(gradient * (chosen - _row(mean)), axis=(0, 1, 2)) * root
    count = sum(tile.size for tile in tiles) // mean.size
    to_tiles = _scattered(
        tiles,
        place,
        gradient * _row(factor),
        mean,
        factor * to_bias / count,
        factor * root * to_scale / count,
    )
    return to_tiles, to_scale, to_bias


_normalised_max.defvjp(_forward, _backward)


def normalised_max(
    tiles: Tiles, scale: Channels, bias: Channels, *, epsilon: float
) -> tuple[Maps, Channels, Channels]:
    """Normalises maps by the batch, applies ReLU and takes the largest value of each tile of 2 x 2.

    Where several values are equal, the gradient goes to the first in row order. Reverse-mode gradients of any order.

    Args:
      tiles: Maps by place in the tile, in float32 or wider; see `winograd.Tiles`.
      scale: Of each channel.
      bias: Of each channel.
      epsilon: Added to the variance.

    Returns:
      Pooled maps; mean and biased variance of each channel over all of `tiles`, which carry no gradient.
    """
    maps, mean, variance = _normalised_max(tiles, scale, bias, epsilon)
    return maps, lax.stop_gradient(mean), lax.stop_gradient(variance)
