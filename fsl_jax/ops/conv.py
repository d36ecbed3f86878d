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
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fsl_jax.ops import winograd
from fsl_jax.ops.backend import is_cpu
from fsl_jax.ops.isolate import isolated
from fsl_jax.ops.winograd import Tiles

Formulation = Literal["auto", "lax", "patches", "winograd"]
Padding = Literal["SAME", "VALID"] | int

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# On CPU patches win by far inside a loop, where XLA computes the weight gradient of its own convolution 20 to 60 times
# as slowly as outside (75 x 14 x 14 x 64, forward and gradient: 606 ms in a scan, patches 19 ms), and the training step
# lies in a loop. Only where the patches would fill the memory are they given up.
_MOST_PATCHES = 2**28
"""Elements of the patches of one call."""
_WINOGRAD_CHANNELS, _WINOGRAD_OUTPUTS = 16, 128


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


def _windows(images: Float[Array, "n h w c"], *, geometry: _Geometry) -> Float[Array, "n p q k"]:
    """Copies each window's inputs side by side, in the order of the weights."""
    (rows, columns), stride = geometry.output, geometry.stride
    # Pads below 0 cut rows off.
    config = [(0, 0, 0), *((*pad, 0) for pad in geometry.padding), (0, 0, 0)]
    padded = lax.pad(images, jnp.zeros((), images.dtype), config)
    windows = [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(geometry.kernel[0])
        for j in range(geometry.kernel[1])
    ]
    return jnp.concatenate(windows, axis=-1)


_patches = isolated(_windows, static=("geometry",))


@functools.partial(isolated, static=("geometry",))
def _patches_transposed(columns: Float[Array, "n p q k"], *, geometry: _Geometry) -> Float[Array, "n h w c"]:
    channels = columns.shape[-1] // math.prod(geometry.kernel)
    images = jax.ShapeDtypeStruct((columns.shape[0], *geometry.side, channels), columns.dtype)
    return jax.linear_transpose(functools.partial(_windows, geometry=geometry), images)(columns)[0]


def _patches_conv(geometry: _Geometry, images: Array, weights: Array) -> Array:
    return jnp.tensordot(_patches(images, geometry=geometry), weights.reshape(-1, weights.shape[-1]), 1)


def _patches_transpose(geometry: _Geometry, cotangent: Array, weights: Array) -> Array:
    columns = jnp.tensordot(cotangent, weights.reshape(-1, weights.shape[-1]).T, 1)
    return _patches_transposed(columns, geometry=geometry)


def _patches_weights(geometry: _Geometry, images: Array, cotangent: Array) -> Array:
    patches = _patches(images, geometry=geometry)
    product = patches.reshape(-1, patches.shape[-1]).T @ cotangent.reshape(-1, cotangent.shape[-1])
    return product.reshape(*geometry.kernel, images.shape[-1], cotangent.shape[-1])


def _winograd_conv(geometry: _Geometry, images: Array, weights: Array) -> Array:
    return winograd.together(winograd.conv(images, weights, geometry.padding), side=geometry.output)


def _winograd_transpose(geometry: _Geometry, cotangent: Array, weights: Array) -> Array:
    return winograd.transpose(winograd.apart(cotangent), weights, geometry.padding, geometry.side)


def _winograd_weights(geometry: _Geometry, images: Array, cotangent: Array) -> Array:
    return winograd.weight_gradient(images, winograd.apart(cotangent), geometry.padding)


Way = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
"""Convolution (photos, weights), its transpose (cotangent, weights) and weight gradient (photos, cotangent)."""

_WAYS: dict[str, Way] = {
    "lax": (_lax_conv, _lax_transpose, _lax_weights),
    "patches": (_patches_conv, _patches_transpose, _patches_weights),
    "winograd": (_winograd_conv, _winograd_transpose, _winograd_weights),
}


