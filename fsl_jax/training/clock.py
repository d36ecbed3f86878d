"""Decides at which steps a run logs, evaluates and saves."""

import dataclasses

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Clock:
    """Periods in steps, aligned to absolute steps; 0 is never.

    Everything falls on the end of a dispatch, so that a run that was stopped and one that was not do the same.

    Attributes:
      steps: Length of the run.
      steps_per_call: Steps a dispatch.
      log_every: Period of the log.
      eval_every: Period of evaluation.
      save_every: Period of checkpoints.
      refresh_every: Steps of a window, at whose start the plan is given new embeddings.
    """

    steps: int
    steps_per_call: int
    log_every: int
    eval_every: int
    save_every: int
    refresh_every: int = 0

    @classmethod
    def of(cls, config: ConfigDict) -> "Clock":
        """Reads the periods from a config.

        Raises:
          ValueError: A number is negative, or a period is no multiple of `config.train.steps_per_call`.
        """
        train = config.train
        if train.steps < 1 or train.steps_per_call < 1:
            raise ValueError(
                f"config.train.steps is {train.steps} and config.train.steps_per_call {train.steps_per_call}; "
                "expected at least 1"
            )
        periods = {
            "train.steps": train.steps,
            "train.log_every": train.log_every,
            "eval.every": config.eval.every,
            "train.save_every": train.save_every,
        }
        refresh_every = config.sampler.options.get("refresh_every", 0)
        if refresh_every:
            periods["sampler.options.refresh_every"] = refresh_every
        for name, period in periods.items():
            if period < 0 or period % train.steps_per_call:
                near = max(round(period / train.steps_per_call), 1) * train.steps_per_call
                raise ValueError(
                    f"config.{name} is {period}, no multiple of config.train.steps_per_call "
                    f"({train.steps_per_call}): try --config.{name}={near}"
                )
        every = train.log_every, config.eval.every, train.save_every, refresh_every
        return cls(train.steps, train.steps_per_call, *every)

    def _due(self, step: int, every: int) -> bool:
        return bool(every) and step % every == 0

    def logs(self, step: int) -> bool:
        """Whether the log is due after `step` steps; it always is at the end."""
        return step == self.steps or self._due(step, self.log_every)

    def refreshes(self, step: int) -> bool:
        """Whether a window begins after `step` steps."""
        return self._due(step, self.refresh_every)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps; where there are any, one is at the end."""
        return bool(self.eval_every) and (step == self.steps or self._due(step, self.eval_every))

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps; evaluations are saved too, and so is the end."""
        return step == self.steps or self._due(step, self.save_every) or self.evaluates(step)
