"""The one training loop: dispatch, then let the clock decide what else is due."""

import dataclasses
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
import numpy as np

from fsl_jax import distributed
from fsl_jax.training.checkpoint import Checkpoints, Described
from fsl_jax.training.clock import Clock
from fsl_jax.training.log import Averages, MetricsLog, Progress
from fsl_jax.training.state import TrainState
from fsl_jax.training.step import Reader, first_not_finite

Dispatch = Callable[[TrainState, Any, Any], tuple[TrainState, Mapping[str, Any]]]
Evaluate = Callable[[TrainState], Mapping[str, float]]
Refresh = Callable[[TrainState], TrainState]
Watch = Callable[[Mapping[str, float], int], str | None]


class Diverged(ValueError):
    """The loss or its gradient is no longer a number."""


@dataclasses.dataclass
class Stop:
    """A request to stop at the end of the running dispatch.

    Of several processes SIGTERM belongs to JAX: whichever gets it, all agree on the dispatch after which they stop.

    Attributes:
      asked_by: The signal that asked for it, or None.
    """

    asked_by: signal.Signals | None = None
    _looked: int = 0
    _interrupted: bool = False

    def look(self) -> None:
        """Is called after each dispatch; learns what the processes of a run have agreed on."""
        if distributed.is_joined() and self.asked_by is None:
            self._looked += 1
            if distributed.stops(self._looked):
                self.asked_by = signal.SIGINT if self._interrupted else signal.SIGTERM

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Takes SIGINT and SIGTERM as requests; a second one ends the process at once."""
        wanted = (signal.SIGINT,) if distributed.is_joined() else (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in wanted}

        def ask(number: int, frame: FrameType | None) -> None:
            del frame
            signal.signal(number, before[signal.Signals(number)])
            if distributed.is_joined():
                self._interrupted = True
                signal.raise_signal(signal.SIGTERM)
            else:
                self.asked_by = signal.Signals(number)

        for number in wanted:
            signal.signal(number, ask)
        try:
            yield self
        finally:
            for number in wanted:
                signal.signal(number, before[number])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """What a run is made of.

    Attributes:
      dispatch: Compiled program of `training.step.make_dispatch`.
      reader: Gives the photos.
      clock: Says what is due when.
      checkpoints: Where states are kept.
      described: Saved beside each state.
      log: Where figures go.
      progress: What the user sees.
      evaluate: Judges a state while the run goes on; its figures are logged as "eval/...".
      stop: Asked after each dispatch.
      refresh: Gives a state the window of the steps that follow; None where the plan has no windows.
      watch: Says what is wrong where the figures logged after so many steps show it; each kind shown once.
    """

    dispatch: Dispatch
    reader: Reader
    clock: Clock
    checkpoints: Checkpoints
    described: Described
    log: MetricsLog
    progress: Progress
    evaluate: Evaluate
    stop: Stop
    refresh: Refresh | None = None
    watch: Watch = lambda figures, step: None

    def run(self, state: TrainState) -> TrainState:
        """Trains until the clock's end, or until it is asked to stop; the last state is saved.

        Raises:
          Diverged: Loss or gradient are not finite; what was saved before stays.
        """
        step, averages = int(state.step), Averages()
        warned: set[str] = set()
        self.reader.begin_window(state.window)
        while step < self.clock.steps and self.stop.asked_by is None:
            if self.refresh is not None and self.clock.refreshes(step):
                with self.progress.aside():
                    state = self.refresh(state)
                self.reader.begin_window(state.window)
            begun = time.perf_counter()
            given = self.reader.inputs(step, self.clock.steps_per_call)
            state, metrics = self.dispatch(state, self.reader.constant, given)
            metrics = jax.tree.map(np.asarray, metrics)
            self._check(step, metrics)
            step += self.clock.steps_per_call
            seconds = time.perf_counter() - begun
            averages.add(metrics, seconds=seconds)
            accuracy = metrics["accuracy"][-1] if "accuracy" in metrics else None
            self.progress.update(step, metrics["loss"][-1], accuracy, seconds=seconds)
            self.stop.look()
            self._whatever_is_due(step, state, averages, warned)
        if step < self.clock.steps:
            self._save(step, state, None)
        self.checkpoints.wait()
        return state

    def _check(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        bad = first_not_finite(metrics)
        if bad is None:
            return
        self.checkpoints.wait()
        kept = self.checkpoints.latest()
        where = (
            f"the checkpoint of step {kept:,} is kept" if kept is not None else "no checkpoint was saved yet"
        )
        raise Diverged(
            f"step {step + bad + 1:,}: loss {metrics['loss'][bad]}, gradient norm {metrics['gradient_norm'][bad]}, "
            f"parameter norm {metrics['parameter_norm'][bad]}; "
            f"{where}. Lower --config.optimizer.learning_rate, or set --config.optimizer.clip_norm"
        )

    def _whatever_is_due(self, step: int, state: TrainState, averages: Averages, warned: set[str]) -> None:
        if self.clock.logs(step):
            means = averages.take()
            self.log.write(step, means)
            warning = self.watch({name.removeprefix("train/"): value for name, value in means.items()}, step)
            # Of each kind once: the same with other figures is no other.
            kind = re.sub(r"[\d.]+(e[-+]\d+)?", "", warning or "")
            if warning is not None and kind not in warned:
                warned.add(kind)
                self.progress.note(f"step {step:,}  warning: {warning}")
        figures = None
        # Who asked for a stop may not wait for an evaluation.
        if self.clock.evaluates(step) and self.stop.asked_by is None:
            with self.progress.aside():
                figures = self.evaluate(state)
            self.log.write(step, {f"eval/{name}": value for name, value in figures.items()})
            shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            self.progress.note(f"step {step:,}  evaluation: {shown}")
        if self.clock.saves(step):
            self._save(step, state, figures)

    def _save(self, step: int, state: TrainState, figures: Mapping[str, float] | None) -> None:
        described = {**self.described, "step": step, "data_position": step}
        self.checkpoints.save(step, state, described, figures)
