"""Spatial guidance and attention over channels, for attributes that a busy background hides.

A semantic map says of each place of a photo what lies there: background, or a part of the article. `SemanticNetwork`
brings it into the features of an embedding network, and `GatedHeads` lets each group of attributes choose its
channels.

References:
  Shen et al. 2023, https://arxiv.org/abs/2305.05228. Its abstract names the two ideas, a spatially aware semantic
  feature and attention over channels, and three other uses of the semantic feature that it was compared with; sizes
  and layers are not published there, so those below are this project's own.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.lookup import closest
from fsl_jax.models.layers import Conv, Statistics
from fsl_jax.ops.norm import at_least_float32

Semantic = Literal["learned", "border", "given"]
Fusion = Literal["none", "embed", "concatenate", "multiply", "mask_input"]
FRAME = 1 / 16
"""Width of the frame around a photo that shows its background, as a share of the side."""
PALE = 0.1
"""Share of the largest distance from the background's colour below which a pixel still looks like background."""
LEAST_HIDDEN = 8
"""Units inside the gates, however few channels there are: one alone may be dead."""
_TINY = 1e-6


def foreground_from_border(photos: Float[Array, "n h w c"]) -> Float[Array, "n h w 1"]:
    """Returns how unlike the photo's frame each place looks: where the article is, on a plain background.

    With the distance d from the frame's mean colour and the frame's variance v it is 1 - exp(-d^2 / (2 (v + p^2))), p
    being `PALE` of the largest distance. Brighter or flatter photos have the same foreground.

    Args:
      photos: Prepared.

    Returns:
      0 to 1; 0 everywhere for a photo of one colour.
    """
    height, width = photos.shape[1:3]
    rows, columns = (_is_frame(side) for side in (height, width))
    frame = (rows[:, None] | columns[None, :])[None, :, :, None]
    share = frame / jnp.sum(frame)
    mean = jnp.sum(photos * share, axis=(1, 2), keepdims=True)
    squared = jnp.sum(jnp.square(photos - mean), axis=-1, keepdims=True)
    variance = jnp.sum(squared * share, axis=(1, 2), keepdims=True)
    floor = PALE**2 * jnp.max(squared, axis=(1, 2), keepdims=True)
    return 1 - jnp.exp(-squared / (2 * (variance + floor) + _TINY))


def _is_frame(side: int) -> Array:
    wide = max(round(side * FRAME), 1)
    place = jnp.arange(side)
    return (place < wide) | (place >= side - wide)


class SemanticMap(nn.Module):
    """Says of each place what lies there.

    Attributes:
      source: "learned": a small network of its own, which learns from the attributes alone which `parts` are worth
        telling apart. "border": background and foreground by `foreground_from_border`. "given": by a mask, the
        photos' fourth channel.
      parts: Of "learned", with the background, which is the first.
    """

    source: Semantic
    parts: int

    @nn.compact
    def __call__(
        self, photos: Float[Array, "n h w c"], mask: Float[Array, "n h w 1"] | None
    ) -> Float[Array, "n p q parts"]:
        """Returns shares of each place that sum to 1; the first is the background."""
        if self.source not in get_args(Semantic):
            raise ValueError(f"semantic is {self.source!r}; {closest(self.source, list(get_args(Semantic)))}")
        if self.source == "learned":
            features = nn.relu(Conv(16, kernel=7, stride=4, padding=3, name="conv1")(photos))
            features = nn.relu(Conv(32, kernel=3, stride=2, padding=1, name="conv2")(features))
            return nn.softmax(nn.Dense(self.parts, name="parts")(features))
        if self.source == "given":
            if mask is None:
                raise ValueError(
                    "semantic 'given' needs photos with a mask, their fourth channel: set --config.data.channels=4, "
                    "with transparent photos or a csv column mask (docs/data.md)"
                )
            foreground = mask
        else:
            foreground = foreground_from_border(photos)
        return jnp.concatenate([1 - foreground, foreground], axis=-1)


