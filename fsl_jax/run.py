"""Puts a run together from its config: data, method, optimiser, loop, judge, and what is left in the workdir."""

import dataclasses
import json
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsl_jax import embedder
from fsl_jax.algorithms.base import Algorithm, Variables
from fsl_jax.config import as_json, differences
from fsl_jax.data.augment import Augment, Preprocess, prepare_episode
from fsl_jax.data.cache import write_whole
from fsl_jax.data.load import load_split, preprocess_of
from fsl_jax.data.loader import StreamingReader
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Coded, Table
from fsl_jax.lookup import find, with_options
from fsl_jax.mesh import data_mesh, replicated, usable_devices
from fsl_jax.models.heads import Embedder, Head
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
from fsl_jax.types import Batch, Collections, Episode

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


class Built(NamedTuple):
    """A method on its network.

    Attributes:
      algorithm: The method.
      weights: Variables of pretrained parts, with names from the method's root; None where nothing is pretrained.
      preprocess: How photos are prepared.
    """

    algorithm: Algorithm
    weights: Collections | None
    preprocess: Preprocess


def build(config: ConfigDict) -> Built:
    """Builds the configured method on the configured network, with published weights where they are asked for."""
    model, method, preprocess, weights = config.model, config.algorithm, preprocess_of(config.data), None
    if model.pretrained:
        # Imported here: most runs load no weights.
        from fsl_jax.models import pretrained

        key = named_key(config.seed, "pretrained")
        loaded = pretrained.load(model.pretrained, options=dict(model.options), key=key)
        body, weights = loaded.model, loaded.variables
        preprocess = dataclasses.replace(loaded.preprocess, size=config.data.size, fit=config.data.fit)
    else:
        network = find("fsl_jax.models", model.name, "Model")
        body = with_options(network, model.options, "config.model.options")
    place: tuple[str, ...] = ()
    if model.head.sizes:
        body, place = Embedder(body, Head(**model.head)), ("body",)
    make = find("fsl_jax.algorithms", method.name, "make")
    algorithm = with_options(make, method.options, "config.algorithm.options", body, way=config.episode.way)
    if weights is not None:
        weights = {name: _nested(tree, (*algorithm.body_place, *place)) for name, tree in weights.items()}
    return Built(algorithm, weights, preprocess)


def _nested(tree: Any, place: tuple[str, ...]) -> Any:
    for name in reversed(place):
        tree = {name: tree}
    return tree


def with_weights(variables: Variables, weights: Collections | None) -> Variables:
    """Puts pretrained weights in the place of those that were drawn."""
    if weights is None:
        return variables

    def grafted(old: Any, new: Any) -> Any:
        flat = {**traverse_util.flatten_dict(old), **traverse_util.flatten_dict(new)}
        return traverse_util.unflatten_dict(flat)

    collections = {name: grafted(old, weights.get(name, {})) for name, old in variables.collections.items()}
    return variables.replace(  # type: ignore[attr-defined]
        params=grafted(variables.params, weights["params"]), collections=collections
    )


def sample_episode(shape: tuple[int, ...]) -> Episode:
    """Returns an episode of photos of this shape, from which a method makes its first variables."""
    batch = Batch(jax.numpy.zeros((1, 2, *shape)), jax.numpy.arange(2).reshape(1, 2))
    return Episode(batch, batch, way=2)


def photo_shape(table: Table, preprocess: Preprocess) -> tuple[int, ...]:
    """Returns height, width and channels of what the network is given."""
    if table.has_features and table.images is not None:
        return table.images.shape[1:]
    return preprocess.size, preprocess.size, preprocess.channels


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
    write_whole(file, lambda stream: stream.write((json.dumps(values, indent=2) + "\n").encode()))


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


def kept_config(workdir: Path) -> ConfigDict:
    """Reads the config of a run.

    Raises:
      ValueError: There is no run in the workdir.
    """
    file = workdir / "config.json"
    if not file.exists():
        raise ValueError(
            f"no run in {workdir} (config.json is missing): give the --workdir of a training run"
        )
    return ConfigDict(json.loads(file.read_text()))


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


def embedder_of(workdir: Path) -> embedder.Embedder:
    """Loads a run's best checkpoint as a function from photos to embeddings.

    Raises:
      ValueError: There is no run in the workdir, or it was trained on features.
    """
    run = Run(kept_config(workdir), workdir, [])
    if run.config.data.source == "features":
        raise ValueError(f"{workdir} was trained on features: it embeds no photos")
    checkpoints = Checkpoints(workdir / "checkpoints", best_metric=BEST, read_only=True)
    best = checkpoints.best()
    if best is None:
        raise ValueError(f"no checkpoint in {checkpoints.folder}: train first")
    sample = np.zeros((0, run.preprocess.size, run.preprocess.size, run.preprocess.channels), np.uint8)
    nothing = Table(source="", label=Coded.of([]), split=np.array([], str), images=sample)
    variables = checkpoints.restore(best, run.first_state(nothing)[1]).variables
    embed = jax.jit(lambda images: run.algorithm.outputs(variables, run.preprocess(images))["embedding"])
    weights = {"params": variables.params, **variables.collections}
    return embedder.Embedder(embed, run.preprocess, embedder.digest_of(weights, run.preprocess))


def finish(run: Run, checkpoints: Checkpoints, *, seconds: float | None) -> None:
    """Judges the best checkpoint on the test split, and writes result.json and report.html."""
    best = checkpoints.best()
    if best is None:
        raise ValueError(f"no checkpoint in {checkpoints.folder}: train first")
    table = run.table(run.config.eval.test_split)
    state = checkpoints.restore(best, run.first_state(table)[1])
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
