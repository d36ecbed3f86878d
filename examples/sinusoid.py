"""Sinusoid regression, the first experiment of the MAML paper: learn to fit a sine from ten points in a gradient step.

    python examples/sinusoid.py --out sinusoid.html

Each task is a sine of another amplitude (0.1 to 5) and phase (0 to pi), seen at ten points in -5 to 5. A network with
two hidden layers of 40 is meta-trained so that one gradient step fits a new sine, and is compared with the same network
trained on all sines at once, which can only learn their mean. Half a minute on two cores; the page shows both.

It uses `fsl_jax.algorithms.inner.descend`, the inner loop of MAML, with a loss of its own: any differentiable loss will
do.

References:
  Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.1.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fsl_jax.algorithms.inner import descend
from fsl_jax.evaluation import report

SHOTS, TASKS, INNER_RATE, HIDDEN = 10, 25, 0.01, 40
PLAIN_RATE = 0.001  # where it was not meta-trained, the network goes astray in larger steps
STEPS_A_CALL = 500


class Sines(NamedTuple):
    """Sines and points of them: amplitude and phase [tasks], support and query points [tasks, points]."""

    amplitude: jax.Array
    phase: jax.Array
    support: jax.Array
    query: jax.Array

    def at(self, x: jax.Array) -> jax.Array:
        return self.amplitude[:, None] * jnp.sin(x - self.phase[:, None])


def draw(key: jax.Array, *, tasks: int, shots: int, queries: int) -> Sines:
    of_amplitude, of_phase, of_points = jax.random.split(key, 3)
    points = jax.random.uniform(of_points, (tasks, shots + queries), minval=-5.0, maxval=5.0)
    return Sines(
        jax.random.uniform(of_amplitude, (tasks,), minval=0.1, maxval=5.0),
        jax.random.uniform(of_phase, (tasks,), maxval=jnp.pi),
        points[:, :shots],
        points[:, shots:],
    )


def first_parameters(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    sizes = [1, HIDDEN, HIDDEN, 1]
    keys = jax.random.split(key, 3)
    return [
        (jax.random.truncated_normal(k, -2, 2, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def network(params, x: jax.Array) -> jax.Array:
    features = x[:, None]
    for i, (weights, bias) in enumerate(params):
        features = features @ weights + bias[None]
        features = jax.nn.relu(features) if i < len(params) - 1 else features
    return features[:, 0]


def error(params, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((network(params, x) - y) ** 2)


def adapted(params, x: jax.Array, y: jax.Array, *, steps: int, inner_rate: float = INNER_RATE, after=None):
    """Takes inner steps on the points of one task."""
    return descend(
        lambda fast, i: (error(fast, x, y), None),
        params,
        steps=steps,
        rate=lambda i: inner_rate,
        first_order=False,
        remat=False,
        after=after,
    )


def meta_loss(params, sines: Sines) -> jax.Array:
    """Mean error of the query points after one step on the support points."""

    def of_task(x, y, query_x, query_y):
        return error(adapted(params, x, y, steps=1)[0], query_x, query_y)

    return jnp.mean(
        jax.vmap(of_task)(sines.support, sines.at(sines.support), sines.query, sines.at(sines.query))
    )


def plain_loss(params, sines: Sines) -> jax.Array:
    """Mean error of all points, which knows of no tasks."""
    x, y = (jnp.concatenate(parts, axis=1) for parts in (
        (sines.support, sines.query), (sines.at(sines.support), sines.at(sines.query))
    ))  # fmt: skip
    return error(params, x.ravel(), y.ravel())


def train(loss, key: jax.Array, *, steps: int):
    """Trains with Adam 1e-3, a new batch of tasks a step, all steps of a call in one program."""
    of_parameters, of_tasks = jax.random.split(key)
    params, optimizer = first_parameters(of_parameters), optax.adam(1e-3)

    def step(carry, i):
        params, state = carry
        sines = draw(jax.random.fold_in(of_tasks, i), tasks=TASKS, shots=SHOTS, queries=SHOTS)
        value, gradient = jax.value_and_grad(loss)(params, sines)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    call = jax.jit(lambda carry, numbers: jax.lax.scan(step, carry, numbers))
    carry, values = (params, optimizer.init(params)), []
    for start in range(0, steps, STEPS_A_CALL):
        carry, seen = call(carry, jnp.arange(start, min(start + STEPS_A_CALL, steps)))
        values.append(np.asarray(seen))
    return carry[0], np.concatenate(values)


def errors_by_step(params, key: jax.Array, *, steps: int, inner_rate: float, tasks: int = 600) -> np.ndarray:
    """Mean error on new tasks before and after each inner step [steps + 1]."""
    sines = draw(key, tasks=tasks, shots=SHOTS, queries=100)

    def of_task(x, y, query_x, query_y):
        judge = partial(error, x=query_x, y=query_y)
        _, (_, _, after) = adapted(
            params, x, y, steps=steps, inner_rate=inner_rate, after=lambda fast, i: judge(fast)
        )
        return jnp.concatenate([judge(params)[None], after])

    every = jax.jit(jax.vmap(of_task))(
        sines.support, sines.at(sines.support), sines.query, sines.at(sines.query)
    )
    return np.asarray(every.mean(axis=0))


def fits(params, key: jax.Array, *, inner_rate: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One new sine, and what the network makes of it before and after 1 and 10 steps."""
    sines = draw(key, tasks=1, shots=SHOTS, queries=1)
    sines = sines._replace(amplitude=jnp.array([3.0]), phase=jnp.array([0.6]))
    x, y = sines.support[0], sines.at(sines.support)[0]
    along = jnp.linspace(-5, 5, 101)
    lines = {"sine": sines.at(along[None])[0]}
    for steps in (0, 1, 10):
        end, _ = adapted(params, x, y, steps=steps, inner_rate=inner_rate)
        lines[f"after {steps} steps" if steps != 1 else "after 1 step"] = network(end, along)
    order = np.argsort(np.asarray(x))
    shown = {name: (np.asarray(along), np.asarray(values)) for name, values in lines.items()}
    return {**shown, "points seen": (np.asarray(x)[order], np.asarray(y)[order])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="of meta-training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("sinusoid.html"))
    a = parser.parse_args()
    begun = time.perf_counter()
    of_training, of_test, of_picture = jax.random.split(jax.random.key(a.seed), 3)
    errors, curves = {}, []
    kinds = {"MAML": (meta_loss, INNER_RATE), "trained on all sines": (plain_loss, PLAIN_RATE)}
    for name, (loss, inner_rate) in kinds.items():
        params, _ = train(loss, of_training, steps=a.steps)
        errors[name] = errors_by_step(params, of_test, steps=10, inner_rate=inner_rate)
        curves.append(
            report.Curve(f"A new sine: {name}", fits(params, of_picture, inner_rate=inner_rate), "x", "y")
        )
        print(f"{name}: mean squared error {errors[name][0]:.2f} before, {errors[name][1]:.2f} after one step, "
              f"{errors[name][10]:.2f} after ten")  # fmt: skip
    steps = list(range(11))
    by_step = report.Curve(
        "600 new sines",
        {name: (steps, list(values)) for name, values in errors.items()},
        "gradient steps",
        "mean squared error",
    )
    report.write(a.out, "Sinusoid regression", [
        by_step, *curves, report.environment_note(sys.argv, date=time.strftime("%Y-%m-%d")),
    ])  # fmt: skip
    print(f"{time.perf_counter() - begun:.1f} s; {a.out}")


if __name__ == "__main__":
    main()
