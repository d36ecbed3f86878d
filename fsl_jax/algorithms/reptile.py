"""Reptile: move the parameters towards where training on a task takes them.

For each task, the parameters theta are trained on batches of the support photos with an ordinary optimiser, which ends
at phi. The outer step takes theta - phi, averaged over tasks, for its gradient: with plain gradient descent at rate
epsilon, theta moves by epsilon (phi - theta). No gradient goes through the training.

The optimiser of the inner loop starts anew for each task. The released program carries Adam's second moments from task
to task, which would make a step depend on the order of its tasks.

References:
  Nichol et al. 2018, https://arxiv.org/abs/1803.02999, algorithm 1.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import (
    EpisodeAlgorithm,
    Frozen,
    Variables,
    averaged,
    chunk_of_tasks,
    query_loss,
    sum_over_tasks,
)
from fsl_jax.algorithms.inner import shuffled_batches, train
from fsl_jax.losses import reduce, softmax
from fsl_jax.models.heads import Classifier
from fsl_jax.models.layers import Statistics, norm_statistics
from fsl_jax.types import Aux, Batch, Collections, Episode, Key, Mean, Params, Scalar, Step

InnerOptimizer = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reptile(EpisodeAlgorithm):
    """Reptile.

    Attributes:
      inner_optimizer: "adam", without the first moment as in the paper, or "sgd".
      inner_rate: Its learning rate.
      inner_steps: Batches that a task is trained on.
      inner_batch: Support photos of a batch.
      eval_inner_steps: Batches that a task is trained on in evaluation.
      eval_inner_batch: Their photos.
    """

    inner_optimizer: InnerOptimizer
    inner_rate: float
    inner_steps: int
    inner_batch: int
    eval_inner_steps: int
    eval_inner_batch: int
    body_place: ClassVar[tuple[str, ...]] = ("body",)

    def __post_init__(self) -> None:
        known = get_args(InnerOptimizer)
        if self.inner_optimizer not in known:
            raise ValueError(f"inner_optimizer is {self.inner_optimizer!r}; known: {', '.join(known)}")
        if self.inner_steps < 1 or self.eval_inner_steps < 0:
            raise ValueError(
                f"inner_steps is {self.inner_steps} and eval_inner_steps {self.eval_inner_steps}; "
                "expected at least 1 and 0"
            )
        for name in ("inner_batch", "eval_inner_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1 photo")

    @property
    def way(self) -> int:
        """Logits of its head."""
        return self.network.labels

    def trained(
        self, params: Params, collections: Collections, support: Batch, key: Key, *, training: bool
    ) -> tuple[Params, tuple[Float[Array, "steps"], Collections]]:
        """Trains on the support photos of one task.

        Args:
          params: Where it starts.
          collections: Running statistics, used where the norm mode says so.
          support: Prepared photos.
          key: Of the batches.
          training: Whether this is meta-training.

        Returns:
          Trained parameters, and of each batch (loss, running statistics after it).
        """
        steps, size = (
            (self.inner_steps, self.inner_batch)
            if training
            else (self.eval_inner_steps, self.eval_inner_batch)
        )
        if not steps:
            return params, (jnp.zeros(0), collections)
        rows = shuffled_batches(key, rows=support.label.shape[0], size=size, steps=steps)
        statistics = norm_statistics(self.norm, training=training)

        def loss(fast: Params, i: Step) -> tuple[Scalar, Collections]:
            images, labels = support.image[rows[i]], support.label[rows[i]]
            logits, gathered = self._logits(fast, collections, images, statistics, gather=training)
            return reduce.mean(softmax.cross_entropy(logits, labels)), gathered

        return train(loss, params, steps=steps, optimizer=self._optimizer())

    def _optimizer(self) -> optax.GradientTransformation:
        if self.inner_optimizer == "sgd":
            return optax.sgd(self.inner_rate)
        return optax.adam(self.inner_rate, b1=0.0)

    def _logits(
        self, params: Params, collections: Collections, images: Array, statistics: Statistics, *, gather: bool
    ) -> tuple[Array, Collections]:
        if gather:
            return self.apply_and_gather(params, collections, images)
        return self.apply(params, collections, images, statistics=statistics)[0], collections

    def gradient(
        self,
        params: Params,
        collections: Collections,
        batch: Episode,
        key: Key,
        *,
        step: Step = 0,
        frozen: Frozen = None,
    ) -> tuple[tuple[Scalar, Aux], Params]:
        """Returns the mean of theta - phi over the tasks; its loss is that of the query photos at phi."""
        del step

        def of_task(given: tuple[Episode, Key]) -> tuple[tuple[Scalar, Aux], Params]:
            task, key = given
            end, (losses, gathered) = self.trained(params, collections, task.support, key, training=True)
            logits, _ = self.apply(end, collections, task.query.image, statistics="batch")
            value, metrics = query_loss(logits, task.query.label)
            metrics["support_loss"] = Mean.of(losses[0])
            before = jax.tree.map(lambda a: a[0], gathered)
            return (value, Aux(before, metrics)), jax.tree.map(jnp.subtract, params, end)

        total, moved = sum_over_tasks(of_task, (batch, key), chunk=chunk_of_tasks(batch.tasks, self.chunk))
        gradients = jax.tree.map(lambda a: a / batch.tasks, moved)
        if frozen is not None:
            gradients = jax.tree.map(lambda g, stays: jnp.zeros_like(g) if stays else g, gradients, frozen)
        return averaged(total, batch.tasks), gradients

    def task_logits(self, variables: Variables, task: Episode) -> Float[Array, "q way"]:
        """Trains on the support photos, dealt the same way each time, and classifies the queries."""
        params, collections = variables.params, variables.collections
        end, _ = self.trained(params, collections, task.support, jax.random.key(0), training=False)
        statistics = norm_statistics(self.norm, training=False)
        return self.apply(end, collections, task.query.image, statistics=statistics)[0]

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Embeds photos with the parameters before training on a task."""
        logits, seen = self.apply(variables.params, variables.collections, images, statistics="running")
        return {"embedding": seen["embedding"], "logits": logits}

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds the inner loop's settings."""
        return {
            **super().facts(),
            "inner_steps": self.inner_steps,
            "eval_inner_steps": self.eval_inner_steps,
            "inner_optimizer": self.inner_optimizer,
            "inner_batch": self.inner_batch,
            "embedding": "before adaptation",
        }


def make(
    body: nn.Module,
    *,
    way: int,
    inner_rate: float,
    inner_steps: int,
    inner_batch: int,
    eval_inner_steps: int,
    eval_inner_batch: int,
    inner_optimizer: InnerOptimizer = "adam",
    chunk: int = 0,
) -> Reptile:
    """Builds Reptile on an embedding network; its head has one logit a label of the task."""
    return Reptile(
        network=Classifier(body, way),
        norm=body.norm,
        chunk=chunk,
        inner_optimizer=inner_optimizer,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        inner_batch=inner_batch,
        eval_inner_steps=eval_inner_steps,
        eval_inner_batch=eval_inner_batch,
    )
