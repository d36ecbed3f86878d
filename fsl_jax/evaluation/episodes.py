"""Judges few-shot methods: accuracy on fixed, seeded episodes of labels that were never seen in training."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from fsl_jax.algorithms.base import Algorithm, Variables
from fsl_jax.mesh import AXIS, over_rows, replicated
from fsl_jax.progress import track
from fsl_jax.types import Episode


@dataclasses.dataclass(frozen=True)
class EpisodeFigures:
    """Predictions on episodes.

    Attributes:
      predicted: Label that each query was taken for, 0 to way - 1.
      labels: Label of each query.
    """

    predicted: Int[np.ndarray, "episodes q"]
    labels: Int[np.ndarray, "episodes q"]

    @property
    def accuracies(self) -> Float[np.ndarray, "episodes"]:
        """Share of right queries of each episode."""
        return (self.predicted == self.labels).mean(axis=1)

    @property
    def mean(self) -> float:
        """Mean accuracy, 0 to 1."""
        return float(self.accuracies.mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean: 1.96 standard errors; NaN for a single episode."""
        count = len(self.accuracies)
        return float(1.96 * self.accuracies.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")


class EpisodeEvaluator:
    """Judges a method on the same episodes each time it is called."""

    def __init__(
        self,
        algorithm: Algorithm,
        reader: Any,
        prepare: Callable[[Episode], Episode],
        *,
        mesh: Mesh,
        at_once: int,
    ) -> None:
        """Prepares the program.

        Args:
          algorithm: Whose `predict` is judged.
          reader: Gives the episodes.
          prepare: Normalises photos.
          mesh: Over which episodes are spread.
          at_once: Episodes that the reader gives at once, as its plan says; a multiple of the mesh's devices.
        """
        self._reader, self._at_once = reader, at_once

        def judge(variables: Variables, episode: Episode) -> tuple[Int[Array, "t q"], Int[Array, "t q"]]:
            return jnp.argmax(algorithm.predict(variables, episode), axis=2), episode.query.label

        spread = over_rows(mesh, judge, spread=(False, True), results=P(AXIS))

        @functools.partial(jax.jit, out_shardings=replicated(mesh))
        def program(
            variables: Variables, constant: Any, given: Any
        ) -> tuple[Int[Array, "t q"], Int[Array, "t q"]]:
            return spread(variables, prepare(reader.fetch(constant, given)))

        self._program = program

    def __call__(self, variables: Variables, *, episodes: int) -> EpisodeFigures:
        """Judges variables on the first so many episodes; they do not depend on the devices."""
        parts = []
        calls = -(-episodes // self._at_once)
        for call in track(range(calls), description="evaluating", unit="batches of episodes"):
            given = jax.tree.map(lambda a: a[0], self._reader.inputs(call, 1))
            parts.append(self._program(variables, self._reader.constant, given))
        predicted, labels = (
            np.concatenate([np.asarray(side) for side in sides]) for sides in zip(*parts, strict=True)
        )
        return EpisodeFigures(predicted[:episodes], labels[:episodes])
