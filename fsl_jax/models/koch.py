"""The convolutional network of the first siamese one-shot learner."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.layers import Conv, Statistics
from fsl_jax.ops.conv import Formulation
from fsl_jax.ops.norm import at_least_float32
from fsl_jax.ops.pool import max_pool

LAYERS = (
    # filters, kernel
    (64, 10),
    (128, 7),
    (128, 4),
    (256, 4),
)


class Koch(nn.Module):
    """Four convolutions with ReLU, max-pooling after the first three, and one layer of sigmoid units.

    Photos of 105 x 105 pixels give maps of 96, 42, 18 and 6 pixels a side, as in the paper's figure 4. Weights start as
    the paper says, normal with deviation 0.01 in convolutions and 0.2 in the last layer; biases of convolutions start
    at 0, where the paper has 0.5.

    Attributes:
      dimensions: Of the embedding; 4,096 in the paper.
      dtype: Of the arithmetic; parameters stay float32.
      formulation: See `ops.conv.conv2d`.

    References:
      Koch et al. 2015, https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf.
    """

    dimensions: int
    dtype: Any = jnp.float32
    formulation: Formulation = "auto"

    @property
    def norm(self) -> str:
        """Its norm mode: there is none."""
        return "none"

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Embeds photos.

        Args:
          images: Prepared photos, at least 65 pixels a side.
          statistics: Makes no difference.

        Returns:
          Embedding between 0 and 1, and the maps after each convolution and ReLU ("conv1" to "conv4").
        """
        del statistics
        features, intermediates = images, {}
        for i, (filters, kernel) in enumerate(LAYERS):
            features = max_pool(features, window=2, stride=2) if i else features
            features = nn.relu(self._conv(f"conv{i + 1}", filters, kernel)(features))
            intermediates[f"conv{i + 1}"] = features
        last = nn.Dense(
            self.dimensions,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.2),
            bias_init=_around_half,
            name="dense",
        )
        return at_least_float32(nn.sigmoid(last(features.reshape(features.shape[0], -1)))), intermediates

    def _conv(self, name: str, filters: int, kernel: int) -> Conv:
        return Conv(
            filters,
            kernel=kernel,
            padding="VALID",
            initializer=nn.initializers.normal(0.01),
            dtype=self.dtype,
            formulation=self.formulation,
            name=name,
        )


def _around_half(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return 0.5 + nn.initializers.normal(0.01)(key, shape, dtype)


Model = Koch
