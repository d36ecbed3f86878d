"""Puts a run together from its config: data, method, optimiser, loop and judge."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax import stages
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from fsl_jax import distributed, embedder
from fsl_jax.algorithms.base import Variables
from fsl_jax.building import (
    build,
    make_plan,
    make_reader,
    photo_shape,
    preparation,
    sample,
    takes_taxonomy,
    units,
    with_weights,
)
from fsl_jax.config import as_json
from fsl_jax.data.augment import Augment
from fsl_jax.data.filter import matching
from fsl_jax.data.load import load_split
from fsl_jax.data.table import Coded, Table
from fsl_jax.data.targets import taxonomy_of, told, with_targets
from fsl_jax.evaluation.judge import Judge
from fsl_jax.evaluation.searching import Searcher
from fsl_jax.mesh import (
    AXIS,
    data_mesh,
    joined,
    over_rows,
    place,
    replicated,
    spread_parameters,
    usable_devices,
)
from fsl_jax.predictor import Predictor, probabilities
from fsl_jax.sampling.keys import named_key
from fsl_jax.sampling.plan import Plan
from fsl_jax.sampling.refreshed import Neighbours, RefreshedPlan
from fsl_jax.taxonomy import Taxonomy
from fsl_jax.training import optimizer as optimizers
from fsl_jax.training.checkpoint import Checkpoints
from fsl_jax.training.clock import Clock
from fsl_jax.training.log import MetricsLog, Progress, doing, say
from fsl_jax.training.loop import Dispatch, Evaluate, Loop, Refresh, Stop
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import Reader, make_dispatch
from fsl_jax.types import Collections
from fsl_jax.whitening import with_whitened_head
from fsl_jax.workdir import config_for_evaluation, keep_result, open_workdir, seconds_so_far


def load_table(config: ConfigDict, split: str, *, for_training: bool = False) -> Table:
    """Loads a split and says what it holds; for training with description vectors, where they are asked for."""
    table = load_split(config.data, split, described=for_training and bool(config.data.text.vectors))
    where = "resident" if table.images is not None else "streamed"
    say(f"{split}: {len(table):,} photos of {len(table.label.names):,} labels ({table.source}, {where})")
    return table


@dataclasses.dataclass
class Run:
    """A run in a workdir.

    Attributes:
      config: All of it.
      workdir: Where everything is kept.
      command: As typed, for the report.
      labels: Labels that are trained on.
      mesh: Devices that hold the state.
      taxonomy: Categories and attributes, where the method classifies by them.
    """

    config: ConfigDict
    workdir: Path
    command: list[str]
    labels: int
    mesh: Mesh
    taxonomy: Taxonomy | None = None

    def __post_init__(self) -> None:
        built = build(self.config, labels=self.labels, taxonomy=self.taxonomy)
        self.algorithm, self.weights, self.preprocess = built.algorithm, built.weights, built.preprocess
        self.place, self.body = built.place, built.body
        self.prepare = preparation(self.config, built.preprocess)
        self.features, self.optimizer = built.features, ConfigDict(self.config.optimizer)
        if built.features is not None:
            self.optimizer.rules = ((f"{built.place}/.*", 0.0), *self.optimizer.rules)

    def first_state(
        self, table: Table, window: Any = None
    ) -> tuple[Callable[[], TrainState], TrainState, optax.GradientTransformation]:
        """Returns what makes the state at step 0 on all devices, that state's shapes, and the optimiser."""
        # The variables of a frozen network are made from photos, whether or not their features were taken.
        shape = photo_shape(None if self.features is not None else table, self.preprocess)
        key, photos = named_key(self.config.seed, "init"), sample(self.config, shape)
        shapes = jax.eval_shape(self.algorithm.init, key, photos)
        optimizer = optimizers.make(self.optimizer, shapes.params, steps=self.config.train.steps)

        def create(weights: Collections | None) -> TrainState:
            variables = with_weights(self.algorithm.init(key, photos), weights)
            return TrainState.create(self.algorithm.after_loading(variables), optimizer, window)

        made = jax.eval_shape(create, self.weights)
        layout = self.layout(made)
        like = jax.tree.map(
            lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), made, layout
        )
        start = jax.jit(create, out_shardings=layout)
        return lambda: start(self.weights), like, optimizer

    def layout(self, state: TrainState) -> TrainState:
        """Says where each array of a state lies; what a plan looks at lies whole on each device."""
        everywhere = jax.tree.map(lambda _: replicated(self.mesh), state)
        if not self.config.train.shard_parameters:
            return everywhere
        return everywhere.replace(
            variables=spread_parameters(state.variables, self.mesh),
            optimizer=spread_parameters(state.optimizer, self.mesh),
        )

    def judge(self, table: Table) -> Judge:
        """Builds the judge of a split."""
        mesh = data_mesh(self.config.train.devices or jax.device_count())

        def reader(table: Table, plan: Plan, key: jax.Array) -> Any:
            return make_reader(self.config.data, mesh, table, plan, key)

        given = {
            name: searched(self.config, table, where) for name, where in self.config.eval.searches.items()
        }
        searches = {name: found for name, found in given.items() if found is not None}
        if self.taxonomy is not None:
            table = with_targets(table, self.taxonomy, unstated=self.config.data.targets.unstated)
        return Judge(
            self.config.eval,
            self.algorithm,
            self.as_trained_on(table),
            self.preprocess,
            mesh,
            reader,
            {name: self.as_trained_on(searched) for name, searched in searches.items()},
            self.taxonomy,
            pictures=table,
        )

    def loop(self, table: Table, plan: Plan, stop: Stop, evaluate: Evaluate) -> tuple[Loop, TrainState]:
        """Puts the loop together, and restores the newest checkpoint where there is one."""
        key = named_key(self.config.seed, "train")
        reader = make_reader(self.config.data, self.mesh, table, plan, key)
        window = plan.first_window() if isinstance(plan, RefreshedPlan) else None
        create, like, optimizer = self.first_state(table, window)
        checkpoints = Checkpoints(self.workdir / "checkpoints", best_metric=self.config.eval.best)
        clock = Clock.of(self.config)
        newest = checkpoints.latest()
        state = self.started(create(), table) if newest is None else checkpoints.restore(newest, like)
        for step in checkpoints.unfinished:
            say(f"step {step:,} was not saved whole, and is left out")
        if newest is not None:
            say(f"continuing from step {newest:,} ({checkpoints.folder / str(newest)})")
        program = self.program(reader, optimizer, state)
        start = newest or 0
        reader.begin_window(state.window)
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
            refresh=self.refresh(table, plan) if isinstance(plan, RefreshedPlan) else None,
            watch=self.algorithm.warning,
        )
        return loop, state

    def program(
        self, reader: Reader, optimizer: optax.GradientTransformation, state: TrainState
    ) -> stages.Wrapped:
        """Builds the program of several training steps; see `training.step.make_dispatch`."""
        return make_dispatch(
            self.algorithm,
            optimizer,
            reader,
            self.prepare,
            mesh=self.mesh,
            key=named_key(self.config.seed, "step"),
            frozen=optimizers.frozen(self.optimizer, state.variables.params),
            layout=self.layout(state),
            updated=functools.partial(optimizers.updated, self.optimizer),
        )

    def started(self, state: TrainState, table: Table) -> TrainState:
        """Gives a head that starts as a whitening its first values."""
        epsilon = self.config.model.head.whitened
        if not epsilon:
            return state
        augment, key = Augment(**self.config.augment), named_key(self.config.seed, "whitening")
        variables = with_whitened_head(
            self.algorithm, state.variables, table, self.preprocess, augment, key, epsilon=epsilon
        )
        placed = jax.tree.map(place, variables, self.layout(state).variables)
        return state.replace(variables=placed)  # type: ignore[attr-defined]

    def refresh(self, table: Table, plan: RefreshedPlan) -> Refresh:
        """Returns what embeds all training photos, and looks up each anchor's nearest wrong gallery photos.

        Photos are embedded as in test, without augmentation; anchors are spread over the devices.
        """
        if not hasattr(self.algorithm, "refresh"):
            raise ValueError(
                f"method {self.config.algorithm.name!r} has no refresh: choose another --config.sampler.name"
            )
        embed = jax.jit(lambda v, images: self.algorithm.outputs(v, self.preprocess(images))["embedding"])
        photos = Searcher(table, embed, self.preprocess, self.mesh, self.config.eval.distance, False)
        anchor, gallery = plan.sides(table)
        label, devices = table.label.codes, self.mesh.size
        filled = np.concatenate([anchor, np.repeat(anchor[:1], -len(anchor) % devices)])
        look_up = functools.partial(self.algorithm.refresh, count=plan.neighbours)
        spread = jax.jit(over_rows(self.mesh, look_up, spread=(True, True, False, False), results=P(AXIS)))

        def refreshed(state: TrainState) -> TrainState:
            embeddings = photos.embeddings(state.variables)
            given = embeddings[filled], label[filled], embeddings[gallery], label[gallery]
            window = Neighbours(*joined([spread(*given)], self.mesh, rows=len(anchor)))
            return state.replace(window=window)  # type: ignore[attr-defined]

        return refreshed

    def as_trained_on(self, table: Table) -> Table:
        """Takes the features of photos, where the network stays as it is."""
        if self.features is None or table.has_features:
            return table
        return embedder.features_of(self._frozen, table, mesh=self.mesh, block=64)

    @functools.cached_property
    def _frozen(self) -> embedder.Embedder:
        """The network that stays as it is, compiled once for all splits."""
        take = self.features
        assert take is not None
        embed = jax.jit(lambda images: take(self.preprocess(images))[0])
        options = as_json(self.config.model)["options"]
        return embedder.Embedder(
            embed, self.preprocess, embedder.digest_of(self.weights, self.preprocess, options=options)
        )

    def described(self, table: Table) -> dict[str, Any]:
        """Returns what a checkpoint says beside its state."""
        return {
            "config": as_json(self.config),
            "preprocess": dataclasses.asdict(self.preprocess),
            "labels": list(table.label.names),
            **({} if self.taxonomy is None else {"taxonomy": self.taxonomy.as_json()}),
        }


