"""Convolution as three bilinear operations, each the derivative of the other two.

A plain `vmap` of a convolution over tasks with their own weights becomes a grouped convolution, which XLA runs many
times slower than the arithmetic needs; second-order gradients double the loss. Here the convolution, its transpose and
its weight gradient are bilinear operations that carry each other as derivatives, so every order of gradient uses the
same three programs, and each says itself how it is batched.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Formulation = Literal["auto", "lax", "patches"]
Padding = Literal["SAME", "VALID"] | int

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# On CPU patches win by far inside a loop, where XLA computes the weight gradient of its own convolution 20 to 60 times
# as slowly as outside (75 x 14 x 14 x 64, forward and gradient: 606 ms in a scan, patches 19 ms), and the training step
# lies in a loop. Only where the patches would fill the memory are they given up.
_MOST_PATCHES = 2**28
"""Elements of the patches of one call."""


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """The static part of a convolution.

    Attributes:
      stride: Step of the window, both axes.
      padding: Rows before and after, columns before and after.
      kernel: Height and width of the window.
      side: Height and width of the input.
      formulation: How it is computed.
    """

    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    kernel: tuple[int, int]
    side: tuple[int, int]
    formulation: Formulation

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        return tuple(  # type: ignore[return-value]
            (side + sum(pad) - kernel) // self.stride + 1
            for side, pad, kernel in zip(self.side, self.padding, self.kernel, strict=True)
        )


def _pads(padding: Padding, side: int, kernel: int, stride: int) -> tuple[int, int]:
    if isinstance(padding, int):
        return padding, padding
    if padding == "VALID":
        return 0, 0
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def _lax_conv(geometry: _Geometry, images: Array, weights: Array) -> Array:
    stride = (geometry.stride, geometry.stride)
    return lax.conv_general_dilated(images, weights, stride, geometry.padding, dimension_numbers=_LAYOUT)


def _lax_transpose(geometry: _Geometry, cotangent: Array, weights: Array) -> Array:
    shape = (cotangent.shape[0], *geometry.side, weights.shape[2])
    images = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    return jax.linear_transpose(lambda images: _lax_conv(geometry, images, weights), images)(cotangent)[0]


def _lax_weights(geometry: _Geometry, images: Array, cotangent: Array) -> Array:
    shape = (*geometry.kernel, images.shape[-1], cotangent.shape[-1])
    weights = jax.ShapeDtypeStruct(shape, images.dtype)
    return jax.linear_transpose(lambda weights: _lax_conv(geometry, images, weights), weights)(cotangent)[0]


def _patches(geometry: _Geometry, images: Float[Array, "n h w c"]) -> Float[Array, "n p q k"]:
    """Copies each window's inputs side by side, in the order of the weights."""
    (rows, columns), stride = geometry.output, geometry.stride
    padded = jnp.pad(images, ((0, 0), *geometry.padding, (0, 0)))
    windows = [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(geometry.kernel[0])
        for j in range(geometry.kernel[1])
    ]
    return jnp.concatenate(windows, axis=-1)


def _patches_conv(geometry: _Geometry, images: Array, weights: Array) -> Array:
    return jnp.tensordot(_patches(geometry, images), weights.reshape(-1, weights.shape[-1]), 1)


def _patches_transpose(geometry: _Geometry, cotangent: Array, weights: Array) -> Array:
    columns = jnp.tensordot(cotangent, weights.reshape(-1, weights.shape[-1]).T, 1)
    images = jax.ShapeDtypeStruct((cotangent.shape[0], *geometry.side, weights.shape[2]), cotangent.dtype)
    return jax.linear_transpose(lambda images: _patches(geometry, images), images)(columns)[0]


def _patches_weights(geometry: _Geometry, images: Array, cotangent: Array) -> Array:
    patches = _patches(geometry, images)
    product = patches.reshape(-1, patches.shape[-1]).T @ cotangent.reshape(-1, cotangent.shape[-1])
    return product.reshape(*geometry.kernel, images.shape[-1], cotangent.shape[-1])


_WAYS = {
    "lax": (_lax_conv, _lax_transpose, _lax_weights),
    "patches": (_patches_conv, _patches_transpose, _patches_weights),
}


def _way(
    geometry: _Geometry, channels: int, count: int, *, batched: bool
) -> tuple[Callable, Callable, Callable]:
    """Chooses the formulation; off the CPU, batched weights become batched matrix products."""
    if geometry.formulation != "auto":
        return _WAYS[geometry.formulation]
    patches = count * math.prod(geometry.output) * math.prod(geometry.kernel) * channels
    on_cpu = jax.default_backend() == "cpu"
    return _WAYS["patches" if batched or (on_cpu and patches <= _MOST_PATCHES) else "lax"]


