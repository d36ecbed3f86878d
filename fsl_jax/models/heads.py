"""What is put on top of an embedding network."""

import flax.linen as nn
from jaxtyping import Array, Float

from fsl_jax.models.layers import Statistics, at_least_float32


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
        embedding, _ = self.body(images, statistics=statistics)
        return at_least_float32(self.head(embedding)), {"embedding": embedding}
