"""EfficientNet-Lite0: EfficientNet for small devices, without squeeze-and-excitation and with ReLU6.

It follows the TensorFlow original: "SAME" padding, epsilon 1e-3, photos as (pixel - 127) / 128.

References:
  Tan and Le 2019, https://arxiv.org/abs/1905.11946; the Lite variants:
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.conv_norm import ConvNorm, DepthwiseNorm, Style
from fsl_jax.models.heads import GlobalPool, Pooling
from fsl_jax.models.layers import NormMode, Statistics
from fsl_jax.ops.conv import Formulation


class Stage(NamedTuple):
    """Equal blocks one after the other; the stride is that of the first."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280


class Block(nn.Module):
    """An inverted residual block: widen, convolve each channel, narrow.

    Attributes:
      filters: Channels out.
      kernel: Side of the depthwise window.
      stride: Of the block.
      expansion: Widens by so many times; 1 leaves that layer out.
      style: Of the network.
    """

    filters: int
    kernel: int
    stride: int
    expansion: int
    style: Style

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n p q f"]:
        """Adds the features where the block keeps their shape."""
        channels, found = features.shape[-1], features
        if self.expansion > 1:
            found = nn.relu6(
                self._pointwise("expand", channels * self.expansion)(found, statistics=statistics)
            )
        depthwise = DepthwiseNorm(
            self.kernel, stride=self.stride, padding="SAME", style=self.style, name="depthwise"
        )
        found = nn.relu6(depthwise(found, statistics=statistics))
        found = self._pointwise("project", self.filters)(found, statistics=statistics)
        return found + features if self.stride == 1 and channels == self.filters else found

    def _pointwise(self, name: str, filters: int) -> ConvNorm:
        return ConvNorm(filters, kernel=1, stride=1, padding="VALID", style=self.style, name=name)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier; 1,280 dimensions.

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
          Embedding, and the maps by name: "stem", "block1" to "block16", and "top".
        """
        style = self._style()
        stem = ConvNorm(_STEM, kernel=3, stride=2, padding="SAME", style=style, name="stem")
        features = nn.relu6(stem(images, statistics=statistics))
        intermediates = {"stem": features}
        for stage in STAGES:
            for i in range(stage.blocks):
                name = f"block{len(intermediates)}"
                stride = 1 if i else stage.stride
                block = Block(stage.filters, stage.kernel, stride, stage.expansion, style, name=name)
                features = intermediates[name] = block(features, statistics=statistics)
        top = ConvNorm(_TOP, kernel=1, stride=1, padding="VALID", style=style, name="top")
        features = intermediates["top"] = nn.relu6(top(features, statistics=statistics))
        return GlobalPool(self.pooling, name="pool")(features), intermediates

    def _style(self) -> Style:
        return Style(
            norm=self.norm,
            frozen_norm=self.frozen_norm,
            epsilon=1e-3,
            momentum=0.99,
            dtype=self.dtype,
            formulation=self.formulation,
        )


Model = EfficientNetLite0
