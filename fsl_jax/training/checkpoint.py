"""Checkpoints: everything a run or a judge needs, in one folder, written while the run goes on.

The one place that knows Orbax.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import logging
from flax import serialization

from fsl_jax.training.state import TrainState

Described = Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one workdir: the newest and the best are kept.

    A checkpoint is (state, clock, data position) and also carries config, label names and preprocessing, so that a
    workdir alone can be evaluated. Writing goes on in the background, into a folder that gets its name when whole.

    Attributes:
      folder: Where they lie.
      unfinished: Steps whose saving was cut short before this was opened.
    """

    def __init__(self, folder: Path, *, best_metric: str | None, read_only: bool = False) -> None:
        """Opens or makes a folder of checkpoints.

        Args:
          folder: Where they lie.
          best_metric: Name of the metric, larger is better, whose best checkpoint is kept; None keeps the newest.
          read_only: Whether nothing will be saved.
        """
        # Imported here: Orbax takes most of a second, which a misspelt option should not wait for.
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._ocp = ocp
        self._best_metric = best_metric
        # `best_fn` with `max_to_keep` would delete the newest checkpoint, and a resumed run would go back in time.
        policies: list[Any] = [LatestN(1)]

        def score(metrics: Mapping[str, float]) -> float:
            return metrics.get(best_metric, -math.inf) if best_metric else -math.inf

        if best_metric is not None:
            policies.append(BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False))
        self.unfinished = [] if read_only else _unfinished(folder)
        with _quiet(read_only):
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
                # Without a `best_fn` Orbax does not write the metrics, on which the policy and a resumed run depend.
                best_fn=None if best_metric is None else score,
                best_mode="max",
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self.folder = folder

    def save(
        self, step: int, state: TrainState, described: Described, metrics: Mapping[str, float] | None
    ) -> None:
        """Starts to save a checkpoint; one of this step that exists is left as it is.

        Args:
          step: Steps taken.
          state: Copied before this returns, so its memory can be reused.
          described: What JSON can hold.
          metrics: Of the evaluation at this step, if there was one.
        """
        if step in self._manager.all_steps():
            return
        # Its shapes, since a judge does not know the training photos that they follow from.
        window = {
            name: (list(array.shape), str(array.dtype))
            for name, array in serialization.to_state_dict(state.window).items()
        }
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state),
            described=self._ocp.args.JsonSave({**described, **({"window": window} if window else {})}),
        )
        self._manager.save(step, args=args, metrics=dict(metrics or {}), force=True)

    def wait(self) -> None:
        """Waits until what was saved lies on disk whole.

        Raises:
          OSError: It could not be written.
        """
        self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """Returns the step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Returns the step of the best checkpoint by the metric, or the newest where none was judged."""
        judged = {}
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics is not None and self._best_metric in metrics:
                judged[step] = metrics[self._best_metric]
        return max(judged, key=lambda step: (judged[step], step)) if judged else self.latest()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads a state.

        Args:
          step: Which checkpoint.
          like: Shapes of the state, with the sharding that says on which devices it shall lie. Without a window it
            is that of a judge, who does not know the training photos; the saved one is then read as it is.
        """
        if not like.window:
            like = like.replace(window=self._window(step, like.step.sharding))  # type: ignore[attr-defined]
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(like))
        return self._manager.restore(step, args=args)["state"]

    def _window(self, step: int, sharding: Any) -> Any:
        """Returns the shapes of the saved window, or nothing where there is none."""
        return {
            name: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)
            for name, (shape, dtype) in self.described(step).get("window", {}).items()
        }

    def described(self, step: int) -> dict[str, Any]:
        """Reads what was said beside a state."""
        args = self._ocp.args.Composite(described=self._ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["described"]

    def close(self) -> None:
        """Waits for what is being written, and lets go of the folder."""
        self._manager.close()


def _unfinished(folder: Path) -> list[int]:
    """Lists the steps whose saving was cut short; Orbax clears their folders away."""
    found = (re.match(r"(\d+)\.orbax-checkpoint-tmp", each.name) for each in folder.glob("*"))
    return sorted({int(each[1]) for each in found if each is not None})


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Keeps Orbax from warning that a folder which is only read will not be written."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR if wanted else before)
    try:
        yield
    finally:
        logging.set_verbosity(before)
