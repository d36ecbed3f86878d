"""Prototypical networks: a label is the mean of its support embeddings, a query belongs to the nearest one.

    c_k = mean of f(support photos of k),  p(k | query) = softmax over all k of -d(f(query), c_k),

with the squared Euclidean distance. Support and query photos are normalised in one pass, as in the released code.

References:
  Snell et al. 2017, https://arxiv.org/abs/1703.05175.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.algorithms.base import OnePass
from fsl_jax.losses.distances import DISTANCES


def prototypes(embeddings: Float[Array, "s d"], *, way: int) -> Float[Array, "way d"]:
    """Averages the support embeddings of each label; rows are ordered by label, equally many each."""
    return jnp.mean(embeddings.reshape(way, -1, embeddings.shape[-1]), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtoNet(OnePass):
    """Prototypical networks.

    Attributes:
      distance: "squared_euclidean" (the paper's), "euclidean" or "cosine".
      temperature: Divides the distances; the paper has 1, cosine wants about 0.1.
    """

    distance: Literal["squared_euclidean", "euclidean", "cosine"]
    temperature: float

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(f"distance is {self.distance!r}; known: {', '.join(DISTANCES)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; expected more than 0")

    def logits(
        self, support: Float[Array, "s d"], query: Float[Array, "q d"], *, way: int
    ) -> Float[Array, "q way"]:
        """Compares the queries with all prototypes."""
        return -DISTANCES[self.distance](query, prototypes(support, way=way)) / self.temperature

    def facts(self) -> dict[str, str | int | float | bool]:
        """Adds the distance."""
        return {**super().facts(), "distance": self.distance}


def make(
    body: nn.Module,
    *,
    way: int,
    distance: Literal["squared_euclidean", "euclidean", "cosine"] = "squared_euclidean",
    temperature: float = 1.0,
    chunk: int = 0,
) -> ProtoNet:
    """Builds prototypical networks on an embedding network; any number of labels can be asked for later."""
    del way
    return ProtoNet(
        network=body,
        norm=body.norm,
        chunk=chunk,
        distance=distance,
        temperature=temperature,
    )
