"""Gradient steps within one task: what all methods that adapt have in common, for any loss.

Sinusoid regression in `examples/sinusoid.py` uses them as they are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from fsl_jax.types import Key, Params, Scalar, Step

Loss = Callable[[Params, Step], tuple[Scalar, Any]]
"""(parameters, number of the inner step) -> (loss, what else is kept)."""
Rate = Callable[[Step], Any]
"""Number of the inner step -> a step size, or a pytree of them like the parameters."""


def descend(
    loss: Loss,
    start: Params,
    *,
    steps: int,
    rate: Rate,
    first_order: bool,
    remat: bool,
    after: Callable[[Params, Step], Any] | None = None,
) -> tuple[Params, tuple[Float[Array, "steps"], Any, Any]]:
    """Takes gradient steps, theta_{i+1} = theta_i - rate_i * grad L(theta_i), through which can be differentiated.

    Args:
      loss: Of the support photos.
      start: Parameters before the first step.
      steps: How many; 0 returns `start`.
      rate: Step sizes.
      first_order: Whether the gradients are constants to whoever differentiates the result.
      remat: Whether a step is computed again in the backward pass instead of being kept; memory then hardly grows with
        the number of steps. A single step is never computed twice.
      after: Looks at the parameters after each step, such as with the loss of the query photos.

    Returns:
      Parameters after the last step, and what each step left, with a leading axis of steps: its loss, what else the
      loss gave, what `after` gave.
    """

    def one(params: Params, i: Step) -> tuple[Params, tuple[Scalar, Any, Any]]:
        (value, kept), gradient = jax.value_and_grad(loss, has_aux=True)(params, i)
        if first_order:
            gradient = lax.stop_gradient(gradient)
        rates = rate(i)
        if jax.tree_util.treedef_is_leaf(jax.tree.structure(rates)):
            rates = jax.tree.map(lambda _: rates, params)
        moved = jax.tree.map(lambda p, r, g: p - r * g, params, rates, gradient)
        return moved, (value, kept, None if after is None else after(moved, i))

    if remat and steps > 1:
        one = jax.checkpoint(one)
    if steps != 1:
        return lax.scan(one, start, jnp.arange(steps))
    # Called as it is, since XLA's loop would hide it from fusion.
    end, left = one(start, jnp.int32(0))
    return end, jax.tree.map(lambda a: a[None], left)


def train(
    loss: Loss, start: Params, *, steps: int, optimizer: optax.GradientTransformation
) -> tuple[Params, tuple[Float[Array, "steps"], Any]]:
    """Takes steps of an optimiser that starts anew; nobody differentiates through them.

    Args:
      loss: Of what a step looks at, such as its part of the support photos.
      start: Parameters before the first step.
      steps: How many.
      optimizer: Turns gradients into updates.

    Returns:
      Parameters after the last step, and each step's loss and what else it gave.
    """

    def one(carry: tuple[Params, Any], i: Step) -> tuple[tuple[Params, Any], tuple[Scalar, Any]]:
        params, state = carry
        left, gradient = jax.value_and_grad(loss, has_aux=True)(params, i)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), left

    (end, _), left = lax.scan(one, (start, optimizer.init(start)), jnp.arange(steps))
    return end, left


def shuffled_batches(key: Key, *, rows: int, size: int, steps: int) -> Int[Array, "steps size"]:
    """Deals rows out in batches: shuffled, dealt to the end, shuffled again; a batch may lie across two rounds.

    Args:
      key: Random key.
      rows: How many rows there are.
      size: Rows of a batch; where it is more than there are, a batch holds rows several times.
      steps: Batches.
    """
    rounds = -(-steps * size // rows)
    keys = jax.random.split(key, rounds)
    # Integer bits are sorted, so that every backend deals the same.
    bits = jax.vmap(lambda k: jax.random.bits(k, (rows,), jnp.uint32))(keys)
    return jnp.argsort(bits, axis=1, stable=True).reshape(-1)[: steps * size].reshape(steps, size)
