"""What classifiers of categories and attributes share: heads on an embedding, and losses weighted by frequency."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from fsl_jax.algorithms._batches import BatchAlgorithm
from fsl_jax.algorithms.base import Variables
from fsl_jax.lookup import bound, closest
from fsl_jax.losses import balance, multilabel, reduce, softmax
from fsl_jax.losses.balance import Rule
from fsl_jax.taxonomy import Level, Taxonomy
from fsl_jax.types import Batch, Key, Mean, Params, PerItem, Scalar

SECTION = "config.algorithm.options"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryAlgorithm(BatchAlgorithm):
    """Classification by a taxonomy; the loss is the sum over its levels and its attributes.

    A batch has the columns "levels" [b, levels] and "attributes" [b, attributes], of which -1 is unknown and masked.

    Attributes:
      taxonomy: What there is to tell apart.
      heads: From embeddings to logits by name, "levels" and "attributes".
      judged: Which levels have a loss, as places.
      loss_name: Of the attributes, of `losses.multilabel.LOSSES`.
      attribute_loss: The same with its options: (logits, truth, weights) -> elements.
      balance: How names and attributes are weighted by their frequency, of `losses.balance`.
      beta: Of the rule "class_balanced".
      smoothing: Of the levels' cross entropy.
      penalty: Times the sum of the squares of the heads' kernels is added to the loss; 5e-4 in Ferreira et al. 2018.
    """

    taxonomy: Taxonomy
    heads: nn.Module
    judged: tuple[int, ...]
    loss_name: str
    attribute_loss: Callable[..., PerItem]
    balance: Rule
    beta: float
    smoothing: float
    penalty: float

    def objective_params(self, key: Key, dimensions: int) -> Params:
        """Makes the heads."""
        return self.heads.init(key, jnp.zeros((1, dimensions)))["params"]

    def objective(
        self, params: Params, embedding: Float[Array, "b d"], batch: Batch, memory: Any, key: Key
    ) -> tuple[Scalar, dict[str, Mean]]:
        """Adds the losses of all levels and of the attributes."""
        del memory
        logits: dict[str, Any] = self.heads.apply({"params": params}, embedding, rngs={"dropout": key})  # type: ignore[assignment]
        losses, figures = [], {}
        for place in self.judged:
            level, codes = self.taxonomy.levels[place], batch.columns["levels"][:, place]
            items = softmax.cross_entropy(
                logits["levels"][place], codes, smoothing=self.smoothing, weights=self.name_weights(level)
            )
            right = softmax.hits(jax.lax.stop_gradient(logits["levels"][place]), codes)
            losses.append(reduce.mean(items))
            figures[f"{level.name}_accuracy"] = Mean(jnp.sum(right, dtype=jnp.float32), jnp.sum(codes >= 0.0))
        if self.taxonomy.attributes:
            items = self.attribute_loss(
                logits["attributes"], batch.columns["attributes"], weights=self.attribute_weights()
            )
            losses.append(reduce.mean(items))
            figures["attributes_loss"] = Mean.of(losses[-1])
        loss = sum(losses, jnp.zeros(()))
        if self.penalty:
            loss = loss + self.penalty * _squares(params)
        return loss, figures

    def name_weights(self, level: Level) -> Float[Array, "names"] | None:
        """Returns the weight of each name of a level; None where all are 1."""
        if self.balance == "none":
            return None
        return jnp.asarray(balance.name_weights(np.array(level.counts), rule=self.balance, beta=self.beta))

    def attribute_weights(self) -> tuple[Float[Array, "a"], Float[Array, "a"]] | None:
        """Returns the weights of having and of not having each attribute; None where all are 1."""
        if self.balance == "none":
            return None
        counts = np.array(self.taxonomy.positives), np.array(self.taxonomy.negatives)
        having, lacking = balance.attribute_weights(*counts, rule=self.balance, beta=self.beta)
        return jnp.asarray(having), jnp.asarray(lacking)

    def outputs(self, variables: Variables, images: Float[Array, "n h w c"]) -> dict[str, Any]:
        """Returns "embedding", "levels" and "attributes", the last two as logits."""
        embedded = super().outputs(variables, images)
        logits: Any = self.heads.apply({"params": variables.params["objective"]}, embedded["embedding"])
        return {**embedded, **logits}

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds how frequency is weighted."""
        told = {**super().facts(), "balance": self.balance, "outputs": self.taxonomy.outputs}
        return {**told, **({"loss": self.loss_name} if self.taxonomy.attributes else {})}


def _squares(params: Params) -> Scalar:
    kernels = [leaf for name, leaf in traverse_util.flatten_dict(params).items() if name[-1] == "kernel"]
    return sum((jnp.sum(jnp.square(kernel)) for kernel in kernels), jnp.zeros(()))


def checked(
    *,
    loss: str,
    loss_options: dict[str, Any],
    rule: Rule,
    beta: float,
    shares: dict[str, float],
    penalty: float,
) -> Callable[..., PerItem]:
    """Returns the loss of the attributes with its options; what is out of range is said before a run begins.

    Args:
      loss: Of `losses.multilabel.LOSSES`.
      loss_options: Its own.
      rule: Of `losses.balance`.
      beta: Of the rule "class_balanced".
      shares: Options that are 0 to below 1, by name.
      penalty: At least 0.

    Raises:
      ValueError: A name or option is unknown or out of its range.
    """
    if loss not in multilabel.LOSSES:
        raise ValueError(f"{SECTION}.loss is {loss!r}; {closest(loss, list(multilabel.LOSSES))}")
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{SECTION}.{name} is {share}; expected 0 to below 1")
    if penalty < 0:
        raise ValueError(f"{SECTION}.penalty is {penalty}; expected at least 0, and 0 for none")
    balance.name_weights(np.ones(1, int), rule=rule, beta=beta)
    whole = bound(multilabel.LOSSES[loss], loss_options, f"{SECTION}.loss_options", given=("weights",))
    whole(jnp.zeros((1, 1)), jnp.ones((1, 1), jnp.int32))  # which says what it does not take
    return whole