class SemanticNetwork(nn.Module):
    """An embedding network that is told where to look.

    Attributes:
      body: Network from photos to (embedding, intermediates), the last of which is its last map.
      fusion: How the semantic map is used. "embed": it is embedded, and added to the map together with what both
        say of each other; places are averaged with weights that it learns. It starts as the body itself. The
        others are "concatenate": its pooled embedding stands beside the body's; "multiply": only the foreground is
        averaged; "mask_input": the background is taken out of the photo; "none": it is not used.
      source: Of the map; see `SemanticMap`.
      parts: The same.
      width: Channels of the embedded map.
    """

    body: nn.Module
    fusion: Fusion
    source: Semantic = "learned"
    parts: int = 4
    width: int = 64

    @property
    def norm(self) -> str:
        """The body's norm mode."""
        return self.body.norm

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Embeds photos.

        Args:
          images: Prepared photos; a fourth channel is the mask.
          statistics: Which ones normalise them.

        Returns:
          Embedding, and the body's intermediates with the map as "semantic".

        Raises:
          ValueError: An option is unknown, or the body has no map.
        """
        if self.fusion not in get_args(Fusion):
            raise ValueError(f"fusion is {self.fusion!r}; {closest(self.fusion, list(get_args(Fusion)))}")
        photos, mask = (images[..., :3], images[..., 3:]) if images.shape[-1] == 4 else (images, None)
        if self.fusion == "none":
            return self.body(photos, statistics=statistics)
        semantic = SemanticMap(self.source, self.parts, name="semantic")(photos, mask)
        if self.fusion == "mask_input":
            photos = photos * _resized(1 - semantic[..., :1], photos.shape[1:3])
        embedding, found = self.body(photos, statistics=statistics)
        intermediates = {**found, "semantic": semantic}
        if self.fusion == "mask_input":
            return embedding, intermediates
        maps = at_least_float32(_last_map(found))
        semantic = _resized(semantic, maps.shape[1:3])
        if self.fusion == "multiply":
            return _weighted_mean(maps, 1 - semantic[..., :1]), intermediates
        embedded = nn.relu(Conv(self.width, kernel=3, name="embedded")(semantic))
        if self.fusion == "concatenate":
            return jnp.concatenate([embedding, jnp.mean(embedded, axis=(1, 2))], axis=-1), intermediates
        return self._embedded(maps, embedded), intermediates

    def _embedded(
        self, maps: Float[Array, "n h w c"], embedded: Float[Array, "n h w s"]
    ) -> Float[Array, "n c"]:
        """Adds to the map, and averages its places; both change nothing at first."""
        zeros = nn.initializers.zeros
        seen = nn.Dense(self.width, name="seen")(maps)
        together = nn.relu(nn.Dense(self.width, name="together")(jnp.concatenate([seen, embedded], axis=-1)))
        fused = maps + nn.Dense(maps.shape[-1], kernel_init=zeros, name="added")(together)
        scores = nn.Dense(1, use_bias=False, kernel_init=zeros, name="places")(together)
        return _weighted_mean(fused, jax.nn.softmax(scores, axis=(1, 2)))


def _last_map(intermediates: dict[str, Array]) -> Float[Array, "n h w c"]:
    last = list(intermediates.values())[-1] if intermediates else jnp.zeros(0)
    if last.ndim != 4:
        raise ValueError(
            "this network has no map of places as its last one, which semantic fusion needs: choose a convolutional "
            "one, or set --config.algorithm.options.fusion=none"
        )
    return last


def _resized(shares: Float[Array, "n h w p"], sides: tuple[int, ...]) -> Float[Array, "n q r p"]:
    return jax.image.resize(shares, (shares.shape[0], *sides, shares.shape[-1]), "linear")


def _weighted_mean(maps: Float[Array, "n h w c"], weights: Float[Array, "n h w 1"]) -> Float[Array, "n c"]:
    return jnp.sum(maps * weights, axis=(1, 2)) / (jnp.sum(weights, axis=(1, 2)) + _TINY)


class GatedHeads(nn.Module):
    """Logits of attributes, each group with gates over the channels of its own.

    The gates are those of squeeze-and-excitation, taken after pooling: a gate is the same at all places, so that gated
    maps have the gated mean. They start as 1.

    Attributes:
      groups: Place of each attribute's group.
      squeeze: Divides the channels inside the gates; 0 is without gates: one linear layer.
      dropout: Share of the channels that is dropped where the call is given a "dropout" key.

    References:
      Hu et al. 2018, https://arxiv.org/abs/1709.01507.
    """

    groups: Sequence[int]
    squeeze: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, features: Float[Array, "n d"]) -> dict[str, Array]:
        """Classifies embeddings: {"attributes": [n, attributes]}."""
        if self.dropout:
            features = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(features)
        groups, channels = max(self.groups) + 1, features.shape[-1]
        gated = features[:, None, :]
        if self.squeeze:
            hidden = nn.relu(nn.Dense(max(channels // self.squeeze, LEAST_HIDDEN), name="squeeze")(features))
            gates = nn.Dense(groups * channels, kernel_init=nn.initializers.zeros, name="gates")(hidden)
            gated = gated * 2 * nn.sigmoid(gates.reshape(-1, groups, channels))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, len(self.groups)))
        bias = self.param("bias", nn.initializers.zeros, (len(self.groups),))
        place = jnp.asarray(self.groups) if self.squeeze else jnp.zeros(len(self.groups), jnp.int32)
        logits = jnp.einsum("nad,da->na", gated[:, place], kernel)
        return {"attributes": at_least_float32(logits + bias[None, :])}
