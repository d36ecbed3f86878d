"""Says what training on many devices costs: what lies on each, what crosses, and what is left of their speed.

    python -m benchmarks.scale            # tables, computed from shapes: no device but this one is needed
    python -m benchmarks.scale --check    # the same formulas against programs compiled for 2, 4 and 8 CPU devices
    python -m benchmarks.scale --weak     # one process against two with twice the tasks, one CPU core each

Each device has the batch of the preset, so that the batch grows with the devices.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from fsl_jax import hlo
from fsl_jax.algorithms.base import chunk_of_tasks
from fsl_jax.building import takes_episodes
from fsl_jax.mesh import AXIS
from fsl_jax.run import Run
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.state import TrainState
from fsl_jax.types import Batch, Episode

REPOSITORY = Path(__file__).resolve().parents[1]
DEVICES = (8, 64, 512)
BANDWIDTHS = (10, 25, 100)
"""GB/s that a device sends while it receives as much: assumptions, of 80, 200 and 800 Gb/s."""
LATENCY = 5e-6
"""Seconds from one device to another: an assumption."""
ARITHMETIC = 20e12
"""Operations a second of one device in these networks: an assumption. Slower devices scale better."""
SAMPLE = 64
"""Photos whose distances are logged; their table is gathered for its quantiles."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A training to be spread.

    Attributes:
      config: Module and preset.
      photos: That it trains on.
      labels: Of these.
      network: Name and options, where the preset would read them from a file of weights.
    """

    config: tuple[str, str]
    photos: int
    labels: int
    network: tuple[str, dict[str, Any]] | None = None

    def made(self) -> ConfigDict:
        """Returns the config, with weights that are drawn."""
        module, preset = self.config
        config = importlib.import_module(f"configs.{module}").get_config(preset)
        if self.network is not None:
            name, options = self.network
            config.model.update({"name": name, "pretrained": ""})
            config.model.options = ConfigDict(options)
        if "formulation" in config.model.options:
            config.model.options.formulation = "lax"  # as on accelerators
        return config


RESNET50 = ("resnet", {"depth": 50, "norm": "running", "frozen_norm": True, "formulation": "lax"})
# In-shop's 25,882 training photos of 3,997 labels, less the tenth of the labels that validates.
INSHOP = {"photos": 23_300, "labels": 3_597}
WORKS = {
    "MAML, Conv-4-32": Work(("maml", ""), photos=1_980, labels=360),
    "ProtoNet, ResNet-50": Work(("protonet", "resnet50_finetuned"), **INSHOP, network=RESNET50),
    "triplet, ResNet-50": Work(("triplet", "inshop"), **INSHOP, network=RESNET50),
    "triplet, EfficientNet-Lite0": Work(
        ("triplet", "luma"), photos=400, labels=100,
        network=("efficientnet", {"norm": "running", "frozen_norm": True, "formulation": "lax"}),
    ),
    "triplet, ViT-S/16": Work(
        ("triplet", "inshop"), **INSHOP, network=("vit", {"size": "small", "patch": 16, "positions": 14})
    ),
}  # fmt: skip


def size(arrays: Any) -> int:
    """Returns the bytes of arrays or of their shapes."""
    return sum(
        math.prod(a.shape) * jnp.dtype(a.dtype).itemsize
        for a in jax.tree.leaves(arrays)
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    )


@dataclasses.dataclass(frozen=True)
class Spread:
    """A training on a number of devices, as shapes.

    Attributes:
      config: All of it.
      devices: How many.
      run: Whose layout is taken.
      state: Shapes and shardings.
    """

    config: ConfigDict
    devices: int
    run: Run
    state: TrainState

    @classmethod
    def of(cls, config: ConfigDict, devices: int, *, labels: int, spread: bool) -> "Spread":
        """Lays a config out; nothing is computed."""
        config = config.copy_and_resolve_references()
        config.train.shard_parameters = spread
        mesh: Any = AbstractMesh((devices,), (AXIS,), axis_types=(AxisType.Auto,))
        run = Run(config, Path(), [], labels, mesh)
        _, state, _ = run.first_state(None)  # type: ignore[arg-type]
        return cls(config, devices, run, state)

    @property
    def frozen(self) -> Any:
        """Whether each parameter stays as it is."""
        stays = optimizers.frozen(self.run.optimizer, self.state.variables.params)
        return jax.tree.map(lambda _: False, self.state.variables.params) if stays is None else stays

    @property
    def trained(self) -> list[Any]:
        """Parameters that have a gradient."""
        pairs = zip(*map(jax.tree.leaves, (self.state.variables.params, self.frozen)), strict=True)
        return [array for array, stays in pairs if not stays]

    def parts(self, arrays: Any) -> list[Any]:
        """Arrays of which each device keeps a part."""
        return [a for a in jax.tree.leaves(arrays) if not a.sharding.is_fully_replicated]

    def kept(self, arrays: Any) -> float:
        """Returns the bytes that lie on one device."""
        return size(arrays) - (1 - 1 / self.devices) * size(self.parts(arrays))

    @property
    def gathered_again(self) -> list[Any]:
        """Kernels of which each device keeps a part, and that the backward pass of a flat batch needs reversed."""
        return [kernel for kernel in self.parts(self.trained) if len(kernel.shape) > 2]

    @property
    def photos(self) -> int:
        """Photos of one device's part of a step."""
        if takes_episodes(self.config):
            episode = self.config.episode
            return episode.tasks * episode.way * (episode.shot + episode.queries)
        return self.config.sampler.options.labels * self.config.sampler.options.photos

    @property
    def pixels(self) -> int:
        """Numbers of a photo, as it is kept."""
        return self.run.preprocess.size**2 * self.run.preprocess.channels

    @property
    def side(self) -> int:
        """Pixels a side of a photo, as the network sees it."""
        return self.config.augment.crop_size or self.run.preprocess.size

    def batch(self) -> Batch | Episode:
        """Returns the shapes of one device's part of a step."""

        def shapes(*counts: int) -> Batch:
            images: Any = jax.ShapeDtypeStruct(
                (*counts, self.side, self.side, self.run.preprocess.channels), jnp.float32
            )
            labels: Any = jax.ShapeDtypeStruct(counts, jnp.int32)
            return Batch(images, labels, {"row": labels})

        if not takes_episodes(self.config):
            return shapes(self.photos)
        episode = self.config.episode
        support, query = (shapes(episode.tasks, episode.way * n) for n in (episode.shot, episode.queries))
        return Episode(support, query, way=episode.way)

    def crossing(self) -> dict[str, float]:
        """Returns the bytes that each device sends a step, by what they are.

        A sum over devices of S bytes is 2 (n - 1) / n S, and gathering an array of S bytes (n - 1) / n S, as in `hlo`.
        """
        once = (self.devices - 1) / self.devices
        summed, parts = 2 * once, self.parts(self.state.variables.params)
        statistics = {n: c for n, c in self.state.variables.collections.items() if n != "memory"}
        sent = {"gradients": summed * size(self.trained)}
        if takes_episodes(self.config):
            # Loss, and sum and count of two figures.
            sent["statistics"] = summed * (size(statistics) + 5 * 4)
            sent["parameters"] = once * size(parts)
        else:
            learns = not self.config.model.options.get("frozen_norm", False)
            # Mean and mean square of each channel, and backward a third number beside its scale's and bias's gradient.
            sent["statistics"] = summed * 1.5 * size(statistics) * learns
            sent["embeddings"] = self.comparing()
            sent["parameters"] = once * (size(parts) + size(self.gathered_again))
        return sent

    def comparing(self) -> float:
        """Returns the bytes that each device sends to compare all photos of a flat batch by batch-hard mining."""
        once, batch = (self.devices - 1) / self.devices, self.devices * self.photos
        logged = min(SAMPLE, batch)
        embedding = 4 * self.dimensions
        # Rows and columns of the table of distances, with label, row and squared length; and those that are logged.
        gathered = (2 * embedding + 3 * 4) * batch + (embedding + 4) * logged + 4 * logged**2
        # Gradients by anchor, positive, negative and column are those of the whole batch, added over the devices.
        return once * gathered + 2 * once * 4 * embedding * batch

    @property
    def dimensions(self) -> int:
        """Of an embedding."""
        found = jax.eval_shape(
            lambda variables, images: self.run.algorithm.outputs(variables, images)["embedding"],
            self.state.variables,
            jax.ShapeDtypeStruct((2, self.side, self.side, self.run.preprocess.channels), jnp.float32),
        )
        return found.shape[-1]

    def waits(self) -> int:
        """Returns how often devices wait for each other in a step: arrays that are ready together go together."""
        parts = len(self.parts(self.state.variables.params))
        if takes_episodes(self.config):
            return 2 + parts + bool(parts)
        norms = len(jax.tree.leaves(self.state.variables.collections.get("batch_stats", {}))) // 2
        learns = not self.config.model.options.get("frozen_norm", False)
        return 12 + 4 * norms * learns + parts + len(self.gathered_again) + bool(parts)

    def flops(self) -> float:
        """Returns the arithmetic of one device's part of a step."""
        algorithm, variables, batch = self.run.algorithm, self.state.variables, self.batch()
        keys = jax.eval_shape(lambda: jax.random.key(0))
        repeated = 1
        if isinstance(batch, Episode):
            keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch.tasks))
            # The loop over tasks is counted once.
            repeated = batch.tasks // chunk_of_tasks(
                batch.tasks, self.config.algorithm.options.get("chunk", 0)
            )
        plain = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (variables, batch, keys))

        def gradient(variables: Any, batch: Any, keys: Any) -> Any:
            return algorithm.gradient(
                variables.params, variables.collections, batch, keys, frozen=self.frozen
            )[1]

        counted = jax.jit(gradient).lower(*plain).cost_analysis()
        assert counted is not None
        return repeated * counted["flops"]

    def seconds_crossing(self, *, bandwidth: float) -> float:
        """Predicts how long devices wait for what crosses, where nothing is computed meanwhile."""
        hops = 2 * math.log2(self.devices)
        return sum(self.crossing().values()) / (bandwidth * 1e9) + self.waits() * hops * LATENCY


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a Markdown table."""
    for line in itertools.chain((head, ["---"] * len(head)), rows):
        print("| " + " | ".join(map(str, line)) + " |", flush=True)
    print(flush=True)


def mb(count: float) -> str:
    """Writes bytes as MB with three digits that count."""
    value = count / 1e6
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def over(values: Iterable[str]) -> str:
    """Writes values of several numbers of devices, or one where they are alike."""
    values = list(values)
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def computed(works: dict[str, Work]) -> None:
    """Prints what lies where, what crosses, and what that does to the speed."""
    laid = {
        (name, "spread" if spread else "whole"): [
            Spread.of(work.made(), n, labels=work.labels, spread=spread) for n in DEVICES
        ]
        for name, work in works.items()
        for spread in (False, True)
    }
    named = over(map(str, DEVICES))
    print(f"MB on each of {named} devices\n")
    table(
        ["", "state", "parameters, statistics", "optimiser", "all photos", "photos of a step", "their number"],
        (
            [*key, *_state(some), mb(works[key[0]].photos * some[0].pixels), mb(size(some[0].batch())), some[0].photos]
            for key, some in laid.items()
        ),
    )  # fmt: skip
    print(f"MB that each of {named} devices sends a step\n")
    parts = ("gradients", "statistics", "embeddings", "parameters")
    table(
        ["", "state", "in all", *parts, "waits"],
        ([*key, *_sent(some, parts), over(str(one.waits()) for one in some)] for key, some in laid.items()),
    )
    print(f"Predicted share of the speed that {named} devices keep, in %\n")
    table(
        ["", "state", "GFLOP of a device", "ms", *(f"{b} GB/s" for b in BANDWIDTHS)],
        ([*key, *_kept_speed(some)] for key, some in laid.items()),
    )


def _state(some: Sequence[Spread]) -> Iterator[str]:
    yield over(mb(one.kept(one.state.variables)) for one in some)
    yield over(mb(one.kept(one.state.optimizer)) for one in some)


def _sent(some: Sequence[Spread], parts: Sequence[str]) -> Iterator[str]:
    sent = [one.crossing() for one in some]
    yield over(mb(sum(each.values())) for each in sent)
    for part in parts:
        yield over(mb(each.get(part, 0)) for each in sent)


def _kept_speed(some: Sequence[Spread]) -> Iterator[str]:
    flops = some[0].flops()
    seconds = flops / ARITHMETIC
    yield f"{flops / 1e9:,.3g}" if flops < 1e11 else f"{flops / 1e9:,.0f}"
    yield f"{1e3 * seconds:.3g}"
    for bandwidth in BANDWIDTHS:
        yield over(
            f"{100 * seconds / (seconds + one.seconds_crossing(bandwidth=bandwidth)):.0f}" for one in some
        )


SMALL_WORKS = {
    "MAML": Work(("maml", "smoke"), photos=199, labels=38),
    "ProtoNet": Work(("protonet", "smoke"), photos=199, labels=38),
    "triplet": Work(("triplet", "smoke"), photos=199, labels=38),
    "triplet, ResNet-18, frozen statistics": Work(
        ("triplet", "smoke"), photos=199, labels=38,
        network=("resnet", {"depth": 18, "norm": "running", "frozen_norm": True, "formulation": "lax"}),
    ),
    "triplet, ViT": Work(
        ("triplet", "smoke"), photos=199, labels=38, network=("vit", {"size": "nano", "patch": 14, "positions": 8})
    ),
}  # fmt: skip


def checked(works: dict[str, Work], counts: Sequence[int]) -> None:
    """Prints the computed bytes beside those of the program that a run compiles.

    Photos are so many and so large that their maps are larger than the kernels, as in training: otherwise XLA moves
    maps, not spread kernels.
    """
    jax.config.update("jax_num_cpu_devices", max(counts))
    # Imported late: JAX must know its devices before anything asks for them.
    from fsl_jax.profiling import compile_steps

    def row(name: str, work: Work, devices: int, spread: bool) -> list[Any]:
        config = work.made()
        if takes_episodes(config):
            config.episode.tasks = 1
        else:
            config.sampler.options.update({"labels": 4, "photos": 48})
        if work.network is not None:
            config.data.size = 112
        laid = Spread.of(config, devices, labels=work.labels, spread=spread)
        config.train.update({"shard_parameters": spread, "devices": devices})
        of_units = config.episode if takes_episodes(config) else config.sampler.options
        unit = "tasks" if takes_episodes(config) else "labels"
        of_units[unit] *= devices
        cost = hlo.cost(compile_steps(config).program.as_text() or "").times(1 / config.train.steps_per_call)
        sent = sum(laid.crossing().values())
        how = "spread" if spread else "whole"
        return [name, how, devices, f"{sent / 1e3:,.1f}", f"{cost.sent / 1e3:,.1f}", f"{sent / cost.sent:.3f}",
                laid.waits(), f"{cost.collectives:.0f}"]  # fmt: skip

    table(
        ["", "state", "devices", "kB computed", "kB compiled", "ratio", "waits computed", "compiled"],
        (row(name, work, n, spread) for name, work in works.items() for spread in (False, True) for n in counts),
    )  # fmt: skip


TASKS = 4
"""Of one process's part of a step."""
STEPS = 60
FLAGS = [
    "--config=configs/maml.py",
    f"--config.train.steps={STEPS}",
    f"--config.train.save_every={STEPS}",
    "--config.train.log_every=10",
    "--config.eval.every=0",
    "--config.eval.retrieval=False",
    "--config.eval.episodes=10",
    "--config.eval.grid.ways=()",
    "--cpu_devices=1",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(workdir: Path, core: int, *flags: str, cache: Path) -> subprocess.Popen:
    """Starts a process that computes on one core alone."""
    command = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        "-m",
        "fsl_jax.main",
        f"--workdir={workdir}",
        *FLAGS,
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "FSL_JAX_COMPILATION_CACHE": str(cache)}
    return subprocess.Popen(
        [*command, *flags],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def seconds_a_step(workdir: Path) -> list[float]:
    """Returns the mean of each of a run's log lines, without the first."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [1 / line["train/steps_per_second"] for line in lines[1:]]


def alone(folder: Path, cores: Sequence[int], cache: Path) -> list[Path]:
    """Runs one process, or several that know nothing of each other."""
    workdirs = [folder / f"alone-{core}" for core in cores]
    tasks = f"--config.episode.tasks={TASKS}"
    ended(started(at, core, tasks, cache=cache) for at, core in zip(workdirs, cores, strict=True))
    return workdirs


def together(folder: Path, cores: Sequence[int], cache: Path) -> list[Path]:
    """Runs one training in several processes, whose step has as many times the tasks."""
    workdir = folder / "together"
    shared = ["--distributed", f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={len(cores)}"]
    shared.append(f"--config.episode.tasks={TASKS * len(cores)}")
    ended(started(workdir, core, *shared, f"--process_id={i}", cache=cache) for i, core in enumerate(cores))
    return [workdir]


def ended(children: Iterable[subprocess.Popen]) -> None:
    for child in list(children):
        told = child.communicate()[1]
        if child.returncode:
            raise RuntimeError(told[-2000:])


def weak(repeats: int) -> None:
    """Prints what a second process with a second core does to the time of a step."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    ways: dict[str, Callable[[Path, Path], list[Path]]] = {
        "1 process": lambda folder, cache: alone(folder, cores[:1], cache),
        "2 processes, 2 trainings": lambda folder, cache: alone(folder, cores, cache),
        "2 processes, 1 training": lambda folder, cache: together(folder, cores, cache),
    }
    medians: dict[str, list[float]] = {name: [] for name in ways}
    least = dict.fromkeys(ways, math.inf)
    loads = []
    with tempfile.TemporaryDirectory() as kept:
        for repeat in range(repeats):
            for i, (name, way) in enumerate(ways.items()):
                workdirs = way(Path(kept) / f"{repeat}-{i}", Path(kept) / "compiled")
                seconds = [seconds_a_step(workdir) for workdir in workdirs]
                medians[name].append(statistics.fmean(map(statistics.median, seconds)))
                least[name] = min(least[name], *itertools.chain(*seconds))
                loads.append(os.getloadavg()[0])
                print(f"{name}: {medians[name][-1]:.4f} s, load {loads[-1]:.1f}", file=sys.stderr, flush=True)
    one = statistics.median(medians["1 process"])
    print(
        f"{TASKS} tasks a process, {repeats} runs each, in turn; load {min(loads):.1f} to {max(loads):.1f}\n"
    )
    table(
        ["", "seconds a step, median", "of each run", "efficiency", "least of 10 steps", "efficiency"],
        (
            [
                name,
                f"{statistics.median(values):.3f}",
                ", ".join(f"{v:.3f}" for v in values),
                f"{100 * one / statistics.median(values):.0f} %",
                f"{least[name]:.3f}",
                f"{100 * least['1 process'] / least[name]:.0f} %",
            ]
            for name, values in medians.items()
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compile small presets, and compare")
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4, 8], help="of --check")
    parser.add_argument("--weak", action="store_true", help="start processes, and time them")
    parser.add_argument("--repeats", type=int, default=3, help="of --weak")
    a = parser.parse_args()
    if a.check:
        checked(SMALL_WORKS, a.devices)
    elif a.weak:
        weak(a.repeats)
    else:
        computed(WORKS)


if __name__ == "__main__":
    main()
