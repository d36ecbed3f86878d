"""Prepares photos on the device, inside the step: uint8 to normalised float, with augmentation in training.

Everything here is fused into the step by XLA: a photo is read as uint8 and written once as float.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Concatenate, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num, UInt8

from fsl_jax.types import Batch, Episode, Key

Change = Callable[[Key, Num[Array, "h w c"]], Num[Array, "..."]]
Options = ParamSpec("Options")

MASK = 3
"""Position of the mask in a photo of 4 channels."""

CROP_ASPECT = 4 / 3
ERASED = (0.02, 0.2)
ERASED_ASPECT = (0.3, 3.3)
LUMA = (0.299, 0.587, 0.114)
# Red, green and blue to luma and two axes of colour, on which a grey is 0: each row but the first sums to 0.
YIQ = np.array([LUMA, [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119956]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How the photos of a model are prepared; it travels with the model.

    Attributes:
      size: Pixels a side.
      channels: 1, 3, or 4 with a mask.
      fit: How a photo is made square; see `data.read.read_photo`.
      mean: Taken from each channel, after pixels are scaled to 0 to 1; one value, or one a channel. Neither it nor
        `std` has a value for a mask, which is only scaled.
      std: Divides each channel; one value, or one a channel.
    """

    size: int
    channels: int
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        masked = self.channels == MASK + 1
        of, each = (MASK, "3 colours and a mask") if masked else (self.channels, f"{self.channels} channels")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, of):
                raise ValueError(
                    f"config.data.{name} has {len(getattr(self, name))} values for {each}: "
                    f"give one, or one a {'colour' if masked else 'channel'}"
                )
        if min(self.std) <= 0:
            raise ValueError(f"config.data.std is {self.std}; expected values above 0")

    def __call__(self, images: UInt8[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Scales uint8 photos to normalised float32; features, which are floats already, pass as they are."""
        if jnp.issubdtype(images.dtype, jnp.floating):
            return images
        axes = tuple(range(images.ndim - 1))
        mean, std = (lax.expand_dims(jnp.asarray(stat, jnp.float32), axes) for stat in self._statistics())
        return (images.astype(jnp.float32) / 255 - mean) / std

    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.channels != MASK + 1:
            return self.mean, self.std
        mean, std = (stat * (MASK // len(stat)) for stat in (self.mean, self.std))
        return (*mean, 0.0), (*std, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of training photos, each photo on its own.

    They follow each other as flip, affine map, crop, shift, light, colour, grey, erase; photos are float in between,
    and rounded once. A mask, the fourth of 4 channels, moves with its photo, keeps its values where light and colour
    change, and is 0 where a photo is painted over.

    Attributes:
      flip: Whether half of the photos are mirrored left to right.
      shift: Photos move by up to so many pixels each way; edges are repeated.
      light: Brightness and contrast change by up to this share, 0 to below 1.
      crop: Smallest share of a photo's area that a random crop keeps, such as 0.08 as published; 0 crops nothing.
      crop_size: Pixels a side of a cropped photo; 0 keeps the photo's size. Training on smaller photos than those
        that are judged is faster, and crops make things look larger than they do in judging.
      rotate: Photos turn by up to so many degrees each way, 0 to 180.
      scale: Height and width each grow or shrink by up to this share, 0 to below 1.
      shear: Rows slide along by up to this share of their distance from the middle, and columns likewise, 0 to 0.9.
      colour: Saturation changes by up to this share, 0 to 1, and hue by up to this share of a quarter turn; photos
        of 1 channel have neither.
      grey: Probability that a photo loses its colour; photos of 1 channel have none.
      erase: Probability that a rectangle of a photo is painted over.

    Raises:
      ValueError: A value is out of its range.

    References:
      Touvron et al. 2019, https://arxiv.org/abs/1906.06423, on `crop_size`; Koch et al. 2015 turn drawings by 10
      degrees, with a scale of 0.2 and a shear of 0.3.
    """

    flip: bool
    shift: int
    light: float
    crop: float = 0.0
    crop_size: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    colour: float = 0.0
    grey: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("light", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"config.augment.{name} is {getattr(self, name)}; expected 0 to below 1")
        for name in ("shift", "crop_size"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"config.augment.{name} is {getattr(self, name)}; expected pixels, at least 0, and 0 for none"
                )
        bounds = {"crop": 1, "rotate": 180, "shear": 0.9, "colour": 1, "grey": 1, "erase": 1}
        for name, most in bounds.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"config.augment.{name} is {getattr(self, name)}; expected 0 to {most}, and 0 for none"
                )

    def __call__(self, key: Key, images: UInt8[Array, "*b h w c"]) -> UInt8[Array, "*b H W c"]:
        """Changes photos; the same key gives the same changes.

        Returns:
          Squares of `crop_size`, or the size that they had.
        """
        flat = images.reshape(-1, *images.shape[-3:])
        changes = self._changes(images.shape[-3:])

        def changed(key: Key, image: UInt8[Array, "h w c"]) -> UInt8[Array, "H W c"]:
            wide: Num[Array, "h w c"] = image
            for change in changes:
                wide = change(key, wide)
            return _of_type(wide, image.dtype)

        flat = jax.vmap(changed)(jax.random.split(key, flat.shape[0]), flat)
        return flat.reshape(*images.shape[:-3], *flat.shape[1:])

    def _changes(self, shape: tuple[int, ...]) -> list[Change]:
        height, width, channels = shape
        resized = self.crop_size and (height, width) != (self.crop_size, self.crop_size)
        in_colour = channels in (3, MASK + 1)
        # A crop that keeps all of the photo resizes it.
        crop_ = partial(crop, least=self.crop or 1.0, size=self.crop_size)
        affine_ = partial(affine, rotate=self.rotate, scale=self.scale, shear=self.shear)
        ordered: list[tuple[object, Change]] = [
            (self.flip, flip),
            (self.rotate or self.scale or self.shear, _in_float(affine_)),
            (self.crop or resized, _in_float(crop_)),
            (self.shift, partial(shift, most=self.shift)),
            (self.light, _in_float(partial(light, most=self.light))),
            (in_colour and self.colour, _in_float(partial(colour, most=self.colour))),
            (in_colour and self.grey, _in_float(partial(grey, probability=self.grey))),
            (self.erase, _in_float(partial(erase, probability=self.erase))),
        ]
        return [change for wanted, change in ordered if wanted]


def _in_float(change: Change) -> Change:
    return lambda key, image: change(key, image.astype(jnp.float32))


def _beside_mask(
    change: Callable[Concatenate[Key, Num[Array, "h w c"], Options], Num[Array, "h w c"]],
) -> Callable[Concatenate[Key, Num[Array, "h w c"], Options], Num[Array, "h w c"]]:
    """Lets a change of colours leave the mask alone, where a photo has one."""

    @wraps(change)
    def changed(
        key: Key, image: Num[Array, "h w c"], /, *args: Options.args, **options: Options.kwargs
    ) -> Num[Array, "h w c"]:
        if image.shape[-1] != MASK + 1:
            return change(key, image, *args, **options)
        colours = change(key, image[..., :MASK], *args, **options)
        return jnp.concatenate([colours, image[..., MASK:]], axis=-1)

    return changed


def flip(key: Key, image: Num[Array, "h w c"]) -> Num[Array, "h w c"]:
    """Mirrors a photo left to right, every second time."""
    return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 0)), image[:, ::-1], image)