def training_photos(config: ConfigDict) -> Table:
    """Loads the training split, or those of its photos that match `config.data.train_only`."""
    table = load_table(config, config.data.train_split, for_training=True)
    if not config.data.train_only:
        return table
    some = matching(table, config.data.train_only)
    say(f"training on {len(some):,} of them: {config.data.train_only}")
    return dataclasses.replace(some, label=some.label.recode())


def planned(config: ConfigDict, workdir: Path, command: list[str]) -> tuple[Run, Table, Plan]:
    """Loads the training photos, and puts together what will be trained on them, and in which order.

    Raises:
      ValueError: The config is wrong, or its data cannot be read.
    """
    Clock.of(config)
    table, taxonomy = training_photos(config), None
    if takes_taxonomy(config):
        taxonomy = taxonomy_of(table, config.data.targets)
        table = with_targets(table, taxonomy, unstated=config.data.targets.unstated)
        say(told(taxonomy))
    plan = make_plan(config, table)
    mesh = training_mesh(config, units(plan))
    return Run(config, workdir, command, len(table.label.names), mesh, taxonomy), table, plan


def train(config: ConfigDict, workdir: Path, command: list[str]) -> int:
    """Trains, judges and reports; continues where the workdir's newest checkpoint is.

    Returns:
      Exit status: 0, or 130 where it was interrupted from the keyboard.
    """
    begun = time.perf_counter()
    # Every error that a user can mend comes before the first step and before the workdir.
    run, table, plan = planned(config, workdir, command)
    val = run.judge(load_table(config, config.eval.split)) if config.eval.every else None
    test = run.judge(load_table(config, config.eval.test_split))
    run.first_state(table)  # where a rule of the optimiser matches nothing, it says so here
    open_workdir(config, workdir)
    table = run.as_trained_on(table)

    def evaluate(state: TrainState) -> Mapping[str, float]:
        return {} if val is None else val.during(state.variables)

    with Stop().listening() as stop:
        loop, state = run.loop(table, plan, stop, evaluate)
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


