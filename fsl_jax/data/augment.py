"""Prepares photos on the device, inside the step: uint8 to normalised float, with augmentation in training.

Everything here is fused into the step by XLA: a photo is read as uint8 and written once as float.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num, UInt8

from fsl_jax.types import Batch, Episode, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How the photos of a model are prepared; it travels with the model.

    Attributes:
      size: Pixels a side.
      channels: 1 or 3.
      fit: How a photo is made square; see `data.read.read_photo`.
      mean: Taken from each channel, after pixels are scaled to 0 to 1; one value, or one a channel.
      std: Divides each channel; one value, or one a channel.
    """

    size: int
    channels: int
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(
                    f"config.data.{name} has {len(getattr(self, name))} values for {self.channels} channels: "
                    "give one, or one a channel"
                )
        if min(self.std) <= 0:
            raise ValueError(f"config.data.std is {self.std}; expected values above 0")

    def __call__(self, images: UInt8[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Scales uint8 photos to normalised float32; features, which are floats already, pass as they are."""
        if jnp.issubdtype(images.dtype, jnp.floating):
            return images
        axes = tuple(range(images.ndim - 1))
        mean, std = (lax.expand_dims(jnp.asarray(stat, jnp.float32), axes) for stat in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255 - mean) / std


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training photos, each photo on its own.

    Attributes:
      flip: Whether half of the photos are mirrored left to right.
      shift: Photos move by up to so many pixels each way; edges are repeated.
      light: Brightness and contrast change by up to this share, 0 to below 1.
    """

    flip: bool
    shift: int
    light: float

    def __post_init__(self) -> None:
        if self.shift < 0 or not 0 <= self.light < 1:
            raise ValueError(
                f"shift is {self.shift} and light {self.light}; expected at least 0, and 0 to below 1"
            )

    def __call__(self, key: Key, images: UInt8[Array, "*b h w c"]) -> UInt8[Array, "*b h w c"]:
        """Changes photos; the same key gives the same changes."""
        flat = images.reshape(-1, *images.shape[-3:])
        keys = jax.random.split(key, flat.shape[0])
        if self.flip:
            flat = jax.vmap(flip)(keys, flat)
        if self.shift:
            flat = jax.vmap(partial(shift, most=self.shift))(keys, flat)
        if self.light:
            flat = jax.vmap(partial(light, most=self.light))(keys, flat)
        return flat.reshape(images.shape)


def flip(key: Key, image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
    """Mirrors a photo left to right, every second time."""
    return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 0)), image[:, ::-1], image)


def shift(key: Key, image: Num[Array, "h w c"], *, most: int) -> Num[Array, "h w c"]:
    """Moves a photo by up to `most` pixels each way, repeating its edges."""
    start = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, 2 * most + 1)
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    return lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


def light(key: Key, image: UInt8[Array, "h w c"], *, most: float) -> UInt8[Array, "h w c"]:
    """Changes contrast around the photo's mean, then brightness, each by up to `most`."""
    contrast, brightness = jax.random.uniform(
        jax.random.fold_in(key, 2), (2,), minval=1 - most, maxval=1 + most
    )
    wide = image.astype(jnp.float32)
    mean = jnp.mean(wide)
    changed = ((wide - mean) * contrast + mean) * brightness
    return jnp.clip(jnp.round(changed), 0, 255).astype(image.dtype)


def prepare_episode(
    episode: Episode, preprocess: Preprocess, augment: Augment | None, key: Key | None
) -> Episode:
    """Prepares the photos of an episode; without `augment` as they are."""

    def prepared(batch: Batch, part: int) -> Batch:
        images = batch.image
        if augment is not None and key is not None and images.dtype == jnp.uint8:
            images = augment(jax.random.fold_in(key, part), images)
        return batch.replace(image=preprocess(images))  # type: ignore[attr-defined]

    return episode.replace(  # type: ignore[attr-defined]
        support=prepared(episode.support, 0), query=prepared(episode.query, 1)
    )
