"""A 3 x 3 convolution of stride 1 with 16 products where the definition takes 36.

Outputs are computed in tiles of 2 x 2, each from the 4 x 4 inputs that it sees. With the small matrices B, G and A of
the papers, a tile of outputs is A' [(G w G') * (B' d B)] A: the transforms add and subtract, and the products over
channels are 16 matrix products, one a place of the tile. All three steps are linear, so the transpose and the weight
gradient are the same steps transposed. Float32 rounds no worse than in the direct sum, because fewer terms are added
(Lavin and Gray measured errors of 1.5e-5 against 4.0e-5).

Outputs come as `Tiles`, four arrays by their place in the tile: what is computed next, such as a maximum over each
tile, is then elementwise.

References:
  Lavin and Gray 2016, https://arxiv.org/abs/1509.09308. Winograd 1980, Arithmetic complexity of computations.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.ops.isolate import isolated

Pads = tuple[tuple[int, int], tuple[int, int]]
Tiles = tuple[Array, ...]
"""Feature maps by place in tiles of 2 x 2: upper left, upper right, lower left, lower right; each [n, p/2, q/2, f]."""
Parts = Sequence[Array]
Grid = list[list[Array]]
"""Arrays by row and column of a tile."""


def _inputs(d: Parts) -> list[Array]:
    """B': four inputs to four places."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _inputs_transposed(v: Parts) -> list[Array]:
    return [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]


def _weights(w: Parts) -> list[Array]:
    """G: three weights to four places."""
    ends, half = 0.5 * (w[0] + w[2]), 0.5 * w[1]
    return [w[0], ends + half, ends - half, w[2]]


def _weights_transposed(u: Parts) -> list[Array]:
    plus, minus = 0.5 * (u[1] + u[2]), 0.5 * (u[1] - u[2])
    return [u[0] + plus, minus, plus + u[3]]


def _outputs(m: Parts) -> list[Array]:
    """A': four places to two outputs."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _outputs_transposed(y: Parts) -> list[Array]:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _both_ways(transform: Callable[[Parts], list[Array]], grid: Sequence[Parts]) -> Grid:
    """Applies a transform along the columns, then along the rows of a grid."""
    rows = [transform(row) for row in grid]
    columns = [transform(column) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _each(function: Callable[..., Array], *grids: Grid) -> Grid:
    return [[function(*parts) for parts in zip(*rows, strict=True)] for rows in zip(*grids, strict=True)]


def _tile_count(side: int, pads: tuple[int, int]) -> int:
    return -(-(side + sum(pads) - 2) // 2)


@functools.partial(isolated, static=("pads",))
def _pad(images: Array, *, pads: Pads) -> Array:
    """Pads to whole tiles."""
    beyond = [
        (pad[0], 2 * _tile_count(side, pad) + 2 - pad[0] - side)
        for side, pad in zip(images.shape[1:3], pads, strict=True)
    ]
    return jnp.pad(images, ((0, 0), *beyond, (0, 0)))


@isolated
def _input_places(padded: Array) -> Grid:
    """Transforms the overlapping 4 x 4 tiles of padded photos: arrays [n, rows, columns, c]."""
    rows, columns = ((side - 2) // 2 for side in padded.shape[1:3])
    seen = [
        [padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for j in range(4)] for i in range(4)
    ]
    return _both_ways(_inputs, seen)


@isolated
def _weight_places(weights: Array) -> Grid:
    return _both_ways(_weights, [[weights[i, j] for j in range(3)] for i in range(3)])


@isolated
def _output_places(tiles: Tiles) -> Grid:
    return _both_ways(_outputs_transposed, [tiles[:2], tiles[2:]])


@isolated
def _to_outputs(products: Grid) -> Tiles:
    (upper, lower) = _both_ways(_outputs, products)
    return (*upper, *lower)


@isolated
def _to_inputs(products: Grid) -> Grid:
    return _both_ways(_inputs_transposed, products)


@isolated
def _to_weights(products: Grid) -> Array:
    return jnp.stack([jnp.stack(row) for row in _both_ways(_weights_transposed, products)])


def _overlapped(parts: Parts, axis: int) -> list[Array]:
    """Adds up tiles of 4 that overlap by 2: even and odd rows of the padded input, one more than there are tiles."""

    def shifted(part: Array, by: int) -> Array:
        pads = [(0, 0)] * part.ndim
        pads[axis] = (by, 1 - by)
        return jnp.pad(part, pads)

    return [shifted(parts[i], 0) + shifted(parts[i + 2], 1) for i in range(2)]


def _interleaved(grid: Sequence[Parts]) -> Array:
    """Joins 2 x 2 arrays [n, rows, columns, c] into one of twice the rows and columns."""
    joined = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    count, rows, _, columns, _, channels = joined.shape
    return joined.reshape(count, 2 * rows, 2 * columns, channels)


@functools.partial(isolated, static=("side", "pads"))
def _joined(tiles: Grid, *, side: tuple[int, int], pads: Pads) -> Array:
    """Adds up overlapping 4 x 4 tiles of inputs, and cuts the padding off."""
    rows = [_overlapped(row, 2) for row in tiles]
    columns = [_overlapped(column, 1) for column in zip(*rows, strict=True)]
    (top, _), (left, _) = pads
    return _interleaved(list(zip(*columns, strict=True)))[:, top : top + side[0], left : left + side[1]]


@functools.partial(isolated, static=("side",))
def together(tiles: Tiles, *, side: tuple[int, int]) -> Float[Array, "n p q f"]:
    """Puts the places of tiles back into maps of `side`, without what lies beyond an odd edge."""
    return _interleaved([tiles[:2], tiles[2:]])[:, : side[0], : side[1]]


@isolated
def apart(maps: Float[Array, "n p q f"]) -> Tiles:
    """Takes maps apart by place; beyond an odd edge there are zeros."""
    padded = jnp.pad(maps, ((0, 0), *((0, side % 2) for side in maps.shape[1:3]), (0, 0)))
    return tuple(padded[:, i::2, j::2] for i in range(2) for j in range(2))


def conv(images: Float[Array, "n h w c"], weights: Float[Array, "3 3 c f"], pads: Pads) -> Tiles:
    """Convolves photos; beyond an odd edge, outputs are those of zeros."""
    return _to_outputs(
        _each(
            lambda v, u: jnp.tensordot(v, u, 1),
            _input_places(_pad(images, pads=pads)),
            _weight_places(weights),
        )
    )


def transpose(
    cotangents: Tiles, weights: Float[Array, "3 3 c f"], pads: Pads, side: tuple[int, int]
) -> Float[Array, "n h w c"]:
    """Maps cotangents of the outputs to one of the inputs, which have this height and width."""
    products = _each(
        lambda z, u: jnp.tensordot(z, u.T, 1), _output_places(cotangents), _weight_places(weights)
    )
    return _joined(_to_inputs(products), side=side, pads=pads)


def weight_gradient(
    images: Float[Array, "n h w c"], cotangents: Tiles, pads: Pads
) -> Float[Array, "3 3 c f"]:
    """Maps photos and cotangents of the outputs to one of the weights."""
    over = (0, 1, 2)
    return _to_weights(
        _each(
            lambda v, z: lax.dot_general(v, z, ((over, over), ((), ()))),
            _input_places(_pad(images, pads=pads)),
            _output_places(cotangents),
        )
    )
