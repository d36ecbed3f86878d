"""Matching networks: a query's label is an attention-weighted vote of the support photos.

    p(k | query) = sum over support photos i of label k of softmax_i(cosine(f(query), f(i)) / temperature).

The paper's variant without full context embeddings (its sections 2.1.1 and 4.1).

References:
  Vinyals et al. 2016, https://arxiv.org/abs/1606.04080.
"""

import dataclasses

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import OnePass
from fsl_jax.losses.distances import cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching(OnePass):
    """Matching networks.

    Attributes:
      temperature: Divides the cosine similarity; the paper has 1.
    """

    temperature: float

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; expected more than 0")

    def logits(
        self, support: Float[Array, "s d"], query: Float[Array, "q d"], *, way: int
    ) -> Float[Array, "q way"]:
        """Returns the queries' log-probabilities."""
        similarity = 1.0 - cosine(query, support)
        attention = jax.nn.log_softmax(similarity / self.temperature, axis=1)
        return jax.nn.logsumexp(attention.reshape(attention.shape[0], way, -1), axis=2)


def make(body: nn.Module, *, way: int, temperature: float = 1.0, chunk: int = 0) -> Matching:
    """Builds matching networks on an embedding network; any number of labels can be asked for later."""
    del way
    return Matching(
        network=body,
        norm=body.norm,
        chunk=chunk,
        temperature=temperature,
    )
