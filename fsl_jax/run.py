"""Puts a run together from its config: data, method, optimiser, loop and judge."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from fsl_jax import embedder
from fsl_jax.building import build, make_reader, photo_shape, sample_episode, with_weights
from fsl_jax.config import as_json
from fsl_jax.data.augment import Augment, prepare_episode
from fsl_jax.data.load import load_split
from fsl_jax.data.table import Coded, Table
from fsl_jax.evaluation.judge import Judge
from fsl_jax.mesh import data_mesh, replicated, usable_devices
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.episodes import EpisodePlan
from fsl_jax.sampling.keys import named_key
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.checkpoint import Checkpoints
from fsl_jax.training.clock import Clock
from fsl_jax.training.log import MetricsLog, Progress, doing, say
from fsl_jax.training.loop import Dispatch, Evaluate, Loop, Stop
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import make_dispatch
from fsl_jax.types import Collections, Episode
from fsl_jax.workdir import config_for_evaluation, keep_result, open_workdir, seconds_so_far

BEST = "accuracy"
"""Figure of the validation split by which the best checkpoint is chosen."""


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
        self.algorithm, self.weights, self.preprocess = build(self.config)
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

    def first_state(
        self, table: Table
    ) -> tuple[Callable[[], TrainState], TrainState, optax.GradientTransformation]:
        """Returns what makes the state at step 0 on all devices, that state's shapes, and the optimiser."""
        key, sample = named_key(self.config.seed, "init"), sample_episode(photo_shape(table, self.preprocess))
        shapes = jax.eval_shape(self.algorithm.init, key, sample)
        optimizer = optimizers.make(self.config.optimizer, shapes.params, steps=self.config.train.steps)

        def create(weights: Collections | None) -> TrainState:
            return TrainState.create(with_weights(self.algorithm.init(key, sample), weights), optimizer)

        everywhere = replicated(self.mesh)
        like = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere),
            jax.eval_shape(create, self.weights),
        )
        start = jax.jit(create, out_shardings=everywhere)
        return lambda: start(self.weights), like, optimizer

    def judge(self, table: Table) -> Judge:
        """Builds the judge of a split."""
        mesh = data_mesh(self.config.train.devices or jax.device_count())

        def reader(table: Table, plan: EpisodePlan, key: jax.Array) -> Any:
            return make_reader(self.config.data, mesh, table, plan, key)

        return Judge(self.config.eval, self.algorithm, table, self.preprocess, mesh, reader)

    def loop(self, table: Table, stop: Stop, evaluate: Evaluate) -> tuple[Loop, TrainState]:
        """Puts the loop together, and restores the newest checkpoint where there is one."""
        episode = self.config.episode
        plan = episode_sampling.make(
            table, tasks=episode.tasks, way=episode.way, shot=episode.shot, queries=episode.queries
        )
        key = named_key(self.config.seed, "train")
        reader = make_reader(self.config.data, self.mesh, table, plan, key)
        create, like, optimizer = self.first_state(table)
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
            evaluate=evaluate,
            stop=stop,
        )
        return loop, state

    def checkpoints(self) -> Checkpoints:
        """Opens the run's checkpoints to read them."""
        return Checkpoints(self.workdir / "checkpoints", best_metric=BEST, read_only=True)

    def described(self, table: Table) -> dict[str, Any]:
        """Returns what a checkpoint says beside its state."""
        return {
            "config": as_json(self.config),
            "preprocess": dataclasses.asdict(self.preprocess),
            "labels": list(table.label.names),
        }


def train(config: ConfigDict, workdir: Path, command: list[str]) -> int:
    """Trains, judges and reports; continues where the workdir's newest checkpoint is.

    Returns:
      Exit status: 0, or 130 where it was interrupted from the keyboard.
    """
    begun = time.perf_counter()
    Clock.of(config)
    run = Run(config, workdir, command)
    # Every error that a user can mend comes before the first step and before the workdir.
    table = run.table(config.data.train_split)
    episode_sampling.make(table, **config.episode)
    val = run.judge(run.table(config.eval.split)) if config.eval.every else None
    test = run.judge(run.table(config.eval.test_split))
    open_workdir(config, workdir)

    def evaluate(state: TrainState) -> Mapping[str, float]:
        return {} if val is None else val.during(state.variables)

    with Stop().listening() as stop:
        loop, state = run.loop(table, stop, evaluate)
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
    finish(run, test, loop.checkpoints, seconds=seconds_so_far(workdir) + time.perf_counter() - begun)
    return 0


def evaluate(workdir: Path, config: ConfigDict | None, command: list[str]) -> int:
    """Judges a workdir alone; `config` may change how, not what.

    Raises:
      ValueError: There is no run in the workdir, or it was made with another config.
    """
    run = Run(config_for_evaluation(workdir, config), workdir, command)
    test = run.judge(run.table(run.config.eval.test_split))
    finish(run, test, run.checkpoints(), seconds=seconds_so_far(workdir))
    return 0


def finish(run: Run, judge: Judge, checkpoints: Checkpoints, *, seconds: float) -> None:
    """Judges the best checkpoint on the test split, and leaves the result in the workdir."""
    best = best_step(checkpoints)
    state = checkpoints.restore(best, run.first_state(judge.table)[1])
    trained_on = set(checkpoints.described(best)["labels"])
    figures, parts = judge.final(state.variables)
    result = {
        "method": run.config.algorithm.name,
        **figures,
        "steps": checkpoints.latest() or best,
        "checkpoint_step": best,
        "split": run.config.eval.test_split,
        "photos": len(judge.table),
        "labels": len(judge.table.label.names),
        "source": judge.table.source,
        "device": f"{jax.devices()[0].device_kind} x {judge.mesh.size}",
        "parameters": int(sum(np.size(p) for p in jax.tree.leaves(state.variables.params))),
        "seconds": round(seconds, 1),
    }
    if run.config.model.options.get("frozen_norm"):
        result["norm_mode"] = f"{result['norm_mode']}, frozen"
    seen = len(trained_on & set(judge.table.label.names))
    if seen:
        say(f"warning: {seen} of {result['labels']} test labels were trained on: this is no test of new ones")
        result["labels_seen_in_training"] = seen
    checkpoints.close()
    keep_result(run.workdir, result, parts, run.command)


def best_step(checkpoints: Checkpoints) -> int:
    """Returns the step of the best checkpoint.

    Raises:
      ValueError: There is none.
    """
    best = checkpoints.best()
    if best is None:
        raise ValueError(f"no checkpoint in {checkpoints.folder}: train first")
    return best


def embedder_of(workdir: Path) -> embedder.Embedder:
    """Loads a run's best checkpoint as a function from photos to embeddings.

    Raises:
      ValueError: There is no run in the workdir, or it was trained on features.
    """
    run = Run(config_for_evaluation(workdir, None), workdir, [])
    if run.config.data.source == "features":
        raise ValueError(f"{workdir} was trained on features: it embeds no photos")
    checkpoints = run.checkpoints()
    sample = np.zeros((0, run.preprocess.size, run.preprocess.size, run.preprocess.channels), np.uint8)
    nothing = Table(source="", label=Coded.of([]), split=np.array([], str), images=sample)
    variables = checkpoints.restore(best_step(checkpoints), run.first_state(nothing)[1]).variables
    embed = jax.jit(lambda images: run.algorithm.outputs(variables, run.preprocess(images))["embedding"])
    weights = {"params": variables.params, **variables.collections}
    return embedder.Embedder(embed, run.preprocess, embedder.digest_of(weights, run.preprocess))