def _each(function: Callable, axis_size: int, batched: list[bool], *arrays: Array) -> Array:
    """Applies a function along the leading axis of those arrays that have it, one after the other."""
    mapped = tuple(array for array, is_batched in zip(arrays, batched, strict=True) if is_batched)

    def one(parts: tuple[Array, ...]) -> Array:
        rest = iter(parts)
        return function(
            *(next(rest) if is_batched else array for array, is_batched in zip(arrays, batched, strict=True))
        )

    return lax.map(one, mapped) if axis_size > 1 else one(tuple(part[0] for part in mapped))[None]


def _with_batching(function: Callable, batched_function: Callable, *, foldable: bool) -> Callable:
    """Adds the batching rule of a bilinear operation.

    Args:
      function: (left, right) -> result, without a task axis.
      batched_function: The same, in the formulation that batches best where `vmap` is taken as it stands.
      foldable: Whether a task axis of `left` alone can join its photos.
    """
    mappable = jax.custom_batching.custom_vmap(function)

    @mappable.def_vmap
    def rule(axis_size: int, batched: list[bool], left: Array, right: Array) -> tuple[Array, bool]:
        if foldable and not batched[1]:
            folded = mappable(left.reshape(-1, *left.shape[2:]), right)
            return folded.reshape(axis_size, -1, *folded.shape[1:]), True
        if jax.default_backend() == "cpu":
            return _each(mappable, axis_size, batched, left, right), True
        axes = tuple(0 if is_batched else None for is_batched in batched)
        return jax.vmap(batched_function, in_axes=axes)(left, right), True

    return mappable


@functools.lru_cache(maxsize=1024)
def _operations(geometry: _Geometry, channels: int, count: int) -> tuple[Callable, Callable, Callable]:
    """Builds convolution, transpose and weight gradient, tied to each other by their derivatives."""
    alone, batched = (_way(geometry, channels, count, batched=flag) for flag in (False, True))
    raw = [
        _with_batching(functools.partial(one, geometry), functools.partial(many, geometry), foldable=i < 2)
        for i, (one, many) in enumerate(zip(alone, batched, strict=True))
    ]
    # Gradients of gradients are taken reverse over reverse: custom_vjp outside, custom_vmap inside.
    conv, transpose, weight_gradient = (jax.custom_vjp(function) for function in raw)

    def keep(function: Callable) -> Callable:
        return lambda left, right: (function(left, right), (left, right))

    conv.defvjp(keep(conv), lambda kept, given: (transpose(given, kept[1]), weight_gradient(kept[0], given)))
    transpose.defvjp(
        keep(transpose), lambda kept, given: (conv(given, kept[1]), weight_gradient(given, kept[0]))
    )
    weight_gradient.defvjp(
        keep(weight_gradient), lambda kept, given: (transpose(kept[1], given), conv(kept[0], given))
    )
    return conv, transpose, weight_gradient


def conv2d(
    images: Float[Array, "n h w c"],
    weights: Float[Array, "kh kw c f"],
    *,
    stride: int,
    padding: Padding,
    formulation: Formulation = "auto",
) -> Float[Array, "n p q f"]:
    """Convolves photos with a kernel, as `lax.conv_general_dilated` does.

    Reverse-mode gradients of any order; `vmap` over tasks with shared or own weights without grouped convolutions.
    Forward mode (`jvp`) is not available.

    Args:
      images: Photos or feature maps.
      weights: Kernel.
      stride: Step of the window, both axes.
      padding: "SAME" and "VALID" as in TensorFlow, or a number of zeros on each side as in PyTorch.
      formulation: "lax" is XLA's convolution, "patches" one matrix product over copied windows; "auto" takes what
        was measured to be best for the backend and the shape.

    Returns:
      Feature maps; with no photos, none.

    Raises:
      ValueError: Channels of photos and kernel differ.
    """
    if images.shape[-1] != weights.shape[2]:
        raise ValueError(f"photos have {images.shape[-1]} channels, the kernel takes {weights.shape[2]}")
    if formulation not in get_args(Formulation):
        raise ValueError(f"formulation is {formulation!r}; known: {', '.join(get_args(Formulation))}")
    if not isinstance(padding, int) and padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}; known: SAME, VALID, or a number of zeros on each side")
    side, kernel = images.shape[1:3], weights.shape[:2]
    pads = tuple(_pads(padding, extent, window, stride) for extent, window in zip(side, kernel, strict=True))
    geometry = _Geometry(stride, pads, kernel, side, formulation)  # type: ignore[arg-type]
    return _operations(geometry, weights.shape[2], images.shape[0])[0](images, weights)
