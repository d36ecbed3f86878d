"""No network: features of a frozen backbone are the embedding."""

import flax.linen as nn
from jaxtyping import Array, Float

from fsl_jax.models.layers import NormMode, Statistics


class Identity(nn.Module):
    """Passes features on.

    Attributes:
      norm: There is nothing to normalise; the field is what every network has.
    """

    norm: NormMode = "running"

    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Flattens each photo's features to its embedding."""
        del statistics
        return images.reshape(images.shape[0], -1), {}


Model = Identity
