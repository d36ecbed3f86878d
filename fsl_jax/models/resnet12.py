"""ResNet-12 of the few-shot papers: four blocks of three convolutions, leaky ReLU, and max-pooling."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.conv_norm import ConvNorm, Style
from fsl_jax.models.heads import GlobalPool, Pooling
from fsl_jax.models.layers import NormMode, Statistics
from fsl_jax.ops.conv import Formulation
from fsl_jax.ops.pool import max_pool

FILTERS = (64, 160, 320, 640)
_SLOPE = 0.1


class Block(nn.Module):
    """Three 3 x 3 convolutions with a shortcut, then half the side.

    Attributes:
      filters: Channels out.
      style: Of the network.
    """

    filters: int
    style: Style

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n p q f"]:
        """Adds what the convolutions find to the features, and pools."""
        shortcut = self._layer("shortcut", 1)(features, statistics=statistics)
        for i in range(3):
            features = self._layer(f"layer{i + 1}", 3)(features, statistics=statistics)
            features = nn.leaky_relu(features if i < 2 else features + shortcut, _SLOPE)
        return max_pool(features, window=2, stride=2)

    def _layer(self, name: str, kernel: int) -> ConvNorm:
        return ConvNorm(
            self.filters, kernel=kernel, stride=1, padding=kernel // 2, style=self.style, name=name
        )


class ResNet12(nn.Module):
    """ResNet-12 with 64, 160, 320 and 640 channels, without DropBlock; 640 dimensions.

    Attributes:
      norm: Mode of normalisation.
      pooling: How the last map becomes the embedding; see `heads.GlobalPool`.
      frozen_norm: Every normalisation uses the running statistics, also in training, and leaves them as they are:
        for pretrained parts that are not trained.
      dtype: Of the arithmetic; parameters and statistics stay float32.
      formulation: Of the convolutions larger than 1 x 1; see `ops.conv.conv2d`.

    References:
      Lee et al. 2019, https://arxiv.org/abs/1904.03758; Ye et al. 2020 (FEAT), https://arxiv.org/abs/1812.03664.
    """

    norm: NormMode
    pooling: Pooling = "average"
    frozen_norm: bool = False
    dtype: Any = jnp.float32
    formulation: Formulation = "auto"

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Embeds photos.

        Args:
          images: Prepared photos, 84 pixels a side in the papers; at least 16.
          statistics: Which ones normalise them.

        Returns:
          Embedding, and the maps after each block by name ("block1" to "block4").
        """
        style = Style(
            norm=self.norm,
            frozen_norm=self.frozen_norm,
            epsilon=1e-5,
            momentum=0.9,
            dtype=self.dtype,
            formulation=self.formulation,
        )
        features, intermediates = images, {}
        for i, filters in enumerate(FILTERS):
            features = Block(filters, style, name=f"block{i + 1}")(features, statistics=statistics)
            intermediates[f"block{i + 1}"] = features
        return GlobalPool(self.pooling, name="pool")(features), intermediates


Model = ResNet12