def affine(
    key: Key, image: Num[Array, "h w c"], *, rotate: float = 0.0, scale: float = 0.0, shear: float = 0.0
) -> Num[Array, "h w c"]:
    """Stretches, shears and turns a photo around its middle, repeating its edges.

    Args:
      key: Of the change.
      image: The photo.
      rotate: Most degrees by which it turns, each way.
      scale: Height and width are multiplied by 1 - `scale` to 1 + `scale`, each by itself.
      shear: Most that a row slides along a pixel of its distance from the middle, each way, and a column likewise.

    Returns:
      Linearly interpolated.
    """
    height, width, channels = image.shape
    angle = jnp.deg2rad(jax.random.uniform(jax.random.fold_in(key, 4), minval=-rotate, maxval=rotate))
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    x = (jnp.arange(width) - (width - 1) / 2)[None, :]
    # Where each pixel comes from.
    row = jnp.cos(angle) * y - jnp.sin(angle) * x
    column = jnp.sin(angle) * y + jnp.cos(angle) * x
    if scale or shear:
        change = jax.random.uniform(jax.random.fold_in(key, 8), (4,), minval=-1, maxval=1)
        tall, wide = 1 + scale * change[:2]
        down, along = shear * change[2:]
        row, column = (row + down * column) / tall, (column + along * row) / wide
    row, column = row + (height - 1) / 2, column + (width - 1) / 2
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    above, left = jnp.floor(row), jnp.floor(column)
    down, right = (row - above)[..., None], (column - left)[..., None]
    pixels = image.reshape(height * width, channels)

    def pixel(at: Int[Array, "h w"]) -> Float[Array, "h w c"]:
        # What lies past an edge has weight 0.
        return jnp.take(pixels, at, axis=0, mode="clip").astype(jnp.float32)

    def add(total: Float[Array, "h w c"], below: Int[Array, ""]) -> tuple[Float[Array, "h w c"], None]:
        at = ((above + below) * width + left).astype(jnp.int32)
        weight = jnp.where(below == 1, down, 1 - down)
        return total + weight * (pixel(at) * (1 - right) + pixel(at + 1) * right), None

    # A loop, for the reason that `_resampled` has.
    mapped, _ = lax.scan(add, jnp.zeros(image.shape), jnp.arange(2))
    return _of_type(mapped, image.dtype)


