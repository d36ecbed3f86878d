"""Several random crops of each photo, of two sizes, on the device: what self-distillation learns from.

Two large views see most of a photo, some small ones a part of it. Each is changed by itself.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from fsl_jax.data.augment import Preprocess, affine, crop, flip, grey, luma_of, tinted
from fsl_jax.types import LOCAL, Batch, Key

GLOBALS = 2
HALF = 128
"""From this value on a solarised channel is inverted."""
BLURRED = 3
"""A blur reaches so many sigmas."""
PLAIN = 24
"""Pixels that differ by no more than this from the colour of a photo's edge are its ground."""
MOSTLY = 0.75
"""Least share of such pixels along the edge of a photo on plain ground."""
SCENE = (0.05, 0.5)
"""Smallest and largest share of another photo that is put behind an article."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiCrop:
    """Two large and some small views of each photo.

    A view is put before another background, turned, cropped, mirrored, changed in colour, made grey, blurred, and, the
    second large one, solarised, in this order, each with its probability.

    Attributes:
      size: Pixels a side of the two large views.
      local_size: Pixels a side of the small ones.
      local: How many small ones; 0 is none.
      share: Smallest and largest share of a photo's area that a large view shows.
      local_share: The same of a small one.
      flip: Whether half of the views are mirrored left to right.
      jitter: Probability that brightness, contrast, saturation and hue change, in this order.
      brightness: By up to this share, 0 to 1.
      contrast: The same.
      saturation: The same; photos of 1 channel have neither it nor a hue.
      hue: By up to this share of a whole turn, 0 to 0.5.
      grey: Probability that a view loses its colour.
      blur: Probabilities of the first large view, of the second, and of small ones.
      sigma: Smallest and largest standard deviation of a blur, in pixels; 0.1 to 2 as published, for 224 pixels.
      solarise: Probability of the second large view.
      rotate: Views turn by up to so many degrees each way, 0 to 180.
      background: Probability that a view of a photo on plain ground, such as a shop's, shows a part of another photo
        of the batch in the place of the ground; see `plain_ground`. Views that share little but the article teach
        what an article is. All views of a photo show parts of the same other photo, the one before it in the batch.

    Raises:
      ValueError: A value is out of its range.

    References:
      Other backgrounds, there by a net that finds what stands out: Ryali et al. 2021, https://arxiv.org/abs/2103.12719.
      Caron et al. 2020, https://arxiv.org/abs/2006.09882, and 2021, https://arxiv.org/abs/2104.14294; probabilities
      and ranges are theirs. There, brightness and the others change in a random order, hue turns in HSV (here in YIQ,
      where luma stays), and a blur is made of three box filters.
    """

    size: int
    local_size: int
    local: int
    share: tuple[float, float]
    local_share: tuple[float, float]
    flip: bool
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    blur: tuple[float, float, float]
    sigma: tuple[float, float]
    solarise: float
    rotate: float = 0.0
    background: float = 0.0

    def __post_init__(self) -> None:
        for name in ("size", "local_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"config.multicrop.{name} is {getattr(self, name)}; expected pixels, at least 1"
                )
        if self.local < 0:
            raise ValueError(
                f"config.multicrop.local is {self.local}; expected a number of views, at least 0"
            )
        for name in ("share", "local_share"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"config.multicrop.{name} is {(low, high)}; expected 0 < least <= most <= 1")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"config.multicrop.sigma is {tuple(self.sigma)}; expected 0 < least <= most")
        if len(self.blur) != 3 or not all(0 <= p <= 1 for p in self.blur):
            raise ValueError(f"config.multicrop.blur is {tuple(self.blur)}; expected 3 probabilities, 0 to 1")
        most = {
            "jitter": 1,
            "brightness": 1,
            "contrast": 1,
            "saturation": 1,
            "hue": 0.5,
            "grey": 1,
            "solarise": 1,
            "rotate": 180,
            "background": 1,
        }
        for name, high in most.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"config.multicrop.{name} is {getattr(self, name)}; expected 0 to {high}")

    def __call__(
        self, key: Key, images: UInt8[Array, "b h w c"]
    ) -> tuple[UInt8[Array, "b 2 H W c"], UInt8[Array, "b n S S c"]]:
        """Makes the large and the small views of photos; the same key gives the same views.

        Raises:
          ValueError: Photos have a mask, which a change of colour would change.
        """
        if images.shape[-1] not in (1, 3):
            raise ValueError(
                f"config.multicrop takes photos of 1 or 3 channels; these have {images.shape[-1]}: set "
                "--config.data.channels"
            )
        first, second, small = self.blur
        large = functools.partial(self._view, size=self.size, share=self.share)
        little = functools.partial(self._view, size=self.local_size, share=self.local_share)
        blurs = jnp.asarray([first, second, *[small] * self.local])
        solarised = jnp.asarray([0.0, self.solarise, *[0.0] * self.local])

        def views(
            key: Key, image: UInt8[Array, "h w c"], behind: UInt8[Array, "h w c"]
        ) -> tuple[Array, Array]:
            keys = jax.random.split(key, GLOBALS + self.local)
            layers = image, behind, plain_ground(image) if self.background else None
            made = [
                jax.vmap(view, in_axes=(0, None, 0, 0))(keys[part], layers, blurs[part], solarised[part])
                for view, part in ((large, slice(GLOBALS)), (little, slice(GLOBALS, None)))
                if keys[part].size
            ]
            return made[0], made[1] if self.local else jnp.zeros((0, *image.shape), image.dtype)

        behind = jnp.roll(images, 1, axis=0)
        return jax.vmap(views)(jax.random.split(key, images.shape[0]), images, behind)

    def prepared(self, batch: Batch, preprocess: Preprocess, key: Key) -> Batch:
        """Puts normalised views in the place of a batch's photos: the large ones, and the small ones as a column."""
        large, small = self(key, batch.image)
        columns = {**batch.columns, LOCAL: preprocess(small)} if self.local else batch.columns
        return batch.replace(image=preprocess(large), columns=columns)  # type: ignore[attr-defined]

    def _view(
        self,
        key: Key,
        layers: tuple[UInt8[Array, "h w c"], UInt8[Array, "h w c"], Bool[Array, "h w"] | None],
        blurred: Float[Array, ""],
        solarised: Float[Array, ""],
        *,
        size: int,
        share: tuple[float, float],
    ) -> UInt8[Array, "s s c"]:
        image, behind, ground = layers
        view = image.astype(jnp.float32)
        if ground is not None:
            view = self._before_another(jax.random.fold_in(key, 13), view, behind, ground)
        if self.rotate:
            view = affine(key, view, rotate=self.rotate)
        view = crop(key, view, least=share[0], most=share[1], size=size)
        view = flip(key, view) if self.flip else view
        view = self._jittered(jax.random.fold_in(key, 10), view)
        view = grey(key, view, probability=self.grey) if self.grey and view.shape[-1] == 3 else view
        if max(self.blur):
            view = blur(jax.random.fold_in(key, 11), view, probability=blurred, sigma=self.sigma)
        if self.solarise:
            view = solarise(jax.random.fold_in(key, 12), view, probability=solarised)
        return jnp.round(view).astype(image.dtype)

    def _before_another(
        self,
        key: Key,
        image: Float[Array, "h w c"],
        behind: UInt8[Array, "h w c"],
        ground: Bool[Array, "h w"],
    ) -> Float[Array, "h w c"]:
        """Shows a part of another photo, changed in colour by itself, in the place of the ground."""
        scene = crop(key, behind.astype(jnp.float32), least=SCENE[0], most=SCENE[1], size=0)
        scene = self._jittered(jax.random.fold_in(key, 1), scene)
        chosen = jax.random.bernoulli(jax.random.fold_in(key, 0), self.background)
        return jnp.where((chosen & ground)[..., None], scene, image)

    def _jittered(self, key: Key, view: Float[Array, "s s c"]) -> Float[Array, "s s c"]:
        if not self.jitter:
            return view
        most = jnp.asarray([self.brightness, self.contrast, self.saturation, self.hue])
        drawn = jax.random.uniform(jax.random.fold_in(key, 0), (4,), minval=-1.0) * most
        changed = jitter(view, brightness=1 + drawn[0], contrast=1 + drawn[1])
        if view.shape[-1] == 3:
            changed = _bounded(tinted(changed, 1 + drawn[2], drawn[3] * 2 * math.pi))
        return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), self.jitter), changed, view)


