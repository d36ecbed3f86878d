"""The one step that all methods share, and the dispatch of several of them in one program."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, stages
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from fsl_jax.algorithms.base import Algorithm, Frozen, Variables
from fsl_jax.mesh import AXIS, over_rows, replicated
from fsl_jax.training.state import TrainState
from fsl_jax.types import Aux, Batch, Episode, Key, Params, Scalar

Metrics = dict[str, Float[Array, "steps"]]


class Reader(Protocol):
    """Gives each step its photos; see `data.resident` and `data.loader`."""

    constant: Any

    def inputs(self, step: int, count: int) -> Any:
        """Returns what `count` steps from `step` on are given, with a leading axis of steps."""

    def fetch(self, constant: Any, given: Any, window: Any) -> Batch | Episode:
        """Turns what one step is given into its batch, inside the program."""

    def begin_window(self, window: Any) -> None:
        """Is told what the plan of the following steps looks at."""

    def close(self) -> None:
        """Stops reading ahead."""


def spread_gradient(algorithm: Algorithm, mesh: Mesh, *, frozen: Frozen = None) -> Callable:
    """Takes an episode method's gradient with tasks spread over the devices.

    Every device takes the mean over its own tasks; as each has equally many, the mean over devices is the mean over
    all tasks, on 1 as on 64 devices.
    """

    def on_device(params: Params, collections: Any, batch: Episode, keys: Key, step: Any) -> Any:
        (loss, aux), gradients = algorithm.gradient(
            params, collections, batch, keys, step=step, frozen=frozen
        )
        loss, gathered, gradients = lax.pmean((loss, aux.collections, gradients), AXIS)
        return (loss, Aux(gathered, lax.psum(aux.metrics, AXIS))), gradients

    return over_rows(mesh, on_device, spread=(False, False, True, True, False), results=P())


def make_dispatch(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    reader: Reader,
    prepare: Callable[[Any, Key], Any],
    *,
    mesh: Mesh,
    key: Key,
    frozen: Frozen = None,
    layout: Any = None,
    updated: Callable[[optax.OptState], Bool[Array, ""] | bool] = lambda _: True,
) -> stages.Wrapped:
    """Builds the program that takes several steps without the host in between.

    Args:
      algorithm: Whose gradient is taken.
      optimizer: Turns gradients into updates.
      reader: Gives the photos.
      prepare: Augments and normalises photos, given a step's key.
      mesh: Over which tasks, or the rows of a flat batch, are spread.
      key: Of the run.
      frozen: Parameters that stay as they are.
      layout: Sharding of the state, or of each of its arrays; by default each device has all of it.
      updated: Whether the last gradient brought an update; only then does the method move what no gradient moves.

    Returns:
      (state, reader.constant, reader.inputs(...)) -> (state, metrics of each step); the state's memory is reused.
    """
    of_tasks = spread_gradient(algorithm, mesh, frozen=frozen)

    def gradient(variables: Variables, batch: Batch | Episode, batch_key: Key, taken: Array) -> Any:
        params, collections = variables.params, variables.collections
        if isinstance(batch, Episode):
            return of_tasks(params, collections, batch, jax.random.split(batch_key, batch.tasks), taken)
        # A flat batch is one batch: its rows lie on several devices, and XLA adds what crosses between them.
        return algorithm.gradient(params, collections, batch, batch_key, step=taken, frozen=frozen)

    def step(constant: Any, state: TrainState, given: Any) -> tuple[TrainState, dict[str, Scalar]]:
        step_key = jax.random.fold_in(key, state.step)
        batch = prepare(reader.fetch(constant, given, state.window), jax.random.fold_in(step_key, 0))
        variables, batch_key = state.variables, jax.random.fold_in(step_key, 1)
        (loss, aux), gradients = gradient(variables, batch, batch_key, state.step)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, variables.params)
        moved = Variables(optax.apply_updates(variables.params, updates), aux.collections, variables.extra)
        metrics = {name: value.value() for name, value in aux.metrics.items()}
        norms = {"gradient_norm": optax.tree.norm(gradients), "parameter_norm": optax.tree.norm(moved.params)}
        metrics |= {"loss": loss, **norms}
        after = _where(updated(optimizer_state), algorithm.after_update(moved), moved)
        return TrainState(state.step + 1, after, optimizer_state, state.window), metrics

    def dispatch(state: TrainState, constant: Any, given: Any) -> tuple[TrainState, Metrics]:
        return lax.scan(lambda state, one: step(constant, state, one), state, given)

    everywhere = replicated(mesh)
    layout = everywhere if layout is None else layout
    return jax.jit(dispatch, donate_argnums=0, out_shardings=(layout, everywhere))


def _where(chosen: Bool[Array, ""] | bool, one: Variables, other: Variables) -> Variables:
    if isinstance(chosen, bool):
        return one if chosen else other
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), one, other)


def first_not_finite(metrics: Mapping[str, Any]) -> int | None:
    """Returns the first step of a dispatch whose loss, gradient or new parameters are not finite, or None."""
    finite = np.all(
        [np.isfinite(metrics[name]) for name in ("loss", "gradient_norm", "parameter_norm")], axis=0
    )
    return None if finite.all() else int(np.argmin(finite))
