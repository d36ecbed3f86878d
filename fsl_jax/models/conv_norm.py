"""Convolution with normalisation: the layer that residual and mobile networks are built from."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.layers import Conv, Norm, NormMode, Statistics
from fsl_jax.ops.conv import Formulation, Padding
from fsl_jax.ops.depthwise import depthwise_conv2d
from fsl_jax.ops.norm import at_least_float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """What all layers of a network have in common.

    Attributes:
      norm: Mode of normalisation.
      frozen_norm: Every normalisation uses the running statistics, also in training, and leaves them as they are.
      epsilon: Added to the variance.
      momentum: Share of the old running statistics that is kept.
      dtype: Of the arithmetic; parameters and statistics stay float32.
      formulation: Of convolutions larger than 1 x 1; see `ops.conv.conv2d`.
    """

    norm: NormMode
    frozen_norm: bool
    epsilon: float
    momentum: float
    dtype: Any
    formulation: Formulation

    def normalise(self, maps: Array, statistics: Statistics) -> Array:
        """Normalises maps with a `Norm` named "norm" of the calling module."""
        norm = Norm(self.norm, epsilon=self.epsilon, momentum=self.momentum, name="norm")
        return norm(maps, statistics="running" if self.frozen_norm else statistics)


class ConvNorm(nn.Module):
    """Convolution without bias, then normalisation.

    Attributes:
      filters: Channels out.
      kernel: Side of the square window.
      stride: Step of the window.
      padding: "SAME", "VALID" or zeros on each side.
      style: Of the network.
    """

    filters: int
    kernel: int
    stride: int
    padding: Padding
    style: Style

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n p q f"]:
        """Convolves and normalises."""
        maps = Conv(
            self.filters,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            bias=False,
            initializer=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.style.dtype,
            # The patches of a 1 x 1 window are the features themselves: one matrix product.
            formulation="patches" if self.kernel == 1 else self.style.formulation,
            name="conv",
        )(features)
        return self.style.normalise(maps, statistics)


class DepthwiseNorm(nn.Module):
    """Depthwise convolution without bias, then normalisation.

    Attributes:
      kernel: Side of the square window.
      stride: Step of the window.
      padding: "SAME", "VALID" or zeros on each side.
      style: Of the network.
    """

    kernel: int
    stride: int
    padding: Padding
    style: Style

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n p q c"]:
        """Convolves each channel by itself and normalises."""
        # Each output sums kernel x kernel inputs.
        deviation = (2.0 / self.kernel**2) ** 0.5
        shape = (self.kernel, self.kernel, features.shape[-1])
        weights = self.param("kernel", nn.initializers.normal(deviation), shape)
        maps = depthwise_conv2d(
            features.astype(self.style.dtype),
            weights.astype(self.style.dtype),
            stride=self.stride,
            padding=self.padding,
        )
        return self.style.normalise(maps, statistics)


class SqueezeExcite(nn.Module):
    """Weights each channel by a gate that sees the mean of all channels.

    Attributes:
      ratio: Divides the channels of the hidden layer.
      dtype: Of the arithmetic.

    References:
      Hu et al. 2018, https://arxiv.org/abs/1709.01507.
    """

    ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Scales the channels by gates between 0 and 1."""
        channels = maps.shape[-1]
        mean = jnp.mean(at_least_float32(maps), axis=(1, 2)).astype(self.dtype)
        hidden = nn.relu(nn.Dense(channels // self.ratio, dtype=self.dtype, name="linear1")(mean))
        gates = nn.sigmoid(nn.Dense(channels, dtype=self.dtype, name="linear2")(hidden))
        return maps * gates[:, None, None, :]
