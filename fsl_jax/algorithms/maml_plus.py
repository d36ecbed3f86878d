"""MAML++: MAML with the options that make it train stably; with all of them off it is MAML.

- Multi-step loss: queries are judged after every inner step, and the losses are weighted. At first all steps count
  alike; over the first steps of training the last one takes over, and then it counts alone.
- Derivative-order annealing: first order at first, second order later.
- Per-step normalisation: each inner step has statistics, scale and bias of its own, which inner steps do not move.
- Rates per layer and step: `rates="per_layer_per_step"`, see `maml`.
- A cosine outer rate: `--config.optimizer.schedule=cosine`.

References:
  Antoniou et al. 2019, https://arxiv.org/abs/1810.09502.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import Frozen, Variables
from fsl_jax.algorithms.maml import MAML, RATES, Adapt, Rates
from fsl_jax.models.heads import Classifier
from fsl_jax.types import Aux, Collections, Episode, Key, Mean, Params, Scalar, Step

LEAST_SHARE = 0.03
"""Of 1 / steps: what an earlier step's weight does not fall below while the last step takes over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAMLPlus(MAML):
    """MAML with further options.

    Attributes:
      multi_step_until: Step of training from which the last inner step's loss counts alone; 0 from the start.
      second_order_from: Step of training from which gradients go through the inner steps; 0 from the start.
      per_step_norm: Whether each inner step has its own normalisation. Its scale and bias are learned by the outer loop
        alone.
    """

    multi_step_until: int
    second_order_from: int
    per_step_norm: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("multi_step_until", "second_order_from"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a step of training, or 0")
        if self.second_order_from and self.first_order:
            raise ValueError(
                "second_order_from has no meaning where first_order is set: leave one of them out"
            )

    def init(self, key: Key, sample: Episode) -> Variables:
        """Makes the first variables; a normalisation that each inner step has for itself starts alike for all."""
        variables = super().init(key, sample)
        if not self.per_step_norm:
            return variables

        def for_each_step(leaf: Array) -> Array:
            return jnp.repeat(leaf[None], self.inner_steps, axis=0)

        norms, others = _parted_norms(variables.params)
        params = _merged(jax.tree.map(for_each_step, norms), others)
        return Variables(params, jax.tree.map(for_each_step, variables.collections))

    def parted(self, params: Params) -> tuple[Params, Params]:
        """Keeps the normalisation out of the inner steps where each has its own."""
        moved, stays = super().parted(params)
        if not self.per_step_norm:
            return moved, stays
        norms, others = _parted_norms(moved)
        return others, _merged(stays, norms)

    def joined(self, moved: Params, stays: Params) -> Params:
        """Puts both parts together again."""
        return _merged(stays, moved) if self.per_step_norm else super().joined(moved, stays)

    def at(self, params: Params, collections: Collections, i: Step) -> tuple[Params, Collections]:
        """Takes the normalisation of inner step i; the last training step's also serves further ones."""
        if not self.per_step_norm:
            return params, collections
        norms, others = _parted_norms(params)

        def of_step(leaf: Array) -> Array:
            return leaf[jnp.minimum(i, self.inner_steps - 1)]

        return _merged(jax.tree.map(of_step, norms), others), jax.tree.map(of_step, collections)

    def kept_statistics(self, gathered: Collections) -> Collections:
        """Keeps each step's where each has its own."""
        return lax.stop_gradient(gathered) if self.per_step_norm else super().kept_statistics(gathered)

    def step_weights(self, step: Step) -> Float[Array, "inner_steps"]:
        """Returns the weight of the query loss after each inner step, at a step of training; they add up to 1."""
        count = self.inner_steps
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / self.multi_step_until, 1.0)
        earlier = jnp.maximum((1 - done) / count, LEAST_SHARE / count)
        weights = jnp.full(count, earlier).at[-1].set(1 - (count - 1) * earlier)
        return jnp.where(done < 1, weights, jnp.arange(count) == count - 1)

    def task_loss(
        self, params: Params, collections: Collections, task: Episode, key: Key, step: Step
    ) -> tuple[Scalar, Aux]:
        """Adapts on the support photos, and judges the queries after the last step or after each."""
        if not self.multi_step_until:
            return super().task_loss(params, collections, task, key, step)
        _, (losses, gathered, judged) = self.adapted(
            params,
            collections,
            task.support,
            steps=self.inner_steps,
            training=True,
            after=lambda adapted, i: self.judged(adapted, collections, task.query, i),
        )
        values, metrics = judged
        metrics = {name: jax.tree.map(lambda a: a[-1], mean) for name, mean in metrics.items()}
        metrics["support_loss"] = Mean.of(losses[0])
        return jnp.sum(values * self.step_weights(step)), Aux(self.kept_statistics(gathered), metrics)

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
        """Averages loss and gradient over the tasks, in the order and with the losses that are due at this step."""

        def of(method: MAMLPlus) -> Any:
            return lambda: method.gradient(params, collections, batch, key, step=step, frozen=frozen)

        # One program for each, of which one runs: what is not due costs nothing.
        if self.second_order_from:
            first = dataclasses.replace(self, second_order_from=0, first_order=True)
            second = dataclasses.replace(self, second_order_from=0)
            return lax.cond(jnp.asarray(step) < self.second_order_from, of(first), of(second))
        everywhere = super().gradient
        if self.multi_step_until:
            last = dataclasses.replace(self, multi_step_until=0)
            return lax.cond(
                jnp.asarray(step) < self.multi_step_until,
                lambda: everywhere(params, collections, batch, key, step=step, frozen=frozen),
                of(last),
            )
        return everywhere(params, collections, batch, key, step=step, frozen=frozen)

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds the options."""
        return {
            **super().facts(),
            "multi_step_until": self.multi_step_until,
            "second_order_from": self.second_order_from,
            "per_step_norm": self.per_step_norm,
        }


def _parted_norms(params: Params) -> tuple[Params, Params]:
    """Parts parameters into those of normalisations, which have a scale or a bias but no kernel, and the others."""
    flat = traverse_util.flatten_dict(params)
    norms = {
        path
        for path in flat
        if path[0] != RATES and path[-1] in ("scale", "bias") and (*path[:-1], "kernel") not in flat
    }
    parts = (
        {path: leaf for path, leaf in flat.items() if (path in norms) == wanted} for wanted in (True, False)
    )
    of_norms, others = map(traverse_util.unflatten_dict, parts)
    return of_norms, others


def _merged(one: Params, other: Params) -> Params:
    return traverse_util.unflatten_dict(
        {**traverse_util.flatten_dict(one), **traverse_util.flatten_dict(other)}
    )


def make(
    body: nn.Module,
    *,
    way: int,
    inner_rate: float,
    inner_steps: int,
    eval_inner_steps: int,
    multi_step_until: int = 0,
    second_order_from: int = 0,
    per_step_norm: bool = False,
    rates: Rates = "fixed",
    adapt: Adapt = "all",
    first_order: bool = False,
    remat: bool = True,
    chunk: int = 0,
) -> MAMLPlus:
    """Builds MAML++ on an embedding network; its head has one logit a label of the task."""
    return MAMLPlus(
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
        multi_step_until=multi_step_until,
        second_order_from=second_order_from,
        per_step_norm=per_step_norm,
    )
