"""Residual networks as torchvision builds them: the stride of a bottleneck lies in its 3 x 3 convolution ("v1.5")."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.conv_norm import ConvNorm, SqueezeExcite, Style
from fsl_jax.models.heads import GlobalPool, Pooling
from fsl_jax.models.layers import NormMode, Statistics
from fsl_jax.ops.conv import Formulation
from fsl_jax.ops.pool import max_pool

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage, by depth."""
FIRST_BOTTLENECK = 50
"""From this depth on blocks are bottlenecks, with four times as many channels out."""


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1.

    Attributes:
      filters: Channels of the 3 x 3 convolutions.
      stride: Of the block.
      bottleneck: Which of the two.
      squeeze: Divides the channels inside squeeze-and-excitation; 0 is without.
      style: Of the network.
    """

    filters: int
    stride: int
    bottleneck: bool
    squeeze: int
    style: Style

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n p q f"]:
        """Adds what the convolutions find to the features."""
        wide = self.filters * (4 if self.bottleneck else 1)
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        found = features
        for i, kernel in enumerate(kernels):
            filters = wide if i == len(kernels) - 1 else self.filters
            layer = self._layer(f"layer{i + 1}", filters, kernel, self.stride if i == kernels.index(3) else 1)
            found = layer(nn.relu(found) if i else found, statistics=statistics)
        if self.squeeze:
            found = SqueezeExcite(self.squeeze, self.style.dtype, name="squeeze")(found)
        if self.stride != 1 or features.shape[-1] != wide:
            features = self._layer("shortcut", wide, 1, self.stride)(features, statistics=statistics)
        return nn.relu(found + features)

    def _layer(self, name: str, filters: int, kernel: int, stride: int) -> ConvNorm:
        return ConvNorm(
            filters, kernel=kernel, stride=stride, padding=kernel // 2, style=self.style, name=name
        )


class ResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152, without its classifier.

    Attributes:
      depth: One of `DEPTHS`.
      norm: Mode of normalisation.
      pooling: How the last map becomes the embedding; see `heads.GlobalPool`.
      squeeze: Divides the channels inside squeeze-and-excitation (16 in the paper); 0 is without.
      frozen_norm: Every normalisation uses the running statistics, also in training, and leaves them as they are:
        for pretrained parts that are not trained.
      dtype: Of the arithmetic; parameters and statistics stay float32.
      formulation: Of the convolutions larger than 1 x 1; see `ops.conv.conv2d`.

    References:
      He et al. 2016, https://arxiv.org/abs/1512.03385; Gajic and Baldrich 2018 for pooling="max".
    """

    depth: int
    norm: NormMode
    pooling: Pooling = "average"
    squeeze: int = 0
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
          Embedding of 512 (18, 34) or 2,048 dimensions, and the maps by name: "stem", "stage1_block1" and so on.

        Raises:
          ValueError: There is no ResNet of this depth.
        """
        if self.depth not in DEPTHS:
            raise ValueError(f"depth is {self.depth}; expected one of {', '.join(map(str, DEPTHS))}")
        style = self._style()
        stem = ConvNorm(64, kernel=7, stride=2, padding=3, style=style, name="stem")
        features = _stem_pool(nn.relu(stem(images, statistics=statistics)))
        intermediates = {"stem": features}
        for stage, blocks in enumerate(DEPTHS[self.depth]):
            for i in range(blocks):
                name = f"stage{stage + 1}_block{i + 1}"
                block = self._block(
                    name, filters=64 * 2**stage, stride=2 if stage and not i else 1, style=style
                )
                features = block(features, statistics=statistics)
                intermediates[name] = features
        return GlobalPool(self.pooling, name="pool")(features), intermediates

    def _style(self) -> Style:
        return Style(
            norm=self.norm,
            frozen_norm=self.frozen_norm,
            epsilon=1e-5,
            momentum=0.9,
            dtype=self.dtype,
            formulation=self.formulation,
        )

    def _block(self, name: str, *, filters: int, stride: int, style: Style) -> Block:
        bottleneck = self.depth >= FIRST_BOTTLENECK
        return Block(
            filters, stride=stride, bottleneck=bottleneck, squeeze=self.squeeze, style=style, name=name
        )


def _stem_pool(maps: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return max_pool(padded, window=3, stride=2)


Model = ResNet
