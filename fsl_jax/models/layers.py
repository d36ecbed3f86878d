"""Layers that every network is built from: convolution through `ops`, and normalisation with a named mode."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.ops import norm
from fsl_jax.ops.conv import Formulation, Padding, conv2d, conv2d_tiles
from fsl_jax.ops.normalised_max import normalised_max
from fsl_jax.ops.winograd import Tiles

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


class _ConvLayer(nn.Module):
    """Parameters of a convolution.

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

    def _kernel(self, images: Array) -> Array:
        return self.param(
            "kernel", self.initializer, (self.kernel, self.kernel, images.shape[-1], self.filters)
        )

    def _bias(self) -> Array:
        return self.param("bias", nn.initializers.zeros, (self.filters,))


class Conv(_ConvLayer):
    """Convolution with bias, computed by `ops.conv.conv2d`; attributes as above."""

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n p q f"]:
        """Convolves."""
        maps = conv2d(
            images.astype(self.dtype),
            self._kernel(images).astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            formulation=self.formulation,
        )
        if not self.bias:
            return maps
        return maps + self._bias().astype(self.dtype).reshape(1, 1, 1, -1)


class TiledConv(_ConvLayer):
    """The same convolution, with outputs by their place in tiles of 2 x 2 and the bias yet to be added."""

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> tuple[Tiles, Float[Array, "f"] | None]:
        """Convolves; the second is the bias, which a normalisation by the batch takes away again."""
        tiles = conv2d_tiles(
            images.astype(self.dtype),
            self._kernel(images).astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            formulation=self.formulation,
        )
        return tiles, self._bias() if self.bias else None


class _NormLayer(nn.Module):
    """Parameters and running statistics of a normalisation.

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

    def _parameters(self, channels: int) -> tuple[Array | None, Array]:
        scale = self.param("scale", nn.initializers.ones, (channels,)) if self.scale else None
        return scale, self.param("bias", nn.initializers.zeros, (channels,))

    def _running(self, channels: int) -> tuple[nn.Variable, nn.Variable]:
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        return mean, self.variable("batch_stats", "var", jnp.ones, (channels,))

    def _gather(self, mean: Array, variance: Array) -> None:
        """Moves the running statistics towards those of a batch, where that is asked for."""
        running = self._running(mean.shape[0])
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            for old, new in zip(running, (mean, variance), strict=True):
                old.value = self.momentum * old.value + (1 - self.momentum) * new


class Norm(_NormLayer):
    """Normalisation of feature maps in a named mode; attributes as above."""

    @nn.compact
    def __call__(
        self, features: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> Float[Array, "n h w c"]:
        """Normalises with the statistics of these features, or with the running ones."""
        if self.mode not in get_args(NormMode):
            raise ValueError(f"norm mode is {self.mode!r}; known: {', '.join(get_args(NormMode))}")
        scale, bias = self._parameters(features.shape[-1])
        if self.mode in ("group", "layer"):
            groups = 1 if self.mode == "layer" else self.groups
            return norm.group_normalise(features, scale, bias, groups=groups, epsilon=self.epsilon)
        if statistics == "running":
            mean, variance = (known.value for known in self._running(features.shape[-1]))
        else:
            mean, variance = norm.moments(features)
            self._gather(mean, variance)
        return norm.normalise(features, mean, variance, scale, bias, epsilon=self.epsilon)


class PooledNorm(_NormLayer):
    """The same normalisation by the batch, then ReLU and a 2 x 2 maximum, in few passes over memory."""

    @nn.compact
    def __call__(self, tiles: Tiles, added: Float[Array, "c"] | None) -> Float[Array, "n p q c"]:
        """Normalises tiles with their own statistics, and pools them.

        Args:
          tiles: Maps by place in tiles of 2 x 2.
          added: A constant yet to be added to each channel. Statistics of the batch take it away again: it has no part
            in the result and no gradient, but the running mean has it.
        """
        channels = tiles[0].shape[-1]
        scale, bias = self._parameters(channels)
        scale = jnp.ones(channels, bias.dtype) if scale is None else scale
        pooled, mean, variance = normalised_max(tiles, scale, bias, epsilon=self.epsilon)
        self._gather(mean if added is None else mean + lax.stop_gradient(added), variance)
        return pooled
