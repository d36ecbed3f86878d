"""MobileNet-v1 with all its channels (1.0): depthwise and pointwise convolutions in turn.

It follows the TensorFlow original: "SAME" padding, epsilon 1e-3, ReLU6.

References:
  Howard et al. 2017, https://arxiv.org/abs/1704.04861.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.conv_norm import ConvNorm, DepthwiseNorm, Style
from fsl_jax.models.heads import GlobalPool, Pooling
from fsl_jax.models.layers import NormMode, Statistics
from fsl_jax.ops.conv import Formulation

LAYERS = (
    # stride, filters
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512),) * 5,
    (2, 1024),
    (1, 1024),
)


class Block(nn.Module):
    """A depthwise and a pointwise convolution.

    Attributes:
      filters: Channels out.
      stride: Of the depthwise convolution.
      style: Of the network.
    """

    filters: int
    stride: int
    style: Style

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n p q f"]:
        """Convolves each channel, then each place."""
        depthwise = DepthwiseNorm(3, stride=self.stride, padding="SAME", style=self.style, name="depthwise")
        pointwise = ConvNorm(
            self.filters, kernel=1, stride=1, padding="VALID", style=self.style, name="pointwise"
        )
        features = nn.relu6(depthwise(features, statistics=statistics))
        return nn.relu6(pointwise(features, statistics=statistics))


class MobileNet(nn.Module):
    """MobileNet-v1 1.0 without its classifier; 1,024 dimensions.

    Attributes:
      norm: Mode of normalisation.
      pooling: How the last map becomes the embedding; see `heads.GlobalPool`.
      frozen_norm: Every normalisation uses the running statistics, also in training, and leaves them as they are:
        for pretrained parts that are not trained.
      dtype: Of the arithmetic; parameters and statistics stay float32.
      formulation: Of the first convolution; see `ops.conv.conv2d`.
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
          images: Prepared photos.
          statistics: Which ones normalise them.

        Returns:
          Embedding, and the maps by name: "stem", "block1" to "block13".
        """
        style = Style(
            norm=self.norm,
            frozen_norm=self.frozen_norm,
            epsilon=1e-3,
            momentum=0.99,
            dtype=self.dtype,
            formulation=self.formulation,
        )
        stem = ConvNorm(32, kernel=3, stride=2, padding="SAME", style=style, name="stem")
        features = nn.relu6(stem(images, statistics=statistics))
        intermediates = {"stem": features}
        for i, (stride, filters) in enumerate(LAYERS):
            features = Block(filters, stride, style, name=f"block{i + 1}")(features, statistics=statistics)
            intermediates[f"block{i + 1}"] = features
        return GlobalPool(self.pooling, name="pool")(features), intermediates


Model = MobileNet
