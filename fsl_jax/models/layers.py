"""Layers that every network is built from: convolution through `ops`, and normalisation with a named mode."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.ops import norm
from fsl_jax.ops.conv import Formulation, Padding, conv2d

NormMode = Literal["batch", "running", "group", "layer"]
Statistics = Literal["batch", "running"]
"""Which statistics a call uses: of the photos given, or those gathered in training."""


def norm_statistics(mode: str, *, training: bool) -> Statistics:
    """Says which statistics an episode is normalised with.

    "batch" uses those of the photos given, in training and in test: it is transductive, since a query's label then
    depends on the other queries. "running" uses them in training only. "group" and "layer" have none.
    """
    return "batch" if training or mode == "batch" else "running"


def is_transductive(mode: str) -> bool:
    """Whether a query's prediction depends on the other queries of its episode."""
    return mode == "batch"


class Conv(nn.Module):
    """Convolution with bias, computed by `ops.conv.conv2d`.

    Attributes:
      filters: Channels out.
      kernel: Side of the square window.
      stride: Step of the window.
      padding: "SAME", "VALID" or zeros on each side.
      bias: Whether a bias is added.
      initializer: Of the kernel.
      dtype: Of the arithmetic; parameters stay float32.
      formulation: See `conv2d`.
    """

    filters: int
    kernel: int
    stride: int = 1
    padding: Padding = "SAME"
    bias: bool = True
    initializer: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    dtype: Any = jnp.float32
    formulation: Formulation = "auto"

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n p q f"]:
        """Convolves."""
        shape = (self.kernel, self.kernel, images.shape[-1], self.filters)
        weights = self.param("kernel", self.initializer, shape)
        maps = conv2d(
            images.astype(self.dtype),
            weights.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            formulation=self.formulation,
        )
        if not self.bias:
            return maps
        return maps + self.param("bias", nn.initializers.zeros, (self.filters,)).astype(self.dtype).reshape(
            1, 1, 1, -1
        )


class Norm(nn.Module):
    """Normalisation of feature maps in a named mode.

    In modes "batch" and "running" statistics are gathered in the collection "batch_stats" whenever that is mutable.

    Attributes:
      mode: "batch", "running", "group" or "layer".
      scale: Whether a scale is learned.
      momentum: Share of the old running statistics that is kept.
      epsilon: Added to the variance.
      groups: Of mode "group".
    """

    mode: NormMode
    scale: bool = True
    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 8

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n h w c"]:
        """Normalises with the statistics of these features, or with the running ones."""
        if self.mode not in get_args(NormMode):
            raise ValueError(f"norm mode is {self.mode!r}; known: {', '.join(get_args(NormMode))}")
        channels = features.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,)) if self.scale else None
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if self.mode in ("group", "layer"):
            groups = 1 if self.mode == "layer" else self.groups
            return norm.group_normalise(features, scale, bias, groups=groups, epsilon=self.epsilon)
        mean, variance = self._statistics(features, statistics)
        return norm.normalise(features, mean, variance, scale, bias, epsilon=self.epsilon)

    def _statistics(self, features: Array, statistics: Statistics) -> tuple[Array, Array]:
        channels = (features.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        if statistics == "running":
            return mean.value, variance.value
        moments = norm.moments(features)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            for old, new in zip((mean, variance), moments, strict=True):
                old.value = self.momentum * old.value + (1 - self.momentum) * new
        return moments
