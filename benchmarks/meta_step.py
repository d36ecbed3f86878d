"""Times one MAML meta-step on Omniglot's shapes, whole: episodes drawn and gathered, inner steps, Adam.

    python -m benchmarks.meta_step --peer-python PYTHON --peer-script SCRIPT

The peer's script times one meta-step of a style (`--style loop` or `vmap`); it runs before and after ours in the same
call, since these times depend on what else the machine does. One JSON line a measurement.
"""

import argparse
import json
import statistics
import subprocess
import time
from typing import Any

import jax
import numpy as np
import optax

from fsl_jax import hlo
from fsl_jax.algorithms import maml
from fsl_jax.building import sample_episode
from fsl_jax.data.augment import Augment, Preprocess, prepare
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Coded, Table
from fsl_jax.mesh import data_mesh, replicated, usable_devices
from fsl_jax.models.conv4 import Conv4
from fsl_jax.sampling import episodes
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch

LABELS, PHOTOS = 100, 20


def random_table(side: int, channels: int) -> Table:
    """Returns photos of noise: a meta-step takes as long on them as on any others."""
    images = np.random.default_rng(0).integers(
        0, 256, (LABELS * PHOTOS, side, side, channels), dtype=np.uint8
    )
    labels = [f"label_{i:03d}" for i in range(LABELS) for _ in range(PHOTOS)]
    return Table(source="noise", label=Coded.of(labels), split=np.full(len(labels), "train"), images=images)


def make_program(a: argparse.Namespace, tasks: int, inner_steps: int) -> tuple[Any, Any, Any, int]:
    """Returns the dispatch as a run has it, its state, its reader, and on how many devices it runs."""
    table = random_table(a.side, a.channels)
    plan = episodes.make(table, tasks=tasks, way=a.way, shot=a.shot, queries=a.queries)
    mesh = data_mesh(usable_devices(tasks, wanted=a.devices))
    reader = ResidentReader.of(table, plan, jax.random.key(0), mesh)
    body = Conv4(
        filters=a.filters,
        reduction="max_pool",
        readout="flatten",
        norm="batch",
        formulation=a.formulation,
    )
    method = maml.make(
        body,
        way=a.way,
        inner_rate=0.4,
        inner_steps=inner_steps,
        eval_inner_steps=inner_steps,
        first_order=a.first_order,
        remat=a.remat,
        chunk=a.chunk,
    )
    optimizer, augment = optax.adam(1e-3), Augment(flip=False, shift=0, light=0.0)
    preprocess = Preprocess(
        size=a.side, channels=a.channels, fit="pad", mean=(0.0,) * a.channels, std=(1.0,) * a.channels
    )
    sample = sample_episode((a.side, a.side, a.channels))
    state = TrainState.create(jax.jit(method.init)(jax.random.key(1), sample), optimizer)
    program = make_dispatch(
        method,
        optimizer,
        reader,
        lambda batch, key: prepare(batch, preprocess, augment, key),
        mesh=mesh,
        key=jax.random.key(2),
    )
    return program, jax.device_put(state, replicated(mesh)), reader, mesh.size


def ours(a: argparse.Namespace, tasks: int, inner_steps: int) -> dict[str, Any]:
    """Times dispatches of several meta-steps."""
    program, state, reader, devices = make_program(a, tasks, inner_steps)
    given = reader.inputs(0, a.steps_per_call)
    begun = time.perf_counter()
    compiled = program.lower(state, reader.constant, given).compile()
    compile_seconds = time.perf_counter() - begun
    seconds = []
    for run in range(a.runs + 1 if a.runs else 0):
        given = reader.inputs(run * a.steps_per_call, a.steps_per_call)
        begun = time.perf_counter()
        state, metrics = compiled(state, reader.constant, given)
        jax.block_until_ready((state, metrics))
        seconds.append((time.perf_counter() - begun) / a.steps_per_call)
    return {
        "who": "fsl_jax",
        "device": f"{jax.devices()[0].device_kind} x {devices}",
        "tasks": tasks,
        "inner_steps": inner_steps,
        "seconds_a_step": statistics.median(seconds[1:]) if seconds else None,
        "least": min(seconds[1:], default=None),
        "remat": a.remat,
        "gflop": hlo.cost(compiled.as_text()).flops * devices / a.steps_per_call / 1e9,
        "compile_seconds": compile_seconds,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def peer(a: argparse.Namespace, tasks: int, inner_steps: int) -> None:
    for style in a.styles:
        command = [a.peer_python, a.peer_script, "--style", style, "--runs", str(a.runs)]
        for name, value in {
            "tasks": tasks, "inner-steps": inner_steps, "way": a.way, "shot": a.shot, "queries": a.queries,
            "side": a.side, "channels": a.channels, "filters": a.filters,
        }.items():  # fmt: skip
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(done.stdout.strip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", default=["32x1", "4x5"], help="tasks x inner steps")
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--first-order", action="store_true")
    parser.add_argument("--remat", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--formulation", default="auto")
    parser.add_argument("--steps-per-call", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--cpu-devices", type=int, default=0)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-script")
    parser.add_argument("--styles", nargs="+", default=["loop", "vmap"])
    a = parser.parse_args()
    if a.cpu_devices:
        jax.config.update("jax_num_cpu_devices", a.cpu_devices)
    for work in a.work:
        tasks, inner_steps = map(int, work.split("x"))
        if a.peer_python:
            peer(a, tasks, inner_steps)
        print(json.dumps(ours(a, tasks, inner_steps)), flush=True)
        if a.peer_python:
            peer(a, tasks, inner_steps)


if __name__ == "__main__":
    main()
