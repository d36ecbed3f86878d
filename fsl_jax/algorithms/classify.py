"""Classification: one linear layer of logits on an embedding, and cross entropy over the trained labels.

What is used afterwards is the embedding: new labels are recognised by the nearest mean, or by retrieval. It is the
baseline that metric learning has to beat (Musgrave et al. 2020, https://arxiv.org/abs/2003.08505).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.algorithms._batches import BatchAlgorithm
from fsl_jax.losses import reduce, softmax
from fsl_jax.losses.distances import inner_products
from fsl_jax.types import Batch, Key, Mean, Params, Scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(BatchAlgorithm):
    """Cross entropy.

    Attributes:
      smoothing: Share of the target that is spread evenly over all labels.
    """

    smoothing: float

    def objective_params(self, key: Key, dimensions: int) -> Params:
        """Makes the linear layer."""
        kernel = nn.initializers.lecun_normal()(key, (self.labels, dimensions), jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(self.labels)}

    def objective(
        self, params: Params, embedding: Float[Array, "b d"], batch: Batch, memory: Any, key: Key
    ) -> tuple[Scalar, dict[str, Mean]]:
        """Compares logits with labels."""
        del memory, key
        logits = inner_products(embedding, params["kernel"]) + params["bias"][None, :]
        loss = reduce.mean(softmax.cross_entropy(logits, batch.label, smoothing=self.smoothing))
        return loss, {"accuracy": Mean.of(softmax.hits(jax.lax.stop_gradient(logits), batch.label))}


def make(
    body: nn.Module,
    *,
    labels: int,
    smoothing: float = 0.0,
    distance: str = "cosine",
    normalised: bool = False,
) -> Classify:
    """Builds a classifier of the trained labels; `distance` compares embeddings in test."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"config.algorithm.options.smoothing is {smoothing}; expected 0 to below 1")
    return Classify(
        network=body,
        norm=body.norm,
        labels=labels,
        distance=distance,
        normalised=normalised,
        smoothing=smoothing,
    )
