"""The mesh of devices: one axis, along which rows or tasks are spread; its devices may belong to several processes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
SMALL = 2**12
"""Numbers of an array below which each device has all of it."""


def data_mesh(count: int) -> Mesh:
    """Makes a mesh of `count` devices, equally many of each process, in the order of processes.

    Its axis is Auto: with Explicit axes, the default since jax 0.9, a batch-hard triplet loss does not trace.

    Raises:
      ValueError: The devices do not divide by the processes, or one has not so many.
    """
    processes = jax.process_count()
    of_each = [jax.local_devices(process_index=i)[: count // processes] for i in range(processes)]
    if count % processes or any(len(some) < count // processes for some in of_each):
        raise ValueError(
            f"{count} devices are asked for, of {processes} processes with {jax.device_count()} devices: expected "
            "equally many of each process; see --config.train.devices"
        )
    devices = [device for some in of_each for device in some]
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def usable_devices(rows: int, *, wanted: int) -> int:
    """Returns how many devices share `rows` evenly, equally many of each process.

    Args:
      rows: Tasks or rows of a step.
      wanted: Devices asked for; 0 takes the most of those that there are.

    Raises:
      ValueError: `wanted` devices do not exist, or the rows cannot be spread evenly over them, or over the processes.
    """
    processes = jax.process_count()
    there = processes * min(len(jax.local_devices(process_index=i)) for i in range(processes))
    if wanted == 0:
        usable = [count for count in range(processes, there + 1, processes) if rows % count == 0]
        if not usable:
            raise ValueError(
                f"{rows} tasks or photos a step do not spread evenly over {processes} processes: change their number, "
                "or that of the processes"
            )
        return max(usable)
    if wanted > there or wanted % processes:
        of = "" if processes == 1 else f" of {processes} processes, which have equally many"
        raise ValueError(f"config.train.devices is {wanted}, but there are {there} devices{of}")
    if rows % wanted:
        raise ValueError(
            f"{rows} tasks a step do not spread evenly over {wanted} devices: change --config.train.devices "
            "or the number of tasks"
        )
    return wanted


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays that every process has alike on the devices of all of them; nothing crosses between processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(array: Any) -> jax.Array:
        if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
            return jax.device_put(array, sharding)
        if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = put(np.asarray(jax.random.key_data(array)))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        values = np.asarray(array)
        return jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])

    return jax.tree.map(put, tree)


def own_part(mesh: Mesh, rows: int) -> slice:
    """Returns which of `rows` evenly spread rows lie on this process's devices."""
    a_device = rows // mesh.size
    own = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return slice(own[0] * a_device, (own[-1] + 1) * a_device)


def place_parts(tree: Any, mesh: Mesh, *, axis: int = 0) -> Any:
    """Joins arrays of which each process has its `own_part` along an axis, over the devices of all of them."""
    sharding = rows_sharding(mesh, axis=axis)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), tree)


def joined(parts: Sequence[Any], mesh: Mesh, *, rows: int) -> Any:
    """Joins blocks of rows that are spread over a mesh; each device, and so each process, has the first `rows`."""
    join = jax.jit(
        lambda parts: jax.tree.map(lambda *some: jnp.concatenate(some)[:rows], *parts),
        out_shardings=replicated(mesh),
    )
    return join(list(parts))


def rows_sharding(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Spreads one axis of an array over the devices."""
    return NamedSharding(mesh, P(*(None,) * axis, AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Puts a whole array on each device."""
    return NamedSharding(mesh, P())


def spread_parameters(shapes: Any, mesh: Mesh) -> Any:
    """Spreads each array over the devices along its longest axis that divides by them; others lie on each.

    XLA gathers an array where it is used and adds its gradient's parts where they are kept, so that a device holds
    1/size of parameters and optimiser. Arrays of fewer than `SMALL` numbers are not worth it.

    Args:
      shapes: Anything with `shape`, in a pytree.
      mesh: Devices.

    Returns:
      A sharding for each.

    References:
      Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054 (ZeRO, stage 3).
    """

    def spread(array: Any) -> NamedSharding:
        axes = [i for i, side in enumerate(array.shape) if side % mesh.size == 0]
        if not axes or math.prod(array.shape) < SMALL:
            return replicated(mesh)
        return rows_sharding(mesh, axis=max(axes, key=lambda i: array.shape[i]))

    return jax.tree.map(spread, shapes)


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