def plain_ground(image: UInt8[Array, "h w c"]) -> Bool[Array, "h w"]:
    """Marks the ground of a photo whose edge is of one colour; of any other photo it marks nothing.

    Ground is what has that colour, the median along the edge, on a straight way to an edge of the photo: white parts
    of an article on white ground are not, unless they open to the edge.
    """
    wide = image.astype(jnp.float32)
    edge = jnp.concatenate([wide[0], wide[-1], wide[:, 0], wide[:, -1]])[None]
    colour = jnp.median(edge, axis=1, keepdims=True)

    def like(pixels: Float[Array, "y x c"]) -> Bool[Array, "y x"]:
        return jnp.abs(pixels - colour).max(axis=-1) <= PLAIN

    alike = like(wide).astype(jnp.int32)
    reached = jnp.zeros(image.shape[:2], jnp.int32)
    for axis in range(2):
        reached |= jnp.cumprod(alike, axis=axis)
        reached |= jnp.flip(jnp.cumprod(jnp.flip(alike, axis), axis=axis), axis)
    return (reached == 1) & (like(edge).mean() >= MOSTLY)


def jitter(
    image: Float[Array, "h w c"], *, brightness: Float[Array, ""], contrast: Float[Array, ""]
) -> Float[Array, "h w c"]:
    """Multiplies brightness, then contrast around the mean luma; values stay within 0 to 255."""
    bright = _bounded(image * brightness)
    mean = jnp.mean(luma_of(bright) if image.shape[-1] == 3 else bright)
    return _bounded((bright - mean) * contrast + mean)


