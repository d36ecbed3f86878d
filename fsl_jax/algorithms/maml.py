"""Model-agnostic meta-learning: learn the parameters from which a few gradient steps solve a new task.

For each task, the parameters theta take `inner_steps` gradient steps on the support photos,

    theta_{k+1} = theta_k - inner_rate * grad L_support(theta_k),

and the loss is that of the query photos at the adapted parameters. Its gradient goes through the inner steps (second
order), or takes them as constant (FOMAML). ANIL adapts the head alone, BOIL the body alone.

References:
  Finn et al. 2017, https://arxiv.org/abs/1703.03400.
  Raghu et al. 2020 (ANIL), https://arxiv.org/abs/1909.09157.
  Oh et al. 2021 (BOIL), https://arxiv.org/abs/2008.08882.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import EpisodeAlgorithm, Variables, query_loss
from fsl_jax.losses import reduce, softmax
from fsl_jax.models.heads import Classifier
from fsl_jax.models.layers import norm_statistics
from fsl_jax.types import Aux, Batch, Collections, Episode, Key, Mean, Params

ADAPTED = {"all": ("body", "head"), "head": ("head",), "body": ("body",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAML(EpisodeAlgorithm):
    """MAML and the variants that differ in what adapts and in the order of the gradient.

    Attributes:
      inner_rate: Step size of the inner steps.
      inner_steps: Inner steps in training.
      eval_inner_steps: Inner steps in evaluation.
      adapt: "all" (MAML), "head" (ANIL) or "body" (BOIL).
      first_order: Whether the inner gradients are taken as constant (FOMAML).
      remat: Whether an inner step is computed again in the backward pass instead of kept; memory then hardly grows
        with the number of inner steps. A single step is never computed twice.
    """

    inner_rate: float
    inner_steps: int
    eval_inner_steps: int
    adapt: Literal["all", "head", "body"]
    first_order: bool
    remat: bool
    body_place: ClassVar[tuple[str, ...]] = ("body",)

    def __post_init__(self) -> None:
        if self.adapt not in ADAPTED:
            raise ValueError(f"adapt is {self.adapt!r}; known: {', '.join(ADAPTED)}")
        if self.inner_steps < 1 or self.eval_inner_steps < 0:
            raise ValueError(
                f"inner_steps is {self.inner_steps} and eval_inner_steps {self.eval_inner_steps}; "
                "expected at least 1 and 0"
            )

    @property
    def way(self) -> int:
        """Logits of its head."""
        return self.network.labels

    def adapted(
        self, params: Params, collections: Collections, support: Batch, *, steps: int, training: bool
    ) -> tuple[Params, tuple[Array, Collections]]:
        """Takes the inner steps.

        Args:
          params: Where they start.
          collections: Running statistics, used where the norm mode says so.
          support: Support photos of one task, prepared.
          steps: How many steps; 0 returns `params`.
          training: Whether this is meta-training.

        Returns:
          Adapted parameters, and (losses [steps], running statistics after each step's forward pass [steps, ...]).
        """
        fixed = {name: params[name] for name in params if name not in ADAPTED[self.adapt]}

        def support_loss(fast: Params) -> tuple[Array, Collections]:
            logits, gathered = self._support_logits(
                {**fixed, **fast}, collections, support, training=training
            )
            return reduce.mean(softmax.cross_entropy(logits, support.label)), gathered

        def inner_step(fast: Params, _: None) -> tuple[Params, tuple[Array, Collections]]:
            (loss, gathered), gradient = jax.value_and_grad(support_loss, has_aux=True)(fast)
            if self.first_order:
                gradient = lax.stop_gradient(gradient)
            return jax.tree.map(lambda p, g: p - self.inner_rate * g, fast, gradient), (loss, gathered)

        if self.remat and steps > 1:
            inner_step = jax.checkpoint(inner_step)
        fast = {name: params[name] for name in ADAPTED[self.adapt]}
        fast, seen = _repeat(inner_step, fast, steps)
        return {**fixed, **fast}, seen

    def _support_logits(
        self, params: Params, collections: Collections, support: Batch, *, training: bool
    ) -> tuple[Array, Collections]:
        if training:
            return self.apply_and_gather(params, collections, support.image)
        statistics = norm_statistics(self.norm, training=False)
        return self.apply(params, collections, support.image, statistics=statistics)[0], collections

    def task_loss(
        self, params: Params, collections: Collections, task: Episode, key: Key
    ) -> tuple[Array, Aux]:
        """Adapts on the support photos and judges the queries.

        Running statistics are those of the support photos before adaptation, since it is the parameters before
        adaptation that embed single photos.
        """
        del key
        adapted, (losses, gathered) = self.adapted(
            params, collections, task.support, steps=self.inner_steps, training=True
        )
        logits, _ = self.apply(adapted, collections, task.query.image, statistics="batch")
        value, metrics = query_loss(logits, task.query.label)
        metrics["support_loss"] = Mean.of(losses[0])
        before = jax.tree.map(lambda a: lax.stop_gradient(a[0]), gathered)
        return value, Aux(before, metrics)

    def task_logits(self, variables: Variables, task: Episode) -> Float[Array, "q way"]:
        """Adapts on the support photos and classifies the queries."""
        steps = self.eval_inner_steps
        params, _ = self.adapted(
            variables.params, variables.collections, task.support, steps=steps, training=False
        )
        statistics = norm_statistics(self.norm, training=False)
        return self.apply(params, variables.collections, task.query.image, statistics=statistics)[0]

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Embeds photos with the parameters before adaptation."""
        logits, seen = self.apply(variables.params, variables.collections, images, statistics="running")
        return {"embedding": seen["embedding"], "logits": logits}

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds the inner loop's settings."""
        return {
            **super().facts(),
            "inner_steps": self.inner_steps,
            "eval_inner_steps": self.eval_inner_steps,
            "adapt": self.adapt,
            "first_order": self.first_order,
            "embedding": "before adaptation",
        }


def _repeat(step: Any, start: Any, steps: int) -> tuple[Any, Any]:
    """Scans a step; a single one is called as it is, since XLA's loop would hide it from fusion."""
    if steps != 1:
        return lax.scan(step, start, None, length=steps)
    end, seen = step(start, None)
    return end, jax.tree.map(lambda a: a[None], seen)


def make(
    body: nn.Module,
    *,
    way: int,
    inner_rate: float,
    inner_steps: int,
    eval_inner_steps: int,
    adapt: Literal["all", "head", "body"] = "all",
    first_order: bool = False,
    remat: bool = True,
    chunk: int = 0,
) -> MAML:
    """Builds MAML on an embedding network; its head has one logit a label of the task."""
    return MAML(
        network=Classifier(body, way),
        norm=body.norm,
        chunk=chunk,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        eval_inner_steps=eval_inner_steps,
        adapt=adapt,
        first_order=first_order,
        remat=remat,
    )
