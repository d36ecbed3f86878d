"""Puts a run together from its config: data, method, optimiser, loop, judge, and what is left in the workdir."""

import dataclasses
import json
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsl_jax.algorithms.base import Algorithm
from fsl_jax.config import as_json, differences
from fsl_jax.data.augment import Augment, Preprocess, prepare_episode
from fsl_jax.data.load import load_split, preprocess_of
from fsl_jax.data.loader import StreamingReader
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Table
from fsl_jax.lookup import find, with_options
from fsl_jax.mesh import data_mesh, replicated, usable_devices
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.episodes import EpisodePlan
from fsl_jax.sampling.keys import named_key
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.checkpoint import Checkpoints
from fsl_jax.training.clock import Clock
from fsl_jax.training.log import MetricsLog, Progress, doing, say
from fsl_jax.training.loop import Dispatch, Loop, Stop
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch
from fsl_jax.types import Batch, Episode

BEST = "accuracy"
SHOWN = (
    "accuracy", "accuracy_ci95", "chance", "way", "shot", "queries", "episodes", "norm_mode", "transductive",
    "eval_inner_steps", "embedding", "mAP", "mAP_of_chance", "R@1", "R@5", "checkpoint_step", "steps", "seconds",
)  # fmt: skip
"""Figures of the table that a run ends with; result.json and the report have all."""
FREE_TO_CHANGE = ("train.steps",)
FREE_IN_EVALUATION = (
    "train.",
    "eval.",
    "data.root",
    "data.resident_gb",
    "data.reading_threads",
    "data.steps_ahead",
)


def build_algorithm(config: ConfigDict) -> Algorithm:
    """Builds the configured method on the configured network."""
    model, method = config.model, config.algorithm
    network = find("fsl_jax.models", model.name, "Model")
    body = with_options(network, model.options, "config.model.options")
    make = find("fsl_jax.algorithms", method.name, "make")
    return with_options(make, method.options, "config.algorithm.options", body, way=config.episode.way)


def sample_episode(preprocess: Preprocess) -> Episode:
    """Returns an episode of the right shapes, from which a method makes its first variables."""
    image = jax.numpy.zeros((1, 2, preprocess.size, preprocess.size, preprocess.channels))
    batch = Batch(image, jax.numpy.arange(2).reshape(1, 2))
    return Episode(batch, batch, way=2)


def make_reader(config: ConfigDict, mesh: Mesh, table: Table, plan: EpisodePlan, key: jax.Array) -> Any:
    """Puts a set on the devices where its photos were read, and streams it otherwise."""
    if table.images is not None and table.images.nbytes <= config.resident_gb * 1e9:
        return ResidentReader.of(table, plan, key, mesh)
    return StreamingReader(
        table, plan, key, mesh,
        size=config.size, channels=config.channels, fit=config.fit,
        threads=config.reading_threads, ahead=config.steps_ahead,
    )  # fmt: skip