def _place(geometry: _Geometry, i: int, j: int) -> _Geometry:
    """The convolution that gives the outputs at one place of the tiles of 2 x 2: twice the stride, a shifted window."""
    pads = tuple(
        (before - shift * geometry.stride, after + (shift - 1) * geometry.stride)
        for (before, after), shift in zip(geometry.padding, (i, j), strict=True)
    )
    return dataclasses.replace(geometry, stride=2 * geometry.stride, padding=pads)  # type: ignore[arg-type]


def _by_place(way: Way) -> Way:
    """Gives and takes outputs as `winograd.Tiles`, computed one place of the tiles after the other."""
    conv, transpose, weight_gradient = way

    def places(geometry: _Geometry) -> list[_Geometry]:
        return [_place(geometry, i, j) for i in range(2) for j in range(2)]

    def tiled_conv(geometry: _Geometry, images: Array, weights: Array) -> Tiles:
        return tuple(conv(place, images, weights) for place in places(geometry))

    def tiled_transpose(geometry: _Geometry, cotangents: Tiles, weights: Array) -> Array:
        parts = zip(places(geometry), cotangents, strict=True)
        return sum(transpose(place, part, weights) for place, part in parts)

    def tiled_weight_gradient(geometry: _Geometry, images: Array, cotangents: Tiles) -> Array:
        parts = zip(places(geometry), cotangents, strict=True)
        return sum(weight_gradient(place, images, part) for place, part in parts)

    return tiled_conv, tiled_transpose, tiled_weight_gradient


_TILED_WAYS: dict[str, Way] = {
    "lax": _by_place(_WAYS["lax"]),
    "patches": _by_place(_WAYS["patches"]),
    "winograd": (
        lambda geometry, images, weights: winograd.conv(images, weights, geometry.padding),
        lambda geometry, cotangents, weights: winograd.transpose(
            cotangents, weights, geometry.padding, geometry.side
        ),
        lambda geometry, images, cotangents: winograd.weight_gradient(images, cotangents, geometry.padding),
    ),
}


def _choose(geometry: _Geometry, channels: int, count: int, dtype: Any, *, batched: bool) -> str:
    """Chooses the formulation; off the CPU, batched weights become batched matrix products."""
    if geometry.formulation != "auto":
        return geometry.formulation
    if not is_cpu():
        return "patches" if batched else "lax"
    # Where there are few channels or outputs its transforms cost more than its products save; in bfloat16 they lose
    # digits.
    is_large = channels >= _WINOGRAD_CHANNELS and count * math.prod(geometry.output) >= _WINOGRAD_OUTPUTS
    if _fits_winograd(geometry) and is_large and jnp.finfo(dtype).bits >= 32:
        return "winograd"
    patches = count * math.prod(geometry.output) * math.prod(geometry.kernel) * channels
    return "patches" if batched or patches <= _MOST_PATCHES else "lax"


def _fits_winograd(geometry: _Geometry) -> bool:
    return geometry.stride == 1 and geometry.kernel == (3, 3) and min(map(min, geometry.padding)) >= 0


def _each(function: Callable, axis_size: int, batched: list[Any], left: Any, right: Any) -> Any:
    """Applies a function along the leading axis of those arrays that have it, one after the other."""
    given = ((left, batched[0]), (right, batched[1]))
    flat = [
        (array, is_batched)
        for tree, axes in given
        for array, is_batched in zip(jax.tree.leaves(tree), jax.tree.leaves(axes), strict=True)
    ]
    mapped = tuple(array for array, is_batched in flat if is_batched)
    structure = jax.tree.structure((left, right))

    def one(parts: tuple[Array, ...]) -> Any:
        rest = iter(parts)
        arrays = [next(rest) if is_batched else array for array, is_batched in flat]
        return function(*jax.tree.unflatten(structure, arrays))

    if axis_size > 1:
        return lax.map(one, mapped)
    return jax.tree.map(lambda a: a[None], one(tuple(part[0] for part in mapped)))


