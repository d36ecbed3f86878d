"""Vision transformers, as DINO and DINOv2 train them: layer scale, registers, interpolated positions."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fsl_jax.models.layers import Statistics
from fsl_jax.models.positions import resize_positions
from fsl_jax.ops.norm import at_least_float32


class Size(NamedTuple):
    """Width of the tokens, blocks, and attention heads."""

    width: int
    blocks: int
    heads: int


SIZES = {
    "nano": Size(96, 6, 3),
    "tiny": Size(192, 12, 3),
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
}
POOLINGS = ("cls", "cls_and_mean")
_EPSILON = 1e-6
_WIDEN = 4


class Attention(nn.Module):
    """Self-attention over the tokens of a photo.

    Attributes:
      heads: Number of heads.
      dtype: Of the matrix products; the softmax is float32.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "n t d"]
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n heads t t"]]:
        """Returns what each token gathers, and how much from which token (rows sum to 1)."""
        count, length, width = tokens.shape
        joint = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(tokens)
        query, key, value = jnp.moveaxis(joint.reshape(count, length, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("nqhd,nkhd->nhqk", query * query.shape[-1] ** -0.5, key)
        attention = jax.nn.softmax(at_least_float32(scores), axis=-1)
        gathered = jnp.einsum("nhqk,nkhd->nqhd", attention.astype(value.dtype), value)
        return nn.Dense(width, dtype=self.dtype, name="out")(
            gathered.reshape(count, length, width)
        ), attention


class Block(nn.Module):
    """Attention, then two linear layers; each adds to the tokens.

    Attributes:
      heads: Of the attention.
      layer_scale: Whether each addition has a learned scale a channel.
      dtype: Of the arithmetic.
      drop_path: Probability that a photo goes without an addition; see `ViT`.
    """

    heads: int
    layer_scale: bool
    dtype: Any
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "n t d"]
    ) -> tuple[Float[Array, "n t d"], Float[Array, "n heads t t"]]:
        """Returns the tokens after the block, and the attention."""
        normal = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm1")(tokens)
        found, attention = Attention(self.heads, self.dtype, name="attention")(normal)
        tokens = tokens + self._kept(self._scaled("scale1", found))
        normal = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm2")(tokens)
        hidden = nn.Dense(_WIDEN * tokens.shape[-1], dtype=self.dtype, name="linear1")(normal)
        found = nn.Dense(tokens.shape[-1], dtype=self.dtype, name="linear2")(
            nn.gelu(hidden, approximate=False)
        )
        return tokens + self._kept(self._scaled("scale2", found)), attention

    def _kept(self, found: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        """Leaves the addition out for some photos, and scales it up for the others."""
        if not self.drop_path or not self.has_rng("dropout"):
            return found
        share = 1 - self.drop_path
        kept = jax.random.bernoulli(self.make_rng("dropout"), share, (found.shape[0], 1, 1))
        return jnp.where(kept, found / share, 0).astype(found.dtype)

    def _scaled(self, name: str, found: Array) -> Array:
        if not self.layer_scale:
            return found
        # DINOv2 starts at 1e-5, so that a new block changes next to nothing.
        scale = self.param(name, nn.initializers.constant(1e-5), found.shape[-1:])
        return found * scale.astype(self.dtype).reshape(1, 1, -1)


class ViT(nn.Module):
    """A vision transformer; the embedding is the normalised first ("cls") token, with or without the patches' mean.

    Attributes:
      size: "tiny", "small" or "base" as published; "nano" is for small photos on a CPU: 6 blocks of width 96.
      patch: Side of a patch in pixels: 16 in DINO, 14 in DINOv2.
      positions: Side of the grid for which positions are learned: 14 in DINO (224 / 16), 37 in DINOv2 (518 / 14);
        other grids are interpolated from it.
      registers: Tokens without a place, after the first: 4 in DINOv2 with registers.
      antialias: Whether interpolating positions to a smaller grid averages (DINOv2 with registers).
      layer_scale: Whether blocks learn the scale of what they add (DINOv2).
      dtype: Of the arithmetic; parameters, softmax and layer normalisation stay float32.
      drop_path: Probability that the last block's additions are left out of a photo where the call is given a
        "dropout" key; it grows evenly from 0 in the first block. Huang et al. 2016, https://arxiv.org/abs/1603.09382.
      pooling: What the embedding is: "cls", or "cls_and_mean", with the mean of the patches' tokens after it.

    References:
      Touvron et al. 2021, https://arxiv.org/abs/2012.12877, for "tiny";
      Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; Caron et al. 2021, https://arxiv.org/abs/2104.14294;
      Oquab et al. 2023, https://arxiv.org/abs/2304.07193; Darcet et al. 2023, https://arxiv.org/abs/2309.16588.
    """

    size: Literal["nano", "tiny", "small", "base"]
    patch: int
    positions: int
    registers: int = 0
    antialias: bool = False
    layer_scale: bool = False
    dtype: Any = jnp.float32
    drop_path: float = 0.0
    pooling: Literal["cls", "cls_and_mean"] = "cls"

    @property
    def norm(self) -> str:
        """Its norm mode: each token by itself."""
        return "layer"

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], *, statistics: Statistics
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """Embeds photos.

        Args:
          images: Prepared photos, whose sides are multiples of the patch.
          statistics: Makes no difference: layer normalisation has none.

        Returns:
          Embedding of 96 (nano), 192 (tiny), 384 (small) or 768 dimensions, twice as many with the mean; and by name
          the tokens after each block
          ("block1"), its attention [n, heads, t, t] ("attention1"), and all tokens normalised ("tokens"): first,
          registers, patches in row order.

        Raises:
          ValueError: The size or the pooling is unknown, or a side is no multiple of the patch.
        """
        del statistics
        if self.size not in SIZES:
            raise ValueError(f"size is {self.size!r}; expected one of {', '.join(SIZES)}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}; expected one of {', '.join(POOLINGS)}")
        tokens = self._tokens(images)
        intermediates: dict[str, Array] = {}
        _, blocks, heads = SIZES[self.size]
        for i in range(blocks):
            left_out = self.drop_path * i / (blocks - 1)
            block = Block(heads, self.layer_scale, self.dtype, left_out, name=f"block{i + 1}")
            tokens, attention = block(tokens)
            intermediates |= {f"block{i + 1}": tokens, f"attention{i + 1}": attention}
        normal = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(tokens)
        embedding = at_least_float32(normal[:, 0])
        if self.pooling == "cls_and_mean":
            patches = at_least_float32(normal[:, 1 + self.registers :])
            embedding = jnp.concatenate([embedding, patches.mean(axis=1)], axis=-1)
        return embedding, {**intermediates, "tokens": normal}

    def _tokens(self, images: Array) -> Array:
        """Cuts photos into patches, and puts the tokens without a place before them."""
        (rows, columns), width = self._grid(images), SIZES[self.size].width
        cut = images.reshape(images.shape[0], rows, self.patch, columns, self.patch, images.shape[-1])
        cut = jnp.swapaxes(cut, 2, 3).reshape(images.shape[0], rows * columns, -1)
        patches = nn.Dense(width, dtype=self.dtype, name="patches")(cut)
        small = nn.initializers.normal(0.02)
        first = self.param("cls_token", small, (1, width))
        places = self.param("positions", small, (1 + self.positions**2, width))
        registers = self.param("registers", small, (self.registers, width)) if self.registers else first[:0]
        grid = resize_positions(places[1:], rows=rows, columns=columns, antialias=self.antialias)
        patches = patches + grid[None].astype(self.dtype)
        others = jnp.concatenate([first + places[:1], registers]).astype(self.dtype)
        others = jnp.broadcast_to(others[None], (images.shape[0], *others.shape))
        return jnp.concatenate([others, patches], axis=1)

    def _grid(self, images: Array) -> tuple[int, int]:
        height, width = images.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"photos of {height} x {width} pixels do not divide into patches of {self.patch}: "
                f"take a multiple of {self.patch}"
            )
        return height // self.patch, width // self.patch


def attention_of(intermediates: Mapping[str, Array]) -> Float[Array, "n heads rows columns"] | None:
    """Returns how much the first token of the last block takes from each place of a square photo.

    Args:
      intermediates: Of a `ViT`, or of what embeds by one.

    Returns:
      For each head, rows from the top; together with what it takes from tokens without a place they sum to 1. None
      where there is no attention.
    """
    blocks = [name for name in intermediates if re.fullmatch(r"attention\d+", name)]
    if not blocks:
        return None
    last = intermediates[max(blocks, key=lambda name: int(name.removeprefix("attention")))]
    side = math.isqrt(last.shape[-1] - 1)
    return last[:, :, 0, -(side**2) :].reshape(*last.shape[:2], side, side)


Model = ViT
