"""The mesh of devices: one axis, along which rows or tasks are spread."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"


def data_mesh(count: int) -> Mesh:
    """Makes a mesh of the first `count` devices.

    Its axis is Auto: with Explicit axes, the default since jax 0.9, a batch-hard triplet loss does not trace.
    """
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def usable_devices(rows: int, *, wanted: int) -> int:
    """Returns how many devices share `rows` evenly.

    Args:
      rows: Tasks or rows of a step.
      wanted: Devices asked for; 0 takes the most of those that there are.

    Raises:
      ValueError: `wanted` devices do not exist, or the rows cannot be spread evenly over them.
    """
    there = jax.device_count()
    if wanted == 0:
        return max(count for count in range(1, there + 1) if rows % count == 0)
    if wanted > there:
        raise ValueError(f"config.train.devices is {wanted}, but there are {there} devices")
    if rows % wanted:
        raise ValueError(
            f"{rows} tasks a step do not spread evenly over {wanted} devices: change --config.train.devices "
            "or the number of tasks"
        )
    return wanted


def rows_sharding(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Spreads one axis of an array over the devices."""
    return NamedSharding(mesh, P(*(None,) * axis, AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Puts a whole array on each device."""
    return NamedSharding(mesh, P())


def over_rows(mesh: Mesh, function: Callable, *, spread: tuple[bool, ...], results: Any) -> Callable:
    """Runs a function on each device's rows.

    Args:
      mesh: Devices.
      function: Takes arrays, and may use collectives over `AXIS`.
      spread: Whether each argument's leading axis is spread, or the whole of it is given to each device.
      results: PartitionSpec, or a pytree of them, of what it returns.
    """
    specs = tuple(P(AXIS) if is_spread else P() for is_spread in spread)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=results, check_vma=False)
