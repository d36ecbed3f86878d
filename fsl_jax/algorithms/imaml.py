"""Implicit MAML: the meta-gradient depends on where the inner steps end, not on how they got there.

The inner steps minimise the support loss with a pull towards the meta-parameters theta,

    phi = argmin L_support(phi) + pull / 2 |phi - theta|^2,

whose derivative follows from the optimum alone: d phi / d theta = (I + H / pull)^-1 with the Hessian H of L_support at
phi. It is applied to the query gradient with conjugate gradients, which need Hessian-vector products only, so memory
does not depend on the number of inner steps.

References:
  Rajeswaran et al. 2019, https://arxiv.org/abs/1909.04630, algorithms 1 and 2.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array

from fsl_jax.algorithms.inner import descend
from fsl_jax.algorithms.maml import MAML
from fsl_jax.losses import reduce, softmax
from fsl_jax.models.heads import Classifier
from fsl_jax.types import Batch, Collections, Params, Scalar, Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMAML(MAML):
    """Implicit MAML.

    Attributes:
      pull: Strength of the pull towards the meta-parameters (lambda in the paper); above 0.
      solver_steps: Steps of conjugate gradients.
      damping: Added to the pull in the solver alone, 0 or more. Far from an optimum H has negative curvature,
        under which conjugate gradients blow up; the released program damps, too.
    """

    pull: float
    solver_steps: int
    damping: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapt != "all" or self.rates != "fixed":
            raise ValueError("implicit MAML adapts all parameters at a fixed rate: leave adapt and rates out")
        if self.pull <= 0 or self.solver_steps < 1 or self.damping < 0:
            raise ValueError(
                f"pull is {self.pull}, solver_steps {self.solver_steps} and damping {self.damping}; expected above 0, "
                "at least 1, and 0 or more"
            )

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds the solver's settings."""
        own = {"pull": self.pull, "solver_steps": self.solver_steps, "damping": self.damping}
        return {**super().facts(), **own}

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
        """Takes the inner steps; the result's derivative is the implicit one. Arguments are those of `MAML.adapted`."""

        def support_loss(
            fast: Params, support: Batch, collections: Collections
        ) -> tuple[Scalar, Collections]:
            (logits, _), gathered = self._network(fast, collections, support.image, training=training)
            return reduce.mean(softmax.cross_entropy(logits, support.label)), gathered

        def pulled(fast: Params, _: Step, given: Any, start: Params) -> tuple[Scalar, Collections]:
            value, gathered = support_loss(fast, *given)
            away = jax.tree.map(jnp.subtract, fast, start)
            return value + self.pull / 2 * optax.tree.norm(away, squared=True), gathered

        @jax.custom_vjp
        def solved(start: Params, given: Any) -> Any:
            return descend(
                lambda fast, i: pulled(fast, i, given, start),
                start,
                steps=steps,
                rate=lambda i: self.inner_rate,
                first_order=True,
                remat=False,
                after=after,
            )

        def forward(start: Params, given: Any) -> tuple[Any, Any]:
            result = solved(start, given)
            return result, (result[0], given)

        def backward(kept: Any, cotangents: Any) -> tuple[Params, None]:
            end, given = kept
            toward, _ = cotangents
            _, product = jax.vjp(jax.grad(lambda fast: support_loss(fast, *given)[0]), end)

            def matrix(direction: Params) -> Params:
                return jax.tree.map(
                    lambda d, h: d + h / (self.pull + self.damping), direction, product(direction)[0]
                )

            return cg(matrix, toward, maxiter=self.solver_steps, tol=0.0)[0], None

        solved.defvjp(forward, backward)
        return solved(params, (support, collections))


def make(
    body: nn.Module,
    *,
    way: int,
    inner_rate: float,
    inner_steps: int,
    eval_inner_steps: int,
    pull: float,
    solver_steps: int,
    damping: float = 0.0,
    chunk: int = 0,
) -> IMAML:
    """Builds implicit MAML on an embedding network; its head has one logit a label of the task."""
    return IMAML(
        network=Classifier(body, way),
        norm=body.norm,
        chunk=chunk,
        inner_rate=inner_rate,
        inner_steps=inner_steps,
        eval_inner_steps=eval_inner_steps,
        adapt="all",
        first_order=False,
        remat=False,
        pull=pull,
        solver_steps=solver_steps,
        damping=damping,
    )