def crop(
    key: Key, image: Num[Array, "h w c"], *, least: float, size: int, most: float = 1.0
) -> Num[Array, "H W c"]:
    """Cuts a random rectangle out of a photo, and resizes it.

    The rectangle's aspect is that of the photo times 3/4 to 4/3, as far as it fits into the photo.

    Args:
      key: Of the rectangle.
      image: The photo.
      least: Smallest share of the area that is kept, above 0 to 1.
      size: Pixels a side of the result; 0 for those of the photo.
      most: Largest share of the area that is kept.

    Returns:
      Linearly interpolated; a photo that shrinks is averaged over as many pixels as it loses, as Pillow does.

    References:
      Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, section 6, with a least share of 0.08.
    """
    area, aspect, *place = jax.random.uniform(jax.random.fold_in(key, 3), (4,))
    area = least + (most - least) * area
    # Published crops draw again until a rectangle fits; here the aspect is drawn from those that do.
    widest = jnp.minimum(math.log(CROP_ASPECT), -jnp.log(area))
    aspect = jnp.exp((2 * aspect - 1) * widest)
    shares = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    wide = image
    for axis, (share, start) in enumerate(zip(shares, place, strict=True)):
        pixels = image.shape[axis]
        wide = _resampled(
            wide, axis, start=start * (1 - share) * pixels, side=share * pixels, size=size or pixels
        )
    return _of_type(wide, image.dtype)


def _resampled(
    image: Num[Array, "h w c"], axis: int, *, start: Float[Array, ""], side: Float[Array, ""], size: int
) -> Float[Array, "H W c"]:
    """Brings the pixels from `start` to `start + side` of an axis to `size` pixels.

    It gathers the few pixels that matter: the dense matrices of `jax.image.scale_and_translate` take several times
    as long on a CPU. They are added up in a loop, since XLA would compute written-out sums anew for each of their
    uses in what follows.
    """
    pixels = image.shape[axis]
    shrunk = jnp.maximum(side / size, 1)
    centre = ((jnp.arange(size) + 0.5) * (side / size) + start - 0.5)[None, :]
    taps = jnp.arange(math.ceil(2 * max(pixels / size, 1)))
    index = jnp.floor(centre - shrunk) + 1 + taps[:, None]
    inside = (index >= 0) & (index < pixels)
    weight = jnp.where(inside, jax.nn.relu(1 - jnp.abs(index - centre) / shrunk), 0)
    weight = weight / weight.sum(axis=0, keepdims=True)
    others = [other for other in range(3) if other != axis]

    def add(total, tap):
        index, weight = tap
        part = jnp.take(image, index, axis=axis, mode="clip")
        return total + part * lax.expand_dims(weight, others), None

    shape = [size if at == axis else image.shape[at] for at in range(3)]
    return lax.scan(add, jnp.zeros(shape), (index.astype(jnp.int32), weight))[0]


def shift(key: Key, image: Num[Array, "h w c"], *, most: int) -> Num[Array, "h w c"]:
    """Moves a photo by up to `most` pixels each way, repeating its edges."""
    start = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, 2 * most + 1)
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    return lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)


@_beside_mask
def light(key: Key, image: Num[Array, "h w c"], *, most: float) -> Num[Array, "h w c"]:
    """Changes contrast around the photo's mean, then brightness, each by up to `most`."""
    contrast, brightness = jax.random.uniform(
        jax.random.fold_in(key, 2), (2,), minval=1 - most, maxval=1 + most
    )
    wide = image.astype(jnp.float32)
    mean = jnp.mean(wide)
    return _of_type(((wide - mean) * contrast + mean) * brightness, image.dtype)


@_beside_mask
def colour(key: Key, image: Num[Array, "h w 3"], *, most: float) -> Num[Array, "h w 3"]:
    """Scales saturation by 1 - `most` to 1 + `most`, and turns hue by up to `most` quarters of a turn each way.

    Both are one linear map of red, green and blue that keeps luma.
    """
    saturation, turn = jax.random.uniform(jax.random.fold_in(key, 5), (2,), minval=-most, maxval=most)
    return _of_type(tinted(image, 1 + saturation, turn * math.pi / 2), image.dtype)


