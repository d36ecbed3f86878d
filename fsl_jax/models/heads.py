"""What is put on top of an embedding network."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.layers import Statistics
from fsl_jax.ops.norm import at_least_float32, l2_normalise

Pooling = Literal["average", "max", "gem"]
Activation = Literal["none", "relu", "leaky_relu", "sigmoid", "leaky_sigmoid"]

_GEM_FLOOR = 1e-6
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda features: features,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "sigmoid": nn.sigmoid,
    "leaky_sigmoid": lambda features: nn.sigmoid(nn.leaky_relu(features)),
}


class Classifier(nn.Module):
    """An embedding network with one linear layer of logits.

    Parameters are in two groups, "body" and "head", so that rules such as ANIL's can name them.

    Attributes:
      body: Network from photos to (embedding, intermediates).
      labels: Number of logits.
    """

    body: nn.Module
    labels: int

    def setup(self) -> None:
        """Makes the head."""
        self.head = nn.Dense(self.labels)

    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n labels"], dict[str, Array]]:
        """Classifies photos.

        Returns:
          Logits in float32, and {"embedding": [n, d]}.
        """
        embedding = self.embed(images, statistics=statistics)
        return self.classify(embedding), {"embedding": embedding}

    def embed(self, images: Float[Array, "n h w c"], *, statistics: Statistics) -> Float[Array, "n d"]:
        """Embeds photos."""
        return self.body(images, statistics=statistics)[0]

    def classify(self, embedding: Float[Array, "n d"]) -> Float[Array, "n labels"]:
        """Returns the logits of embeddings, in float32."""
        return at_least_float32(self.head(embedding))


class GlobalPool(nn.Module):
    """Makes one vector of a feature map; the mean, the maximum, or between them.

    Attributes:
      pooling: "average"; "max"; or "gem", the generalised mean (mean of f^p)^(1/p) with a learned p that starts at 3
        and acts on values above 0. p = 1 is the average, large p the maximum.

    References:
      max: Gajic and Baldrich 2018, Cross-domain fashion image retrieval.
      gem: Radenovic et al. 2018, https://arxiv.org/abs/1711.02512, eq. 3.
    """

    pooling: Pooling

    @nn.compact
    def __call__(self, maps: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        """Pools in float32 at least.

        Raises:
          ValueError: The pooling is unknown.
        """
        wide = at_least_float32(maps)
        if self.pooling == "average":
            return jnp.mean(wide, axis=(1, 2))
        if self.pooling == "max":
            return jnp.max(wide, axis=(1, 2))
        if self.pooling != "gem":
            raise ValueError(f"pooling is {self.pooling!r}; known: {', '.join(get_args(Pooling))}")
        power = self.param("power", nn.initializers.constant(3.0), ())
        # The floor keeps f^p differentiable: at 0 the gradient to p would be log 0.
        return jnp.mean(jnp.maximum(wide, _GEM_FLOOR) ** power, axis=(1, 2)) ** (1 / power)


class Head(nn.Module):
    """Linear layers on an embedding.

    Published heads:
      One linear layer: sizes=(128,).
      Siamese ResNet-18 (Santos Garcia et al. 2022): sizes=(512, 256), hidden="leaky_relu", output="sigmoid".
      Triplet ResNet-18 (the same): sizes=(512,), output="leaky_sigmoid": both activations, one after the other.
      Prototypical ResNet-50 (the same): sizes=(1024, 512), hidden="relu", output="sigmoid".
      Gajic and Baldrich 2018: one linear layer, normalised=True.

    Attributes:
      sizes: Outputs of each layer.
      normalised: Whether the result has length 1.
      hidden: Between the layers; "leaky_relu" has slope 0.01.
      output: After the last layer, before the length is set.
      dropout: Share of each layer's inputs that is dropped where the call is given a "dropout" key
        (`apply(..., rngs={"dropout": key})`); without a key nothing is dropped.
      dtype: Of the arithmetic; parameters stay float32.
    """

    sizes: Sequence[int]
    normalised: bool
    hidden: Activation = "relu"
    output: Activation = "none"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "n d"]) -> Float[Array, "n e"]:
        """Maps embeddings to embeddings in float32 at least.

        Raises:
          ValueError: There is no layer, or an activation is unknown.
        """
        if not self.sizes:
            raise ValueError("sizes is empty; expected the outputs of at least one layer, such as (128,)")
        features = embedding.astype(self.dtype)
        for i, size in enumerate(self.sizes):
            if self.dropout:
                features = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(features)
            features = nn.Dense(size, dtype=self.dtype, name=f"linear{i + 1}")(features)
            features = _activation(self.output if i == len(self.sizes) - 1 else self.hidden)(features)
        features = at_least_float32(features)
        return l2_normalise(features) if self.normalised else features


def _activation(name: str) -> Callable[[Array], Array]:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


class Embedder(nn.Module):
    """An embedding network with a head on it; parameters are in the groups "body" and "head".

    Attributes:
      body: Network from photos to (embedding, intermediates).
      head: From the body's embedding to the embedding that is compared.
    """

    body: nn.Module
    head: nn.Module

    @property
    def norm(self) -> str:
        """The body's norm mode."""
        return self.body.norm

    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n e"], dict[str, Array]]:
        """Embeds photos.

        Returns:
          The head's embedding, and the body's intermediates with its own embedding as "body".
        """
        embedding, intermediates = self.body(images, statistics=statistics)
        return self.head(embedding), {**intermediates, "body": embedding}


class ProjectionHead(nn.Module):
    """The head on which self-distillation compares views: an MLP, a bottleneck of length 1, and prototypes.

    Attributes:
      hidden: Outputs of the first two layers, GELU after each; 2,048 in DINO.
      bottleneck: Outputs of the third, brought to length 1; 256 in DINO.
      outputs: Prototypes, to which the bottleneck's cosine similarity is returned; 65,536 in DINO.
      learned_lengths: Whether each prototype has a learned length, as in DINO's ViT-S; otherwise it is 1.
      dtype: Of the products; lengths and sums stay float32.

    References:
      Caron et al. 2021, https://arxiv.org/abs/2104.14294, appendix C.
    """

    hidden: int
    bottleneck: int
    outputs: int
    learned_lengths: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Returns the similarities to all prototypes in float32 at least."""
        features = embedding
        for i, size in enumerate((self.hidden, self.hidden, self.bottleneck)):
            dense = nn.Dense(size, kernel_init=_truncated, dtype=self.dtype, name=f"linear{i + 1}")
            features = dense(features if not i else nn.gelu(features, approximate=False))
        unit = l2_normalise(at_least_float32(features))
        directions = self.param("prototypes", _truncated, (self.outputs, self.bottleneck))
        rows = l2_normalise(directions).astype(self.dtype)
        similarity = jnp.matmul(unit.astype(self.dtype), rows.T, preferred_element_type=unit.dtype)
        if not self.learned_lengths:
            return similarity
        return similarity * self.param("lengths", nn.initializers.ones, (self.outputs,))[None, :]


_truncated = nn.initializers.truncated_normal(0.02)
