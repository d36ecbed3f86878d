"""Reads batches from a set that lies on the devices as uint8: rows are drawn and gathered inside the jitted step."""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt8

from fsl_jax.data.table import Table
from fsl_jax.mesh import place, replicated, rows_sharding
from fsl_jax.sampling.plan import Plan
from fsl_jax.types import Batch, Episode, Key


@flax.struct.dataclass
class ResidentSet:
    """A whole set on each device.

    Attributes:
      images: All photos.
      columns: What the plan needs of the table, such as where labels lie.
      key: Of the draws.
    """

    images: UInt8[Array, "n h w c"]
    columns: Any
    key: Key


@dataclasses.dataclass(frozen=True)
class ResidentReader:
    """Gathers batches on the devices.

    Attributes:
      constant: What `fetch` is given at each step; it stays where it is.
      plan: Which rows a step has.
      mesh: Over which its rows are spread.
    """

    constant: ResidentSet
    plan: Plan
    mesh: Mesh

    @classmethod
    def of(cls, table: Table, plan: Plan, key: Key, mesh: Mesh) -> "ResidentReader":
        """Puts a table with `images` on the devices of a mesh."""
        if table.images is None:
            raise ValueError(
                f"{table.source}: its photos are files; read them first (fsl_jax.data.read.read_all)"
            )
        # Straight from the host to each device: an array on the first device would be there twice for a while.
        resident = ResidentSet(table.images, plan.columns(table), key)  # type: ignore[arg-type]
        return cls(place(resident, replicated(mesh)), plan, mesh)

    def inputs(self, step: int, count: int) -> Int[np.ndarray, "count"]:
        """Returns what the steps from `step` on are given: their numbers."""
        return np.arange(step, step + count, dtype=np.int32)

    def fetch(self, constant: ResidentSet, given: Int[Array, ""], window: Any = ()) -> Batch | Episode:
        """Draws and gathers one step's photos; runs inside the jitted step."""
        rows = self.plan.rows(constant.columns, constant.key, given, window)
        rows = lax.with_sharding_constraint(rows, rows_sharding(self.mesh))
        images = jnp.take(constant.images, rows, axis=0, mode="clip")
        return self.plan.assemble(images, constant.columns, rows)

    def begin_window(self, window: Any) -> None:
        """Has nothing to do: `fetch` is given the window."""

    def close(self) -> None:
        """Has nothing to stop."""