def blur(
    key: Key,
    image: Float[Array, "h w c"],
    *,
    probability: Float[Array, ""] | float,
    sigma: tuple[float, float],
) -> Float[Array, "h w c"]:
    """Blurs a photo by a Gaussian of a random width, with some probability; edges are repeated.

    Args:
      key: Of chance and width.
      image: The photo.
      probability: 0 to 1.
      sigma: Smallest and largest standard deviation in pixels.
    """
    chosen = jax.random.bernoulli(jax.random.fold_in(key, 0), probability)
    width = jax.random.uniform(jax.random.fold_in(key, 1), minval=sigma[0], maxval=sigma[1])
    reach = math.ceil(BLURRED * sigma[1])
    down, across = (_gaussian(side, width, reach) for side in image.shape[:2])
    blurred = jnp.einsum("yr,xc,rcd->yxd", down, across, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(chosen, blurred, image)


def _gaussian(pixels: int, width: Float[Array, ""], reach: int) -> Float[Array, "pixels pixels"]:
    """Returns the matrix that blurs an axis: a product suits accelerators, and a width may differ by photo."""
    offset = jnp.arange(-reach, reach + 1)
    weight = jnp.exp(-jnp.square(offset / width) / 2)
    # Pixels beyond an edge are that of the edge.
    at = np.clip(np.arange(pixels)[:, None] + np.arange(-reach, reach + 1)[None, :], 0, pixels - 1)
    to = (at[:, :, None] == np.arange(pixels)).astype(np.float32)
    return jnp.einsum("t,ptq->pq", weight / weight.sum(), to, precision=jax.lax.Precision.HIGHEST)


def solarise(
    key: Key, image: Float[Array, "h w c"], *, probability: Float[Array, ""] | float
) -> Float[Array, "h w c"]:
    """Inverts what is brighter than half, with some probability."""
    chosen = jax.random.bernoulli(key, probability)
    return jnp.where(chosen & (image >= HALF), 255 - image, image)


def _bounded(values: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.clip(values, 0, 255)
