"""Limited-memory BFGS for smooth convex functions: one evaluation a step, so that many problems go side by side."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

MEMORY = 10
"""Pairs of steps and changes of the gradient that are kept."""
SUFFICIENT = 1e-4
"""Share of the decrease that the gradient promises which a step must bring (Armijo)."""
ROUNDING = 1e-5
"""Share of the value that its rounding may come to, as float32 sums of thousands of terms have it."""
SMALLEST_STEP = 1e-6
"""Share of a direction below which rounding, not the function, decides: there it ends."""


def minimise(
    loss: Callable[[Any], Float[Array, ""]], start: Any, *, steps: int, tolerance: Float[Array, ""] | float
) -> Any:
    """Minimises a convex function.

    Every step evaluates the function and its gradient once: at the end of a new direction, or half as far along the
    old one where that did not bring enough.

    Args:
      loss: Convex, of a pytree of float32 arrays.
      start: Where it begins.
      steps: Most evaluations.
      tolerance: It ends where no element of the gradient is larger.

    Returns:
      The best point found, in the form of `start`.

    References:
      Liu and Nocedal 1989, On the limited memory BFGS method for large scale optimization; Hager and Zhang 2005,
      A new conjugate gradient method with guaranteed descent and an efficient line search, for the second test.
    """
    first, restore = ravel_pytree(start)
    value_and_gradient = jax.value_and_grad(lambda point: loss(restore(point)))
    empty, nowhere = jnp.zeros((MEMORY, first.size), first.dtype), jnp.zeros_like(first)
    # The start is evaluated inside the loop, too: as a constant of zeros outside of it, XLA's CPU backend (jaxlib
    # 0.10.2) fuses it into products that then read memory nobody wrote, and some programs give NaN.
    carry = (jnp.zeros((), jnp.int32), first, jnp.inf, nowhere, nowhere, 1.0, empty, empty)

    def goes_on(carry):
        count, _, _, gradient, _, share, _, _ = carry
        near = (jnp.max(jnp.abs(gradient)) <= tolerance) | (share <= SMALLEST_STEP)
        return (count == 0) | ((count < steps) & ~near)

    def step(carry):
        count, point, value, gradient, direction, share, moved, changed = carry
        ahead = point + share * direction
        value_ahead, gradient_ahead = value_and_gradient(ahead)
        slope, slope_ahead = jnp.dot(gradient, direction), jnp.dot(gradient_ahead, direction)
        lower = value_ahead <= value + SUFFICIENT * share * slope
        # Near the minimum the decrease drowns in the value's rounding; the slope still shows it.
        flatter = (slope_ahead <= (2 * SUFFICIENT - 1) * slope) & (
            value_ahead <= value + ROUNDING * abs(value)
        )
        enough = lower | flatter
        kept = _latest(moved, ahead - point), _latest(changed, gradient_ahead - gradient)
        length = 1 / jnp.maximum(jnp.linalg.norm(gradient_ahead), 1e-12)
        onward = jnp.where(count == 0, -length * gradient_ahead, _direction(gradient_ahead, *kept))
        taken = (ahead, value_ahead, gradient_ahead, onward, 1.0, *kept)
        shorter = (point, value, gradient, direction, share / 2, moved, changed)
        chosen = jax.tree.map(lambda new, old: jnp.where(enough, new, old), taken, shorter)
        return count + 1, *chosen

    return restore(lax.while_loop(goes_on, step, carry)[1])


def _latest(kept: Float[Array, "m n"], new: Float[Array, "n"]) -> Float[Array, "m n"]:
    """Puts a vector last, and drops the first."""
    return jnp.concatenate([kept[1:], new[None]])


def _direction(
    gradient: Float[Array, "n"], moved: Float[Array, "m n"], changed: Float[Array, "m n"]
) -> Float[Array, "n"]:
    """Returns minus the gradient times the approximate inverse Hessian, by the two-loop recursion.

    Pairs without curvature, such as the empty ones, take no part.
    """
    curvature = jnp.sum(moved * changed, axis=1)
    bends = curvature > 1e-10 * jnp.sum(jnp.square(changed), axis=1)
    inverse = jnp.where(bends, 1 / jnp.where(bends, curvature, 1.0), 0.0)
    weights = []
    for i in reversed(range(MEMORY)):
        weights.append(inverse[i] * jnp.dot(moved[i], gradient))
        gradient = gradient - weights[-1] * changed[i]
    square = jnp.sum(jnp.square(changed[-1]))
    gradient = gradient * jnp.where(bends[-1], curvature[-1] / jnp.where(bends[-1], square, 1.0), 1.0)
    for i, weight in enumerate(reversed(weights)):
        gradient = gradient + (weight - inverse[i] * jnp.dot(changed[i], gradient)) * moved[i]
    return -gradient