def tinted(
    image: Num[Array, "h w 3"], saturation: Float[Array, ""], angle: Float[Array, ""]
) -> Float[Array, "h w 3"]:
    """Multiplies saturation, and turns hue by an angle; luma stays, and values may leave 0 to 255."""
    to_luma, to_plane, back = YIQ[:1], YIQ[1:], np.linalg.inv(YIQ)
    parts = back[:, :1] @ to_luma, back[:, 1:] @ to_plane, back[:, 1:] @ [[0, -1], [1, 0]] @ to_plane
    luma, straight, across = (part.astype(np.float32) for part in parts)
    matrix = luma + saturation * (jnp.cos(angle) * straight + jnp.sin(angle) * across)
    wide = image.astype(jnp.float32)
    # Written out, since matrix products of an accelerator may round to ten bits.
    red, green, blue = (wide[..., i, None] * lax.expand_dims(matrix[:, i], (0, 1)) for i in range(3))
    return red + green + blue


@_beside_mask
def grey(key: Key, image: Num[Array, "h w 3"], *, probability: float) -> Num[Array, "h w 3"]:
    """Sets the channels of a photo to their luma, with some probability."""
    chosen = jax.random.bernoulli(jax.random.fold_in(key, 6), probability)
    return jnp.where(chosen, _of_type(luma_of(image), image.dtype), image)


def luma_of(image: Num[Array, "h w 3"]) -> Float[Array, "h w 1"]:
    """Returns how bright each pixel is, 0 to 255."""
    red, green, blue = (image[..., i, None].astype(jnp.float32) * weight for i, weight in enumerate(LUMA))
    return red + green + blue


def erase(key: Key, image: Num[Array, "h w c"], *, probability: float) -> Num[Array, "h w c"]:
    """Paints over a random rectangle with the photo's mean colour, with some probability.

    It takes 2 to 20 % of the area, and its aspect is that of the photo times 0.3 to 3.3. A mask is 0 there.

    References:
      Zhong et al. 2017, https://arxiv.org/abs/1708.04896, with areas of 2 to 40 %.
    """
    key = jax.random.fold_in(key, 7)
    chosen = jax.random.bernoulli(jax.random.fold_in(key, 0), probability)
    area, aspect, *place = jax.random.uniform(jax.random.fold_in(key, 1), (4,))
    area = ERASED[0] + (ERASED[1] - ERASED[0]) * area
    low, high = (math.log(end) for end in ERASED_ASPECT)
    aspect = jnp.exp(low + (high - low) * aspect)
    shares = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    rows, columns = (
        _interval(pixels, share, start)
        for pixels, share, start in zip(image.shape[:2], shares, place, strict=True)
    )
    colour = jnp.mean(image.astype(jnp.float32), axis=(0, 1), keepdims=True)
    if image.shape[-1] == MASK + 1:
        colour = colour.at[..., MASK].set(0)
    erased = chosen & rows[:, None, None] & columns[None, :, None]
    return jnp.where(erased, _of_type(colour, image.dtype), image)


def _interval(pixels: int, share: Float[Array, ""], start: Float[Array, ""]) -> Bool[Array, "pixels"]:
    """Marks a share of an axis, at least one pixel; `start` is 0 to below 1, from one end to the other."""
    length = jnp.maximum(jnp.round(share * pixels), 1)
    first = jnp.floor(start * (pixels - length + 1))
    index = jnp.arange(pixels)
    return (index >= first) & (index < first + length)


def _of_type(values: Float[Array, "*n"], dtype: jnp.dtype) -> Num[Array, "*n"]:
    """Brings changed pixels back to 0 to 255, rounded where the photo was not float."""
    bounded = jnp.clip(values, 0, 255)
    return bounded if jnp.issubdtype(dtype, jnp.floating) else jnp.round(bounded).astype(dtype)


def prepare(
    photos: Batch | Episode, preprocess: Preprocess, augment: Augment | None, key: Key | None
) -> Batch | Episode:
    """Prepares a batch or an episode; without `augment` or `key` its photos are not changed at random."""
    if isinstance(photos, Episode):
        return prepare_episode(photos, preprocess, augment, key)
    return prepare_batch(photos, preprocess, augment, key)


def prepare_batch(batch: Batch, preprocess: Preprocess, augment: Augment | None, key: Key | None) -> Batch:
    """Prepares the photos of a batch; features, which are floats already, pass as they are."""
    images = batch.image
    if augment is not None and key is not None and images.dtype == jnp.uint8:
        images = augment(key, images)
    return batch.replace(image=preprocess(images))  # type: ignore[attr-defined]


def prepare_episode(
    episode: Episode, preprocess: Preprocess, augment: Augment | None, key: Key | None
) -> Episode:
    """Prepares the photos of an episode; support and query photos are changed by keys of their own."""

    def prepared(batch: Batch, part: int) -> Batch:
        return prepare_batch(
            batch, preprocess, augment, None if key is None else jax.random.fold_in(key, part)
        )

    return episode.replace(  # type: ignore[attr-defined]
        support=prepared(episode.support, 0), query=prepared(episode.query, 1)
    )
