"""A pretrained network that stays as it is, so that each photo's features need to be taken only once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.layers import Statistics
from fsl_jax.ops.norm import at_least_float32


class Frozen(nn.Module):
    """Embeds photos by a network without a gradient; features that were taken before pass as they are.

    Attributes:
      body: Network from photos to (embedding, intermediates); it normalises with its running statistics.
    """

    body: nn.Module

    @property
    def norm(self) -> str:
        """The body's norm mode."""
        return self.body.norm

    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Embeds photos, or takes features [n, 1, 1, d] for their embedding."""
        del statistics
        if images.shape[1:3] == (1, 1):
            return at_least_float32(jnp.reshape(images, (images.shape[0], -1))), {}
        embedding, intermediates = self.body(images, statistics="running")
        return jax.lax.stop_gradient((embedding, intermediates))
