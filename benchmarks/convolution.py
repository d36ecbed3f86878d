"""Times the formulations of the convolution, alone and inside a scan, where every training step lies.

    python -m benchmarks.convolution

Prints one JSON line a shape and formulation: milliseconds of the forward pass and of forward with both gradients.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from fsl_jax.ops.conv import conv2d

# photos, side, channels: the first layers of Conv-4-64 on a 5-way task, in grey and in colour, layers of a narrower
# network, and the second layer on a 60-way ProtoNet episode
SHAPES = [(75, 28, 1), (75, 32, 3), (75, 14, 8), (75, 14, 16), (75, 14, 64), (75, 7, 64), (360, 14, 64)]
STEPS = 3


def milliseconds(function: Callable, *arrays: jax.Array, runs: int) -> float:
    program = jax.jit(function)
    jax.block_until_ready(program(*arrays))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(program(*arrays))
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def in_scan(function: Callable) -> Callable:
    """Repeats a function, each time on weights that depend on the last result, so that none is left out."""

    def repeated(images: jax.Array, weights: jax.Array) -> jax.Array:
        def step(total: jax.Array, _: None) -> tuple[jax.Array, None]:
            results = jax.tree.leaves(function(images, weights + 1e-9 * total))
            return total + sum(result.ravel()[0] for result in results), None

        return lax.scan(step, jnp.float32(0), None, length=STEPS)[0]

    return repeated


def measure(
    photos: int, side: int, channels: int, formulation: str, runs: int
) -> dict[str, float | str | list[int]]:
    images = jax.random.normal(jax.random.key(0), (photos, side, side, channels))
    weights = 0.05 * jax.random.normal(jax.random.key(1), (3, 3, channels, 64))

    def forward(images: jax.Array, weights: jax.Array) -> jax.Array:
        return conv2d(images, weights, stride=1, padding=1, formulation=formulation)

    gradient = jax.grad(lambda images, weights: jnp.sum(forward(images, weights) ** 2), (0, 1))
    return {
        "shape": [photos, side, side, channels, 64],
        "formulation": formulation,
        "forward_ms": milliseconds(forward, images, weights, runs=runs),
        "forward_in_scan_ms": milliseconds(in_scan(forward), images, weights, runs=runs) / STEPS,
        "gradient_ms": milliseconds(gradient, images, weights, runs=runs),
        "gradient_in_scan_ms": milliseconds(in_scan(gradient), images, weights, runs=runs) / STEPS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    for shape in SHAPES:
        for formulation in ("lax", "patches", "winograd"):
            print(json.dumps(measure(*shape, formulation, runs)), flush=True)


if __name__ == "__main__":
    main()
