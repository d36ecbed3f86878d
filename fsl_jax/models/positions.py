"""Interpolation of position embeddings exactly as PyTorch interpolates them, so that published models stay the same."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# PyTorch's bicubic kernel has this slope at distance 1; its antialiasing one has that of Pillow.
_SLOPE, _SLOPE_ANTIALIASED = -0.75, -0.5


def resize_positions(
    positions: Float[Array, "p d"], *, rows: int, columns: int, antialias: bool
) -> Float[Array, "q d"]:
    """Interpolates the embeddings of a square grid of places to another grid.

    Args:
      positions: In row order.
      rows: Of the new grid.
      columns: The same.
      antialias: Whether a smaller grid is averaged over all of the old one.

    Returns:
      In row order; unchanged where the grid is the same.
    """
    side = round(positions.shape[0] ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions.reshape(side, side, -1)
    down, across = (
        jnp.asarray(bicubic_weights(side, new, antialias=antialias), positions.dtype)
        for new in (rows, columns)
    )
    return jnp.einsum("rp,cq,pqd->rcd", down, across, grid).reshape(rows * columns, -1)


def bicubic_weights(old: int, new: int, *, antialias: bool) -> Float[np.ndarray, "new old"]:
    """Returns the matrix that resizes one axis; its rows sum to 1.

    Places are pixel centres. Without antialiasing the edge is repeated beyond the edge; with it, weights beyond the
    edge are dropped and the rest scaled up.
    """
    place = (np.arange(new) + 0.5) * old / new - 0.5
    if not antialias:
        return _four_neighbours(place, old)
    widened = max(old / new, 1.0)
    weights = _cubic((np.arange(old) - place[:, None]) / widened, _SLOPE_ANTIALIASED)
    return weights / weights.sum(axis=1, keepdims=True)


def _four_neighbours(place: np.ndarray, old: int) -> np.ndarray:
    weights = np.zeros((len(place), old))
    for offset in range(-1, 3):
        source = np.floor(place).astype(int) + offset
        np.add.at(
            weights, (np.arange(len(place)), np.clip(source, 0, old - 1)), _cubic(place - source, _SLOPE)
        )
    return weights


def _cubic(offset: np.ndarray, slope: float) -> np.ndarray:
    """Keys' kernel, https://doi.org/10.1109/TASSP.1981.1163711."""
    distance = np.abs(offset)
    near = ((slope + 2) * distance - (slope + 3)) * distance**2 + 1
    far = slope * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