@dataclasses.dataclass
class Run:
    """A run in a workdir.

    Attributes:
      config: All of it.
      workdir: Where everything is kept.
      command: As typed, for the report.
    """

    config: ConfigDict
    workdir: Path
    command: list[str]

    def __post_init__(self) -> None:
        self.preprocess = preprocess_of(self.config.data)
        self.algorithm = build_algorithm(self.config)
        tasks = self.config.episode.tasks
        self.mesh = data_mesh(usable_devices(tasks, wanted=self.config.train.devices))
        devices = jax.device_count()
        if self.mesh.size < devices:
            say(f"training on {self.mesh.size} of {devices} devices, over which {tasks} tasks spread evenly")

    def table(self, split: str) -> Table:
        """Loads a split and says what it holds."""
        table = load_split(self.config.data, split)
        where = "resident" if table.images is not None else "streamed"
        say(f"{split}: {len(table):,} photos of {len(table.label.names):,} labels ({table.source}, {where})")
        return table

    def first_state(self) -> tuple[Callable[[], TrainState], TrainState, optax.GradientTransformation]:
        """Returns what makes the state at step 0 on all devices, that state's shapes, and the optimiser."""
        key, sample = named_key(self.config.seed, "init"), sample_episode(self.preprocess)
        shapes = jax.eval_shape(self.algorithm.init, key, sample)
        optimizer = optimizers.make(self.config.optimizer, shapes.params, steps=self.config.train.steps)

        def create() -> TrainState:
            return TrainState.create(self.algorithm.init(key, sample), optimizer)

        everywhere = replicated(self.mesh)
        like = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere), jax.eval_shape(create)
        )
        return jax.jit(create, out_shardings=everywhere), like, optimizer

    def judge(self, table: Table) -> Any:
        """Builds the judge of a split."""
        # Imported here: it brings in the report, which training does not wait for.
        from fsl_jax.evaluation.judge import Judge

        mesh = data_mesh(self.config.train.devices or jax.device_count())

        def reader(table: Table, plan: EpisodePlan, key: jax.Array) -> Any:
            return make_reader(self.config.data, mesh, table, plan, key)

        return Judge(self.config.eval, self.algorithm, table, self.preprocess, mesh, reader)

    def loop(self, table: Table, stop: Stop) -> tuple[Loop, TrainState]:
        """Puts the loop together, and restores the newest checkpoint where there is one."""
        episode = self.config.episode
        plan = episode_sampling.make(
            table, tasks=episode.tasks, way=episode.way, shot=episode.shot, queries=episode.queries
        )
        key = named_key(self.config.seed, "train")
        reader = make_reader(self.config.data, self.mesh, table, plan, key)
        create, like, optimizer = self.first_state()
        checkpoints = Checkpoints(self.workdir / "checkpoints", best_metric=BEST)
        clock = Clock.of(self.config)
        newest = checkpoints.latest()
        state = create() if newest is None else checkpoints.restore(newest, like)
        if newest is not None:
            say(f"continuing from step {newest:,} ({checkpoints.folder / str(newest)})")
        augment = Augment(**self.config.augment)

        def prepare(batch: Episode, step_key: jax.Array) -> Episode:
            return prepare_episode(batch, self.preprocess, augment, step_key)

        program = make_dispatch(
            self.algorithm,
            optimizer,
            reader,
            prepare,
            mesh=self.mesh,
            key=named_key(self.config.seed, "step"),
        )
        start = newest or 0
        dispatch: Dispatch = program
        if start < clock.steps:
            given = reader.inputs(start, clock.steps_per_call)
            with doing(f"compiling {clock.steps_per_call} training steps"):
                dispatch = program.lower(state, reader.constant, given).compile()
            reader.close()
        loop = Loop(
            dispatch=dispatch,
            reader=reader,
            clock=clock,
            checkpoints=checkpoints,
            described=self.described(table),
            log=MetricsLog(self.workdir, start=start),
            progress=Progress(start=start, steps=clock.steps),
            evaluate=lambda state: {},
            stop=stop,
        )
        return loop, state

    def described(self, table: Table) -> dict[str, Any]:
        """Returns what a checkpoint says beside its state."""
        return {
            "config": as_json(self.config),
            "preprocess": dataclasses.asdict(self.preprocess),
            "labels": list(table.label.names),
        }


