"""The four-layer convolutional network of the few-shot papers, in each paper's variant."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.layers import Conv, Norm, NormMode, PooledNorm, Statistics, TiledConv
from fsl_jax.ops.backend import is_cpu
from fsl_jax.ops.conv import Formulation, Padding
from fsl_jax.ops.norm import at_least_float32
from fsl_jax.ops.pool import max_pool

Reduction = Literal["stride", "max_pool"]
Readout = Literal["flatten", "mean"]


class Conv4(nn.Module):
    """Four blocks of convolution, normalisation, ReLU and reduction to half the side.

    Published variants (methods and parameter counts in docs/methods.md):
      ProtoNet (Snell et al. 2017): filters=64, reduction="max_pool", readout="flatten".
      MAML on Omniglot (Finn et al. 2017): filters=64, reduction="stride", readout="mean", norm_scale=False.
      MAML on miniImageNet: filters=32, reduction="max_pool", readout="flatten", norm_scale=False.
      Luxury articles (Santos Garcia et al. 2022): filters=32, reduction="max_pool", padding="VALID",
        norm_after_relu=True, last_pool_stride=1, readout="flatten".

    Attributes:
      filters: Channels of each block.
      reduction: By the convolution's stride 2, or by max-pooling.
      readout: "flatten" keeps the last map's places apart; "mean" averages over them.
      norm: Mode of normalisation.
      norm_scale: Whether the normalisation learns a scale besides its bias.
      norm_after_relu: Whether ReLU comes first.
      padding: Of the convolutions.
      last_pool_stride: Stride of the fourth max-pool.
      kernel_init: Name of an initializer in flax.linen.initializers.
      dtype: Of the arithmetic; parameters and statistics stay float32.
      formulation: See `ops.conv.conv2d`.

    References:
      Vinyals et al. 2016, https://arxiv.org/abs/1606.04080; Finn et al. 2017, https://arxiv.org/abs/1703.03400;
      Snell et al. 2017, https://arxiv.org/abs/1703.05175.
    """

    filters: int
    reduction: Reduction
    readout: Readout
    norm: NormMode
    norm_scale: bool = True
    norm_after_relu: bool = False
    padding: Padding = "SAME"
    last_pool_stride: int = 2
    kernel_init: str = "glorot_uniform"
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
          Embedding, and the maps after each block by name ("block1" to "block4").
        """
        for name, value, known in (
            ("reduction", self.reduction, Reduction),
            ("readout", self.readout, Readout),
        ):
            if value not in get_args(known):
                raise ValueError(f"{name} is {value!r}; known: {', '.join(get_args(known))}")
        features, intermediates = images.astype(self.dtype), {}
        for i in range(4):
            features = self._block(features, i, statistics)
            intermediates[f"block{i + 1}"] = features
        if self.readout == "mean":
            embedding = jnp.mean(features, axis=(1, 2))
        else:
            embedding = features.reshape(features.shape[0], -1)
        return at_least_float32(embedding), intermediates

    def _block(self, features: Array, i: int, statistics: Statistics) -> Array:
        pool_stride = self.last_pool_stride if i == 3 else 2
        conv: dict[str, Any] = {
            "kernel": 3,
            "stride": 2 if self.reduction == "stride" else 1,
            "padding": self.padding,
            "initializer": getattr(nn.initializers, self.kernel_init)(),
            "dtype": self.dtype,
            "formulation": self.formulation,
            "name": f"conv{i + 1}",
        }
        norm: dict[str, Any] = {"scale": self.norm_scale, "name": f"norm{i + 1}"}
        if self._pools_tiles(features, pool_stride, statistics):
            return PooledNorm(self.norm, **norm)(*TiledConv(self.filters, **conv)(features))
        features, normalise = Conv(self.filters, **conv)(features), Norm(self.norm, **norm)
        if self.norm_after_relu:
            features = normalise(nn.relu(features), statistics=statistics)
        else:
            features = nn.relu(normalise(features, statistics=statistics))
        return features if self.reduction == "stride" else max_pool(features, window=2, stride=pool_stride)

    def _pools_tiles(self, features: Array, pool_stride: int, statistics: Statistics) -> bool:
        """Whether convolution, normalisation by the batch, ReLU and pooling can be taken together.

        Only where it is faster: on a CPU, and in float32 or wider.
        """
        taken_together = (
            self.norm in ("batch", "running") and statistics == "batch" and not self.norm_after_relu
        )
        pooled = self.reduction == "max_pool" and pool_stride == 2
        is_even = all((side - (2 if self.padding == "VALID" else 0)) % 2 == 0 for side in features.shape[1:3])
        is_wide = jnp.finfo(self.dtype).bits >= 32
        ours = self.formulation != "lax" and is_cpu()
        return taken_together and pooled and is_even and is_wide and ours


Model = Conv4