def _with_batching(function: Callable, batched_function: Callable, *, foldable: bool) -> Callable:
    """Adds the batching rule of a bilinear operation.

    Args:
      function: (left, right) -> result, without a task axis; arrays or tiles.
      batched_function: The same, in the formulation that batches best where `vmap` is taken as it stands.
      foldable: Whether a task axis of `left` alone can join its photos.
    """
    # Compiled as one program where it is called outside of any.
    mappable = jax.custom_batching.custom_vmap(jax.jit(function))

    @mappable.def_vmap
    def rule(axis_size: int, batched: list[Any], left: Any, right: Any) -> tuple[Any, Any]:
        if foldable and all(jax.tree.leaves(batched[0])) and not any(jax.tree.leaves(batched[1])):
            folded = mappable(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), left), right)
            result = jax.tree.map(lambda a: a.reshape(axis_size, -1, *a.shape[1:]), folded)
        elif is_cpu():
            result = _each(mappable, axis_size, batched, left, right)
        else:
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
            result = jax.vmap(batched_function, in_axes=axes)(left, right)
        return result, jax.tree.map(lambda _: True, result)

    return mappable


@functools.lru_cache(maxsize=1024)
def _operations(geometry: _Geometry, channels: int, count: int, dtype: Any, tiled: bool) -> Way:
    """Builds convolution, transpose and weight gradient, tied to each other by their derivatives."""
    ways = _TILED_WAYS if tiled else _WAYS
    alone, batched = (ways[_choose(geometry, channels, count, dtype, batched=flag)] for flag in (False, True))
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
    geometry = _geometry(images, weights, stride, padding, formulation)
    return _operations(geometry, weights.shape[2], images.shape[0], images.dtype, False)[0](images, weights)


def conv2d_tiles(
    images: Float[Array, "n h w c"],
    weights: Float[Array, "kh kw c f"],
    *,
    stride: int,
    padding: Padding,
    formulation: Formulation = "auto",
) -> Tiles:
    """Convolves as `conv2d` does, with outputs by their place in tiles of 2 x 2, as the next pooling reads them.

    Args:
      images: Photos or feature maps.
      weights: Kernel.
      stride: Step of the window, both axes.
      padding: As in `conv2d`.
      formulation: As in `conv2d`.

    Returns:
      Four arrays [n, p / 2, q / 2, f].

    Raises:
      ValueError: Channels of photos and kernel differ, or the outputs have an odd side.
    """
    geometry = _geometry(images, weights, stride, padding, formulation)
    if any(side % 2 for side in geometry.output):
        raise ValueError(
            f"outputs of {geometry.output[0]} x {geometry.output[1]} do not part into tiles of 2 x 2"
        )
    return _operations(geometry, weights.shape[2], images.shape[0], images.dtype, True)[0](images, weights)


def _geometry(
    images: Array, weights: Array, stride: int, padding: Padding, formulation: Formulation
) -> _Geometry:
    if images.shape[-1] != weights.shape[2]:
        raise ValueError(f"photos have {images.shape[-1]} channels, the kernel takes {weights.shape[2]}")
    if formulation not in get_args(Formulation):
        raise ValueError(f"formulation is {formulation!r}; known: {', '.join(get_args(Formulation))}")
    if not isinstance(padding, int) and padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}; known: SAME, VALID, or a number of zeros on each side")
    side, kernel = images.shape[1:3], weights.shape[:2]
    pads = tuple(_pads(padding, extent, window, stride) for extent, window in zip(side, kernel, strict=True))
    geometry = _Geometry(stride, pads, kernel, side, formulation)  # type: ignore[arg-type]
    if formulation == "winograd" and not _fits_winograd(geometry):
        raise ValueError(
            f"formulation 'winograd' is for 3 x 3 kernels and stride 1, not {kernel} and {stride}"
        )
    return geometry