def open_workdir(config: ConfigDict, workdir: Path) -> None:
    """Makes a workdir, or checks that an old one belongs to the same config.

    Raises:
      ValueError: It was made with another config; the message says where they differ.
    """
    file = workdir / "config.json"
    new = as_json(config)
    if file.exists():
        different = differences(json.loads(file.read_text()), new, but=FREE_TO_CHANGE)
        if different:
            raise ValueError(
                f"{workdir} was made with another config ({'; '.join(different)}): "
                "choose another --workdir, or remove this one"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(file, new)


def write_json(file: Path, values: Any) -> None:
    """Writes JSON whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(values, indent=2) + "\n")
    part.replace(file)


def train(config: ConfigDict, workdir: Path, command: list[str]) -> int:
    """Trains, judges and reports; continues where the workdir's newest checkpoint is.

    Returns:
      Exit status: 0, or 130 where it was interrupted from the keyboard.
    """
    begun = time.perf_counter()
    Clock.of(config)
    run = Run(config, workdir, command)
    table = run.table(config.data.train_split)
    val = run.table(config.eval.split) if config.eval.every else None
    episode_sampling.make(
        table, **config.episode
    )  # every error that a user can mend comes before the workdir
    judge = None if val is None else run.judge(val)
    open_workdir(config, workdir)
    with Stop().listening() as stop:
        loop, state = run.loop(table, stop)
        if judge is not None:
            loop = dataclasses.replace(loop, evaluate=lambda state: judge.during(state.variables))
        try:
            state = loop.run(state)
        finally:
            loop.progress.close()
            loop.log.close()
            loop.reader.close()
    step = int(state.step)
    if stop.asked_by is not None and step < config.train.steps:
        how_far = f"saved step {step:,} of {config.train.steps:,}"
        say(f"{stop.asked_by.name}: {how_far}; the same command continues from there")
        loop.checkpoints.close()
        return 130 if stop.asked_by.name == "SIGINT" else 0
    finish(run, loop.checkpoints, seconds=time.perf_counter() - begun)
    return 0


def evaluate(workdir: Path, config: ConfigDict | None, command: list[str]) -> int:
    """Judges a workdir alone; `config` may change how, not what.

    Raises:
      ValueError: There is no run in the workdir, or it was made with another config.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise ValueError(
            f"no run in {workdir} (config.json is missing): give the --workdir of a training run"
        )
    kept = ConfigDict(json.loads(file.read_text()))
    if config is not None:
        different = differences(as_json(kept), as_json(config), but=FREE_IN_EVALUATION)
        if different:
            raise ValueError(f"{workdir} was made with another config: {'; '.join(different)}")
    run = Run(config or kept, workdir, command)
    finish(run, Checkpoints(workdir / "checkpoints", best_metric=BEST, read_only=True), seconds=None)
    return 0


def finish(run: Run, checkpoints: Checkpoints, *, seconds: float | None) -> None:
    """Judges the best checkpoint on the test split, and writes result.json and report.html."""
    best = checkpoints.best()
    if best is None:
        raise ValueError(f"no checkpoint in {checkpoints.folder}: train first")
    state = checkpoints.restore(best, run.first_state()[1])
    table = run.table(run.config.eval.test_split)
    figures, parts = run.judge(table).final(state.variables)
    result = {
        **figures,
        "steps": checkpoints.latest() or best,
        "checkpoint_step": best,
        "split": run.config.eval.test_split,
        "photos": len(table),
        "labels": len(table.label.names),
        "source": table.source,
        "device": f"{jax.devices()[0].device_kind} x {run.mesh.size}",
        "parameters": int(sum(np.size(p) for p in jax.tree.leaves(state.variables.params))),
    }
    if seconds is not None:
        result["seconds"] = round(seconds, 1)
    checkpoints.close()
    write_json(run.workdir / "result.json", result)
    show(run, result, parts, best)


def show(run: Run, result: dict[str, Any], parts: list[Any], best: int) -> None:
    """Writes report.html, and prints the table."""
    from rich.console import Console
    from rich.table import Table as RichTable

    from fsl_jax.evaluation import report

    name = f"{run.config.algorithm.name} on {result['source']}, {result['way']}-way {result['shot']}-shot"
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    figures = report.result_figures({name: value for name, value in result.items() if "/" not in name})
    file = run.workdir / "report.html"
    curves = report.curves_from_log(run.workdir / "metrics.jsonl")
    curves = [curve for curve in curves if not curve.title.endswith("ci95")]
    report.write(
        file, name, [figures, *curves, *parts, report.environment_note(shlex.join(run.command), date=date)]
    )
    table = RichTable(title=name, show_header=False)
    for label, figure in report.result_figures(
        {name: result[name] for name in SHOWN if name in result}
    ).rows.items():
        table.add_row(label, figure)
    table.add_row("checkpoint", str(run.workdir / "checkpoints" / str(best)))
    table.add_row("report", str(file))
    Console().print(table)
