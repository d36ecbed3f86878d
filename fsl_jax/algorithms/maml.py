"""Model-agnostic meta-learning: learn the parameters from which a few gradient steps solve a new task.

For each task, the parameters theta take `inner_steps` gradient steps on the support photos,

    theta_{i+1} = theta_i - rate_i * grad L_support(theta_i),

and the loss is that of the query photos at the adapted parameters. Its gradient goes through the inner steps (second
order), or takes them as constant (FOMAML). ANIL adapts the head alone, BOIL the body alone. The rate is a constant, or
learned: one for each parameter (Meta-SGD), or one for each layer's weights and each inner step.

References:
  Finn et al. 2017, https://arxiv.org/abs/1703.03400.
  Raghu et al. 2020 (ANIL), https://arxiv.org/abs/1909.09157.
  Oh et al. 2021 (BOIL), https://arxiv.org/abs/2008.08882.
  Li et al. 2017 (Meta-SGD), https://arxiv.org/abs/1707.09835.
  Antoniou et al. 2019 (rates per layer and step), https://arxiv.org/abs/1810.09502.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import EpisodeAlgorithm, Variables, query_loss
from fsl_jax.algorithms.inner import descend
from fsl_jax.losses import reduce, softmax
from fsl_jax.models.heads import Classifier
from fsl_jax.models.layers import Statistics, norm_statistics
from fsl_jax.types import Aux, Batch, Collections, Episode, Key, Mean, Params, Scalar, Step

ADAPTED = {"all": ("body", "head"), "head": ("head",), "body": ("body",)}
Adapt = Literal["all", "head", "body"]
Rates = Literal["fixed", "per_parameter", "per_layer_per_step"]
RATES = "rates"
"""Group of learned rates, beside the network's "body" and "head"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAML(EpisodeAlgorithm):
    """MAML and the variants that differ in what adapts, in the rates, and in the order of the gradient.

    Attributes:
      inner_rate: Step size of the inner steps; where rates are learned, where they start.
      inner_steps: Inner steps in training.
      eval_inner_steps: Inner steps in evaluation.
      adapt: "all" (MAML), "head" (ANIL) or "body" (BOIL).
      first_order: Whether the inner gradients are taken as constant (FOMAML).
      remat: Whether an inner step is computed again in the backward pass; see `inner.descend`.
      rates: "fixed"; "per_parameter" (Meta-SGD); or "per_layer_per_step", one for each weight or bias array and each
        training step, of which the last also serves further steps of evaluation.
    """

    inner_rate: float
    inner_steps: int
    eval_inner_steps: int
    adapt: Adapt
    first_order: bool
    remat: bool
    rates: Rates = "fixed"
    body_place: ClassVar[tuple[str, ...]] = ("body",)

    def __post_init__(self) -> None:
        for name, value, known in (("adapt", self.adapt, Adapt), ("rates", self.rates, Rates)):
            if value not in get_args(known):
                raise ValueError(f"{name} is {value!r}; known: {', '.join(get_args(known))}")
        if self.inner_steps < 1 or self.eval_inner_steps < 0:
            raise ValueError(
                f"inner_steps is {self.inner_steps} and eval_inner_steps {self.eval_inner_steps}; "
                "expected at least 1 and 0"
            )

    @property
    def way(self) -> int:
        """Logits of its head."""
        return self.network.labels

    def init(self, key: Key, sample: Episode) -> Variables:
        """Makes the first variables from the shapes of an episode."""
        variables = super().init(key, sample)
        if self.rates == "fixed":
            return variables

        def first(p: Array) -> Array:
            shape = p.shape if self.rates == "per_parameter" else (self.inner_steps,)
            return jnp.full(shape, self.inner_rate, p.dtype)

        moved, _ = self.parted(variables.params)
        return variables.replace(params={**variables.params, RATES: jax.tree.map(first, moved)})  # type: ignore[attr-defined]

    def parted(self, params: Params) -> tuple[Params, Params]:
        """Parts a network's parameters into those that inner steps move and those that stay, with the same names."""
        adapted = ADAPTED[self.adapt]
        network = without_rates(params)
        moved = {name: value for name, value in network.items() if name in adapted}
        return moved, {name: value for name, value in network.items() if name not in adapted}

    def joined(self, moved: Params, stays: Params) -> Params:
        """Puts both parts together again."""
        return {**stays, **moved}

    def rate(self, params: Params, i: Step) -> Any:
        """Returns the step sizes of inner step i."""
        if self.rates == "fixed":
            return self.inner_rate
        if self.rates == "per_parameter":
            return params[RATES]
        return jax.tree.map(lambda rates: rates[jnp.minimum(i, self.inner_steps - 1)], params[RATES])

    def at(self, params: Params, collections: Collections, i: Step) -> tuple[Params, Collections]:
        """Returns what the network is given at inner step i; here the same at each."""
        del i
        return params, collections

    def adapted(
        self,
        params: Params,
        collections: Collections,
        support: Batch,
        *,
        steps: int,
        training: bool,
        after: Callable[[Params, Step], Any] | None = None,
    ) -> tuple[Params, tuple[Array, Collections, Any]]:
        """Takes the inner steps.

        Args:
          params: Where they start.
          collections: Running statistics, used where the norm mode says so.
          support: Support photos of one task, prepared.
          steps: How many steps; 0 returns the network's `params`.
          training: Whether this is meta-training.
          after: Looks at the adapted parameters after each step.

        Returns:
          Adapted parameters of the network, and of each step (losses [steps], running statistics after its forward
          pass [steps, ...], what `after` gave).
        """
        moved, stays = self.parted(params)
        logits = self._support_logits(params, collections, support, training=training)

        def support_loss(fast: Params, i: Step) -> tuple[Scalar, Collections]:
            given, gathered = logits(self.joined(fast, stays), i)
            return reduce.mean(softmax.cross_entropy(given, support.label)), gathered

        fast, left = descend(
            support_loss,
            moved,
            steps=steps,
            rate=lambda i: self.rate(params, i),
            first_order=self.first_order,
            remat=self.remat,
            after=None if after is None else lambda fast, i: after(self.joined(fast, stays), i),
        )
        return self.joined(fast, stays), left

    def _support_logits(
        self, params: Params, collections: Collections, support: Batch, *, training: bool
    ) -> Callable[[Params, Step], tuple[Array, Collections]]:
        """Returns the function from parameters to the support's logits and the statistics after them."""
        if self.adapt == "head" and self.at(params, collections, 0)[0] is params:
            # The body is the same at each step: its photos are embedded once.
            embedding, gathered = self._network(
                without_rates(params), collections, support.image, training=training, method="embed"
            )

            def of_head(fast: Params, i: Step) -> tuple[Array, Collections]:
                del i
                head = {"params": {"head": fast["head"]}}
                return self.network.apply(head, embedding, method="classify"), gathered  # type: ignore[return-value]

            return of_head

        def of_all(fast: Params, i: Step) -> tuple[Array, Collections]:
            given = self.at(fast, collections, i)
            (logits, _), gathered = self._network(*given, support.image, training=training)
            return logits, gathered

        return of_all

    def _network(
        self,
        params: Params,
        collections: Collections,
        images: Array,
        *,
        training: bool,
        method: str = "__call__",
    ) -> tuple[Any, Collections]:
        """Runs a method of the network, and returns its output and the statistics after it."""
        statistics = norm_statistics(self.norm, training=training)
        variables = {"params": params, **collections}
        if not training:
            return self.network.apply(variables, images, statistics=statistics, method=method), collections
        output, gathered = self.network.apply(
            variables, images, statistics=statistics, method=method, mutable=list(collections)
        )
        return output, dict(gathered)

    def kept_statistics(self, gathered: Collections) -> Collections:
        """Chooses what is kept of the statistics after each step [steps, ...].

        Those before adaptation, since it is the parameters before adaptation that embed single photos.
        """
        return jax.tree.map(lambda a: lax.stop_gradient(a[0]), gathered)

    def judged(
        self, adapted: Params, collections: Collections, query: Batch, i: Step
    ) -> tuple[Scalar, dict[str, Mean]]:
        """Returns loss and accuracy of the query photos after inner step i."""
        params, collections = self.at(adapted, collections, i)
        logits, _ = self.apply(params, collections, query.image, statistics="batch")
        return query_loss(logits, query.label)

    def task_loss(
        self, params: Params, collections: Collections, task: Episode, key: Key, step: Step
    ) -> tuple[Scalar, Aux]:
        """Adapts on the support photos and judges the queries."""
        del key, step
        adapted, (losses, gathered, _) = self.adapted(
            params, collections, task.support, steps=self.inner_steps, training=True
        )
        value, metrics = self.judged(adapted, collections, task.query, self.inner_steps - 1)
        metrics["support_loss"] = Mean.of(losses[0])
        return value, Aux(self.kept_statistics(gathered), metrics)

    def task_logits(self, variables: Variables, task: Episode) -> Float[Array, "q way"]:
        """Adapts on the support photos and classifies the queries."""
        steps = self.eval_inner_steps
        params, _ = self.adapted(
            variables.params, variables.collections, task.support, steps=steps, training=False
        )
        given = self.at(params, variables.collections, max(steps - 1, 0))
        statistics = norm_statistics(self.norm, training=False)
        return self.apply(*given, task.query.image, statistics=statistics)[0]

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Array]:
        """Embeds photos with the parameters before adaptation."""
        given = self.at(without_rates(variables.params), variables.collections, 0)
        logits, seen = self.apply(*given, images, statistics="running")
        return {"embedding": seen["embedding"], "logits": logits}

    def apply(
        self, params: Params, collections: Collections, images: Array, *, statistics: Statistics
    ) -> tuple[Array, Any]:
        """Runs the network without keeping new statistics."""
        return super().apply(without_rates(params), collections, images, statistics=statistics)

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds the inner loop's settings."""
        return {
            **super().facts(),
            "inner_steps": self.inner_steps,
            "eval_inner_steps": self.eval_inner_steps,
            "adapt": self.adapt,
            "first_order": self.first_order,
            "rates": self.rates,
            "embedding": "before adaptation",
        }


def without_rates(params: Params) -> Params:
    """Returns the network's parameters."""
    return {name: value for name, value in params.items() if name != RATES}


def make(
    body: nn.Module,
    *,
    way: int,
    inner_rate: float,
    inner_steps: int,
    eval_inner_steps: int,
    adapt: Adapt = "all",
    first_order: bool = False,
    remat: bool = True,
    rates: Rates = "fixed",
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
        rates=rates,
    )
