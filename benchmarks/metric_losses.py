"""Times metric-learning losses, forward and backward, against pytorch-metric-learning.

python -m benchmarks.metric_losses --peer-python PYTHON

Prints one JSON line a figure; the peer (benchmarks/peers/triplet_pml.py) runs as a process of its own before and after,
on the same cores. `--memory` prints what batch all needs at 512 embeddings.
"""

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fsl_jax.algorithms import embedding
from fsl_jax.models.identity import Identity
from fsl_jax.types import Batch

PEER = Path(__file__).parent / "peers" / "triplet_pml.py"
LOSSES: dict[str, dict[str, Any]] = {
    "batch_hard": {"loss": "triplet", "mining": "batch_hard", "loss_options": {"margin": 0.2}},
    "batch_all": {
        "loss": "triplet",
        "mining": "batch_all",
        "loss_options": {"margin": 0.2},
        "reducer": "nonzero_mean",
    },
    "semi_hard": {"loss": "triplet", "mining": "semi_hard", "loss_options": {"margin": 0.2}},
    "batch_weighted": {"loss": "triplet", "mining": "batch_weighted", "loss_options": {"margin": 0.2}},
    "sup_con": {"loss": "sup_con", "loss_options": {"temperature": 0.1}},
}


def points(count: int, dimensions: int, photos: int) -> Batch:
    """Random unit vectors as a P x K batch."""
    drawn = np.random.default_rng(0).standard_normal((count, dimensions)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    label = jnp.arange(count) // photos
    return Batch(jnp.asarray(drawn[:, None, None, :]), label, {"row": jnp.arange(count)})


def program(name: str, batch: Batch) -> Callable[[jax.Array], Any]:
    """Value and gradient with respect to the embeddings, compiled."""
    method = embedding.make(Identity(), labels=int(batch.label[-1]) + 1, normalised=False, **LOSSES[name])
    key = jax.random.key(0)
    variables = method.init(key, batch)

    def loss(embeddings: jax.Array) -> jax.Array:
        return method.objective(variables.params["objective"], embeddings, batch, {}, key)[0]

    embeddings = batch.image[:, 0, 0, :]
    return jax.jit(jax.value_and_grad(loss)).lower(embeddings).compile()


def median_seconds(function: Callable[[], Any], runs: int) -> float:
    jax.block_until_ready(function())
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peer(python: str, options: argparse.Namespace) -> dict[str, float]:
    sizes = ["--count", options.count, "--dimensions", options.dimensions, "--photos", options.photos]
    command = [python, str(PEER), *map(str, sizes), "--runs", str(options.runs)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    batch = points(options.count, options.dimensions, options.photos)
    embeddings = batch.image[:, 0, 0, :]
    before = peer(options.peer_python, options) if options.peer_python else {}
    ours = {}
    for name in LOSSES:
        compiled = program(name, batch)
        ours[name] = median_seconds(partial(compiled, embeddings), options.runs)
        figure = {"what": name, "seconds": ours[name]}
        if options.memory:
            figure["temporary_mb"] = compiled.memory_analysis().temp_size_in_bytes / 1e6  # type: ignore[attr-defined]
        print(json.dumps(figure), flush=True)
    after = peer(options.peer_python, options) if options.peer_python else {}
    for name in (name for name in ours if name in before):
        ratios = [round(run[name] / ours[name], 1) for run in (before, after)]
        print(
            json.dumps(
                {"what": name, "peer_before": before[name], "peer_after": after[name], "times": ratios}
            )
        )


if __name__ == "__main__":
    main()