def evaluate(workdir: Path, config: ConfigDict | None, command: list[str], *, kept_in: Path) -> int:
    """Judges a workdir alone; `config` may change how, not what.

    Args:
      workdir: Of a training run.
      config: How it is judged; None for its own.
      command: As typed, for the report.
      kept_in: Folder of the result, such as the workdir.

    Raises:
      ValueError: There is no run in the workdir, or it was made with another config.
    """
    run, checkpoints = reopened(workdir, config_for_evaluation(workdir, config), command)
    test = run.judge(load_table(run.config, run.config.eval.test_split))
    finish(run, test, checkpoints, seconds=seconds_so_far(workdir), kept_in=kept_in)
    return 0


def training_mesh(config: ConfigDict, count: int) -> Mesh:
    """Returns the devices over which a step's tasks or photos are spread, and says which are left out."""
    mesh, devices = data_mesh(usable_devices(count, wanted=config.train.devices)), jax.device_count()
    if mesh.size < devices:
        say(f"training on {mesh.size} of {devices} devices, over which {count} tasks or photos spread evenly")
    return mesh


def reopened(workdir: Path, config: ConfigDict, command: list[str]) -> tuple[Run, Checkpoints]:
    """Opens a workdir to judge or use what was trained in it.

    Raises:
      ValueError: There is no checkpoint.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", best_metric=config.eval.best, read_only=True)
    described = checkpoints.described(best_step(checkpoints))
    mesh = data_mesh(config.train.devices or jax.device_count())
    taxonomy = Taxonomy.from_json(described["taxonomy"]) if "taxonomy" in described else None
    return Run(config, workdir, command, len(described["labels"]), mesh, taxonomy), checkpoints


def finish(
    run: Run, judge: Judge, checkpoints: Checkpoints, *, seconds: float, kept_in: Path | None = None
) -> None:
    """Judges the best checkpoint on the test split, and leaves the result in a folder, by default the workdir."""
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
    distributed.by_first(
        lambda: keep_result(run.workdir, result, parts, run.command, kept_in=kept_in or run.workdir)
    )


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
    run, variables = restored(workdir)
    embed = jax.jit(lambda images: run.algorithm.outputs(variables, run.preprocess(images))["embedding"])
    weights = {"params": variables.params, **variables.collections}
    digest = embedder.digest_of(weights, run.preprocess, options=embedder.options_of(as_json(run.config)))
    return embedder.Embedder(embed, run.preprocess, digest)


def predictor_of(workdir: Path) -> Predictor:
    """Loads a run's best checkpoint as a function from photos to categories and attributes.

    Raises:
      ValueError: There is no run in the workdir, it was trained on features, or its method has no categories.
    """
    run, variables = restored(workdir)
    if run.taxonomy is None:
        raise ValueError(
            f"{workdir} was trained with method {run.config.algorithm.name!r}, which knows no categories: train "
            "--config configs/hierarchy.py or configs/attributes.py"
        )
    classify = jax.jit(lambda images: probabilities(run.algorithm.outputs(variables, run.preprocess(images))))
    return Predictor(classify, run.preprocess, run.taxonomy)


def searched(config: ConfigDict, judged: Table, where: str) -> Table | None:
    """Loads the photos of one of `config.eval.searches`; those of the judged split are there already.

    Returns:
      None where no photo matches and "?" stands behind the split: what a preset asks of its own photos is left out of
      others.

    Raises:
      ValueError: No photo matches.
    """
    splits, _, condition = where.partition(":")
    split = splits.removesuffix("?")
    there = set(split.split("+")) == set(judged.split)
    table = judged if there else load_table(config, split)
    try:
        return matching(table, condition).select(split)
    except ValueError:
        if splits == split:
            raise
        return None


def restored(workdir: Path) -> tuple[Run, Variables]:
    """Opens a run that takes photos, and reads its best checkpoint.

    Raises:
      ValueError: There is no run in the workdir, or it was trained on features.
    """
    run, checkpoints = reopened(workdir, config_for_evaluation(workdir, None), [])
    if run.config.data.source == "features":
        raise ValueError(f"{workdir} was trained on features: it takes no photos")
    nobody = np.zeros((0, run.preprocess.size, run.preprocess.size, run.preprocess.channels), np.uint8)
    nothing = Table(source="", label=Coded.of([]), split=np.array([], str), images=nobody)
    return run, checkpoints.restore(best_step(checkpoints), run.first_state(nothing)[1]).variables
